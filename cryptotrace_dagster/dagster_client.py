"""What supervisor, dashboard, doctor and benchmarks ask of Dagster, over the GraphQL interface of its UI.

Owns the questions and their answers as plain values. Stays out: Dagster's Python package, which would double the
memory of those who ask, and what the answers mean to them.
"""

import json
from dataclasses import dataclass
from typing import Any

import httpx

CODE_LOCATION = "cryptotrace"
_REPOSITORY = "__repository__"  # the name that Dagster gives to a location's definitions
_UNFINISHED = ["QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING"]
_CHECK_HISTORY = 1000

_RUNS = """query($filter: RunsFilter, $limit: Int) { runsOrError(filter: $filter, limit: $limit) {
  ... on Runs { results { runId jobName status creationTime startTime endTime assetSelection { path } } }
} }"""
_TERMINATE = """mutation($runs: [String!]!) {
  terminateRuns(runIds: $runs, terminatePolicy: SAFE_TERMINATE) { __typename }
}"""
_LAUNCH = """mutation($params: ExecutionParams!) {
  launchRun(executionParams: $params) { __typename ... on LaunchRunSuccess { run { runId } } ... on Error { message } }
}"""
_CHECKS = """{ assetNodes { assetKey { path } assetChecksOrError { ... on AssetChecks { checks { name } } } } }"""
_DAEMONS = """{ instance { daemonHealth { allDaemonStatuses { daemonType required healthy } } } }"""
_EXECUTIONS = """assetCheckExecutions(assetKey: {path: %s}, checkName: %s, limit: %d) {
  status timestamp evaluation { description }
}"""


class DagsterRequestError(Exception):
    """Dagster answered, but not with what was asked for."""


@dataclass(frozen=True)
class Run:
    """One run of a job. Instants are in seconds since 1970; `assets` are those chosen by hand, if any were."""

    run_id: str
    job_name: str
    status: str
    created_at: float
    started_at: float | None
    ended_at: float | None
    assets: tuple[str, ...]


@dataclass(frozen=True)
class CheckExecution:
    """One evaluation of an asset check. `started_at` is in seconds since 1970."""

    asset: str
    check: str
    status: str
    started_at: float
    found: str


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

    def latest_runs(self, count: int) -> list[Run]:
        """Return the runs that were created last, newest first."""
        return self._runs({}, count)

    def daemons_without_heartbeat(self) -> list[str]:
        """Return the daemons that Dagster needs and has not heard of lately; none when all is well."""
        statuses = self._ask(_DAEMONS)["instance"]["daemonHealth"]["allDaemonStatuses"]
        return [each["daemonType"] for each in statuses if each["required"] and not each["healthy"]]

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

    def check_executions(self, each: int = _CHECK_HISTORY) -> list[CheckExecution]:
        """Return the newest evaluations of every asset check, as many of each as asked for, newest first per check."""
        checks = [
            (node["assetKey"]["path"], check["name"])
            for node in self._ask(_CHECKS)["assetNodes"]
            for check in node["assetChecksOrError"].get("checks", [])
        ]
        if not checks:
            return []
        questions = [
            f"check{index}: {_EXECUTIONS % (json.dumps(path), json.dumps(name), each)}"
            for index, (path, name) in enumerate(checks)
        ]
        answers = self._ask("{" + " ".join(questions) + "}")  # all in one request: Dagster's UI has others to serve
        return [
            CheckExecution(
                "/".join(path),
                name,
                found["status"],
                found["timestamp"],
                (found["evaluation"] or {}).get("description") or "",
            )
            for index, (path, name) in enumerate(checks)
            for found in answers[f"check{index}"]
        ]

    def _runs(self, only: dict[str, object], limit: int | None = None) -> list[Run]:
        found = self._ask(_RUNS, {"filter": only, "limit": limit})["runsOrError"]["results"]
        return [
            Run(
                run["runId"],
                run["jobName"],
                run["status"],
                run["creationTime"],
                run["startTime"],
                run["endTime"],
                tuple("/".join(asset["path"]) for asset in run["assetSelection"] or ()),
            )
            for run in found
        ]

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
