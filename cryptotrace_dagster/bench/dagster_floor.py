"""Dagster without us: how long `dagster dev` takes to start, and a run of one empty asset from request to end."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from cryptotrace_dagster.bench.rows import require
from cryptotrace_dagster.bench.workers import end
from cryptotrace_dagster.supervisor.preflight import free_port
from cryptotrace_dagster.supervisor.readiness import dagster_daemon_is_healthy, url_answers

_START_SECONDS = 300.0
_RUN_SECONDS = 120.0
_LOOK_SECONDS = 0.1
_RUNS = "{ runsOrError { ... on Runs { results { runId status creationTime endTime } } } }"


@contextmanager
def empty_dagster() -> Iterator[tuple[str, float]]:
    """Run `dagster dev` with the empty project; lend its address and the seconds until all its daemons were healthy."""
    project = Path(__file__).with_name("empty_project.py")
    with tempfile.TemporaryDirectory() as home:
        url = f"http://127.0.0.1:{(port := free_port())}"
        began = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "dagster", "dev", "-f", str(project), "-h", "127.0.0.1", "-p", str(port)],
            env={**os.environ, "DAGSTER_HOME": home, "DAGSTER_DISABLE_TELEMETRY": "1"},
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            wait_until(
                lambda: url_answers(f"{url}/server_info") and dagster_daemon_is_healthy(url),
                _START_SECONDS,
                "dagster dev with an empty project is not healthy",
            )
            yield url, time.perf_counter() - began
        finally:
            end(process)


def empty_run_seconds(url: str, runs: int) -> float:
    """Return the median seconds from a sensor's request to the end of a run, the first run left out."""

    def finished() -> list[float]:
        answer = httpx.post(f"{url}/graphql", json={"query": _RUNS}, timeout=10, trust_env=False).json()
        results = answer["data"]["runsOrError"]["results"]
        require(all(run["status"] != "FAILURE" for run in results), "a run of the empty asset failed")
        done = [run for run in results if run["status"] == "SUCCESS"]
        return [run["endTime"] - run["creationTime"] for run in sorted(done, key=lambda each: each["creationTime"])]

    wait_until(lambda: len(finished()) > runs, _RUN_SECONDS * (runs + 1), "the runs of the empty asset did not end")
    return statistics.median(finished()[1 : runs + 1])


def wait_until(is_so: Callable[[], bool], seconds: float, otherwise: str) -> None:
    """Return as soon as something is so; refuse the figure when it is not in time."""
    deadline = time.monotonic() + seconds
    while not is_so():
        require(time.monotonic() < deadline, f"{otherwise} after {seconds:.0f} s")
        time.sleep(_LOOK_SECONDS)
