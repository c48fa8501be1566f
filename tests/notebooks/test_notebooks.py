"""The notebooks run from top to bottom without a person."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from cryptotrace_dagster.pipeline.feedback import record_feedback
from cryptotrace_dagster.storage import Warehouse
from tests.market import fill

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("WAREHOUSE_URL", "")
    store = Warehouse(str(tmp_path / "cryptotrace.duckdb"))
    store.create()
    fill(store, minutes=120)
    record_feedback(store, "a1b2c3d4", True)
    store.publish(tmp_path / "published" / "cryptotrace.duckdb")
    return tmp_path


def definitions_of(name: str) -> dict[str, Any]:
    """Run a notebook and return what its cells defined."""
    spec = importlib.util.spec_from_file_location(name, NOTEBOOKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    _, definitions = module.app.run()
    return dict(definitions)


def test_a_day_is_explored(published: Path) -> None:
    cells = definitions_of("explore_a_day")
    assert cells["bars"].height == 24
    assert cells["hurry"]["buyer_share"].is_between(0, 1).all()
    assert cells["strangest"].height == 10


def test_the_detectors_are_judged(published: Path) -> None:
    cells = definitions_of("judge_the_detectors")
    assert cells["kept"]["seen_a_day"].min() > 0
    assert cells["verdicts"].filter(rule="sudden-move").select("judged", "right_ones").rows() == [(1, 1)]


def test_every_notebook_is_run_here() -> None:
    assert {path.stem for path in NOTEBOOKS.glob("*.py")} == {"explore_a_day", "judge_the_detectors"}
