"""Read access for notebooks and scripts: Polars frames and a DuckDB connection, in one line, never the live file.

    from cryptotrace_dagster import read
    read.bars("BTCUSDT", "5m", last="1d")

Everything reads the published copy of the warehouse (`data/published/`), which ingestion renews; keep it open as long
as you like. Stays out: the live store (the API and `cryptotrace sql` ask that).
"""

from pathlib import Path

import duckdb
import polars as pl

from cryptotrace_dagster.domain.bars import BAR_INTERVALS
from cryptotrace_dagster.domain.instants import LATEST_INSTANT, parse_instant
from cryptotrace_dagster.domain.windows import EPOCH, Window
from cryptotrace_dagster.errors import UserError
from cryptotrace_dagster.settings import Settings, load_settings
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.tables import ALERTS, ANOMALY_SCORES, FEATURES, OHLC_BARS, RAW_TICKS, Table

_PATIENCE_SECONDS = 5.0


class NotPublishedError(UserError):
    """There is no published copy yet."""


def published_warehouse(settings: Settings | None = None) -> Warehouse:
    """Return the published copy as a warehouse to read from.

    Raises:
        NotPublishedError: ingestion has not published a copy yet.
    """
    path = (settings or load_settings()).snapshot_path
    if not path.exists():
        raise NotPublishedError(
            f"There is no published copy at {path} yet: it comes with the first scheduled run of `cryptotrace up`, "
            "or set DATA_DIR to the folder that has one."
        )
    return Warehouse(str(path), lock_wait_seconds=_PATIENCE_SECONDS)


def connect(path: Path | None = None) -> duckdb.DuckDBPyConnection:
    """Return a DuckDB connection in memory with the published copy attached read-only and in use.

    The copy is attached under its own inode's name, so a connection made after the next publication sees the new rows.
    """
    source = path or Path(published_warehouse().url)
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    quoted = str(source).replace("'", "''")
    connection.execute(f"ATTACH '{quoted}' AS cryptotrace (READ_ONLY)")
    connection.execute("USE cryptotrace")
    return connection


def sql(query: str, parameters: list[object] | None = None) -> pl.DataFrame:
    """Return the rows of a query over the published copy."""
    with connect() as connection:
        return connection.execute(query, parameters or []).pl()


def ticks(symbol: str, start: str | None = None, end: str | None = None) -> pl.DataFrame:
    """Return the trades of a symbol in [start, end), times as ISO-8601 or epoch."""
    return _rows(RAW_TICKS, start, end, symbol=symbol.upper())


def bars(symbol: str, interval: str = "1m", start: str | None = None, end: str | None = None) -> pl.DataFrame:
    """Return the bars of a symbol in [start, end)."""
    if interval not in BAR_INTERVALS:
        raise ValueError(f"interval is one of {', '.join(BAR_INTERVALS)}, not {interval!r}")
    return _rows(OHLC_BARS, start, end, symbol=symbol.upper(), bar_interval=interval)


def features(symbol: str, start: str | None = None, end: str | None = None) -> pl.DataFrame:
    """Return the features of a symbol in [start, end)."""
    return _rows(FEATURES, start, end, symbol=symbol.upper())


def anomaly_scores(symbol: str, start: str | None = None, end: str | None = None) -> pl.DataFrame:
    """Return the anomaly scores of a symbol in [start, end)."""
    return _rows(ANOMALY_SCORES, start, end, symbol=symbol.upper())


def alerts(start: str | None = None, end: str | None = None) -> pl.DataFrame:
    """Return the alerts whose event lies in [start, end)."""
    return _rows(ALERTS, start, end)


def _rows(table: Table, start: str | None, end: str | None, **only: str) -> pl.DataFrame:
    window = Window(parse_instant(start) if start else EPOCH, parse_instant(end) if end else LATEST_INSTANT)
    return published_warehouse().read_window(table, window, **only)
