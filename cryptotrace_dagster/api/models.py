"""The API's response models, derived from tables.py so that a column is described once.

Owns the mapping from stored types to JSON: decimals are strings, instants ISO-8601 in UTC, stored JSON an object.
"""

import base64
import binascii
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

import msgspec
from pydantic import BaseModel, ConfigDict, Field, create_model

from cryptotrace_dagster.formats import JSON_COLUMNS
from cryptotrace_dagster.tables import (
    ALERT_DELIVERIES,
    ALERTS,
    ANOMALY_SCORES,
    FEATURES,
    OHLC_BARS,
    RAW_TICKS,
    TRADE_ID_GAPS,
    Column,
    ColumnType,
    Table,
)

_TYPES: dict[ColumnType, Any] = {
    ColumnType.TEXT: str,
    ColumnType.INTEGER: int,
    ColumnType.DOUBLE: float | None,  # JSON has no infinity: such a value is null
    ColumnType.BOOLEAN: bool,
    ColumnType.INSTANT: datetime,
    ColumnType.PRICE: str,
    ColumnType.VOLUME: str,
    ColumnType.QUOTE_VOLUME: str,
    ColumnType.BLOB: str,
}
_EXAMPLES: dict[ColumnType, Any] = {
    ColumnType.INSTANT: "2026-01-05T12:00:00Z",
    ColumnType.PRICE: "61250.50000000",
    ColumnType.VOLUME: "1.25000000",
    ColumnType.QUOTE_VOLUME: "76563.12500000",
}
_DECIMALS = (ColumnType.PRICE, ColumnType.VOLUME, ColumnType.QUOTE_VOLUME)
_DECIMAL_PATTERN = r"^-?\d+\.\d{8,16}$"


def row_model(table: Table, name: str) -> type[BaseModel]:
    """Return the model of one row of a table."""
    fields: dict[str, Any] = {column.name: _field(column) for column in table.columns}
    return create_model(name, __config__=ConfigDict(extra="forbid"), __doc__=table.description, **fields)


def _field(column: Column) -> tuple[Any, Any]:
    python_type: Any = dict[str, Any] if column.name in JSON_COLUMNS else _TYPES[column.type]
    if column.nullable:
        python_type = python_type | None
    pattern = _DECIMAL_PATTERN if column.type in _DECIMALS else None
    examples = [_EXAMPLES[column.type]] if column.type in _EXAMPLES else None
    return python_type, Field(description=column.description, examples=examples, pattern=pattern)


Tick = row_model(RAW_TICKS, "Tick")
Bar = row_model(OHLC_BARS, "Bar")
AnomalyScore = row_model(ANOMALY_SCORES, "AnomalyScore")
Alert = row_model(ALERTS, "Alert")
AlertDelivery = row_model(ALERT_DELIVERIES, "AlertDelivery")
FeatureRow = row_model(FEATURES, "FeatureRow")
TradeIdGap = row_model(TRADE_ID_GAPS, "TradeIdGap")

Row = TypeVar("Row")


class Items(BaseModel, Generic[Row]):
    """A page of rows."""

    items: list[Row] = Field(description="The rows, in order of time.")
    next_cursor: str | None = Field(description="Pass as `cursor` to get the next page; null at the end.")


def page_of(model: type[BaseModel]) -> type[BaseModel]:
    """Return the model of a page of such rows."""
    page: type[BaseModel] = Items[model]  # type: ignore[valid-type]
    return page


class WatchedSymbol(BaseModel):
    """The last 24 hours of one symbol, up to the newest stored trade of any symbol."""

    model_config = ConfigDict(extra="forbid")

    symbol: str = Field(description="Exchange spelling.", examples=["BTCUSDT"])
    last_price: str = Field(description="Price of the newest trade.", examples=["61250.50000000"])
    change_pct: float = Field(description="Change over the 24 hours, per cent.", examples=[-1.25])
    high: str = Field(description="Highest price.", examples=["61990.00000000"])
    low: str = Field(description="Lowest price.", examples=["60100.00000000"])
    volume: str = Field(description="Volume in base units.", examples=["1520.25000000"])
    quote_volume: str = Field(description="Volume in quote units.", examples=["93120000.12500000"])
    trade_count: int = Field(description="Number of single trades.", examples=[512000])
    last_trade_time: datetime = Field(description="Time of the newest trade.", examples=["2026-01-05T12:00:00Z"])
    since: datetime = Field(description="Start of the oldest bar counted.", examples=["2026-01-04T12:00:00Z"])
    anomaly_score: float | None = Field(description="Highest anomaly score of the last 15 minutes.", examples=[1.2])
    alert_severity: str | None = Field(
        description="Severity of the gravest alert of the last 15 minutes, if any.", examples=["critical"]
    )
    missing_trades: int = Field(description="Trades known to be missing; 0 is proven complete.", examples=[0])


class Health(BaseModel):
    """The state of the data behind the API."""

    status: str = Field(description="ok, waiting (no data yet) or attention (see problems).", examples=["ok"])
    problems: list[str] = Field(description="What is not as it should be, in words.")
    last_trade_time: datetime | None = Field(description="Time of the newest stored trade.")
    last_received_at: datetime | None = Field(description="When the newest stored trade was received.")
    last_commit_at: datetime | None = Field(description="When trades were last committed.")
    stage_lag_seconds: dict[str, float] = Field(description="How far each stage is behind the newest trade.")
    open_gaps: int = Field(description="Holes in the trade ids that are still open.")
    missing_trades: int = Field(description="Trades inside those holes.")
    dead_letters: int = Field(description="Messages that could not be read.")
    undelivered_alerts: int = Field(description="Alerts without a final delivery.")

    @classmethod
    def waiting(cls, reason: str) -> "Health":
        """Return the state before there is any data."""
        return cls(
            status="waiting",
            problems=[reason],
            last_trade_time=None,
            last_received_at=None,
            last_commit_at=None,
            stage_lag_seconds={},
            open_gaps=0,
            missing_trades=0,
            dead_letters=0,
            undelivered_alerts=0,
        )


def as_utc(instant: datetime | None) -> datetime | None:
    """Return a stored instant with its time zone, so that JSON shows the Z."""
    return instant.replace(tzinfo=UTC) if instant else None


def encode_cursor(position: tuple[object, ...]) -> str:
    """Return a page position as opaque text."""
    return base64.urlsafe_b64encode(msgspec.json.encode(position)).decode().rstrip("=")


def decode_cursor(table: Table, order: tuple[str, ...], cursor: str) -> tuple[object, ...]:
    """Return the position that a cursor of this table holds.

    Raises:
        ValueError: the cursor was not made by us for this table.
    """
    types = {column.name: column.type for column in table.columns}
    expected: Any = tuple[tuple(_cursor_type(types[name]) for name in order)]  # type: ignore[misc]
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        position: tuple[object, ...] = msgspec.json.decode(raw, type=expected)
    except (binascii.Error, msgspec.MsgspecError, UnicodeError, ValueError) as error:
        raise ValueError(
            "not a cursor of this collection; use `next_cursor` of the previous page as it came"
        ) from error
    if any(isinstance(value, datetime) and value.tzinfo is not None for value in position):
        raise ValueError("not a cursor of this collection; use `next_cursor` of the previous page as it came")
    return position


def _cursor_type(column_type: ColumnType) -> Any:
    return {ColumnType.INSTANT: datetime, ColumnType.INTEGER: int}.get(column_type, str)
