"""Backup and restore of the warehouse, on either store.

A backup is one DuckDB file that holds every table as it was after one commit. It can be restored into a file or into a
lake, wherever it was taken, which is also the way from one store to the other. Stays out: alerts.toml and .env (they
are the user's files) and Dagster's history of runs.
"""

import contextlib
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import polars as pl

from cryptotrace_dagster.connections import connected, file_beside
from cryptotrace_dagster.storage import LOCK_WAIT_SECONDS, StorageError, Warehouse, WarehouseMissingError
from cryptotrace_dagster.tables import ALL_TABLES, RAW_TICKS, TRADE_ID_RANGES


@dataclass(frozen=True)
class Inventory:
    """What a store holds: rows by table, and the trade ids of each symbol as (first, last, number of ranges)."""

    rows: dict[str, int]
    trade_ids: dict[str, tuple[int, int, int]]


def inventory(warehouse: Warehouse) -> Inventory:
    """Return what the store holds, as of one commit."""
    counts = " UNION ALL ".join(
        f"SELECT '{table.name}' AS name, count(*) AS rows FROM {table.name}" for table in ALL_TABLES
    )
    with warehouse.reading() as connection:
        connection.begin()
        rows = dict(connection.execute(counts).fetchall())
        ranges = connection.execute(
            f"SELECT symbol, min(first_id), max(last_id), count(*) FROM {TRADE_ID_RANGES.name} GROUP BY symbol ORDER BY symbol"
        ).fetchall()
    return Inventory(rows, {symbol: (first, last, count) for symbol, first, last, count in ranges})


def back_up(warehouse: Warehouse, target: Path, now: datetime) -> tuple[Path, Inventory]:
    """Write a backup and return its path and what it holds; into a folder it goes under a name with the time.

    Ingestion may go on meanwhile: it waits while a file is copied, and not at all on a lake.

    Raises:
        StorageError: there is a file of that name already, no warehouse, or no room.
    """
    path = target / f"cryptotrace-{now:%Y%m%dT%H%M%SZ}.duckdb" if target.is_dir() else target
    if path.exists():
        raise StorageError(f"{path} exists already: name another file, or a folder to write into.")
    warehouse.publish(path)
    return path, inventory(Warehouse(str(path)))


def restore(backup: Path, warehouse: Warehouse, *, overwrite: bool = False) -> Inventory:
    """Put a backup in the place of the warehouse, migrate it to this release, and return what it holds.

    Raises:
        StorageError: the backup cannot be used, or the warehouse holds trades and `overwrite` was not asked for.
    """
    if not backup.is_file():
        raise StorageError(f"There is no backup at {backup}: name a file that `cryptotrace backup` wrote.")
    held = _ticks_held(warehouse)
    if held and not overwrite:
        raise StorageError(
            f"The warehouse {warehouse.address} holds {held} trades: restore into an empty DATA_DIR or WAREHOUSE_URL, "
            "or say --overwrite to give them up."
        )
    with tempfile.TemporaryDirectory(dir=_folder_beside(warehouse, backup)) as folder:
        copy = Warehouse(str(Path(folder) / "migrated.duckdb"))
        Warehouse(str(backup)).publish(Path(copy.url))
        if not _has_tables(copy):
            raise StorageError(f"{backup} is a DuckDB file, but no backup of a warehouse.")
        copy.create()  # brings an older backup up to this release, and refuses a newer one
        if warehouse.is_lake:
            _pour_into_lake(Path(copy.url), warehouse)
        else:
            _put_in_place(Path(copy.url), warehouse)
    return inventory(warehouse)


def _ticks_held(warehouse: Warehouse) -> int:
    try:
        if not _has_tables(warehouse):
            return 0
        held: int = warehouse.read(f"SELECT count(*) FROM {RAW_TICKS.name}").item()
    except WarehouseMissingError:
        return 0
    return held


def _has_tables(warehouse: Warehouse) -> bool:
    found: pl.DataFrame = warehouse.read(
        "SELECT 1 FROM information_schema.tables WHERE table_catalog = current_database() AND table_name = ?",
        [RAW_TICKS.name],
    )
    return bool(found.height)


def _folder_beside(warehouse: Warehouse, backup: Path) -> Path:
    """Return a folder on the file system where the restored file shall be, so that it can be renamed into place."""
    folder = backup.parent if warehouse.is_lake else Path(warehouse.url).parent
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _put_in_place(copy: Path, warehouse: Warehouse) -> None:
    with contextlib.suppress(WarehouseMissingError), warehouse.reading():
        pass  # nobody is writing now; whoever is, is waited for
    Path(f"{warehouse.url}.wal").unlink(missing_ok=True)  # it belongs to the file that goes
    copy.replace(warehouse.url)


def _pour_into_lake(copy: Path, warehouse: Warehouse) -> None:
    warehouse.create()
    with (
        connected(warehouse.address, read_only=False, wait_seconds=LOCK_WAIT_SECONDS) as connection,
        file_beside(connection, copy, read_only=True) as backup,
    ):
        connection.begin()
        for table in ALL_TABLES:
            columns = ", ".join(table.column_names)
            connection.execute(f"DELETE FROM {table.name}")
            connection.execute(f"INSERT INTO {table.name} ({columns}) SELECT {columns} FROM {backup}.{table.name}")
        connection.commit()
