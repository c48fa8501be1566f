"""Options that several commands share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cryptotrace_dagster.settings import Settings

DataDir = Annotated[Path | None, typer.Option(help="Folder of the warehouse, instead of DATA_DIR.")]


def settings_of(data_dir: Path | None, **overrides: int | None) -> "Settings":
    """Return the settings, with the options that were given in their place."""
    from cryptotrace_dagster.settings import load_settings

    given: dict[str, object] = {name: value for name, value in overrides.items() if value is not None}
    if data_dir is not None:
        given |= {"data_dir": data_dir, "warehouse_url": ""}
    return load_settings(**given)
