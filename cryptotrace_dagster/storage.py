"""The warehouse: the one door to stored data, on a plain DuckDB file or on DuckLake.

Owns transactions (a connection per operation, closed at once), the few ways in which rows may change, and the copy for
readers. Only INSERT and DELETE are used, because DuckLake has no keys and no upsert.
Stays out: Dagster, HTTP, how a store is opened (connections.py), and what the rows mean.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import duckdb
import polars as pl

from cryptotrace_dagster import schema
from cryptotrace_dagster.answering import Parameters
from cryptotrace_dagster.connections import (
    StorageError,
    StorageFullError,
    StoreAddress,
    WarehouseBusyError,
    WarehouseMissingError,
    claimed,
    connected,
    file_beside,
)
from cryptotrace_dagster.domain.windows import Window, utc_now
from cryptotrace_dagster.shared_opening import SharedOpening
from cryptotrace_dagster.tables import ALL_TABLES, SCHEMA_VERSION, SCHEMA_VERSIONS, Table

if TYPE_CHECKING:
    from cryptotrace_dagster.settings import Settings

LOCK_WAIT_SECONDS = 60.0
_COPIED_AT_ONCE = 1 << 22  # bytes

__all__ = [
    "ContractError",
    "StorageError",
    "StorageFullError",
    "Transaction",
    "Warehouse",
    "WarehouseBusyError",
    "WarehouseMissingError",
    "conform",
    "warehouse_of",
]


class ContractError(StorageError):
    """A frame does not have the columns, types or non-null values that its table promises."""


class Transaction:
    """Reads and writes that are committed together, or not at all. Made by `Warehouse.transaction`."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self.connection = connection

    def query(self, sql: str, parameters: Parameters = ()) -> pl.DataFrame:
        """Return the rows of a query, seeing this transaction's own writes."""
        return self.connection.execute(sql, parameters).pl()

    def execute(self, sql: str, parameters: Parameters = (), **frames: pl.DataFrame) -> int:
        """Run INSERT or DELETE and return how many rows it touched; `frames` can be named in the SQL."""
        for name, frame in frames.items():
            self.connection.register(name, frame)
        try:
            row = self.connection.execute(sql, parameters).fetchone()
        finally:
            for name in frames:
                self.connection.unregister(name)
        return int(row[0]) if row else 0

    def append(self, table: Table, frame: pl.DataFrame) -> int:
        """Add rows and return their number."""
        if frame.is_empty():
            return 0
        columns = ", ".join(table.column_names)
        return self.execute(
            f"INSERT INTO {table.name} ({columns}) SELECT {columns} FROM incoming", incoming=conform(table, frame)
        )

    def merge(self, table: Table, frame: pl.DataFrame) -> int:
        """Put rows in the place of those with the same key, and return their number."""
        if frame.is_empty():
            return 0
        match = " AND ".join(f"{table.name}.{name} = incoming.{name}" for name in table.key)
        self.execute(
            f"DELETE FROM {table.name} WHERE EXISTS (SELECT 1 FROM incoming WHERE {match})",
            incoming=conform(table, frame),
        )
        return self.append(table, frame)

    def replace_window(self, table: Table, window: Window, frame: pl.DataFrame, **only: str | Sequence[str]) -> int:
        """Exchange the rows of a time window for those of the frame, and return the number of new rows.

        `only` narrows what is replaced by equality, e.g. `bar_interval="1m"` or `symbol=["BTCUSDT"]`; the frame must
        hold nothing outside the window and `only`, or a later run would double it.
        """
        where, parameters = _where(table, window, only)
        rows = conform(table, frame)
        strays = self.connection.register("incoming", rows).execute(
            f"SELECT count(*) FROM incoming WHERE NOT ({where})", parameters
        )
        stray_count = (strays.fetchone() or (0,))[0]
        self.connection.unregister("incoming")
        if stray_count:
            raise ContractError(
                f"{table.name}: {stray_count} of {frame.height} rows lie outside {window} {only or ''}; "
                "filter the frame before replacing the window."
            )
        self.execute(f"DELETE FROM {table.name} WHERE {where}", parameters)
        return self.append(table, rows)


