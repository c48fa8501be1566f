"""Which statements bring a store's tables up to this release, decided from what is found in it.

A new table, and a new column that may be null, are added wherever they are missing; they need nothing here. Every other
change is a migration: raise `tables.SCHEMA_VERSION` and append to `MIGRATIONS` what leads there. There is no way back:
an older release refuses a newer store, and a backup leads back in time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import duckdb

from cryptotrace_dagster.connections import StorageError
from cryptotrace_dagster.tables import (
    ALL_TABLES,
    ANOMALY_SCORES,
    FEATURES,
    OHLC_BARS,
    RAW_TICKS,
    SCHEMA_VERSION,
    SCHEMA_VERSIONS,
    Table,
)

_BY_DAY = (RAW_TICKS, OHLC_BARS, FEATURES, ANOMALY_SCORES)  # in a lake: retention then drops whole files


@dataclass(frozen=True)
class Migration:
    """The statements that lead from the version before to this one, on both stores."""

    version: int
    statements: tuple[str, ...]


MIGRATIONS: tuple[Migration, ...] = ()


@dataclass(frozen=True)
class FoundSchema:
    """What a store holds: its version (None: a new store), and the columns of each table."""

    version: int | None
    columns: Mapping[str, frozenset[str]]


def found_in(connection: duckdb.DuckDBPyConnection) -> FoundSchema:
    """Return what the connection's present database holds."""
    rows = connection.execute(
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_catalog = current_database()"
    ).fetchall()
    columns = {name: frozenset(c for t, c in rows if t == name) for name in {table for table, _ in rows}}
    version = None
    if SCHEMA_VERSIONS.name in columns:
        found = connection.execute(f"SELECT max(version) FROM {SCHEMA_VERSIONS.name}").fetchone()
        version = found[0] if found else None
    return FoundSchema(version, columns)


def is_current(found: FoundSchema) -> bool:
    """Return whether this release can use the store as it is.

    Raises:
        StorageError: a newer release made it.
    """
    return not migration_statements(found.version) and found.version is not None and not additions(found)


def migration_statements(
    found: int | None, *, version: int = SCHEMA_VERSION, migrations: Sequence[Migration] = MIGRATIONS
) -> list[str]:
    """Return the statements that lead from the found version to this one, in order; a new store needs none.

    Raises:
        StorageError: a newer release made this store.
    """
    if found is None:
        return []
    if found > version:
        raise StorageError(
            f"The warehouse has schema version {found}, this release knows {version}: "
            "install the newer release again, or restore a backup made with this one."
        )
    steps = sorted((step for step in migrations if found < step.version <= version), key=lambda step: step.version)
    return [statement for step in steps for statement in step.statements]


def additions(found: FoundSchema, *, is_lake: bool = False, tables: Sequence[Table] = ALL_TABLES) -> list[str]:
    """Return the statements that add the tables and columns that are missing.

    Raises:
        StorageError: a column that may not be null is missing, so another release made the store.
    """
    statements: list[str] = []
    for table in tables:
        columns = found.columns.get(table.name)
        if columns is None:
            statements.append(table.ddl)
            if is_lake and table in _BY_DAY:
                statements.append(_partitioning(table))
        else:
            statements.extend(_added_columns(table, columns))
    return statements


def _added_columns(table: Table, found: frozenset[str]) -> list[str]:
    missing = [column for column in table.columns if column.name not in found]
    needed = [column.name for column in missing if not column.nullable]
    if needed:
        raise StorageError(
            f"The warehouse's table {table.name} has no column {', '.join(needed)}: another release made it. "
            "Install that release, or begin a new warehouse (DATA_DIR) and import the history again."
        )
    return [f"ALTER TABLE {table.name} ADD COLUMN {column.name} {column.type.sql}" for column in missing]


def _partitioning(table: Table) -> str:
    time = table.time_column
    return f"ALTER TABLE {table.name} SET PARTITIONED BY (year({time}), month({time}), day({time}))"
