"""Questions to whoever holds a DuckDB file for writing, answered from what is committed while the writing goes on.

A file is open either to the one process that writes or to those that read, so readers would wait for a whole
micro-batch. DuckDB itself lets the threads of one process read what is committed while another writes: so the writer
answers for as long as it has the file. Owns the socket beside the file and what goes over it.
Stays out: whose turn it is, and the opening of files (connections.py).
"""

import os
import socket
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from io import BytesIO
from pathlib import Path

import duckdb
import polars as pl
import structlog

_ANSWERED_AT_ONCE = 4  # more would only take the processors from one another
_FINISHES_WITHIN = 0.25  # seconds that a writer at its end leaves to the questions under way
_TAKEN_WITHIN = 1.0  # seconds for somebody to send a question, or to take the answer
_HEADER = struct.Struct(">?Q")  # whether it is an answer, and how many bytes follow
_QUESTION = "question"  # the column of the SQL; the others are its parameters

Parameters = Sequence[object] | Mapping[str, object]

log = structlog.get_logger(__name__)


class RefusedError(Exception):
    """The writer could not answer; who asks the file itself gets either the answer or the reason."""


def asked(file: Path, sql: str, parameters: Parameters, wait_seconds: float) -> pl.DataFrame | None:
    """Return the rows that whoever writes to the file answers, or None where nobody answers.

    Raises:
        RefusedError: the question failed, took longer than the writer had the file, or cannot be sent.
    """
    try:
        question = _question(sql, parameters)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:  # nothing that Arrow knows
        raise RefusedError from error
    with ExitStack() as stack, suppress(OSError):  # no socket, none behind it, or one that broke off
        connection = stack.enter_context(socket.socket(socket.AF_UNIX))
        connection.settimeout(wait_seconds)
        connection.connect(stack.enter_context(_address(file)))
        connection.sendall(question)
        connection.shutdown(socket.SHUT_WR)
        reply = _everything_from(connection)
        if len(reply) < _HEADER.size:
            return None
        is_answer, length = _HEADER.unpack_from(reply)
        if not is_answer:
            raise RefusedError
        return pl.read_ipc_stream(reply[_HEADER.size :]) if len(reply) == _HEADER.size + length else None
    return None


@contextmanager
def answering(file: Path, connection: duckdb.DuckDBPyConnection, name: str) -> Iterator[None]:
    """Answer questions about a database, which the connection knows by this name, while the block lasts."""
    try:
        answerer = _Answerer(file, connection, name)
    except OSError:  # no socket can be made in this folder: readers wait for their turn instead
        yield
        return
    try:
        yield
    finally:
        answerer.stop()


class _Answerer:
    """Takes questions at the socket until it is stopped; the file has one, because it has one writer."""

    def __init__(self, file: Path, connection: duckdb.DuckDBPyConnection, name: str) -> None:
        with _address(file) as address:
            with suppress(FileNotFoundError):  # of a writer that was killed
                Path(address).unlink()
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(address)
            Path(address).chmod(0o600)  # whatever the umask: who connects puts SQL to this process
        self._listener.listen(64)
        self._path = _socket_path(file)
        self._database, self._name = connection.cursor(), name
        self._asking: set[duckdb.DuckDBPyConnection] = set()
        self._state = threading.Condition()
        self._is_over = False
        self._workers = ThreadPoolExecutor(_ANSWERED_AT_ONCE, "answering")
        self._door = threading.Thread(target=self._let_in, name="answering", daemon=True)
        self._door.start()

    def stop(self) -> None:
        """Take no more questions, and leave the connection as it was: with nobody on it."""
        self._path.unlink(missing_ok=True)
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes who waits there
        self._door.join()
        self._listener.close()
        self._workers.shutdown(wait=False, cancel_futures=True)
        with self._state:
            self._state.wait_for(lambda: not self._asking, _FINISHES_WITHIN)
            self._is_over = True
            for cursor in self._asking:
                cursor.interrupt()
        self._workers.shutdown()
        self._database.close()

    def _let_in(self) -> None:
        with suppress(OSError):  # the end
            while True:
                asker, _ = self._listener.accept()
                answer = self._workers.submit(self._answer, asker)
                answer.add_done_callback(partial(_close, asker))  # also where it came too late

    def _answer(self, asker: socket.socket) -> None:
        with suppress(OSError):  # who asked has gone
            asker.settimeout(_TAKEN_WITHIN)
            sql, parameters = _asked_in(_everything_from(asker))
            try:
                answer = self._rows(sql, parameters)
            except (duckdb.Error, pl.exceptions.PolarsError, ValueError):  # wrong, interrupted, or more than one
                asker.sendall(_HEADER.pack(False, 0))
            else:
                asker.sendall(_HEADER.pack(True, len(answer)) + answer)

    def _rows(self, sql: str, parameters: Parameters) -> bytes:
        """Return the rows as an Arrow stream, read in a transaction that cannot write and that the question cannot end."""
        cursor = self._database.cursor()
        try:
            with self._state:
                if self._is_over:
                    raise duckdb.InterruptException
                self._asking.add(cursor)
            cursor.execute(f"USE {self._name}; SET TimeZone = 'UTC'; BEGIN TRANSACTION READ ONLY")
            (statement,) = cursor.extract_statements(sql)
            return _as_stream(cursor.execute(statement, parameters).pl())
        finally:
            with self._state:
                self._asking.discard(cursor)
                self._state.notify_all()
            with suppress(duckdb.Error):
                cursor.rollback()
            cursor.close()


def _question(sql: str, parameters: Parameters) -> bytes:
    """Return a question as one row: Arrow keeps the types of what is bound, to the last digit and microsecond."""
    named = parameters if isinstance(parameters, Mapping) else {str(n): each for n, each in enumerate(parameters)}
    return _as_stream(pl.DataFrame({_QUESTION: [sql]} | {name: [value] for name, value in named.items()}))


def _asked_in(question: bytes) -> tuple[str, Parameters]:
    row = pl.read_ipc_stream(question).row(0, named=True)
    sql = row.pop(_QUESTION)
    return sql, list(row.values()) if all(name.isdecimal() for name in row) else row


def _as_stream(frame: pl.DataFrame) -> bytes:
    stream = BytesIO()
    frame.write_ipc_stream(stream)
    return stream.getvalue()


def _everything_from(peer: socket.socket) -> bytes:
    with peer.makefile("rb") as stream:
        return stream.read()


def _close(asker: socket.socket, answer: Future[None]) -> None:
    asker.close()
    if not answer.cancelled() and (error := answer.exception()) is not None:
        log.error("answering.failed", exc_info=error)  # an error of our own: who asked tries again, in vain


def _socket_path(file: Path) -> Path:
    return file.with_name(f"{file.name}.answers")


@contextmanager
def _address(file: Path) -> Iterator[str]:
    """Lend an address of the socket that is short enough: the system takes some hundred bytes, and paths are longer."""
    path = _socket_path(file)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        short = Path(f"/proc/self/fd/{folder}")
        yield str(short / path.name if short.exists() else path)
    finally:
        os.close(folder)
