"""The `cryptotrace` command: assembles the commands and turns an error that a user can act on into one sentence.

Every module of this package with a function `register(app)` adds its own commands. Stays out: what they do.
"""

import importlib
import pkgutil
import sys
from importlib import metadata

import typer

from cryptotrace_dagster import cli
from cryptotrace_dagster.errors import UserError
from cryptotrace_dagster.log import masked_text, set_up_logging

USER_ERROR_EXIT_CODE = 2


def build_app() -> typer.Typer:
    """Return the command line with the commands of every module in this package."""
    app = typer.Typer(
        name="cryptotrace",
        help="Crypto market monitoring you can trust: from the exchange's trades to an alert on Discord.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )

    @app.callback(invoke_without_command=True)
    def root(version: bool = typer.Option(False, "--version", help="Print the version and end.")) -> None:
        set_up_logging()
        if version:
            print(f"cryptotrace {metadata.version('cryptotrace-dagster')}")
            raise typer.Exit

    for module in sorted(pkgutil.iter_modules(cli.__path__), key=lambda found: found.name):
        if module.name != "main":
            register = getattr(importlib.import_module(f"{cli.__name__}.{module.name}"), "register", None)
            if register is not None:  # the others hold what commands share
                register(app)
    return app


def main() -> None:
    """Run the command line; a `UserError` becomes one sentence on standard error and exit code 2."""
    try:
        build_app()()
    except UserError as error:
        print(f"cryptotrace: {masked_text(' '.join(str(error).split()))}", file=sys.stderr)
        sys.exit(USER_ERROR_EXIT_CODE)


if __name__ == "__main__":
    main()
