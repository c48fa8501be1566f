"""Where runs are executed: by job name; and what is said about a live run whose code server was started anew."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import WorkerStatus
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._core.test_utils import create_run_for_test
from dagster._grpc.client import DagsterGrpcClient
from dagster._grpc.types import CanCancelExecutionResult
from dagster._serdes import serialize_value
from dagster_docker import DockerRunLauncher

from cryptotrace_dagster.assets.common import LIVE_JOB, MARKET_JOB
from cryptotrace_dagster.containers.run_launcher import FastPathRunLauncher
from tests.compose.stack import ROOT


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """Return an instance with the containers' run launcher and a local storage."""
    monkeypatch.setenv("RUN_PROJECT", "trace")
    monkeypatch.setenv("RUN_NETWORK", "trace_pipeline")
    monkeypatch.setenv("SYMBOLS", "BTCUSDT")
    monkeypatch.delenv("AWS_REGION", raising=False)
    config = yaml.safe_load((ROOT / "deploy" / "dagster.yaml").read_text())
    kept = {name: config[name] for name in ("run_launcher", "run_coordinator", "run_monitoring", "concurrency")}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(kept))
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        yield instance


def launcher_of(instance: dg.DagsterInstance) -> FastPathRunLauncher:
    assert isinstance(instance.run_launcher, FastPathRunLauncher)
    return instance.run_launcher


def docker_launcher_of(instance: dg.DagsterInstance) -> DockerRunLauncher:
    others = launcher_of(instance).others
    assert isinstance(others, DockerRunLauncher)
    return others


def run_of(instance: dg.DagsterInstance, job: str, **tags: str) -> dg.DagsterRun:
    return create_run_for_test(instance, job_name=job, status=dg.DagsterRunStatus.STARTED, tags=tags)


class Calls:
    """Remembers which launcher was asked to start a run."""

    def __init__(self) -> None:
        self.places: list[str] = []

    def of(self, place: str) -> Any:
        return lambda *_: self.places.append(place)


@pytest.mark.parametrize(("job", "place"), [(LIVE_JOB, "code server"), (MARKET_JOB, "container")])
def test_the_live_run_stays_in_the_code_server_and_others_get_a_container(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, job: str, place: str
) -> None:
    calls, launcher = Calls(), launcher_of(instance)
    monkeypatch.setattr("dagster._core.launcher.DefaultRunLauncher.launch_run", calls.of("code server"))
    monkeypatch.setattr("dagster_docker.DockerRunLauncher.launch_run", calls.of("container"))
    from dagster._core.launcher import LaunchRunContext

    launcher.launch_run(LaunchRunContext(run_of(instance, job), workspace=None))
    assert calls.places == [place]


def test_the_configuration_is_filled_in_from_the_environment(instance: dg.DagsterInstance) -> None:
    launcher = docker_launcher_of(instance)
    assert launcher.networks == ["trace_pipeline"]
    assert "trace_data:/data" in launcher.container_kwargs["volumes"]
    assert launcher.container_kwargs["labels"]["cryptotrace.project"] == "trace"


def test_variables_that_are_not_set_are_left_out(instance: dg.DagsterInstance) -> None:
    """`DockerRunLauncher` alone refuses to start a run when a variable is missing."""
    names = docker_launcher_of(instance).env_vars
    assert "SYMBOLS" in names
    assert "AWS_REGION" not in names


class TestHealthOfALiveRun:
    @pytest.fixture
    def live_run(self, instance: dg.DagsterInstance) -> dg.DagsterRun:
        return run_of(instance, LIVE_JOB, **{GRPC_INFO_TAG: '{"host": "127.0.0.1", "port": 1}'})

    @pytest.mark.parametrize(("knows_it", "status"), [(True, WorkerStatus.RUNNING), (False, WorkerStatus.NOT_FOUND)])
    def test_the_code_server_says_whether_it_still_executes_it(
        self,
        instance: dg.DagsterInstance,
        live_run: dg.DagsterRun,
        monkeypatch: pytest.MonkeyPatch,
        knows_it: bool,
        status: WorkerStatus,
    ) -> None:
        """A run whose server died would otherwise block the sensor until its time is over."""
        answer = serialize_value(CanCancelExecutionResult(can_cancel=knows_it))
        monkeypatch.setattr(DagsterGrpcClient, "can_cancel_execution", lambda *_, **__: answer)
        assert instance.run_launcher.check_run_worker_health(live_run).status is status

    def test_a_silent_code_server_does_not_end_the_run(
        self, instance: dg.DagsterInstance, live_run: dg.DagsterRun, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Declared dead too early, a run would meet a second writer."""

        def silent(*_: Any, **__: Any) -> str:
            raise DagsterUserCodeUnreachableError("no answer")

        monkeypatch.setattr(DagsterGrpcClient, "can_cancel_execution", silent)
        assert instance.run_launcher.check_run_worker_health(live_run).status is WorkerStatus.RUNNING

    def test_an_address_where_nobody_listens_does_not_end_it_either(
        self, instance: dg.DagsterInstance, live_run: dg.DagsterRun
    ) -> None:
        assert instance.run_launcher.check_run_worker_health(live_run).status is WorkerStatus.RUNNING


def test_a_container_run_without_a_container_is_found_missing(instance: dg.DagsterInstance) -> None:
    run = run_of(instance, MARKET_JOB)
    assert instance.run_launcher.check_run_worker_health(run).status is WorkerStatus.NOT_FOUND
