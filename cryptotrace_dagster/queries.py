"""What people ask of the warehouse: bounded questions, answered from one short read-only connection.

Owns the reader (which remembers answers while the data has not changed), pages by keyset, and the few questions that
API, dashboard and command line share. Every value is a bound parameter; names come from tables.py.
Stays out: how an answer is shown, and anything that writes.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

from cryptotrace_dagster.answering import Parameters
from cryptotrace_dagster.domain.rules import Severity
from cryptotrace_dagster.domain.windows import Window, floor, utc_now
from cryptotrace_dagster.settings import Settings
from cryptotrace_dagster.storage import Warehouse, WarehouseBusyError, warehouse_of
from cryptotrace_dagster.tables import (
    ALERT_DELIVERIES,
    ALERTS,
    ANOMALY_SCORES,
    DEAD_LETTERS,
    FEATURES,
    FINAL_OUTCOMES,
    INGESTED_OFFSETS,
    NEWEST_TRADE_TIME,
    OHLC_BARS,
    TRADE_ID_GAPS,
    TRADE_ID_RANGES,
    Table,
)

_SEVERITIES = ", ".join(f"'{severity.name}'" for severity in Severity)  # ascending, as SQL
READER_PATIENCE_SECONDS = 10.0
OVERDUE_AFTER = timedelta(minutes=1)
_LONGEST_LAG = timedelta(hours=1)  # that is told: further back nobody looks for what a stage made last
_ASKED_AT_ONCE = 32  # questions; the same one is never asked twice at once
_REMEMBERED_ANSWERS = 256
_REMEMBERED_ROWS = 20_000  # a larger answer is cheaper to read again than to keep


def data_version(warehouse: Warehouse) -> str:
    """Return a text that changes with every commit, found without opening the warehouse, so it never holds up a writer.

    DuckLake keeps its state in a catalog that only a query can see: there the version is the current second.
    """
    if warehouse.is_lake:
        return str(int(time.time()))
    marks = []
    for path in (Path(warehouse.url), Path(f"{warehouse.url}.wal")):
        try:
            status = path.stat()
        except FileNotFoundError:
            marks.append("-")
        else:
            marks.append(f"{status.st_mtime_ns}.{status.st_size}.{status.st_ino}")
    return "/".join(marks)


@dataclass(frozen=True)
class _Answer:
    rows: pl.DataFrame
    version: str
    read_at: float


def open_for_reading(
    settings: Settings, patience_seconds: float = READER_PATIENCE_SECONDS, *, shares_opening: bool = False
) -> Warehouse:
    """Return the warehouse of the settings, with the short patience of someone who waits for an answer.

    A server lets its many questions share an opening of the file; one such warehouse is enough for a process.
    """
    return warehouse_of(settings, lock_wait_seconds=patience_seconds, shares_opening=shares_opening)


class Reader:
    """Answers questions about a warehouse, and repeats an answer while it is still true.

    An answer is reused while the data version stands, and in any case for `fresh_for` seconds: however many people
    look, a question reaches the warehouse a few times a second at most. Where nobody answers, an answer of up to
    `stale_for` seconds ago is better than none.
    """

    def __init__(self, warehouse: Warehouse, fresh_for: float = 0.5, stale_for: float = 0.0) -> None:
        self.warehouse = warehouse
        self._fresh_for = fresh_for
        self._stale_for = stale_for
        self._answers: OrderedDict[tuple[object, ...], _Answer] = OrderedDict()
        self._lock = threading.Lock()
        self._askers = [threading.Lock() for _ in range(_ASKED_AT_ONCE)]

    def read(self, sql: str, parameters: Parameters = (), *, fresh_for: float | None = None) -> pl.DataFrame:
        """Return the rows of one read-only query; an answer that is `fresh_for` seconds old will do."""
        fresh_for = self._fresh_for if fresh_for is None else fresh_for
        bound = tuple(sorted(parameters.items())) if isinstance(parameters, Mapping) else tuple(parameters)
        question = (sql, *bound)
        if (known := self._known(question, fresh_for)) is not None:
            return known
        with self._askers[hash(question) % _ASKED_AT_ONCE]:
            if (known := self._known(question, fresh_for)) is not None:  # somebody asked the same while we waited
                return known
            version = data_version(self.warehouse)
            try:
                rows = self.warehouse.read(sql, parameters)
            except WarehouseBusyError:
                earlier = self._answers.get(question)
                if earlier is None or time.monotonic() - earlier.read_at > self._stale_for:
                    raise
                return earlier.rows
            self._remember(question, _Answer(rows, version, time.monotonic()))
        return rows

    def forget(self) -> None:
        """Drop every answer, so that who has just written sees it at once."""
        with self._lock:
            self._answers.clear()

    def _known(self, question: tuple[object, ...], fresh_for: float) -> pl.DataFrame | None:
        with self._lock:
            answer = self._answers.get(question)
        if answer is None:
            return None
        is_fresh = time.monotonic() - answer.read_at < fresh_for
        return answer.rows if is_fresh or answer.version == data_version(self.warehouse) else None

    def _remember(self, question: tuple[object, ...], answer: _Answer) -> None:
        if answer.rows.height > _REMEMBERED_ROWS:
            return
        with self._lock:
            self._answers[question] = answer
            self._answers.move_to_end(question)
            while len(self._answers) > _REMEMBERED_ANSWERS:
                self._answers.popitem(last=False)


@dataclass(frozen=True)
class Page:
    """A bounded piece of a table, and the position after which the next piece starts (None at the end)."""

    rows: pl.DataFrame
    next_position: tuple[object, ...] | None


def order_columns(table: Table) -> tuple[str, ...]:
    """Return the columns by which pages of a table are ordered: its time, then the rest of its key."""
    return (table.time_column, *(name for name in table.key if name != table.time_column))


def read_page(
    reader: Reader,
    table: Table,
    window: Window,
    *,
    limit: int,
    only: Mapping[str, object] | None = None,
    where: Sequence[str] = (),
    after: Sequence[object] | None = None,
    newest_first: bool = False,
) -> Page:
    """Return up to `limit` rows of a time window, after a position.

    `only` narrows by equality on columns (None values are ignored); `where` holds further constant conditions.
    """
    order = order_columns(table)
    clauses = [f"{table.time_column} >= ?", f"{table.time_column} < ?", *where]
    parameters: list[object] = [window.start, window.end]
    for name, value in (only or {}).items():
        if name not in table.column_names:
            raise ValueError(f"{table.name} has no column {name}.")
        if value is not None:
            clauses.append(f"{name} = ?")
            parameters.append(value)
    if after is not None:
        clauses.append(f"({', '.join(order)}) {'<' if newest_first else '>'} ({', '.join('?' * len(order))})")
        parameters.extend(after)
    direction = "DESC" if newest_first else "ASC"
    rows = reader.read(
        f"SELECT {', '.join(table.column_names)} FROM {table.name} WHERE {' AND '.join(clauses)} "
        f"ORDER BY {', '.join(f'{name} {direction}' for name in order)} LIMIT ?",
        [*parameters, limit + 1],
    )
    if rows.height <= limit:
        return Page(rows, None)
    rows = rows.head(limit)
    return Page(rows, rows.select(order).row(-1))


def known_symbols(reader: Reader, fresh_for: float | None = None) -> list[str]:
    """Return the symbols of which trades were ever stored, in order; as of `fresh_for` seconds ago at the earliest."""
    rows = reader.read(f"SELECT DISTINCT symbol FROM {TRADE_ID_RANGES.name} ORDER BY symbol", fresh_for=fresh_for)
    return rows["symbol"].to_list()


def market_now(reader: Reader) -> datetime:
    """Return where the stored market stands: the time of its newest trade, or this machine's clock before the first.

    "The last hour" of a replay of old data is thus the last hour of the replay.
    """
    newest: datetime | None = reader.read(f"SELECT {NEWEST_TRADE_TIME}").item()
    return newest or utc_now()


def watch_list(reader: Reader) -> pl.DataFrame:
    """Return one row per symbol: its last 24 hours, missing trades, and the strangest score and gravest alert of late.

    The 24 hours end at the latest stored trade of any symbol, so that a replay of old data shows its own day. What is
    of late is of the last 15 minutes.
    """
    return reader.read(
        f"""
        WITH newest AS (
            SELECT {NEWEST_TRADE_TIME} AS at
        ), day AS (
            SELECT symbol,
                   arg_min(open, bar_start) AS first_price, arg_max(close, bar_start) AS last_price,
                   max(high) AS high, min(low) AS low, sum(volume) AS volume, sum(quote_volume) AS quote_volume,
                   sum(trade_count)::BIGINT AS trade_count, max(last_trade_time) AS last_trade_time,
                   min(bar_start) AS since
            FROM {OHLC_BARS.name}, newest
            WHERE bar_interval = '1m' AND bar_start > newest.at - INTERVAL 24 HOUR
            GROUP BY symbol
        ), strangest AS (
            SELECT symbol, max(score) AS anomaly_score
            FROM {ANOMALY_SCORES.name}, newest
            WHERE bar_start > newest.at - INTERVAL 15 MINUTE
            GROUP BY symbol
        ), told AS (
            SELECT symbol, arg_max(severity, list_position([{_SEVERITIES}], severity)) AS alert_severity
            FROM {ALERTS.name}, newest
            WHERE available_at > newest.at - INTERVAL 15 MINUTE AND retracted_at IS NULL
            GROUP BY symbol
        ), missing AS (
            SELECT symbol, sum(last_missing_id - first_missing_id + 1)::BIGINT AS missing_trades
            FROM {TRADE_ID_GAPS.name} WHERE closed_at IS NULL GROUP BY symbol
        )
        SELECT day.symbol, last_price, (100 * (last_price::DOUBLE / first_price::DOUBLE - 1)) AS change_pct,
               high, low, volume, quote_volume, trade_count, last_trade_time, since,
               anomaly_score, alert_severity, coalesce(missing_trades, 0) AS missing_trades
        FROM day LEFT JOIN strangest USING (symbol) LEFT JOIN told USING (symbol) LEFT JOIN missing USING (symbol)
        ORDER BY quote_volume DESC
        """
    )


def delivery_states(reader: Reader, alert_ids: Sequence[str]) -> pl.DataFrame:
    """Return the latest attempt per alert and route: `alert_id, route, outcome, attempt, attempted_at, reason`."""
    if not alert_ids:
        return ALERT_DELIVERIES.empty().select("alert_id", "route", "outcome", "attempt", "attempted_at", "reason")
    return reader.read(
        f"""
        SELECT alert_id, route, arg_max(outcome, attempt) AS outcome, max(attempt) AS attempt,
               arg_max(attempted_at, attempt) AS attempted_at, arg_max(reason, attempt) AS reason
        FROM {ALERT_DELIVERIES.name}
        WHERE alert_id IN ({", ".join("?" * len(alert_ids))})
        GROUP BY alert_id, route ORDER BY alert_id, route
        """,
        list(alert_ids),
    )


@dataclass(frozen=True)
class DataHealth:
    """How fresh and how whole the stored data is. Times are naive UTC; None where there is nothing yet."""

    last_trade_time: datetime | None
    last_received_at: datetime | None
    last_commit_at: datetime | None
    last_bar_end: datetime | None
    last_feature_end: datetime | None
    open_gaps: int
    missing_trades: int
    dead_letters: int
    undelivered_alerts: int
    overdue_alerts: int

    def stage_lags(self) -> dict[str, timedelta]:
        """Return how far each stage's newest row is behind the newest trade.

        An hour stands for an hour and more. Scores and alerts follow in the same step as features; only rare ones are
        stored, so that their newest row tells nothing.
        """
        if self.last_trade_time is None:
            return {}
        ends = {"ohlc_bars": self.last_bar_end, "features": self.last_feature_end}
        newest = self.last_trade_time
        return {stage: max(newest - end, timedelta(0)) if end else _LONGEST_LAG for stage, end in ends.items()}


def data_health(reader: Reader) -> DataHealth:
    """Return the state of the data, from the small tables and the newest bars only."""
    row = reader.read(
        f"""
        SELECT
            {NEWEST_TRADE_TIME} AS last_trade_time,
            (SELECT max(received_at) FROM raw_ticks WHERE trade_time >= {NEWEST_TRADE_TIME} - INTERVAL 1 MINUTE
            ) AS last_received_at,
            (SELECT max(recorded_at) FROM {INGESTED_OFFSETS.name}) AS last_commit_at,
            (SELECT max(bar_end) FROM {OHLC_BARS.name}
             WHERE bar_interval = '1s' AND bar_start >= {NEWEST_TRADE_TIME} - INTERVAL 1 HOUR) AS last_bar_end,
            (SELECT max(bar_start) + INTERVAL 5 SECOND FROM {FEATURES.name}
             WHERE bar_interval = '5s' AND bar_start >= {NEWEST_TRADE_TIME} - INTERVAL 1 HOUR) AS last_feature_end,
            (SELECT count(*) FROM {TRADE_ID_GAPS.name} WHERE closed_at IS NULL) AS open_gaps,
            (SELECT coalesce(sum(last_missing_id - first_missing_id + 1), 0)::BIGINT
             FROM {TRADE_ID_GAPS.name} WHERE closed_at IS NULL) AS missing_trades,
            (SELECT count(*) FROM {DEAD_LETTERS.name}) AS dead_letters,
            (SELECT count(*) FROM {ALERTS.name} AS a WHERE NOT EXISTS (
                SELECT 1 FROM {ALERT_DELIVERIES.name} AS d
                WHERE d.alert_id = a.alert_id AND d.outcome IN {FINAL_OUTCOMES})
            ) AS undelivered_alerts,
            (SELECT count(*) FROM {ALERTS.name} AS a WHERE raised_at < $due AND NOT EXISTS (
                SELECT 1 FROM {ALERT_DELIVERIES.name} AS d
                WHERE d.alert_id = a.alert_id
                AND (d.outcome IN {FINAL_OUTCOMES} OR (d.outcome = 'held' AND d.retry_at >= $due)))
            ) AS overdue_alerts  -- but for those that quiet hours or a digest hold until later
        """,
        {"due": floor(utc_now() - OVERDUE_AFTER, timedelta(seconds=15))},
    ).row(0, named=True)
    return DataHealth(**row)
