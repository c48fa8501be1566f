"""One process over its deaths, and what happens to its own children."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from cryptotrace_dagster.supervisor.child import Child, State, back_off_seconds
from cryptotrace_dagster.supervisor.guardian import Guardian
from cryptotrace_dagster.supervisor.services import Service

pytestmark = pytest.mark.timeout(60)

SLEEPING = "import time; time.sleep(600)"
WITH_A_CHILD_OF_ITS_OWN = f"""
import subprocess, sys, time
print(subprocess.Popen([sys.executable, "-c", {SLEEPING!r}]).pid, flush=True)
time.sleep(600)
"""
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); {SLEEPING}"


@pytest.fixture
def guardian() -> Iterator[Guardian]:
    watching = Guardian()
    yield watching
    watching.close()


@pytest.fixture
def make_child(tmp_path: Path, guardian: Guardian) -> Callable[[str], Child]:
    def make(program: str) -> Child:
        service = Service("sleeper", (sys.executable, "-c", program), is_ready=lambda: True)
        return Child(service, os.environ, tmp_path / "sleeper.log", guardian)

    return make


def until(is_so: Callable[[], object], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"not so within {seconds} s"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def stop(child: Child, seconds: float = 5.0) -> None:
    child.ask_to_stop()
    child.finish_stopping(time.monotonic() + seconds)


def test_a_child_that_was_killed_is_started_again(make_child: Callable[[str], Child]) -> None:
    child = make_child(SLEEPING)
    child.start()
    first = child.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    until(lambda: (child.look(), child.state is State.READY and child.pid not in (None, first))[1])
    assert child.restarts == 1
    stop(child)


def test_a_child_that_keeps_dying_is_started_less_and_less_often(make_child: Callable[[str], Child]) -> None:
    """Guards against a service that cannot start and is started a hundred times a minute."""
    child = make_child("raise SystemExit('no broker')")
    child.start()
    started = time.monotonic()
    until(lambda: (child.look(), child.deaths_in_a_row == 4)[1])
    assert time.monotonic() - started > 0.5 + 1 + 2
    assert child.last_line() == "no broker"


def test_a_night_of_deaths_does_not_end_the_supervisor() -> None:
    """Guards the 1,025th death, whose wait without a cap is too large a number."""
    assert [back_off_seconds(deaths) for deaths in (1, 2, 6, 7, 1025, 100_000)] == [0.5, 1, 16, 30, 30, 30]


def test_what_a_child_started_ends_with_it(make_child: Callable[[str], Child]) -> None:
    """A run worker must not go on writing after the code server that started it was killed."""
    child = make_child(WITH_A_CHILD_OF_ITS_OWN)
    child.start()
    until(lambda: child.log_path.read_text().strip())
    grandchild = int(child.log_path.read_text())
    os.kill(child.pid or 0, signal.SIGKILL)
    until(lambda: (child.look(), not is_alive(grandchild))[1])
    stop(child)


def test_a_child_that_does_not_listen_is_killed_when_its_time_is_over(make_child: Callable[[str], Child]) -> None:
    child = make_child(DEAF)
    child.start()
    until(lambda: "deaf" in child.log_path.read_text())
    pid = child.pid
    stop(child, seconds=0.3)
    assert pid is not None
    assert not is_alive(pid)


def test_everything_ends_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    """The guardian sees the pipe close; nobody else could clean up."""
    program = textwrap.dedent(f"""
        import os, sys, time
        from pathlib import Path
        from cryptotrace_dagster.supervisor.child import Child
        from cryptotrace_dagster.supervisor.guardian import Guardian
        from cryptotrace_dagster.supervisor.services import Service
        service = Service("sleeper", (sys.executable, "-c", {WITH_A_CHILD_OF_ITS_OWN!r}), is_ready=lambda: True)
        child = Child(service, os.environ, Path({str(tmp_path / "log")!r}), Guardian())
        child.start()
        print(child.pid, flush=True)
        time.sleep(600)
    """)
    supervisor = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert supervisor.stdout is not None
    pid = int(next(line for line in supervisor.stdout if line.strip().isdigit()))
    until(lambda: (tmp_path / "log").read_text().strip())
    grandchild = int((tmp_path / "log").read_text())
    supervisor.kill()
    supervisor.wait()
    until(lambda: not is_alive(pid) and not is_alive(grandchild))
