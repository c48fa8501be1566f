"""How a store is opened: a DuckDB file behind its lock, or a DuckLake behind its PostgreSQL catalog.

Owns whose turn it is and the bounded wait for it, the loading of extensions, the access to an object store, and the
translation of DuckDB's errors into sentences without secrets. Stays out: tables, transactions and what is asked of them
(storage.py).
"""

import contextlib
import fcntl
import functools
import itertools
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import duckdb

from cryptotrace_dagster.answering import answering
from cryptotrace_dagster.errors import UserError

_LAKE_PREFIX = "ducklake:"
_POSTGRES_PREFIX = "ducklake:postgres:"
_WRITER_LOCK = 0x63727970746F  # any number that everyone who writes to the same catalog agrees on
_CLAIMS = {"delivery": 0x63727970746E}  # what only one process may do at a time, and its lock in a lake's catalog
_SECRETS = re.compile(r"(password\s*=\s*)('(?:[^'\\]|\\.)*'|\S+)|(://[^\s:/@]+:)[^\s@/]+(?=@)", re.IGNORECASE)
BUSY_REMEDY = "try again, or end what holds it (an open notebook or shell on the live file does)."
_MEMORY_LIMIT = "2GB"  # of DuckDB in each process; beyond it queries spill to disk
_names = itertools.count()
LOOKS_AGAIN_AFTER = 0.002  # seconds, at a turnstile; a look costs a microsecond
_Result = TypeVar("_Result")


class StorageError(UserError):
    """The warehouse could not do what was asked; the message says what to do next."""


class WarehouseMissingError(StorageError):
    """There is no warehouse at the URL yet."""


class WarehouseBusyError(StorageError):
    """Another process (or another mode in this one) kept the warehouse for longer than we wait; try again."""


class StorageFullError(StorageError):
    """What was written did not fit on the disk; nothing of the transaction was kept."""


@dataclass(frozen=True)
class StoreAddress:
    """Where a warehouse is: a file, or the catalog of a lake and the place of its Parquet files."""

    url: str
    data_path: str | None = None

    def __post_init__(self) -> None:
        if self.is_lake and not self.url.startswith(_POSTGRES_PREFIX):
            raise StorageError(
                "WAREHOUSE_URL names a DuckLake whose catalog is not PostgreSQL: write "
                "ducklake:postgres:dbname=... host=... user=... (other catalogs lose rows or lock each other out)."
            )

    @property
    def is_lake(self) -> bool:
        """Return whether the store is DuckLake rather than a file."""
        return self.url.startswith(_LAKE_PREFIX)

    @property
    def catalog(self) -> str:
        """Return libpq's connection string of a lake's catalog."""
        return self.url.removeprefix(_POSTGRES_PREFIX)

    def __str__(self) -> str:
        return without_secrets(self.url)


