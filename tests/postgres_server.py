"""A PostgreSQL of the tests' own: initialised in a temporary folder, on a free port of loopback, gone afterwards.

Uses the binaries that Debian's `postgresql` package installs (or those on PATH). PostgreSQL refuses to run as root, so
that a test run by root hands it to the system user `postgres`.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.ports import free_port

START_SECONDS = 30


class PostgresServer:
    """A running server; everyone on loopback may enter as `postgres`."""

    def __init__(self, binaries: Path, port: int) -> None:
        self.binaries = binaries
        self.port = port

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Run a statement and return what it prints, without decoration."""
        command = [self.binaries / "psql", "-X", "-q", "-A", "-t", *self._target(database), "-c", statement]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def create_database(self, name: str) -> str:
        """Make an empty database and return the DuckLake URL whose catalog it shall hold."""
        self.sql(f"CREATE DATABASE {name}")
        return f"ducklake:postgres:dbname={name} host=127.0.0.1 port={self.port} user=postgres"

    def _target(self, database: str) -> list[str]:
        return ["-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "-d", database]


def binaries_folder() -> Path | None:
    """Return where `initdb` and `postgres` are, or None on a machine without them."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[4]))
    found = str(debian[-1]) if debian else shutil.which("initdb")
    return Path(found).resolve().parent if found else None


def require_binaries() -> Path:
    """Return the folder of the binaries; without them skip the test, or fail it where CI promised to install them."""
    folder = binaries_folder()
    if folder is not None:
        return folder
    reason = "PostgreSQL is not installed on this machine (Debian: apt-get install postgresql)"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Run a server while the block lasts."""
    binaries, port = require_binaries(), free_port()
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    folder = Path(tempfile.mkdtemp(prefix="cryptotrace-postgres-"))
    shutil.chown(folder, user)
    data = folder / "data"
    initdb = [binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C"]
    as_user = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    process = None
    try:
        subprocess.run(initdb, check=True, capture_output=True, cwd=folder, **as_user)  # type: ignore[call-overload]
        options = ["-p", str(port), "-k", str(folder), "-h", "127.0.0.1", "-c", "fsync=off"]
        setpriv = shutil.which("setpriv")
        with_us = [setpriv, "--pdeathsig", "QUIT", "--"] if setpriv else []  # also when the tests are killed
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(  # type: ignore[call-overload]
                [*with_us, binaries / "postgres", "-D", data, *options], stdout=log, stderr=log, cwd=folder, **as_user
            )
        _wait_until_ready(binaries, port)
        yield PostgresServer(binaries, port)
    finally:
        if process is not None:
            process.send_signal(signal.SIGQUIT)  # at once: nothing in it is worth keeping
            process.wait(timeout=START_SECONDS)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_ready(binaries: Path, port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    ready = [binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
    while subprocess.run(ready, check=False).returncode != 0:
        if time.monotonic() > deadline:
            raise TimeoutError(f"PostgreSQL did not become ready on port {port} within {START_SECONDS} s.")
        time.sleep(0.1)
