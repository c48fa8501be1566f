"""The pages that are made from the code: docs/settings.md, docs/tables.md, docs/commands.md and .env.example.

Owns their form; `make docs` writes them. Stays out: their content, which is written once, in settings.py, tables.py and
the commands; a test holds the pages to it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

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


def commands_page() -> str:
    """Return docs/commands.md: every command with what it does, an example, and its options."""
    return (
        f"<!-- {_MADE} -->\n\n# Commands\n\n"
        "`cryptotrace COMMAND --help` says the same in the terminal; `cryptotrace --install-completion` teaches your "
        "shell to complete commands and options. Settings that hold for every command are in "
        "[settings.md](settings.md), answers to common questions in [cookbook.md](cookbook.md).\n\n"
    ) + "\n".join(_command_section(name, command) for name, command in sorted(commands().items()))


def commands() -> dict[str, TyperCommand]:
    """Return every command of the command line by its full name, e.g. `alerts list`."""
    from cryptotrace_dagster.cli.main import build_app

    found: dict[str, TyperCommand] = {}

    def collect(group: TyperGroup, prefix: str) -> None:
        for name, command in group.commands.items():
            if isinstance(command, TyperGroup):
                collect(command, f"{prefix}{name} ")
            elif isinstance(command, TyperCommand):
                found[f"{prefix}{name}"] = command

    root = get_command(build_app())
    assert isinstance(root, TyperGroup)  # noqa: S101 -- an app with commands is always a group
    collect(root, "")
    return found


def examples_of(command: TyperCommand) -> list[str]:
    """Return the examples at the end of a command's help: what follows `Example:` or `Examples:`."""
    _, _, after = (command.help or "").replace("Examples:", "Example:").partition("Example:")
    return [line.strip() for line in after.splitlines() if line.strip()]


def _command_section(name: str, command: TyperCommand) -> str:
    words = (command.help or "").replace("Examples:", "Example:").partition("Example:")[0].strip()
    options = "\n".join(_option_row(each) for each in command.params if each.name != "help")
    table = f"\n| argument or option | meaning |\n|---|---|\n{options}\n" if options else ""
    examples = "\n".join(examples_of(command))
    return f"## cryptotrace {name}\n\n{words}\n\n```sh\n{examples}\n```\n{table}"


def _option_row(parameter: Any) -> str:
    is_option = parameter.param_type_name == "option"
    names = ", ".join((*parameter.opts, *parameter.secondary_opts)) if is_option else str(parameter.name).upper()
    return f"| `{names}` | {parameter.help or ''} |"


PAGES: dict[str, Callable[[], str]] = {
    "docs/settings.md": settings_page,
    "docs/tables.md": tables_page,
    "docs/commands.md": commands_page,
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
