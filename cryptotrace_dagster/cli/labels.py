"""`cryptotrace labels`: lists of events that are known to have happened, for the detectors to learn from."""

from pathlib import Path
from typing import Annotated

import typer

from cryptotrace_dagster.cli.options import DataDir, settings_of


def register(app: typer.Typer) -> None:
    """Add the `labels` commands."""
    labels = typer.Typer(help="Labels: events that are known to have happened.", no_args_is_help=True)
    labels.callback()(_labels)
    labels.command("import")(import_file)
    app.add_typer(labels, name="labels")


def _labels() -> None:
    """Labels: events that are known to have happened."""


def import_file(
    file: Annotated[Path, typer.Argument(help="CSV or Parquet with the columns symbol and timestamp.")],
    kind: Annotated[str, typer.Option(help="What they are; the pump classifier learns from `pump`.")] = "pump",
    data_dir: DataDir = None,
) -> None:
    """Store the events of a file as labels, beside those from answers about alerts.

    The models job of the next night learns from them, and the weekly report of the detectors is held against them.

    Example: cryptotrace labels import pumps.csv
    """
    from cryptotrace_dagster.domain.windows import utc_now
    from cryptotrace_dagster.pipeline.labels import import_labels
    from cryptotrace_dagster.storage import warehouse_of

    settings = settings_of(data_dir)
    warehouse = warehouse_of(settings)
    warehouse.create()
    print(f"{import_labels(warehouse, file, kind, utc_now())} labels of kind {kind} stored from {file.name}.")
