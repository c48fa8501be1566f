"""`cryptotrace bench`: how fast it is, each figure beside what it is held against."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(bench)


def bench(
    only: Annotated[list[str] | None, typer.Option(help="Measure only these; may be given repeatedly.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes: minutes instead of half an hour.")] = False,
    guard: Annotated[
        Path | None, typer.Option(help="Compare ratios with the ones in this file; fail at a loss of more than 30 %.")
    ] = None,
    record: Annotated[Path | None, typer.Option(help="Write this run's ratios into a file, for --guard.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the table as Markdown into a file.")] = None,
) -> None:
    """Measure speed against bare operations and peers in the same run; the last line is JSON.

    Runs for about half an hour and wants the machine for itself. With KAFKA_REAL_BOOTSTRAP_SERVERS set, messages go
    through that Kafka, 20 million of them; else through the embedded broker.

    Recorded ratios, and the guard that is held against them, are of small sizes through the embedded broker.

    Examples: cryptotrace bench
              cryptotrace bench --quick --only feed --only bars
              cryptotrace bench --quick --record ratios.json
              cryptotrace bench --guard ratios.json
    """
    from rich.console import Console

    from cryptotrace_dagster.bench.broker import without_real_broker
    from cryptotrace_dagster.bench.machine import describe_machine
    from cryptotrace_dagster.bench.sizes import FULL, QUICK
    from cryptotrace_dagster.bench.suite import GUARDED, chosen, run
    from cryptotrace_dagster.bench.table import markdown_table, rich_table

    if record is not None and not quick:
        raise typer.BadParameter("The guard measures small sizes, so only such can be recorded: add --quick.")
    sizes = QUICK if quick else FULL
    if guard is not None or record is not None:
        without_real_broker()
    if guard is not None:
        raise typer.Exit(_guard(guard))
    benchmarks = chosen(only or (GUARDED if record is not None else ()))
    machine = describe_machine()
    outcome = run(benchmarks, sizes, lambda sentence: print(sentence, file=sys.stderr, flush=True))
    Console(width=200 if not sys.stdout.isatty() else None).print(rich_table(outcome.rows))
    if markdown is not None:
        markdown.write_text(markdown_table(outcome.rows) + "\n", encoding="utf-8")
    if record is not None and not outcome.refused:
        from cryptotrace_dagster.bench.guard import write_record

        write_record(record, [row for row in outcome.rows if row.name in GUARDED], machine)
    rows = {row.name: row.as_dict() for row in outcome.rows}
    print(json.dumps({"rows": rows, "refused": outcome.refused, "machine": machine, "quick": quick}))
    raise typer.Exit(1 if outcome.refused else 0)


def _guard(path: Path) -> int:
    """Compare with the recorded ratios, tell what was found, and return the exit code."""
    from cryptotrace_dagster.bench.guard import ALLOWED_LOSS, confirmed_losses, read_record
    from cryptotrace_dagster.bench.rows import Row, WrongWorkError
    from cryptotrace_dagster.bench.sizes import QUICK
    from cryptotrace_dagster.bench.suite import chosen, run

    recorded = read_record(path)

    def measure(names: Sequence[str]) -> Sequence[Row]:
        outcome = run(chosen(names), QUICK, lambda sentence: print(sentence, file=sys.stderr, flush=True))
        if outcome.refused:
            raise WrongWorkError(f"no figure for {', '.join(outcome.refused)}")
        for row in outcome.rows:
            if row.name in recorded:
                print(f"{row.name}: {row.ratio:.3g}, recorded {recorded[row.name]:.3g}")
        return outcome.rows

    lost = confirmed_losses(measure, recorded)
    print(json.dumps({"allowed_loss": ALLOWED_LOSS, "lost": {name: round(loss, 3) for name, loss in lost.items()}}))
    return 1 if lost else 0
