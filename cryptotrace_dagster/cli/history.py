"""`cryptotrace import` and `cryptotrace backfill`: the past, from files at hand or from the exchange."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cryptotrace_dagster.cli.options import settings_of
from cryptotrace_dagster.errors import UserError
from cryptotrace_dagster.settings import Settings

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from cryptotrace_dagster.pipeline.history import HistoryReport
    from cryptotrace_dagster.storage import Warehouse


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(name="import")(import_files)
    app.command()(backfill)


def import_files(
    files: Annotated[list[Path], typer.Argument(help="Dumps of aggTrades (zip, csv) or recordings (jsonl, jsonl.gz).")],
    symbol: Annotated[str | None, typer.Option(help="Symbol, where the file name does not tell it.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the warehouse instead of DATA_DIR.")] = None,
) -> None:
    """Bring public dump files or recordings into the warehouse, bars included.

    A file is checked against the .CHECKSUM beside it. Importing twice changes nothing.

    Example: cryptotrace import BTCUSDT-aggTrades-2026-01-05.zip
    """
    from cryptotrace_dagster.pipeline.history import import_file

    settings = settings_of(data_dir)
    with _storing(settings) as (warehouse, progress):
        for file in files:
            size = file.stat().st_size if file.is_file() else None
            task = progress.add_task(file.name, total=size)
            report = import_file(warehouse, file, symbol, lambda done, task=task: progress.advance(task, done))  # type: ignore[misc]
            _finish(progress, task, report)


def backfill(
    symbols: Annotated[list[str], typer.Argument(help="Symbols in the exchange's spelling, e.g. BTCUSDT.")],
    first: Annotated[datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="First UTC day.")],
    last: Annotated[datetime, typer.Option("--to", formats=["%Y-%m-%d"], help="Last UTC day, inclusive.")],
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the warehouse instead of DATA_DIR.")] = None,
) -> None:
    """Fetch the missing trades of past days: from the exchange's dumps, or from REST where there is none yet.

    It can be broken off and started again; days that are complete are skipped.

    Example: cryptotrace backfill BTCUSDT --from 2026-01-01 --to 2026-01-08
    """
    from cryptotrace_dagster.binance.rest import BinanceRest
    from cryptotrace_dagster.domain.windows import utc_now
    from cryptotrace_dagster.pipeline.history import backfill_day

    if last < first or first > utc_now():
        raise UserError(f"There are no days from {first:%Y-%m-%d} to {last:%Y-%m-%d}: give past days in order.")
    settings = settings_of(data_dir)
    days = [first + timedelta(days=number) for number in range((min(last, utc_now()) - first).days + 1)]
    with _storing(settings) as (warehouse, progress), BinanceRest(settings.binance_rest_url) as rest:
        for symbol, day in product(symbols, days):
            task = progress.add_task(f"{symbol.upper()} {day:%Y-%m-%d}", total=None)
            report = backfill_day(
                warehouse,
                symbol.upper(),
                day.date(),
                rest,
                dump_url=settings.binance_dump_url,
                progress=lambda done, task=task: progress.advance(task, done),  # type: ignore[misc]
            )
            _finish(progress, task, report)


@contextmanager
def _storing(settings: Settings) -> Iterator[tuple["Warehouse", "Progress"]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

    from cryptotrace_dagster.storage import warehouse_of

    warehouse = warehouse_of(settings)
    warehouse.create()
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield warehouse, progress


def _finish(progress: "Progress", task: "TaskID", report: "HistoryReport") -> None:
    progress.update(task, total=1, completed=1)
    text = f"{report.source}: {report.stored} trades stored, {report.repeated} were there, {report.bars} bars made"
    print(text + (f", {report.unreadable} lines could not be read" if report.unreadable else ""))
    for symbol, first_id, last_id, start, end, *_ in report.gaps.iter_rows():
        print(f"{symbol}: ids {first_id} to {last_id} are missing ({last_id - first_id + 1}), from {start}Z to {end}Z")
