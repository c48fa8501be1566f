"""Brings both databases to this release's schema, once and before any service opens them.

Dagster's tables and the warehouse's: many processes that make the same fresh tables at once get in each other's way.
Stays out: what a migration does (storage.py, and Dagster itself).
"""

import sys

from cryptotrace_dagster.errors import UserError
from cryptotrace_dagster.log import masked_text, set_up_logging

_USER_ERROR_EXIT_CODE = 2


def migrate() -> None:
    """Migrate Dagster's storage and the warehouse.

    Raises:
        StorageError: the warehouse was made by a newer release, or cannot be reached.
    """
    import dagster as dg

    from cryptotrace_dagster.settings import load_settings
    from cryptotrace_dagster.storage import warehouse_of

    settings = load_settings()
    warehouse_of(settings).create()
    with dg.DagsterInstance.get() as instance:
        instance.upgrade()


if __name__ == "__main__":
    set_up_logging()
    try:
        migrate()
    except UserError as problem:
        print(f"cryptotrace: {masked_text(str(problem))}", file=sys.stderr)  # noqa: T201 - for the person at the terminal
        sys.exit(_USER_ERROR_EXIT_CODE)
