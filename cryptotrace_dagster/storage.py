"""The warehouse: the one door to stored data, on a plain DuckDB file or on DuckLake.

Owns connections (one per operation, closed at once), the bounded wait for the file lock, transactions, and the few
ways in which rows may change. Only INSERT and DELETE are used, because DuckLake has no keys and no upsert.
Stays out: Dagster, HTTP, and what the rows mean.
"""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import stamina

from cryptotrace_dagster.domain.windows import Window, utc_now
from cryptotrace_dagster.errors import UserError
from cryptotrace_dagster.tables import ALL_TABLES, SCHEMA_VERSION, SCHEMA_VERSIONS, Table

LOCK_WAIT_SECONDS = 60.0
_LAKE_PREFIX = "ducklake:"


class StorageError(UserError):
    """The warehouse could not do what was asked; the message says what to do next."""


class WarehouseMissingError(StorageError):
    """There is no warehouse at the URL yet."""


class ContractError(StorageError):
    """A frame does not have the columns, types or non-null values that its table promises."""


class WarehouseBusyError(StorageError):
    """Another process (or another mode in this one) kept the file open for longer than we wait; try again."""


class Transaction:
    """Reads and writes that are committed together, or not at all. Made by `Warehouse.transaction`."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def query(self, sql: str, parameters: Sequence[object] | Mapping[str, object] = ()) -> pl.DataFrame:
        """Return the rows of a query, seeing this transaction's own writes."""
        return self._connection.execute(sql, parameters).pl()

    def execute(
        self, sql: str, parameters: Sequence[object] | Mapping[str, object] = (), **frames: pl.DataFrame
    ) -> int:
        """Run INSERT or DELETE and return how many rows it touched; `frames` can be named in the SQL."""
        for name, frame in frames.items():
            self._connection.register(name, frame)
        try:
            row = self._connection.execute(sql, parameters).fetchone()
        finally:
            for name in frames:
                self._connection.unregister(name)
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
        strays = self._connection.register("incoming", rows).execute(
            f"SELECT count(*) FROM incoming WHERE NOT ({where})", parameters
        )
        stray_count = (strays.fetchone() or (0,))[0]
        self._connection.unregister("incoming")
        if stray_count:
            raise ContractError(
                f"{table.name}: {stray_count} of {frame.height} rows lie outside {window} {only or ''}; "
                "filter the frame before replacing the window."
            )
        self.execute(f"DELETE FROM {table.name} WHERE {where}", parameters)
        return self.append(table, rows)


