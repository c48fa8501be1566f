"""`cryptotrace sql` and `cryptotrace bars`: an answer in one line, as table, JSON, CSV or Parquet.

Owns the commands and their output. Stays out: the questions (queries.py) and the spelling of values (formats.py).
"""

import sys
import threading
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from cryptotrace_dagster.cli.options import DataDir, settings_of
from cryptotrace_dagster.errors import UserError

if TYPE_CHECKING:
    import duckdb
    import polars as pl

    from cryptotrace_dagster.domain.windows import Window
    from cryptotrace_dagster.queries import Reader
    from cryptotrace_dagster.storage import Warehouse

_SHOWN_ROWS = 50
# What a table shows of bars: their sixteen columns are wider than any terminal.
_BAR_TABLE = ("bar_start", "open", "high", "low", "close", "volume", "trade_count")
_WIDTH_OF_A_FILE = 10_000  # where no terminal is, nothing has to be folded
_UNKNOWN_TO_POLARS = ("INTERVAL", "UNION", "VARIANT")


class OutputFormat(StrEnum):
    """How rows are printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    ARROW = "arrow"
    PARQUET = "parquet"


class QueryError(UserError):
    """A query cannot be answered as it was put."""


def register(app: typer.Typer) -> None:
    """Add `sql` and `bars` to the command line."""

    @app.command()
    def sql(
        query: Annotated[str, typer.Argument(help="One SELECT over the tables; `SHOW TABLES` lists them.")],
        output: Annotated[OutputFormat, typer.Option("--format", help="How rows are printed.")] = OutputFormat.TABLE,
        timeout: Annotated[float, typer.Option(min=0.1, help="Seconds until the query is cancelled.")] = 10.0,
        published: Annotated[bool, typer.Option(help="Ask the published copy, which no one has to wait for.")] = False,
        data_dir: DataDir = None,
    ) -> None:
        """Run one read-only query (DuckDB SQL).

        Ingestion waits while a query reads the live store, so it is cancelled after a while: use --published for long ones.

        Example: cryptotrace sql "SELECT symbol, count(*) AS trades FROM raw_ticks GROUP BY symbol"
        """
        from cryptotrace_dagster.queries import open_for_reading
        from cryptotrace_dagster.read import published_warehouse

        settings = settings_of(data_dir)
        warehouse = published_warehouse(settings) if published else open_for_reading(settings)
        _print(run_query(warehouse, query, timeout), output)

    @app.command()
    def bars(
        symbol: Annotated[str, typer.Argument(help="Exchange spelling, e.g. BTCUSDT; case does not matter.")],
        *,
        interval: Annotated[str, typer.Option(help="1s, 1m, 5m, 15m, 1h or 1d.")] = "1m",
        last: Annotated[str | None, typer.Option(help="How far back from the newest trade, e.g. 90m, 6h, 1d.")] = None,
        start: Annotated[str | None, typer.Option("--from", help="Start, ISO-8601 (UTC) or epoch.")] = None,
        end: Annotated[str | None, typer.Option("--to", help="End, exclusive, ISO-8601 (UTC) or epoch.")] = None,
        output: Annotated[OutputFormat, typer.Option("--format", help="How rows are printed.")] = OutputFormat.TABLE,
        chart: Annotated[bool, typer.Option("--chart", help="Draw candles in the terminal instead.")] = False,
        data_dir: DataDir = None,
    ) -> None:
        """Print the bars of a symbol: open, high, low, close, volume, trades; other formats than the table have all columns.

        Example: cryptotrace bars BTCUSDT --interval 5m --last 1d --chart
        """
        from cryptotrace_dagster.queries import Reader, open_for_reading

        reader = Reader(open_for_reading(settings_of(data_dir)))
        rows = bars_for(reader, symbol, interval, last=last, start=start, end=end)
        if chart:
            _draw(rows)
        else:
            _print(rows.select(_BAR_TABLE) if output is OutputFormat.TABLE else rows, output)


def run_query(warehouse: "Warehouse", query: str, timeout: float) -> "pl.DataFrame":
    """Return the rows of a query, or cancel it after `timeout` seconds.

    Raises:
        QueryError: the SQL is wrong, tries to write, or takes too long.
    """
    import duckdb

    with warehouse.reading() as connection:
        timer = threading.Timer(timeout, connection.interrupt)
        timer.start()
        try:
            return _frame_of(connection, query)
        except duckdb.InterruptException:
            raise QueryError(
                f"The query was cancelled after {timeout:g} s, so that ingestion can go on: narrow it, raise --timeout, "
                "or ask the published copy with --published."
            ) from None
        except duckdb.Error as error:
            raise QueryError(f"The query could not be run: {error}. `SHOW TABLES` lists the tables.") from None
        finally:
            timer.cancel()


def _frame_of(connection: "duckdb.DuckDBPyConnection", query: str) -> "pl.DataFrame":
    """Return the rows of a query; values of types that polars does not know come as DuckDB writes them."""
    answer = connection.execute(query)
    columns = [(name, str(type_)) for name, type_, *_ in answer.description or ()]
    if not any(mark in type_ for _, type_ in columns for mark in _UNKNOWN_TO_POLARS):
        return answer.pl()
    as_text = [
        f"#{position}::VARCHAR AS {_quoted(name)}"
        if any(mark in type_ for mark in _UNKNOWN_TO_POLARS)
        else f"#{position}"
        for position, (name, type_) in enumerate(columns, start=1)
    ]
    return connection.sql(query).project(", ".join(as_text)).pl()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def bars_for(
    reader: "Reader",
    symbol: str,
    interval: str,
    *,
    last: str | None = None,
    start: str | None = None,
    end: str | None = None,
) -> "pl.DataFrame":
    """Return the bars that the options ask for, oldest first; all that are stored when they name no range.

    Raises:
        QueryError: an option cannot be read, or nothing is stored.
    """
    from cryptotrace_dagster.queries import known_symbols
    from cryptotrace_dagster.tables import OHLC_BARS

    name = symbol.strip().upper()
    known = known_symbols(reader)
    if name not in known:
        listed = ", ".join(known) or "none yet; start `cryptotrace up`"
        raise QueryError(f"Nothing is stored of the symbol {name[:40]!r}. Stored: {listed}.")
    _check_interval(interval)
    window = _window(reader, last, start, end)
    rows = reader.warehouse.read_window(OHLC_BARS, window, symbol=name, bar_interval=interval)
    if rows.is_empty():
        raise QueryError(
            f"No {interval} bars of {name} are stored from {window.start} to {window.end} UTC; choose another range."
        )
    return rows


def _check_interval(interval: str) -> None:
    from cryptotrace_dagster.domain.bars import BAR_INTERVALS

    if interval not in BAR_INTERVALS:
        raise QueryError(f"--interval {interval[:20]!r} is none of {', '.join(BAR_INTERVALS)}.")


def _window(reader: "Reader", last: str | None, start: str | None, end: str | None) -> "Window":
    from cryptotrace_dagster.domain.instants import LATEST_INSTANT, InstantError, parse_instant, parse_span
    from cryptotrace_dagster.domain.windows import EPOCH, Window
    from cryptotrace_dagster.queries import market_now

    if last is not None and start:
        raise QueryError("--last and --from exclude each other: give one of them.")
    try:
        since = parse_instant(start) if start else EPOCH
        until = parse_instant(end) if end else LATEST_INSTANT
        if last is not None:
            since = min(until, market_now(reader)) - parse_span(last)
    except InstantError as error:
        raise QueryError(f"--from, --to or --last: {error}") from None
    if since > until:
        raise QueryError("--from is later than --to: exchange them.")
    return Window(since, until)


def _print(rows: "pl.DataFrame", output: OutputFormat) -> None:
    if output is OutputFormat.TABLE:
        _print_table(rows)
        return
    from cryptotrace_dagster.formats import WRITERS

    if output in {OutputFormat.ARROW, OutputFormat.PARQUET} and sys.stdout.isatty():
        raise QueryError(f"--format {output.value} is not text: send it into a file with `> bars.{output.value}`.")
    sys.stdout.buffer.write(WRITERS[output.value](rows))
    if output is OutputFormat.JSON:
        sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()


def _print_table(rows: "pl.DataFrame") -> None:
    from rich.console import Console
    from rich.table import Table

    from cryptotrace_dagster.formats import plain

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name, dtype in rows.schema.items():
        table.add_column(name, justify="right" if dtype.is_numeric() else "left", overflow="fold")
    shown = plain(rows.tail(_SHOWN_ROWS))
    for row in shown.iter_rows():
        table.add_row(*("" if value is None else str(value) for value in row))
    console = Console(width=None if sys.stdout.isatty() else _WIDTH_OF_A_FILE)
    console.print(table)
    if rows.height > _SHOWN_ROWS:
        console.print(f"(the last {_SHOWN_ROWS} of {rows.height} rows; --format csv prints all)")


def _draw(rows: "pl.DataFrame") -> None:
    from cryptotrace_dagster.cli.terminal_chart import candles

    sys.stdout.write(candles(rows) + "\n")
