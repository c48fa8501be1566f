"""The Data page tells what a real Dagster did lately, and goes on without one."""

import os
import runpy
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import httpx
import pytest

from cryptotrace_dagster.dagster_client import CheckExecution, DagsterClient, Run
from cryptotrace_dagster.dashboard.dagster_news import check_rows, dagster_news, run_rows
from tests.dashboard.conftest import Show
from tests.ports import free_port

UI = "http://127.0.0.1:3000"
PATIENCE_SECONDS = 120
DEFINITIONS = """
import dagster as dg

@dg.asset
def bars(): ...

@dg.asset_check(asset="bars")
def bars_are_consistent():
    return dg.AssetCheckResult(passed=False, description="Two bars have a high below their low.")

defs = dg.Definitions([bars], asset_checks=[bars_are_consistent], jobs=[dg.define_asset_job("market_job", "bars")])
"""


@pytest.fixture(scope="module")
def dagster_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Lend a real webserver, in whose history is one run of a job with a check that fails."""
    home = tmp_path_factory.mktemp("dagster_home")
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    (home / "definitions.py").write_text(DEFINITIONS)
    defs = runpy.run_path(str(home / "definitions.py"))["defs"]
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert defs.resolve_job_def("market_job").execute_in_process(instance=instance).success
    port = free_port()
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "dagster_webserver", "-p", str(port), "-f", str(home / "definitions.py")],
            env=os.environ | {"DAGSTER_HOME": str(home)},
            stdout=log,
            stderr=log,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not _answers(url):
            assert process.poll() is None and time.monotonic() < deadline, (home / "log").read_text()
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/server_info", timeout=5).is_success
    except httpx.HTTPError:
        return False


def test_a_real_dagster_tells_its_runs_and_what_its_checks_said(dagster_url: str) -> None:
    client = DagsterClient(dagster_url)
    (run,) = client.latest_runs(5)
    assert (run.job_name, run.status) == ("market_job", "SUCCESS")
    assert run.started_at is not None
    assert run.ended_at is not None
    assert run.created_at <= run.started_at <= run.ended_at <= time.time()
    (check,) = client.check_executions(each=1)
    assert (check.asset, check.check, check.status) == ("bars", "bars_are_consistent", "FAILED")
    assert check.found == "Two bars have a high below their low."


def test_the_data_page_shows_them_with_links(
    show: Show, filled: Path, dagster_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_URL", dagster_url)
    app = show(filled, "health.data")
    assert not app.exception
    tables = {tuple(table.value.columns[:2]): table.value for table in app.dataframe}
    runs, checks = tables["Run", "State"], tables["Check", "Verdict"]
    assert runs["State"].tolist() == ["✓ done"]
    assert runs["Link"][0].startswith(f"{dagster_url}/runs/")
    assert checks["Verdict"].tolist() == ["✗ does not hold"]
    assert checks["Link"][0] == f"{dagster_url}/assets/bars?view=checks"


def test_without_dagster_the_page_says_so_and_shows_the_rest(
    show: Show, filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_URL", f"http://127.0.0.1:{free_port()}")
    dagster_news.clear()
    app = show(filled, "health.data")
    assert not app.exception
    assert any("Dagster does not tell its runs just now (ConnectError" in info.value for info in app.info)
    assert "Missing trades" in [metric.label for metric in app.metric]


def test_a_run_says_what_it_was_and_how_long_it_took() -> None:
    by_hand = Run("b", "__ASSET_JOB", "QUEUED", 1_000.0, None, None, ("ohlc_bars", "features"))
    ended = Run("a", "live_job", "SUCCESS", 1_000.0, 1_001.0, 1_841.0, ())
    first, second = run_rows([by_hand, ended], UI).rows(named=True)
    assert (first["Run"], first["State"], first["Took"]) == ("ohlc_bars, features (by hand)", "… waiting", None)
    assert (second["Run"], second["Took"], second["Link"]) == ("live_job", "14 min", f"{UI}/runs/a")


def test_a_check_that_does_not_hold_comes_first() -> None:
    holds = CheckExecution("features", "features_are_finite", "SUCCEEDED", 10.0, "Features are finite.")
    fails = CheckExecution("raw_ticks", "trade_ids_are_unique", "FAILED", 5.0, "Two trades share an id.")
    assert check_rows([holds, fails], UI)["Check"].to_list() == ["trade ids are unique", "features are finite"]
