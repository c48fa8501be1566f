"""What the supervisor asks of Dagster, over the GraphQL interface of its UI.

Owns the questions and their answers as plain values. Stays out: Dagster's Python package, which would double the
supervisor's memory, and what the answers mean for the summary.
"""

from dataclasses import dataclass
from typing import Any

import httpx

from cryptotrace_dagster.supervisor.dagster_home import CODE_LOCATION

_REPOSITORY = "__repository__"  # the name that Dagster gives to a location's definitions
_UNFINISHED = ["QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING"]
_CHECK_HISTORY = 1000

_RUNS = (
    "query($filter: RunsFilter) { runsOrError(filter: $filter) { ... on Runs { results { runId jobName status } } } }"
)
_TERMINATE = """mutation($runs: [String!]!) {
  terminateRuns(runIds: $runs, terminatePolicy: SAFE_TERMINATE) { __typename }
}"""
_LAUNCH = """mutation($params: ExecutionParams!) {
  launchRun(executionParams: $params) { __typename ... on LaunchRunSuccess { run { runId } } ... on Error { message } }
}"""
_CHECKS = """{ assetNodes { assetKey { path } assetChecksOrError { ... on AssetChecks { checks { name } } } } }"""
_EXECUTIONS = """query($asset: AssetKeyInput!, $check: String!, $limit: Int!) {
  assetCheckExecutions(assetKey: $asset, checkName: $check, limit: $limit) { status timestamp runId }
}"""


class DagsterRequestError(Exception):
    """Dagster answered, but not with what was asked for."""


@dataclass(frozen=True)
class Run:
    """One run of a job."""

    run_id: str
    job_name: str
    status: str


@dataclass(frozen=True)
class CheckExecution:
    """One evaluation of an asset check. `started_at` is in seconds since 1970."""

    asset: str
    check: str
    status: str
    started_at: float


class DagsterClient:
    """A short conversation with the Dagster of this machine."""

    def __init__(self, ui_url: str, timeout_seconds: float = 10.0) -> None:
        self._url = f"{ui_url}/graphql"
        self._timeout_seconds = timeout_seconds

    def runs(self, *, created_after: float = 0.0) -> list[Run]:
        """Return the runs that were created after the instant (seconds since 1970)."""
        return self._runs({"createdAfter": created_after})

    def unfinished_runs(self) -> list[Run]:
        """Return the runs that are queued or under way."""
        return self._runs({"statuses": _UNFINISHED})

    def terminate(self, runs: list[Run]) -> None:
        """Ask the runs to end; they do so at their next interruptible moment."""
        self._ask(_TERMINATE, {"runs": [run.run_id for run in runs]})

    def launch(self, job_name: str, partition_key: str) -> str:
        """Queue a run of a partitioned job and return its id."""
        selector = {"repositoryLocationName": CODE_LOCATION, "repositoryName": _REPOSITORY, "jobName": job_name}
        tags = [{"key": "dagster/partition", "value": partition_key}]
        parameters = {"selector": selector, "runConfigData": {}, "executionMetadata": {"tags": tags}}
        answer = self._ask(_LAUNCH, {"params": parameters})["launchRun"]
        if "run" not in answer:
            raise DagsterRequestError(f"{job_name} was not launched: {answer}")
        return str(answer["run"]["runId"])

    def check_executions(self) -> list[CheckExecution]:
        """Return the evaluations of all asset checks, newest first per check."""
        return [
            CheckExecution("/".join(node["assetKey"]["path"]), check["name"], found["status"], found["timestamp"])
            for node in self._ask(_CHECKS)["assetNodes"]
            for check in node["assetChecksOrError"].get("checks", [])
            for found in self._ask(
                _EXECUTIONS,
                {"asset": {"path": node["assetKey"]["path"]}, "check": check["name"], "limit": _CHECK_HISTORY},
            )["assetCheckExecutions"]
        ]

    def _runs(self, only: dict[str, object]) -> list[Run]:
        found = self._ask(_RUNS, {"filter": only})["runsOrError"]["results"]
        return [Run(run["runId"], run["jobName"], run["status"]) for run in found]

    def _ask(self, query: str, variables: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = httpx.post(
            self._url,
            json={"query": query, "variables": variables or {}},
            timeout=self._timeout_seconds,
            trust_env=False,
        )
        answer.raise_for_status()
        body: dict[str, Any] = answer.json()
        if body.get("errors"):
            raise DagsterRequestError(str(body["errors"][0].get("message")))
        data: dict[str, Any] = body["data"]
        return data
