"""Who is named when the system does not come up."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cryptotrace_dagster.settings import Settings
from cryptotrace_dagster.supervisor import system
from cryptotrace_dagster.supervisor.display import Display
from cryptotrace_dagster.supervisor.services import Options, Service, plan_system
from cryptotrace_dagster.supervisor.system import StartError, StopSignals, System
from tests.ports import free_port

pytestmark = pytest.mark.timeout(60)


class NobodyAsks(StopSignals):
    """Leaves the signals of the process that runs the tests alone."""

    def __init__(self) -> None:
        self.count = 0


def sleeping(name: str, *, is_ready: bool, after: tuple[str, ...] = ()) -> Service:
    program = f"import time; print('{name} is at it', flush=True); time.sleep(600)"
    return Service(name, (sys.executable, "-c", program), is_ready=lambda: is_ready, after=after)


def test_who_is_slow_is_named_and_not_who_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards a demo on a slow machine: the feed, first in the plan, waits for Dagster and has no log yet."""
    monkeypatch.setattr(system, "_START_SECONDS", 2.0)
    services = (
        sleeping("feed", is_ready=True, after=("dagster ui",)),
        sleeping("code server", is_ready=True),
        sleeping("dagster ui", is_ready=False),
    )
    settings = Settings(_env_file=None, data_dir=tmp_path, dagster_port=free_port())
    plan = replace(plan_system(settings, Options(is_demo=True), code_server_port=1), services=services)
    plan.log_folder.mkdir()
    with Display(plan) as display, System(plan, display, NobodyAsks()) as running:
        with pytest.raises(StartError, match="The dagster ui is not ready after 2 s: dagster ui is at it"):
            running.start()
        assert running.children["feed"].last_line() == "(no log yet)"