class Warehouse:
    """The store behind a URL: a path of a DuckDB file, or `ducklake:postgres:...` with a data path."""

    def __init__(
        self,
        url: str,
        *,
        data_path: str | None = None,
        lock_wait_seconds: float = LOCK_WAIT_SECONDS,
        shares_opening: bool = False,
    ) -> None:
        """Name the store. With `shares_opening`, a file stays open between questions that follow each other closely."""
        self.url = url
        self.address = StoreAddress(url, data_path)
        self._lock_wait_seconds = lock_wait_seconds
        is_shared = shares_opening and not self.address.is_lake
        self._opening = SharedOpening(self.address, lock_wait_seconds) if is_shared else None
        self._hold: _Hold | None = None

    def __repr__(self) -> str:
        return f"Warehouse({str(self.address)!r})"

    @property
    def is_lake(self) -> bool:
        """Return whether the store is DuckLake rather than a file."""
        return self.address.is_lake

    def create(self) -> None:
        """Bring the tables up to this release; reads only, and so keeps nobody waiting, when they are.

        Raises:
            StorageError: the folder cannot be written, or the schema is newer than this release knows.
        """
        if not self.is_lake:
            make_parent_folder(Path(self.url))
        with contextlib.suppress(WarehouseMissingError), self.reading() as connection:
            if schema.is_current(schema.found_in(connection)):
                return
        with self.transaction() as transaction:
            connection = transaction.connection
            found = schema.found_in(connection)
            for statement in schema.migration_statements(found.version):
                connection.execute(statement)
            for statement in schema.additions(schema.found_in(connection), is_lake=self.is_lake):
                connection.execute(statement)
            if found.version != SCHEMA_VERSION:
                row = {"version": [SCHEMA_VERSION], "migrated_at": [utc_now()]}
                transaction.append(SCHEMA_VERSIONS, pl.DataFrame(row, schema=SCHEMA_VERSIONS.polars_schema))

    def read(self, sql: str, parameters: Parameters = ()) -> pl.DataFrame:
        """Return the rows of one read-only query; a store whose opening is shared does not wait for who writes to it."""
        if self._opening is not None and self._held is None:
            return self._opening.read(sql, parameters)
        with self.reading() as connection:
            return connection.execute(sql, parameters).pl()

    def read_window(
        self, table: Table, window: Window, *, columns: Sequence[str] | None = None, **only: str | Sequence[str]
    ) -> pl.DataFrame:
        """Return the rows of a time window in key order, narrowed by equality on the columns named in `only`."""
        names = columns or table.column_names
        unknown = set(names) - set(table.column_names)
        if unknown:
            raise ContractError(f"{table.name} has no column {', '.join(sorted(unknown))}.")
        where, parameters = _where(table, window, only)
        order = ", ".join(table.key)
        return self.read(f"SELECT {', '.join(names)} FROM {table.name} WHERE {where} ORDER BY {order}", parameters)

    @contextmanager
    def reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Lend a read-only connection for a moment; while it is open, nobody can write. Close it at once."""
        if (held := self._held) is not None:
            yield held
            return
        if self._opening is not None:
            with self._opening.lent() as connection:
                yield connection
            return
        with connected(self.address, read_only=True, wait_seconds=self._lock_wait_seconds) as connection:
            yield connection

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Lend a transaction: committed at the end of the block, rolled back when the block raises.

        Whoever writes is alone, on both stores; transactions must not be nested.
        """
        if (held := self._held) is not None:
            with _committed(held) as transaction:
                yield transaction
            return
        with (
            connected(self.address, read_only=False, wait_seconds=self._lock_wait_seconds) as connection,
            _committed(connection) as transaction,
        ):
            yield transaction

    @contextmanager
    def held(self, threads: int | None = None) -> Iterator[None]:
        """Keep the warehouse open for writing while the block lasts; transactions and reads inside it share this.

        Opening and closing cost more than a small commit does: closing folds the log into the file. Nobody else can
        read or write meanwhile, so the block must be short, and it is for one thread. Inside such a block it is free.
        With `threads`, DuckDB takes only so many for a file: a small statement is as fast with one, and costs less.
        """
        if self._held is not None:
            yield
            return
        opening = partial(
            connected, self.address, read_only=False, wait_seconds=self._lock_wait_seconds, threads=threads
        )
        with contextlib.ExitStack() as stack:
            stack.callback(setattr, self, "_hold", self._hold)
            self._hold = _Hold(stack, opening)
            yield

    @contextmanager
    def released(self) -> Iterator[None]:
        """Let others have a held warehouse while the block lasts, which computes and does not read; else it is free.

        Afterwards anything may have changed.
        """
        hold = self._hold
        if hold is None or hold.connection is None:
            yield
            return
        hold.let_go()
        yield
        hold.take()

    @property
    def _held(self) -> duckdb.DuckDBPyConnection | None:
        return self._hold.connection if self._hold is not None else None

    def claimed(self, work: str) -> AbstractContextManager[bool]:
        """Claim some work for this process alone while the block lasts; the block gets whether nobody else has it."""
        return claimed(self.address, work)

    def publish(self, path: Path) -> None:
        """Write a copy beside `path` and rename it into place, so that readers see all of it or nothing."""
        make_parent_folder(path)
        fresh = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            if self.is_lake:
                self._copy_lake(fresh)
            else:
                self._copy_file(fresh)
            fresh.replace(path)
        except OSError as error:
            raise StorageError(
                f"The copy {path} of the warehouse could not be written ({error.strerror}): make room, then try again."
            ) from error
        finally:
            for part in (fresh, Path(f"{fresh}.wal")):
                part.unlink(missing_ok=True)

    def _copy_file(self, target: Path) -> None:
        with self.reading():  # there is one, and it opens
            pass
        # Writers go on meanwhile; what they change is put right under the lock, which reads but hardly writes. The file
        # is closed last, because closing it lets go of this process's lock on it, whoever else has it open (POSIX).
        with Path(self.url).open("rb") as source, target.open("w+b") as copy:
            shutil.copyfileobj(source, copy, _COPIED_AT_ONCE)
            with self.reading():  # no writer can be under way while we hold this, so the bytes belong together
                if not os.path.samestat(os.fstat(source.fileno()), Path(self.url).stat()):
                    raise StorageError(f"The warehouse {self.url} was replaced while it was being copied: try again.")
                log = Path(f"{self.url}.wal")
                if log.exists():
                    shutil.copyfile(log, f"{target}.wal")
                _make_equal(source, copy)
        duckdb.connect(str(target)).close()  # folds a write-ahead log into the copy

    def _copy_lake(self, target: Path) -> None:
        with self.reading() as connection, file_beside(connection, target, read_only=False) as copy:
            connection.begin()  # one snapshot of the lake for all tables
            for table in ALL_TABLES:
                columns = ", ".join(table.column_names)
                connection.execute(table.ddl.replace(table.name, f"{copy}.{table.name}", 1))
                connection.execute(f"INSERT INTO {copy}.{table.name} SELECT {columns} FROM {table.name}")
            connection.commit()


