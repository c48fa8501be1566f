"""Where a run is executed: the live run in the code server, every other run in a container of its own.

A container takes seconds to start and an alert may take three in all, so the fast path stays in a process that is
already there. Owns this choice and the finding of live runs that died with their code server. Stays out: what a
container may do (socket_gate.py) and its configuration (deploy/dagster.yaml).
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Self, cast

import dagster as dg
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, RunLauncher, WorkerStatus
from dagster._core.launcher.default_run_launcher import DefaultRunLauncher
from dagster._grpc.client import DagsterGrpcClient
from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
from dagster._serdes import ConfigurableClassData, deserialize_value
from dagster_docker import DockerRunLauncher

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
            return CheckRunHealthResult(
                WorkerStatus.RUNNING, f"The code server does not answer: {masked_text(str(error))}"
            )
        if is_under_way:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(
            WorkerStatus.NOT_FOUND, "The code server was started anew and does not know the run."
        )


class FastPathRunLauncher(DockerRunLauncher):
    """Executes the named jobs in the code server and all others in containers.

    Its configuration is `DockerRunLauncher`'s, and `code_server_jobs`. Variables named in `env_vars` that are not set
    are left out, and variables (`$NAME`) in `container_kwargs` are filled in, so that one file serves every project
    name, version and set of settings.
    """

    def __init__(
        self,
        inst_data: ConfigurableClassData | None = None,
        code_server_jobs: Sequence[str] = (),
        env_vars: Sequence[str] = (),
        container_kwargs: Mapping[str, Any] | None = None,
        **docker: Any,
    ) -> None:
        self._code_server_jobs = frozenset(code_server_jobs)
        self._code_server = CodeServerRunLauncher()
        super().__init__(
            inst_data,
            env_vars=[name for name in env_vars if "=" in name or name in os.environ],
            container_kwargs=filled_in(container_kwargs or {}),
            **docker,
        )

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Return `DockerRunLauncher`'s configuration, and ours."""
        return {
            **DockerRunLauncher.config_type(),  # type: ignore[no-untyped-call]
            "code_server_jobs": dg.Field(
                [str], is_required=False, description="Jobs that must not wait for a container."
            ),
        }

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> Self:
        """Return a launcher with this configuration."""
        return cls(inst_data=inst_data, **config_value)

    def register_instance(self, instance: dg.DagsterInstance) -> None:
        """Tell both launchers whose runs these are."""
        super().register_instance(instance)
        self._code_server.register_instance(instance)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Start the run in its place."""
        launcher = self._inner(context.dagster_run)
        if launcher is None:
            super().launch_run(context)
        else:
            launcher.launch_run(context)

    def terminate(self, run_id: str) -> bool:
        """Ask the run to end, where it is."""
        run = self._instance.get_run_by_id(run_id)
        launcher = self._inner(run) if run is not None else None
        if launcher is None:
            return bool(super().terminate(run_id))  # type: ignore[no-untyped-call]
        return launcher.terminate(run_id)

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Return whether the run's process or container is there."""
        launcher = self._inner(run)
        if launcher is None:
            return cast(CheckRunHealthResult, super().check_run_worker_health(run))
        return launcher.check_run_worker_health(run)

    @property
    def supports_resume_run(self) -> bool:
        """Return that a run that died is not taken up again: the next one starts from what was committed."""
        return False

    def _inner(self, run: dg.DagsterRun) -> RunLauncher[Any] | None:
        return self._code_server if run.job_name in self._code_server_jobs else None


def _is_under_way(client: DagsterGrpcClient, run_id: str) -> bool:
    answer = client.can_cancel_execution(CanCancelExecutionRequest(run_id=run_id), timeout=_ANSWER_SECONDS)
    return deserialize_value(answer, CanCancelExecutionResult).can_cancel


def filled_in(value: Any) -> Any:
    """Return the value with `$NAME` in all its texts replaced by that environment variable."""
    if isinstance(value, str):
        return os.path.expandvars(value)
    if isinstance(value, Mapping):
        return {name: filled_in(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [filled_in(inner) for inner in value]
    return value