@contextmanager
def connected(
    address: StoreAddress, *, read_only: bool, wait_seconds: float, threads: int | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Lend a connection to the store; whoever writes is alone while the block lasts.

    Who writes to a file may say how many threads DuckDB takes for it: one is as fast for small statements, and costs less.

    Raises:
        WarehouseMissingError: nothing is there to be read.
        WarehouseBusyError: somebody else had it for longer than `wait_seconds`.
        StorageFullError: what the block wrote does not fit on the disk.
        StorageError: it cannot be opened, or its catalog went away.
    """
    if address.is_lake:
        opening = _connected_lake(address, read_only, wait_seconds)
    else:
        opening = connected_file(address, read_only, wait_seconds, threads)
    with opening as connection, explaining(address, connection):
        yield connection


@contextmanager
def explaining(address: StoreAddress, connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Let a connection speak UTC, explain its errors, and leave no transaction of it open."""
    connection.execute("SET TimeZone = 'UTC'")
    try:
        yield
    except duckdb.Error as error:
        explained = _explained(address, error)
        if explained is error:
            raise
        raise explained from None
    finally:
        # A connection that is closed inside a transaction aborts the process when the catalog is gone.
        with contextlib.suppress(duckdb.Error):
            connection.rollback()


@contextmanager
def claimed(address: StoreAddress, work: str) -> Iterator[bool]:
    """Claim some work about a store for this process alone while the block lasts; lend whether nobody else has it.

    Unlike the writer's lock it leaves the store open to everybody. It ends with its holder, also by SIGKILL.
    """
    key = _CLAIMS[work]
    if address.is_lake:
        with _attached(_lake_engine(os.getpid()), address, address.catalog, ["TYPE postgres"]) as connection:
            connection.begin()
            yield _is_lock_taken(connection, key)
        return
    with _Turnstile(Path(f"{address.url}.{work}"), stays=True) as turnstile:
        yield turnstile.is_passed(deadline=time.monotonic())


@contextmanager
def file_beside(connection: duckdb.DuckDBPyConnection, path: Path, *, read_only: bool) -> Iterator[str]:
    """Attach a DuckDB file to a connection while the block lasts, and lend the name it goes by; for no transaction."""
    name = f"beside_{next(_names)}"
    connection.execute(f"ATTACH '{quoted(str(path))}' AS {name}{' (READ_ONLY)' if read_only else ''}")
    try:
        yield name
    finally:
        with contextlib.suppress(duckdb.Error):  # what the block left open when it raised
            connection.rollback()
        connection.execute(f"DETACH {name}")


def without_secrets(text: str) -> str:
    """Return a connection string, or an error that quotes one, with the passwords masked."""
    return _SECRETS.sub(lambda found: f"{found[1] or found[3]}***", text)


def quoted(text: str) -> str:
    """Return the text as the inside of an SQL string."""
    return text.replace("'", "''")


def is_being_written(address: StoreAddress) -> bool:
    """Return whether a writer stands in a file's turnstile, so that a reader would have to wait; nobody's lake has one."""
    if address.is_lake:
        return False
    with _Turnstile(Path(f"{address.url}.turn"), stays=False) as turnstile:
        return not turnstile.is_passed(deadline=time.monotonic())


@contextmanager
def connected_file(
    address: StoreAddress, read_only: bool, wait_seconds: float, threads: int | None = None, *, is_shared: bool = False
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Lend a connection to a file; who writes to it answers others' questions while the block lasts (answering.py).

    With `is_shared` a reader's connection serves all of its process; the errors are those of `connected`.
    """
    path = Path(address.url)
    if read_only and not path.exists():
        raise WarehouseMissingError(
            f"There is no warehouse at {path} yet. Start `cryptotrace up`, or set WAREHOUSE_URL or DATA_DIR."
        )
    busy = f"The warehouse {path} was in use for {wait_seconds:g} s"
    is_running = is_shared or not read_only  # a DuckDB that the file is attached to

    def open_file() -> duckdb.DuckDBPyConnection:
        try:
            if is_running:
                return _attached_file(path, read_only=read_only, threads=threads)
            return duckdb.connect(str(path), read_only=True, config={"memory_limit": _MEMORY_LIMIT})
        except duckdb.Error as error:
            if _is_lock_conflict(error):
                raise WarehouseBusyError(f"{busy}{_holder(error)}: {BUSY_REMEDY}") from error
            raise _explained(address, error, "could not be opened") from error

    deadline = time.monotonic() + wait_seconds
    with contextlib.ExitStack() as stack:
        turnstile = stack.enter_context(_Turnstile(Path(f"{path}.turn"), stays=not read_only))
        if not turnstile.is_passed(deadline) and not read_only:
            raise WarehouseBusyError(f"{busy} by who else writes to it: {BUSY_REMEDY}")
        connection = _patiently(open_file, deadline - time.monotonic())
        if read_only:
            turnstile.leave()  # not before: the next writer would be quicker
        stack.callback(functools.partial(_detach_file, path, connection) if is_running else connection.close)
        if not read_only:
            stack.enter_context(answering(path, connection, standing_in(connection)))
            stack.callback(_fold_log, connection)
        yield connection


def _attached_file(path: Path, *, read_only: bool, threads: int | None) -> duckdb.DuckDBPyConnection:
    """Return a connection that stands in a file, opened in this process's DuckDB.

    Three quarters of what opening takes is DuckDB's own start, which whoever comes every second pays once. Readers who
    do not share one opening must not use it: they would attach the file twice, and closing one would drop the other's
    lock (POSIX).
    """
    engine = _file_engine(os.getpid(), path.parent)
    engine.use_threads(threads)
    name, connection = f"store_{next(_names)}", engine.database.cursor()
    try:
        connection.execute(f"ATTACH '{quoted(str(path))}' AS {name}{' (READ_ONLY)' if read_only else ''}")
    except duckdb.Error:
        connection.close()
        raise
    connection.execute(f"USE {name}")
    return connection


def standing_in(connection: duckdb.DuckDBPyConnection) -> str:
    """Return the name by which the database goes that a connection stands in."""
    (name,) = connection.execute("SELECT current_database()").fetchone() or ("memory",)
    return str(name)


def _fold_log(connection: duckdb.DuckDBPyConnection) -> None:
    """Fold the log into the file, which closing it would do, too, but with nobody left to answer questions meanwhile."""
    with contextlib.suppress(duckdb.Error):  # a full disk: closing meets it again, and knows what to do
        connection.execute("CHECKPOINT")


def _detach_file(path: Path, connection: duckdb.DuckDBPyConnection) -> None:
    """Close an attached file, its log folded into it or not, and leave no lock behind whatever happens."""
    try:
        name = standing_in(connection)
        connection.execute("USE memory")
        connection.execute(f"DETACH {name}")
    except (
        duckdb.Error
    ):  # a full disk: the log keeps what was committed; only the end of its DuckDB lets go of the file
        _file_engine(os.getpid(), path.parent).database.close()
        _file_engine.cache_clear()
    finally:
        connection.close()


@dataclass
class _FileEngine:
    """A DuckDB that files are attached to, and how many threads it was last told to take (None: as many as there are)."""

    database: duckdb.DuckDBPyConnection
    threads: int | None = None

    def use_threads(self, threads: int | None) -> None:
        """Take so many threads from now on; telling it costs as much as opening the file, so only where it changes."""
        if threads != self.threads:
            self.database.execute("RESET threads" if threads is None else f"SET threads = {threads:d}")
            self.threads = threads


@functools.lru_cache(maxsize=4)
def _file_engine(_process_id: int, folder: Path) -> _FileEngine:
    """Return this process's DuckDB for the files of a folder; what does not fit into memory is kept beside them."""
    config: dict[str, Any] = {"memory_limit": _MEMORY_LIMIT, "temp_directory": str(folder / "duckdb.tmp")}
    return _FileEngine(duckdb.connect(config=config))


class _Turnstile:
    """A lock file beside a warehouse, through which everybody comes in (or who claims some work, one after the other).

    DuckDB's own lock knows no turns: who finds it taken tries again, and readers who come and go could keep a writer
    out for good, or a busy writer the readers. A writer stays in the turnstile, so that nobody new comes in while it
    waits for the readers to go; a reader only passes. The lock ends with its holder, also by SIGKILL.
    """

    def __init__(self, path: Path, *, stays: bool) -> None:
        """Name the file. Who stays in it is alone; those who only pass do not hinder one another."""
        self._path = path
        self._flags = os.O_RDONLY | os.O_CLOEXEC | (os.O_CREAT if stays else 0)
        self._lock = (fcntl.LOCK_EX if stays else fcntl.LOCK_SH) | fcntl.LOCK_NB
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        # Without one, nobody has written here yet; and what keeps a writer from making it, opening the store will name.
        with contextlib.suppress(OSError):
            self._descriptor = os.open(self._path, self._flags, 0o666)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    def is_passed(self, deadline: float) -> bool:
        """Wait for the turn, until a moment of the monotonic clock, and return whether it came."""
        while self._descriptor is not None:
            try:
                fcntl.flock(self._descriptor, self._lock)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    return False
                time.sleep(LOOKS_AGAIN_AFTER)
            else:
                break
        return True

    def leave(self) -> None:
        """Let the next one in."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


@contextmanager
def _connected_lake(address: StoreAddress, read_only: bool, wait_seconds: float) -> Iterator[duckdb.DuckDBPyConnection]:
    engine = _lake_engine(os.getpid())
    with contextlib.ExitStack() as stack:
        if not read_only:
            stack.enter_context(_alone(engine, address, wait_seconds))
        options = [f"DATA_PATH '{quoted(address.data_path)}'"] if address.data_path else []
        if read_only:
            options.append("READ_ONLY")
        if address.data_path and "://" in address.data_path:
            _reach_object_store(engine)
        connection = stack.enter_context(_attached(engine, address, address.url, options))
        yield connection


@contextmanager
def _alone(engine: duckdb.DuckDBPyConnection, address: StoreAddress, wait_seconds: float) -> Iterator[None]:
    """Hold the catalog's writer lock: DuckLake has no keys, and two merges of one key would both be kept.

    It is an advisory lock of PostgreSQL that ends with its session, hence also when this process is killed.
    """
    with _attached(engine, address, address.catalog, ["TYPE postgres"]) as connection:
        connection.begin()

        def lock() -> None:
            if not _is_lock_taken(connection, _WRITER_LOCK):
                raise WarehouseBusyError(
                    f"The warehouse {address} was being written to by another process for {wait_seconds:g} s: try again."
                )

        try:
            _patiently(lock, wait_seconds)
            yield
        finally:
            with contextlib.suppress(duckdb.Error):  # a catalog that went away has let go of the lock
                connection.rollback()


def _is_lock_taken(connection: duckdb.DuckDBPyConnection, key: int) -> bool:
    """Try to take an advisory lock of the catalog until the transaction ends, and return whether it was free."""
    query = f"FROM postgres_query(current_database(), 'SELECT pg_try_advisory_xact_lock({key})')"
    return connection.execute(query).fetchone() == (True,)


@contextmanager
def _attached(
    engine: duckdb.DuckDBPyConnection, address: StoreAddress, target: str, options: list[str]
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Lend a connection of its own that stands in the database which is attached for it."""
    name, connection = f"store_{next(_names)}", engine.cursor()
    option_list = f" ({', '.join(options)})" if options else ""
    try:
        try:
            connection.execute(f"ATTACH '{quoted(target)}' AS {name}{option_list}")
            connection.execute(f"USE {name}")
        except duckdb.Error as error:
            raise _unreachable(address, error) from None
        yield connection
    finally:
        with contextlib.suppress(duckdb.Error):  # what was not attached, or lost its server, is gone already
            connection.rollback()
        with contextlib.suppress(duckdb.Error):
            connection.execute("USE memory")
            connection.execute(f"DETACH {name}")
        connection.close()


@functools.lru_cache(maxsize=1)
def _lake_engine(_process_id: int) -> duckdb.DuckDBPyConnection:
    """Return this process's DuckDB with the extensions loaded: that takes three times as long as attaching a lake."""
    engine = duckdb.connect(config={"memory_limit": _MEMORY_LIMIT})
    for extension in ("ducklake", "postgres_scanner"):
        engine.execute(f"LOAD '{quoted(_extension_path(extension))}'")
    engine.execute("SET ducklake_max_retry_count = 100")
    return engine


def _extension_path(name: str) -> str:
    package: Any = resources.files(f"duckdb_extension_{name}")
    return str(package / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension")


def _reach_object_store(engine: duckdb.DuckDBPyConnection) -> None:
    """Give DuckDB the credentials that stand in AWS's usual variables; as with libpq's PG*, their names are not ours."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    scheme, _, host = endpoint.rpartition("://")
    options = {
        "KEY_ID": os.environ.get("AWS_ACCESS_KEY_ID", ""),
        "SECRET": os.environ.get("AWS_SECRET_ACCESS_KEY", ""),
        "SESSION_TOKEN": os.environ.get("AWS_SESSION_TOKEN", ""),
        "REGION": os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION", ""),
        "ENDPOINT": host.rstrip("/"),
        "URL_STYLE": "path" if host else "",
        "USE_SSL": "false" if scheme == "http" else "",
    }
    given = ", ".join(f"{name} '{quoted(value)}'" for name, value in options.items() if value)
    engine.execute(f"LOAD '{quoted(_extension_path('httpfs'))}'")
    engine.execute(f"CREATE OR REPLACE SECRET object_store (TYPE s3{', ' + given if given else ''})")


def _patiently(attempt: Callable[[], _Result], wait_seconds: float) -> _Result:
    """Return the attempt's result; while the store is busy try again, quietly, until the time is over."""
    deadline = time.monotonic() + wait_seconds
    pause = 0.005
    while True:
        try:
            return attempt()
        except WarehouseBusyError:
            if time.monotonic() + pause > deadline:
                raise
        time.sleep(random.uniform(pause / 2, pause))
        pause = min(pause * 2, 0.02)


def _is_lock_conflict(error: duckdb.Error) -> bool:
    """Return whether another process holds the file, or this one does in the other mode (texts of DuckDB 1.5.5)."""
    text = str(error)
    return any(
        sign in text
        for sign in (
            "Could not set lock on file",
            "with a different configuration than existing connections",
            "Unique file handle conflict",
        )
    )


def _holder(error: duckdb.Error) -> str:
    found = re.search(r"\(PID (\d+)\)", str(error))
    return f" by process {found[1]}" if found else " by this process itself, in another mode"


def _explained(address: StoreAddress, error: duckdb.Error, what: str = "failed") -> Exception:
    """Return the error as a sentence where the user can do something about it; a wrong query stays what it is."""
    text = without_secrets(str(error))
    if any(sign in text for sign in ("No space left", "File too large", "Could not write", "out of disk space")):
        return StorageFullError(
            f"The disk of the warehouse {address} is full, nothing of this transaction was kept: "
            f"make room, then try again; nothing else is needed. ({text})"
        )
    if type(error) is duckdb.Error or isinstance(error, duckdb.OperationalError | duckdb.InternalError):
        return StorageError(f"The warehouse {address} {what}: {text}")
    if address.is_lake:
        return type(error)(text)
    return error


def _unreachable(address: StoreAddress, error: duckdb.Error) -> StorageError:
    text = without_secrets(str(error))
    if "creating a new DuckLake is explicitly disabled" in text:
        return WarehouseMissingError(
            f"There is no warehouse in {address} yet. Start the pipeline, or `cryptotrace restore` a backup."
        )
    if "data_path is not set" in text:
        return StorageError(
            f"The warehouse {address} is new and needs a place for its files: set WAREHOUSE_DATA_PATH to a folder that "
            "all machines share, or to s3://bucket/folder."
        )
    if "does not match existing data path" in text:
        return StorageError(
            f"WAREHOUSE_DATA_PATH ({address.data_path}) is not where the warehouse {address} keeps its files: {text}"
        )
    return StorageError(
        f"The warehouse {address} could not be opened: its PostgreSQL catalog or its data path did not answer. "
        f"Check WAREHOUSE_URL and WAREHOUSE_DATA_PATH. ({text})"
    )
