"""How a server reads a DuckDB file that others write to: it shares one opening, and asks the writer where there is one.

Owns how long the file stays open between questions, and where a question is put.
Stays out: whose turn it is (connections.py), and how a writer answers (answering.py).
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import polars as pl

from cryptotrace_dagster.answering import Parameters, RefusedError, asked
from cryptotrace_dagster.connections import (
    BUSY_REMEDY,
    LOOKS_AGAIN_AFTER,
    StoreAddress,
    WarehouseBusyError,
    connected_file,
    explaining,
    is_being_written,
    standing_in,
)

_WAITS_BEFORE_ASKING = 0.02  # seconds for a writer who has just come
_STAYS_OPEN = 0.1  # seconds after the last question
_OPEN_AT_MOST = 2.0  # seconds, however many questions follow each other


class SharedOpening:
    """A DuckDB file, open for reading, that all threads of a process share and that stays open from question to question.

    To open a file takes longer than most answers do. It is closed when nobody has asked for a moment, and as soon as the
    last asker has gone while a writer waits in the turnstile, which lets no new asker in. Of one file a process may have
    only one: closing one of two would drop the other's lock (POSIX).
    """

    def __init__(self, address: StoreAddress, wait_seconds: float) -> None:
        self._address = address
        self._wait_seconds = wait_seconds
        self._door = threading.Lock()  # whoever opens, or waits for a writer, keeps it
        self._state = threading.Condition()
        self._opening: contextlib.ExitStack | None = None
        self._database: duckdb.DuckDBPyConnection | None = None
        self._name = ""
        self._askers = 0
        self._opened_at = self._asked_at = 0.0

    @contextmanager
    def lent(self, wait_seconds: float | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
        """Lend a connection of one's own for a moment; the errors are those of `connected`."""
        cursor = self._entered(self._wait_seconds if wait_seconds is None else wait_seconds)
        try:
            with explaining(self._address, cursor):
                yield cursor
        finally:
            cursor.close()
            with self._state:
                self._askers -= 1
                self._asked_at = time.monotonic()
                self._state.notify_all()

    def read(self, sql: str, parameters: Parameters) -> pl.DataFrame:
        """Return the rows of a question put to the file or, while somebody has it for writing, to that process.

        Only between the two, while a writer waits for the readers to go or closes the file, nobody answers.
        """
        deadline = time.monotonic() + self._wait_seconds
        while (left := deadline - time.monotonic()) > 0:
            if is_being_written(self._address):
                try:
                    rows = asked(Path(self._address.url), sql, parameters, left)
                except RefusedError:
                    return self._rows(sql, parameters, self._wait_seconds)
                if rows is not None:
                    return rows
            else:
                with contextlib.suppress(WarehouseBusyError):
                    return self._rows(sql, parameters, _WAITS_BEFORE_ASKING)
            time.sleep(LOOKS_AGAIN_AFTER)
        raise self._busy(self._wait_seconds)

    def _rows(self, sql: str, parameters: Parameters, wait_seconds: float) -> pl.DataFrame:
        with self.lent(wait_seconds) as connection:
            return connection.execute(sql, parameters).pl()

    def _entered(self, wait_seconds: float) -> duckdb.DuckDBPyConnection:
        arrived_at = time.monotonic()
        with self._door:
            with self._state:
                # Who was here before the file was opened comes in, although a writer may have come since.
                if (
                    self._database is not None
                    and arrived_at > self._opened_at
                    and self._has_to_close()
                    and not self._state.wait_for(lambda: self._database is None, wait_seconds)
                ):
                    raise self._busy(wait_seconds)
                if self._database is not None:
                    return self._cursor(self._database)
            opening = contextlib.ExitStack()
            database = opening.enter_context(
                connected_file(self._address, True, wait_seconds, threads=1, is_shared=True)
            )
            with self._state:
                self._opening, self._database, self._opened_at = opening, database, time.monotonic()
                self._name = standing_in(database)
                # No daemon: one that is inside DuckDB when the interpreter ends takes the process down with SIGABRT.
                threading.Thread(target=self._close_in_time).start()
                return self._cursor(database)

    def _busy(self, seconds: float) -> WarehouseBusyError:
        return WarehouseBusyError(f"The warehouse {self._address} was in use for {seconds:g} s: {BUSY_REMEDY}")

    def _cursor(self, database: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
        cursor = database.cursor()
        cursor.execute(f"USE {self._name}")
        self._askers += 1
        return cursor

    def _close_in_time(self) -> None:
        with self._state:
            while self._askers or not (self._has_been_idle() or self._has_to_close()):
                self._state.wait(LOOKS_AGAIN_AFTER)
            if self._opening is not None:
                self._opening.close()
            self._opening = self._database = None
            self._state.notify_all()

    def _has_been_idle(self) -> bool:
        """Return whether nobody has asked for a moment, or nobody will ask any more because the program ends."""
        return time.monotonic() - self._asked_at > _STAYS_OPEN or not threading.main_thread().is_alive()

    def _has_to_close(self) -> bool:
        """Return whether a writer is there, or another file may stand in the place of this one."""
        return is_being_written(self._address) or time.monotonic() - self._opened_at > _OPEN_AT_MOST
