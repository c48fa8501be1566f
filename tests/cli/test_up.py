"""What `cryptotrace up` works on: the user's own store in earnest, one of its own in a demo."""

from pathlib import Path

import pytest

from cryptotrace_dagster import log
from cryptotrace_dagster.cli import up
from cryptotrace_dagster.settings import load_settings
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.supervisor import preflight, system
from cryptotrace_dagster.supervisor.services import Options
from tests.postgres_server import PostgresServer


@pytest.fixture
def starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `up` prepare everything and then run no service; the test's own log and signals stay as they are."""
    monkeypatch.setattr(log, "set_up_logging", _nothing)
    monkeypatch.setattr(preflight, "check_machine", _nothing)
    monkeypatch.setattr(system, "StopSignals", _nothing)
    monkeypatch.setattr(up, "_supervise", _nothing)


def _nothing(*_: object, **__: object) -> None:
    """Stand in for what a test leaves out."""


@pytest.mark.usefixtures("starts_nothing")
def test_a_new_lake_is_made_where_its_files_belong(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards WAREHOUSE_DATA_PATH, without which a new lake cannot be made and one on S3 not be opened."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WAREHOUSE_URL", postgres.create_database("new_lake_of_up"))
    monkeypatch.setenv("WAREHOUSE_DATA_PATH", f"{tmp_path / 'lake'}/")
    up._run(load_settings(), Options(), None, opens_browser=False)
    made = Warehouse(load_settings().warehouse_url, data_path=load_settings().warehouse_data_path)
    assert made.read("SELECT count(*) FROM raw_ticks").item() == 0
