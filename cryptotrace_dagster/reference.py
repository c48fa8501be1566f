"""The pages that are made from the code: docs/settings.md, docs/tables.md and .env.example. `make docs` writes them.

Owns their form. Stays out: their content, which is written once, in settings.py and tables.py; a test holds the pages
to it.
"""

from collections.abc import Callable
from pathlib import Path

from pydantic.fields import FieldInfo

from cryptotrace_dagster.settings import Settings
from cryptotrace_dagster.tables import ALL_TABLES, Table

_MADE = "made from the code by `make docs`; change the code, not this page"


def settings_page() -> str:
    """Return docs/settings.md: every setting, its default and its meaning."""
    rows = "\n".join(
        f"| `{name.upper()}` | {_code(_default(field))} | {field.description} |"
        for name, field in Settings.model_fields.items()
    )
    return (
        f"<!-- {_MADE} -->\n\n# Settings\n\n"
        "Environment variables, or lines of a file `.env` in the folder that the command is started in; the environment "
        "wins. `.env.example` is a file to begin with. What to be told is not a setting: that is `alerts.toml`.\n\n"
        f"| variable | default | meaning |\n|---|---|---|\n{rows}\n"
    )


def tables_page() -> str:
    """Return docs/tables.md: every table with its key, and every column with type and meaning."""
    return (
        f"<!-- {_MADE} -->\n\n# Tables\n\n"
        "All instants are UTC. Types are DuckDB's; prices and quantities are exact decimals. "
        '`cryptotrace sql "SELECT ..."` queries them.\n\n'
    ) + "\n".join(_table_section(table) for table in ALL_TABLES)


def environment_example() -> str:
    """Return .env.example: every setting as a comment, with its default."""
    lines = "\n".join(
        f"# {field.description}\n# {name.upper()}={_default(field)}\n" for name, field in Settings.model_fields.items()
    )
    return (
        "# Copy to .env and take the # away where you want something else than the default.\n"
        f"# This file is {_MADE.replace('`', '')}.\n\n{lines}"
    )


PAGES: dict[str, Callable[[], str]] = {
    "docs/settings.md": settings_page,
    "docs/tables.md": tables_page,
    ".env.example": environment_example,
}


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is None:
        return ""
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _table_section(table: Table) -> str:
    columns = "\n".join(
        f"| `{column.name}` | {column.type.sql}{', may be null' if column.nullable else ''} | {column.description} |"
        for column in table.columns
    )
    return (
        f"## {table.name}\n\n{table.description}\n\n"
        f"Key: {', '.join(f'`{name}`' for name in table.key)}. Time: `{table.time_column}`.\n\n"
        f"| column | type | meaning |\n|---|---|---|\n{columns}\n"
    )


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


if __name__ == "__main__":
    for path, page in PAGES.items():
        Path(path).write_text(page(), encoding="utf-8")
