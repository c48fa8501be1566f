"""A whole system for tests: started like a user starts it, on ports of its own, and looked at from outside.

Starting one takes half a minute, so that tests that only look at it share the fixture `demo`.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from cryptotrace_dagster.settings import Settings
from tests.ports import free_port_offset

ROOT = Path(__file__).resolve().parents[2]
UP = [sys.executable, "-m", "cryptotrace_dagster.cli.main", "up"]
PORTS = [3000, 8000, 8501, 9101, 9092, 9443, 9444, 9445]
_START_SECONDS = 240


def clean_environment(**values: str) -> dict[str, str]:
    """Return this process's environment without any setting of ours, but with these."""
    names = {name.upper() for name in Settings.model_fields} | {"DAGSTER_HOME"}
    return {name: value for name, value in os.environ.items() if name not in names} | values


class RunningSystem:
    """A `cryptotrace up` under way."""

    def __init__(self, process: "subprocess.Popen[bytes]", folder: Path, offset: int) -> None:
        self.process = process
        self.folder = folder
        self.offset = offset

    @property
    def supervisor(self) -> psutil.Process:
        """Return the process of `cryptotrace up` itself, which `make` may have started."""
        started = psutil.Process(self.process.pid)
        return started.children()[0] if started.name() == "make" else started

    @property
    def messages(self) -> str:
        """Return what it has said so far."""
        return (self.folder / "messages").read_text(errors="replace")

    def url(self, port: int, path: str = "") -> str:
        """Return the address of one of its services, by the port that it has without an offset."""
        return f"http://127.0.0.1:{port + self.offset}{path}"

    def pid_of(self, service: str) -> int | None:
        """Return the process of a service, as the system last said it."""
        found = re.findall(rf"^{service}: (?:starting|ready) \(process (\d+)\)$", self.messages, re.MULTILINE)
        return int(found[-1]) if found else None

    def is_ready(self, service: str, *, instead_of: int | None = None) -> bool:
        """Return whether a service is ready, in a process other than the one given."""
        found = re.findall(rf"^{service}: ready \(process (\d+)\)$", self.messages, re.MULTILINE)
        return bool(found) and int(found[-1]) != instead_of

    def processes(self) -> list[psutil.Process]:
        """Return every process of this system that is alive, whoever its parent is now."""
        marks = (str(self.folder / "data"),)
        alive = []
        for process in psutil.process_iter():
            try:
                about = " ".join([*process.cmdline(), process.environ().get("DATA_DIR", "")])
            except psutil.Error:
                continue
            if process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE and marks[0] in about:
                alive.append(process)
        return alive

    def until(self, is_so: Callable[[], object], seconds: float, what: str) -> None:
        """Wait until something holds; fail with all that the system said when it does not."""
        deadline = time.monotonic() + seconds
        while not is_so():
            if time.monotonic() > deadline:
                raise AssertionError(f"not so within {seconds} s: {what}\n{self.messages}")
            time.sleep(0.2)


@contextmanager
def running_demo(folder: Path, *, starter: list[str] | None = None) -> Iterator[RunningSystem]:
    """Start a demo, by the command itself or by `make`, lend it once it is up, and leave nothing of it.

    It starts as a shell starts a job in the background: with SIGINT ignored, which its children would inherit, and then
    nothing but SIGKILL would end them.
    """
    offset = free_port_offset(PORTS)
    arguments = ["--no-browser", "--data-dir", str(folder / "data"), "--port-offset", str(offset)]
    command = [*starter, f"ARGS={' '.join(arguments)}"] if starter else [*UP, "--demo", *arguments]
    command = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", *command]
    with (folder / "messages").open("wb") as messages:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=messages,
            stderr=messages,
            env=clean_environment(),
        )
    system = RunningSystem(process, folder, offset)
    try:
        system.until(lambda: "CryptoTrace is up" in system.messages, _START_SECONDS, "the system is up")
        yield system
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
        for left in system.processes():
            left.kill()


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSystem]:
    """Lend the demo that `make demo` started, in which an alert has been delivered within two minutes.

    The tests in the browser look at it, then those of the README ask it and end it.
    """
    with running_demo(tmp_path_factory.mktemp("demo"), starter=["make", "demo"]) as system:
        system.until(lambda: _has_delivered(system), 120, "an alert has been delivered within two minutes")
        yield system


def _has_delivered(system: RunningSystem) -> bool:
    try:
        answer = httpx.get(system.url(8000, "/deliveries"), timeout=20).json()
    except httpx.HTTPError:
        return False
    return any(row["outcome"] == "delivered" for row in answer.get("items", []))
