"""Every command in README.md does what the README says, in a system that `make demo` started."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.ports import free_port_offset
from tests.system.running import PORTS, RunningSystem, clean_environment

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]
ASKING = [command for command in COMMANDS if not command.startswith("make ")]


def run(command: str, system: RunningSystem) -> str:
    """Run a line of the README beside the system, as its reader would, and return what it prints."""
    here = re.sub(r"127\.0\.0\.1:(\d+)", lambda found: f"127.0.0.1:{int(found[1]) + system.offset}", command)
    environment = clean_environment(
        PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        DATA_DIR=str(system.folder / "data"),
        DISCORD_WEBHOOK_URL=system.url(9445, "/api/webhooks/1/local"),
    )
    done = subprocess.run(here, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{here}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_the_readme_has_the_commands_that_something_runs() -> None:
    """Guards a command that was added without a test: this file runs the others, the compose test needs Docker."""
    told = [command for command in COMMANDS if command.startswith("make ")]
    assert told == ["make demo", "make test", "make up", "make compose-start"]
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    printed = subprocess.run(["make", "-n", "compose-start"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert printed.stdout.split() == ["deploy/compose.sh", "start"]
    assert 'stack.script("start")' in (ROOT / "tests" / "compose" / "compose_test.py").read_text()
    assert len(ASKING) >= 6


def test_make_demo_answers_every_question(demo: RunningSystem) -> None:
    assert "SOLUSDT" in run("cryptotrace alerts list", demo), "the pump was told"
    for command in ASKING:
        assert run(command, demo).strip(), command
    received = httpx.get(demo.url(9445, "/_control/messages")).json()
    assert any("SOLUSDT" in str(message["embeds"]) for message in received)


def test_ctrl_c_ends_make_demo_and_leaves_nothing(demo: RunningSystem) -> None:
    """The last test that uses this demo; those that follow start systems of their own."""
    demo.supervisor.send_signal(signal.SIGINT)
    assert demo.process.wait(40) == 0
    assert [process.cmdline() for process in demo.processes()] == []


def test_make_up_watches_the_exchange_that_the_settings_name(tmp_path: Path) -> None:
    """The exchange is a simulated one, for no network is promised here; `up` treats it like the live one."""
    command = [sys.executable, "-m", "cryptotrace_dagster.cli.main", "exchange", "--port", "0", "--rest-port", "0"]
    exchange = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert exchange.stdout is not None
        ready = json.loads(exchange.stdout.readline())
        addresses = {"BINANCE_STREAM_URL": ready["stream_url"], "BINANCE_REST_URL": ready["rest_url"]}
        arguments = f"--duration 20 --no-browser --data-dir {tmp_path / 'live'} --port-offset {free_port_offset(PORTS)}"
        done = subprocess.run(
            ["make", "up", f"ARGS={arguments}"],
            cwd=ROOT,
            env=clean_environment(**addresses),
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        exchange.kill()
        exchange.wait()
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["trades_sent"] is None, "the live exchange tells nobody"
    assert summary["ticks_stored"] > 100
    assert summary["ticks_missing"] == 0
