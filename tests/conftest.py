"""Fixtures that several rooms of the tests share."""

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

from cryptotrace_dagster.settings import Settings
from cryptotrace_dagster.storage import Warehouse
from tests.broker import mock_cluster
from tests.stores import chosen_store, lake, new_store, postgres, store  # noqa: F401 - fixtures
from tests.system.running import demo  # noqa: F401 - a fixture

# How long an example takes tells of the machine, not of the code: four tests may run at once on two cores.
hypothesis.settings.register_profile("without deadline", deadline=None)
hypothesis.settings.load_profile("without deadline")

RECORDINGS = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def environment_of_a_stranger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test see settings of this machine, nor those that loading the definitions exported for another test."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def warehouse(request: pytest.FixtureRequest, tmp_path: Path) -> Warehouse:
    """Return an empty warehouse with all its tables: a real DuckDB file, unless TEST_STORE asks for a lake."""
    return chosen_store(request, tmp_path)


@pytest.fixture
def recordings() -> Path:
    """Return the folder of real recordings, or skip where this machine does not have it."""
    if not RECORDINGS.is_dir():
        pytest.skip(f"the real recordings are not on this machine ({RECORDINGS})")
    return RECORDINGS


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """Return the address of an in-process Kafka cluster."""
    with mock_cluster() as address:
        yield address


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let no test that needs a real broker be skipped where CI promises one."""
    report = yield
    if report.skipped and item.get_closest_marker("kafka") and os.environ.get("CI"):
        report.outcome = "failed"
        report.longrepr = f"skipped, but CI has to start what it needs: {report.longrepr}"
    return report
