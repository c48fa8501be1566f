"""`cryptotrace up` as its user meets it: it heals, it leaves nothing behind, it keeps its promises."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.ports import free_port_offset
from tests.system.running import PORTS, UP, RunningSystem, clean_environment, running_demo

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSystem]:
    """Lend a demo whose processes may be killed."""
    with running_demo(tmp_path_factory.mktemp("killed")) as running:
        yield running


def test_killed_services_come_back(system: RunningSystem) -> None:
    """Kills, with SIGKILL, one service of each kind, the broker with all its messages among them."""
    for service in ("feed", "broker", "code server", "dashboard"):
        killed = system.pid_of(service)
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        system.until(lambda s=service, k=killed: system.is_ready(s, instead_of=k), 90, f"{service} is back")
    assert httpx.get(system.url(8501, "/_stcore/health")).is_success


def test_nothing_outlives_a_supervisor_that_was_killed(system: RunningSystem) -> None:
    """Neither what it started first nor what came back after a death."""
    assert len(system.processes()) > 9
    system.process.kill()
    system.process.wait()
    system.until(lambda: not system.processes(), 20, "all processes have ended")


def test_a_bounded_demo_keeps_every_promise_and_says_so_in_json(tmp_path: Path) -> None:
    """The whole line: every trade stored once, the pump told to the receiver, no run or check failed."""
    offset = free_port_offset(PORTS)
    command = [*UP, "--demo", "--duration", "75", "--no-browser"]
    command += ["--data-dir", str(tmp_path / "data"), "--port-offset", str(offset)]
    done = subprocess.run(command, capture_output=True, text=True, env=clean_environment(), check=False)
    summary = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0, (summary, done.stderr)
    assert summary["ticks_stored"] == summary["trades_sent"] > 1000
    assert (summary["ticks_missing"], summary["ticks_doubled"]) == (0, 0)
    assert (summary["runs_failed"], summary["checks_failed"]) == (0, 0)
    assert summary["alerts_delivered"] == summary["alerts"] >= 1
    assert summary["bars"] > 0
    assert summary["features"] > 0
