"""`cryptotrace backup`, `restore` and `maintain`: the warehouse as a thing to be kept."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cryptotrace_dagster.cli.options import DataDir, settings_of

if TYPE_CHECKING:
    from cryptotrace_dagster.pipeline.backup import Inventory

_AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""

    @app.command()
    def backup(
        target: Annotated[Path, typer.Argument(help="File to write, or a folder to write into.")],
        as_json: _AsJson = False,
        data_dir: DataDir = None,
    ) -> None:
        """Write the whole warehouse into one file, while everything goes on.

        Not in it: alerts.toml and .env, which are yours, and Dagster's history of runs.

        Example: cryptotrace backup warehouse-2026-01-05.duckdb
        """
        from cryptotrace_dagster.domain.windows import utc_now
        from cryptotrace_dagster.pipeline.backup import back_up
        from cryptotrace_dagster.storage import warehouse_of

        path, held = back_up(warehouse_of(settings_of(data_dir)), target, utc_now())
        _print(held, as_json, f"Backed up to {path} ({path.stat().st_size / 1e6:.1f} MB):", path=str(path))

    @app.command()
    def restore(
        backup: Annotated[Path, typer.Argument(help="A file that `cryptotrace backup` wrote.")],
        overwrite: Annotated[bool, typer.Option(help="Give up the trades that the warehouse holds now.")] = False,
        as_json: _AsJson = False,
        data_dir: DataDir = None,
    ) -> None:
        """Put a backup in the place of the warehouse; stop the system first.

        It may come from the other kind of store, and from an older release: this one migrates it forward.

        Example: cryptotrace restore warehouse-2026-01-05.duckdb
        """
        from cryptotrace_dagster.pipeline.backup import restore as restore_backup
        from cryptotrace_dagster.storage import warehouse_of

        warehouse = warehouse_of(settings_of(data_dir))
        held = restore_backup(backup, warehouse, overwrite=overwrite)
        _print(held, as_json, f"Restored into {warehouse.address}:")

    @app.command()
    def maintain(as_json: _AsJson = False, data_dir: DataDir = None) -> None:
        """Do now what the daily housekeeping does: delete old rows, and merge a lake's small files.

        Example: cryptotrace maintain --json
        """
        from cryptotrace_dagster.domain.windows import utc_now
        from cryptotrace_dagster.pipeline.housekeeping import Retention, forget_old_rows, maintain_lake
        from cryptotrace_dagster.storage import warehouse_of

        settings = settings_of(data_dir)
        warehouse, now = warehouse_of(settings), utc_now()
        warehouse.create()
        done = forget_old_rows(warehouse, Retention.from_settings(settings), now) | maintain_lake(warehouse, now)
        if as_json:
            print(json.dumps(done))
        else:
            print("\n".join(f"{count:>12,}  {name}" for name, count in done.items() if count) or "Nothing was old.")


def _print(held: "Inventory", as_json: bool, headline: str, **fields: str) -> None:
    if as_json:
        print(json.dumps(fields | dataclasses.asdict(held)))
        return
    print(headline)
    for name, count in held.rows.items():
        if count:
            print(f"{count:>12,}  {name}")
    for symbol, (first, last, ranges) in held.trade_ids.items():
        gaps = "without a gap" if ranges == 1 else f"with {ranges - 1} gaps"
        print(f"  {symbol}: trades {first} to {last}, {gaps}")
