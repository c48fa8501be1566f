"""`cryptotrace backtest`: what would have rung, when and why, over stored history or a file of trades."""

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cryptotrace_dagster.cli.options import settings_of
from cryptotrace_dagster.errors import UserError

if TYPE_CHECKING:
    from cryptotrace_dagster.domain.evaluation import Interval
    from cryptotrace_dagster.pipeline.backtest import BacktestReport

_INSTANTS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(backtest)


def backtest(
    start: Annotated[datetime | None, typer.Option("--from", formats=_INSTANTS, help="Start, UTC.")] = None,
    end: Annotated[datetime | None, typer.Option("--to", formats=_INSTANTS, help="End, exclusive, UTC.")] = None,
    trades: Annotated[
        list[Path] | None,
        typer.Option(help="CSV or Parquet of symbol,timestamp,side,price,amount instead of the warehouse; repeatable."),
    ] = None,
    rules: Annotated[Path | None, typer.Option(help="Alert rules; with --trades by default only pumps.")] = None,
    labels: Annotated[Path | None, typer.Option(help="CSV or Parquet of labelled events: symbol,timestamp.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")] = False,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the warehouse instead of DATA_DIR.")] = None,
) -> None:
    """Replay history through the code of live operation and tell what would have rung.

    With labels also precision, recall and F1 per event (hit: within two minutes), with 95 % intervals.

    Example: cryptotrace backtest --from 2026-01-01 --to 2026-01-08
    """
    import polars as pl

    from cryptotrace_dagster.domain.windows import Window
    from cryptotrace_dagster.pipeline.backtest import PUMPS_ONLY, backtest_stored, backtest_ticks
    from cryptotrace_dagster.pipeline.rule_source import load_rules
    from cryptotrace_dagster.pipeline.trade_files import read_labels, read_trades
    from cryptotrace_dagster.storage import warehouse_of

    events = read_labels(labels) if labels else []
    if trades:
        if start or end:
            raise UserError("A trade file is replayed whole: leave --from and --to out, or leave --trades out.")
        book = load_rules(rules) if rules else PUMPS_ONLY
        report = backtest_ticks(pl.concat([read_trades(path) for path in trades]), book, events)
    else:
        if start is None or end is None or end <= start:
            raise UserError("Say what to replay: --from and a later --to, or --trades with a file of trades.")
        settings = settings_of(data_dir)
        warehouse = warehouse_of(settings)
        report = backtest_stored(warehouse, load_rules(rules or settings.alerts_file), Window(start, end), events)
    _print_report(report, bool(labels))
    if as_json:
        print(json.dumps(report.as_record()))


def _print_report(report: "BacktestReport", has_labels: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(
        f"{report.ticks:,} trades of {', '.join(report.symbols)} from {report.start} to {report.end} UTC",
        soft_wrap=True,
    )
    table = Table("rule", "alerts", "a day", title="What would have rung")
    if has_labels:
        for name in ("hit", "precision", "recall", "F1", "false a symbol-day", "delay"):
            table.add_column(name)
    for rule, verdict in report.verdicts.items():
        cells = [rule, str(verdict.alerts), f"{verdict.alerts_a_day:.3g}"]
        if has_labels:
            delay = verdict.median_delay_seconds
            cells += [
                f"{verdict.hits} of {verdict.events}",
                _shown(verdict.precision),
                _shown(verdict.recall),
                _shown(verdict.f1),
                _shown(verdict.false_alarms_a_symbol_day, 4),
                "-" if delay is None else f"{delay:.1f} s",
            ]
        table.add_row(*cells)
    console.print(table)
    for row in report.alerts.iter_rows(named=True):
        console.print(f"{row['available_at']} {row['symbol']} {row['rule']}: {row['title']}", soft_wrap=True)


def _shown(interval: "Interval | None", digits: int = 2) -> str:
    if interval is None:
        return "-"
    return f"{interval.value:.{digits}f} ({interval.low:.{digits}f} to {interval.high:.{digits}f})"