def warehouse_of(
    settings: "Settings", *, lock_wait_seconds: float = LOCK_WAIT_SECONDS, shares_opening: bool = False
) -> Warehouse:
    """Return the warehouse of the settings, with the place of its files where it is a lake."""
    return Warehouse(
        settings.resolved_warehouse_url,
        data_path=settings.warehouse_data_path or None,
        lock_wait_seconds=lock_wait_seconds,
        shares_opening=shares_opening,
    )


class _Hold:
    """A warehouse kept open for writing, as part of a block that closes it at its end; it can be let go in between."""

    def __init__(
        self,
        block: contextlib.ExitStack,
        opening: Callable[[], AbstractContextManager[duckdb.DuckDBPyConnection]],
    ) -> None:
        """Open it; the errors, here and in `take`, are those of `connected`."""
        self._block = block
        self._opening = opening
        self.connection: duckdb.DuckDBPyConnection | None = None
        self.take()

    def take(self) -> None:
        """Open it again."""
        self._opened = self._block.enter_context(contextlib.ExitStack())
        self.connection = self._opened.enter_context(self._opening())

    def let_go(self) -> None:
        """Close it."""
        self.connection = None
        self._opened.close()


def _make_equal(source: BinaryIO, copy: BinaryIO) -> None:
    """Overwrite the pieces of a copy that differ from its source."""
    place = 0
    source.seek(place)
    while piece := source.read(_COPIED_AT_ONCE):
        copy.seek(place)
        if copy.read(len(piece)) != piece:
            copy.seek(place)
            copy.write(piece)
        place += len(piece)
    copy.truncate(place)


@contextmanager
def _committed(connection: duckdb.DuckDBPyConnection) -> Iterator[Transaction]:
    connection.begin()
    try:
        yield Transaction(connection)
    except BaseException:
        # A connection that has lost its catalog cannot even roll back; the error of the block says why.
        with contextlib.suppress(duckdb.Error):
            connection.rollback()
        raise
    connection.commit()


def conform(table: Table, frame: pl.DataFrame) -> pl.DataFrame:
    """Return the frame in the table's column order and types.

    Raises:
        ContractError: columns are missing or too many, a value does not fit its type, or null stands where none may.
    """
    missing = set(table.column_names) - set(frame.columns)
    extra = set(frame.columns) - set(table.column_names)
    if missing or extra:
        raise ContractError(f"{table.name}: missing columns {sorted(missing)}, unexpected columns {sorted(extra)}.")
    try:
        rows = frame.select(table.column_names).cast(table.polars_schema)
    except pl.exceptions.PolarsError as error:
        raise ContractError(f"{table.name}: a value does not fit its column: {error}") from error
    nulls = [c.name for c in table.columns if not c.nullable and rows[c.name].null_count()]
    if nulls:
        raise ContractError(f"{table.name}: null in {', '.join(nulls)}, which the contract forbids.")
    return rows


def _where(table: Table, window: Window, only: Mapping[str, str | Sequence[str]]) -> tuple[str, list[object]]:
    clauses = [f"{table.time_column} >= ? AND {table.time_column} < ?"]
    parameters: list[object] = [window.start, window.end]
    for name, value in only.items():
        if name not in table.column_names:
            raise ContractError(f"{table.name} has no column {name}.")
        values = [value] if isinstance(value, str) else list(value)
        clauses.append(f"{name} IN ({', '.join('?' * len(values)) or 'NULL'})")
        parameters.extend(values)
    return " AND ".join(clauses), parameters


def make_parent_folder(path: Path) -> None:
    """Make the folder that a file shall lie in.

    Raises:
        StorageError: it cannot be made, or not be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"The folder {path.parent} cannot be made ({error.strerror}): choose another DATA_DIR."
        ) from error
    if not os.access(path.parent, os.W_OK):
        raise StorageError(f"The folder {path.parent} cannot be written: change its owner or choose another DATA_DIR.")
