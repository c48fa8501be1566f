"""Read access for notebooks and scripts: Polars frames and a DuckDB connection, in one line, never the live file.

`from cryptotrace_dagster import read; read.bars("BTCUSDT", "5m", last="1d")`

Everything reads the published copy of the warehouse (`data/published/`), which ingestion renews; keep it open as long
as you like. Stays out: the live store (the API and `cryptotrace sql` ask that).
"""

from collections.abc import Sequence
from pathlib import Path

import duckdb
import polars as pl

from cryptotrace_dagster.connections import quoted
from cryptotrace_dagster.domain.bars import BAR_INTERVALS
from cryptotrace_dagster.domain.instants import LATEST_INSTANT, parse_instant, parse_span
from cryptotrace_dagster.domain.windows import EPOCH, Window
from cryptotrace_dagster.errors import UserError
from cryptotrace_dagster.queries import Reader, known_symbols, market_now
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

    It sees the copy as it is now; open another one to see what was published since.
    """
    source = path or Path(published_warehouse().url)
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute(f"ATTACH '{quoted(str(source))}' AS cryptotrace (READ_ONLY)")
    connection.execute("USE cryptotrace")
    return connection


def sql(query: str, parameters: Sequence[object] = ()) -> pl.DataFrame:
    """Return the rows of a query over the published copy."""
    with connect() as connection:
        return connection.execute(query, parameters).pl()


def symbols() -> list[str]:
    """Return the symbols of which something is published."""
    return known_symbols(Reader(published_warehouse()))


def ticks(symbol: str, start: str | None = None, end: str | None = None, *, last: str | None = None) -> pl.DataFrame:
    """Return the trades of a symbol in [start, end), or of the `last` 90m, 6h or 1d."""
    return _rows(RAW_TICKS, start, end, last, symbol=symbol.upper())


def bars(
    symbol: str, interval: str = "1m", start: str | None = None, end: str | None = None, *, last: str | None = None
) -> pl.DataFrame:
    """Return the bars of a symbol in [start, end), or of the `last` 90m, 6h or 1d."""
    if interval not in BAR_INTERVALS:
        raise ValueError(f"interval is one of {', '.join(BAR_INTERVALS)}, not {interval!r}")
    return _rows(OHLC_BARS, start, end, last, symbol=symbol.upper(), bar_interval=interval)


def features(symbol: str, start: str | None = None, end: str | None = None, *, last: str | None = None) -> pl.DataFrame:
    """Return the features of a symbol in [start, end), or of the `last` 90m, 6h or 1d."""
    return _rows(FEATURES, start, end, last, symbol=symbol.upper())


def anomaly_scores(
    symbol: str, start: str | None = None, end: str | None = None, *, last: str | None = None
) -> pl.DataFrame:
    """Return the anomaly scores of a symbol in [start, end), or of the `last` 90m, 6h or 1d."""
    return _rows(ANOMALY_SCORES, start, end, last, symbol=symbol.upper())


def alerts(start: str | None = None, end: str | None = None, *, last: str | None = None) -> pl.DataFrame:
    """Return the alerts whose event lies in [start, end), or in the `last` 90m, 6h or 1d."""
    return _rows(ALERTS, start, end, last)


def _rows(table: Table, start: str | None, end: str | None, last: str | None, **only: str) -> pl.DataFrame:
    """Return the rows of a window; `last` counts back from the end, or from the newest published trade."""
    warehouse = published_warehouse()
    until = parse_instant(end) if end else LATEST_INSTANT
    if last is not None:
        since = min(until, market_now(Reader(warehouse))) - parse_span(last)
    else:
        since = parse_instant(start) if start else EPOCH
    return warehouse.read_window(table, Window(since, until), **only)
