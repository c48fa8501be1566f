"""`cryptotrace up` as its user meets it: it heals, it stops, it leaves nothing behind."""

import json
import os
import signal
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.ports import free_port_offset
from tests.system.running import PORTS, UP, clean_environment, running_demo

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]


def test_killed_services_come_back_and_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    """Kills, with SIGKILL, one service of each kind, the broker with all its messages among them.

    The system is started as a shell starts a job in the background: with SIGINT ignored, which its children would
    inherit, and then nothing but SIGKILL would end them.
    """
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with running_demo(tmp_path) as system:
            signal.signal(signal.SIGINT, previous)
            for service in ("feed", "broker", "code server", "dashboard"):
                killed = system.pid_of(service)
                assert killed is not None
                os.kill(killed, signal.SIGKILL)
                system.until(lambda s=service, k=killed: system.is_ready(s, instead_of=k), 90, f"{service} is back")
            assert httpx.get(system.url(8501, "/_stcore/health")).is_success
            system.process.send_signal(signal.SIGINT)
            assert system.process.wait(40) == 0
            assert [process.cmdline() for process in system.processes()] == []
    finally:
        signal.signal(signal.SIGINT, previous)


def test_nothing_outlives_a_supervisor_that_was_killed(tmp_path: Path) -> None:
    with running_demo(tmp_path) as system:
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