class Warehouse:
    """The store behind a URL: a path of a DuckDB file, or `ducklake:postgres:...` with a data path."""

    def __init__(self, url: str, *, data_path: str | None = None, lock_wait_seconds: float = LOCK_WAIT_SECONDS) -> None:
        self.url = url
        self._data_path = data_path
        self._lock_wait_seconds = lock_wait_seconds

    @property
    def is_lake(self) -> bool:
        """Return whether the store is DuckLake rather than a file."""
        return self.url.startswith(_LAKE_PREFIX)

    def create(self) -> None:
        """Create the tables that are not there yet; refuse a warehouse of a newer release.

        Raises:
            StorageError: the folder cannot be written, or the schema is newer than this release knows.
        """
        if not self.is_lake:
            _make_parent_folder(Path(self.url))
        with self.transaction() as transaction:
            for table in ALL_TABLES:
                transaction.execute(table.ddl)
            found = transaction.query(f"SELECT max(version) AS version FROM {SCHEMA_VERSIONS.name}").item()
            if found is not None and found > SCHEMA_VERSION:
                raise StorageError(
                    f"The warehouse has schema version {found}, this release knows {SCHEMA_VERSION}: "
                    "install the newer release again, or restore a backup made with this one."
                )
            if found is None or found < SCHEMA_VERSION:
                row = {"version": [SCHEMA_VERSION], "migrated_at": [utc_now()]}
                transaction.append(SCHEMA_VERSIONS, pl.DataFrame(row, schema=SCHEMA_VERSIONS.polars_schema))

    def read(self, sql: str, parameters: Sequence[object] | Mapping[str, object] = ()) -> pl.DataFrame:
        """Return the rows of one read-only query."""
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
        connection = self._connect(read_only=True)
        try:
            yield connection
        finally:
            connection.close()

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Lend a transaction: committed at the end of the block, rolled back when the block raises."""
        connection = self._connect(read_only=False)
        try:
            connection.begin()
            try:
                yield Transaction(connection)
            except BaseException:
                connection.rollback()
                raise
            connection.commit()
        finally:
            connection.close()

    def publish(self, path: Path) -> None:
        """Write a copy for notebooks beside `path` and rename it into place, so that readers see all or nothing."""
        _make_parent_folder(path)
        fresh = path.with_suffix(f".{os.getpid()}.tmp")
        fresh.unlink(missing_ok=True)
        if self.is_lake:
            self._copy_lake(fresh)
        else:
            self._copy_file(fresh)
        os.replace(fresh, path)

    def _copy_file(self, target: Path) -> None:
        with self.reading():  # no writer can be under way while we hold this, so the bytes belong together
            shutil.copyfile(self.url, target)
            log = Path(f"{self.url}.wal")
            if log.exists():
                shutil.copyfile(log, f"{target}.wal")
        duckdb.connect(str(target)).close()  # folds a write-ahead log into the copy

    def _copy_lake(self, target: Path) -> None:
        with self.reading() as connection:
            connection.execute(f"ATTACH '{_quoted(str(target))}' AS published")
            for table in ALL_TABLES:
                connection.execute(f"CREATE TABLE published.{table.name} AS SELECT * FROM lake.main.{table.name}")
            connection.execute("DETACH published")

    def _connect(self, *, read_only: bool) -> duckdb.DuckDBPyConnection:
        open_store = self._connect_lake if self.is_lake else self._connect_file
        for attempt in stamina.retry_context(
            on=WarehouseBusyError,
            attempts=None,
            timeout=self._lock_wait_seconds,
            wait_initial=0.005,
            wait_max=0.1,
            wait_jitter=0.02,
        ):
            with attempt:
                connection = open_store(read_only)
        connection.execute("SET TimeZone = 'UTC'")
        return connection

    def _connect_file(self, read_only: bool) -> duckdb.DuckDBPyConnection:
        if read_only and not Path(self.url).exists():
            raise WarehouseMissingError(
                f"There is no warehouse at {self.url} yet. Start `cryptotrace up`, or set WAREHOUSE_URL or DATA_DIR."
            )
        try:
            return duckdb.connect(self.url, read_only=read_only)
        except (duckdb.IOException, duckdb.ConnectionException, duckdb.BinderException) as error:
            if _is_lock_conflict(error):
                raise WarehouseBusyError(
                    f"The warehouse {self.url} is in use by another process: try again, or end the one that holds it. "
                    f"({error})"
                ) from error
            raise StorageError(f"The warehouse {self.url} could not be opened: {error}") from error

    def _connect_lake(self, read_only: bool) -> duckdb.DuckDBPyConnection:
        connection = duckdb.connect()
        try:
            for extension in ("ducklake", "postgres_scanner"):
                connection.execute(f"LOAD '{_quoted(_extension_path(extension))}'")
            options = [f"DATA_PATH '{_quoted(self._data_path)}'"] if self._data_path else []
            if read_only:
                options.append("READ_ONLY")
            connection.execute("SET ducklake_max_retry_count = 100")
            option_list = f" ({', '.join(options)})" if options else ""
            connection.execute(f"ATTACH '{_quoted(self.url)}' AS lake{option_list}")
            connection.execute("USE lake")
        except duckdb.Error as error:
            connection.close()
            raise StorageError(
                "DuckLake could not be opened: its PostgreSQL catalog did not answer, or the data path is wrong. "
                f"Check WAREHOUSE_URL and WAREHOUSE_DATA_PATH. ({type(error).__name__})"
            ) from None
        return connection


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


def _is_lock_conflict(error: duckdb.Error) -> bool:
    text = str(error)
    return any(
        sign in text
        for sign in (
            "Could not set lock",
            "different configuration",
            "Conflicting lock",
            "already attached",
            "being used by",
        )
    )


def _extension_path(name: str) -> str:
    package: Any = resources.files(f"duckdb_extension_{name}")
    return str(package / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension")


def _make_parent_folder(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"The folder {path.parent} cannot be made ({error.strerror}): choose another DATA_DIR."
        ) from error
    if not os.access(path.parent, os.W_OK):
        raise StorageError(f"The folder {path.parent} cannot be written: change its owner or choose another DATA_DIR.")


def _quoted(text: str) -> str:
    return text.replace("'", "''")
