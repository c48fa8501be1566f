"""Where a run is executed: the live run in the code server, every other run where a launcher of its own puts it.

A container or a pod takes seconds to start and an alert may take three in all, so the fast path stays in a process that
is already there. Owns this choice and the finding of live runs that died with their code server. Stays out: what a
run's container may do (socket_gate.py), and which other launcher it is (deploy/dagster.yaml, deploy/celery,
deploy/kubernetes).
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Self

import dagster as dg
import yaml
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, RunLauncher, WorkerStatus
from dagster._core.launcher.default_run_launcher import DefaultRunLauncher
from dagster._grpc.client import DagsterGrpcClient
from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
from dagster._serdes import ConfigurableClass, ConfigurableClassData, deserialize_value

from cryptotrace_dagster.log import masked_text

_ANSWER_SECONDS = 10


class CodeServerRunLauncher(DefaultRunLauncher):
    """Executes runs in the code server, and tells a run that is under way from one that died with its server."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Return that the monitor may ask."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Return what the code server knows of the run.

        A server that does not answer says nothing about the run: it is asked again later. One that was started anew
        does not know the run, which therefore is over.
        """
        client = self._get_grpc_client_for_termination(run.run_id)  # type: ignore[no-untyped-call]
        if client is None:
            return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "The run names no code server, or is over.")
        try:
            is_under_way = _is_under_way(client, run.run_id)
        except DagsterUserCodeUnreachableError as error:
            return CheckRunHealthResult(WorkerStatus.RUNNING, f"The code server is silent: {masked_text(str(error))}")
        if is_under_way:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(
            WorkerStatus.NOT_FOUND, "The code server was started anew and does not know the run."
        )


class FastPathRunLauncher(RunLauncher[dg.DagsterInstance], ConfigurableClass):
    """Executes the named jobs in the code server, and leaves all others to another launcher.

    Its configuration is `code_server_jobs` and, under `others`, that launcher's module, class and config. Variables
    (`$NAME`) in that config are filled in, and its `env_vars` that are not set are left out, so that one file serves
    every project name, version and set of settings.
    """

    def __init__(
        self, code_server_jobs: Sequence[str], others: RunLauncher[Any], inst_data: ConfigurableClassData | None = None
    ) -> None:
        self._inst_data = inst_data
        self._code_server_jobs = frozenset(code_server_jobs)
        self._code_server = CodeServerRunLauncher()
        self.others = others
        super().__init__()  # type: ignore[no-untyped-call]

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """Return the configuration as it was read."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Return what may be configured."""
        jobs = dg.Field([str], description="Jobs that must not wait for a container.")
        others = {"module": str, "class": str, "config": dg.Field(dict, is_required=False)}
        return {"code_server_jobs": jobs, "others": others}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> Self:
        """Return a launcher with this configuration; the other launcher checks its own."""
        others = config_value["others"]
        data = ConfigurableClassData(
            others["module"], others["class"], yaml.safe_dump(launcher_config(others.get("config", {})))
        )
        return cls(config_value["code_server_jobs"], data.rehydrate(as_type=RunLauncher), inst_data)  # type: ignore[type-abstract]

    def register_instance(self, instance: dg.DagsterInstance) -> None:
        """Tell all launchers whose runs these are."""
        super().register_instance(instance)
        self._code_server.register_instance(instance)
        self.others.register_instance(instance)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Start the run in its place."""
        self._launcher_of(context.dagster_run).launch_run(context)

    def terminate(self, run_id: str) -> bool:
        """Ask the run to end, where it is."""
        run = self._instance.get_run_by_id(run_id)
        return run is not None and self._launcher_of(run).terminate(run_id)

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Return that the monitor may ask."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Return whether the run's process, container or pod is there."""
        launcher = self._launcher_of(run)
        if not launcher.supports_check_run_worker_health:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "This launcher cannot tell.")
        return launcher.check_run_worker_health(run)

    def _launcher_of(self, run: dg.DagsterRun) -> RunLauncher[Any]:
        return self._code_server if run.job_name in self._code_server_jobs else self.others


def launcher_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a launcher's configuration with variables filled in, and without `env_vars` that are not set."""
    filled: dict[str, Any] = _filled_in(config)
    if "env_vars" in filled:
        filled["env_vars"] = [name for name in filled["env_vars"] if "=" in name or name in os.environ]
    return filled


def _filled_in(value: Any) -> Any:
    if isinstance(value, str):
        return os.path.expandvars(value)
    if isinstance(value, Mapping):
        return {name: _filled_in(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_filled_in(inner) for inner in value]
    return value


def _is_under_way(client: DagsterGrpcClient, run_id: str) -> bool:
    answer = client.can_cancel_execution(CanCancelExecutionRequest(run_id=run_id), timeout=_ANSWER_SECONDS)
    return deserialize_value(answer, CanCancelExecutionResult).can_cancel
