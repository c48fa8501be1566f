"""What `cryptotrace up` works on: the user's own store in earnest, one of its own in a demo."""

from pathlib import Path

import pytest

from cryptotrace_dagster import log, stream
from cryptotrace_dagster.cli import up
from cryptotrace_dagster.settings import load_settings
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.supervisor import preflight, system
from cryptotrace_dagster.supervisor.services import Options
from tests.postgres_server import PostgresServer


@pytest.fixture
def starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `up` prepare everything and then run no service; the test's own log and signals stay as they are."""
    monkeypatch.chdir(tmp_path)
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
    monkeypatch.setenv("WAREHOUSE_URL", postgres.create_database("new_lake_of_up"))
    monkeypatch.setenv("WAREHOUSE_DATA_PATH", f"{tmp_path / 'lake'}/")
    up._run(load_settings(), Options(), None, opens_browser=False)
    made = Warehouse(load_settings().warehouse_url, data_path=load_settings().warehouse_data_path)
    assert made.read("SELECT count(*) FROM raw_ticks").item() == 0


@pytest.mark.usefixtures("starts_nothing")
@pytest.mark.parametrize("has_data_dir", [True, False])
def test_a_demo_leaves_the_users_warehouse_and_topic_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_data_dir: bool
) -> None:
    """Guards `make demo` where the environment or .env names the warehouse and the Kafka of live operation."""
    emptied: list[str] = []
    monkeypatch.setattr(stream, "empty_topic", lambda _servers, topic: emptied.append(topic))
    monkeypatch.setenv("WAREHOUSE_URL", str(tmp_path / "real.duckdb"))
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "kafka:9092")
    options = Options(is_demo=True)
    settings = up._settings(tmp_path / "chosen" if has_data_dir else None, options)
    up._run(settings, options, None, opens_browser=False)
    folder = tmp_path / ("chosen" if has_data_dir else "data/demo")
    assert Warehouse(str(folder / "cryptotrace.duckdb")).read("SELECT count(*) FROM raw_ticks").item() == 0
    assert not (tmp_path / "real.duckdb").exists()
    assert emptied == ["demo.ticks"]
