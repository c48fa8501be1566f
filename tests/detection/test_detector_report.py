"""The weekly report: the backtest's figures over whole stored days, and whether scores come as often as they promise."""

import base64
import io
import re
from datetime import timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from PIL import Image

from cryptotrace_dagster.definitions import build_definitions
from cryptotrace_dagster.domain.windows import Window
from cryptotrace_dagster.notify.plots import calibration_plot
from cryptotrace_dagster.pipeline.backtest import PUMPS_ONLY
from cryptotrace_dagster.pipeline.bars import refresh_bars
from cryptotrace_dagster.pipeline.detector_report import report_on_detectors
from cryptotrace_dagster.pipeline.ingest import store_ticks
from cryptotrace_dagster.pipeline.labels import import_labels
from cryptotrace_dagster.resources.rules import AlertRules
from cryptotrace_dagster.resources.warehouse import WarehouseResource
from cryptotrace_dagster.storage import Warehouse
from tests.detection.history import START, trades

HOURS = 50  # two whole days, and the beginning of a third
PUMP_AT = START + timedelta(hours=40)


@pytest.fixture
def two_days(warehouse: Warehouse, tmp_path: Path) -> Warehouse:
    """Return two stored days of a symbol that is pumped on the second, labelled."""
    store_ticks(warehouse, trades(hours=HOURS, pump_at=PUMP_AT), START)
    refresh_bars(warehouse, Window(START, START + timedelta(hours=HOURS)))
    (tmp_path / "pumps.csv").write_text(f"symbol,timestamp\nTHIN,{PUMP_AT}\n")
    import_labels(warehouse, tmp_path / "pumps.csv", "pump", PUMP_AT)
    return warehouse


def test_the_report_judges_rules_and_detectors_on_labelled_days(two_days: Warehouse) -> None:
    report = report_on_detectors(two_days, PUMPS_ONLY, days=7, most_ticks=10**6)
    assert report is not None
    assert report.period == Window(START + timedelta(days=1), START + timedelta(days=2))  # the first day warms up
    assert (report.rules["pump"].hits, report.rules["pump"].events) == (1, 1)
    assert report.detectors["pump"].hits == 1
    assert "| rule *pump* | 1 | 1 | 1 of 1 | 1.00" in report.markdown
    promises = report.calibration.filter(pl.col("detector") == "pump").sort("promised")
    assert promises["observed"].is_sorted()
    assert promises["observed"][-1] >= 1.0  # the hour of the pump, in one day


def test_too_many_trades_make_no_report(two_days: Warehouse) -> None:
    assert report_on_detectors(two_days, PUMPS_ONLY, days=7, most_ticks=100) is None


def test_a_warehouse_without_trades_makes_no_report(warehouse: Warehouse) -> None:
    assert report_on_detectors(warehouse, PUMPS_ONLY, days=7, most_ticks=100) is None


def test_the_asset_shows_table_and_plot(two_days: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    rules = tmp_path / "alerts.toml"
    rules.write_text('[[rules]]\nname = "pump"\nkind = "anomaly"\ndetector = "pump"\nat_most_a_day = 0.02\n')
    definitions = build_definitions(
        warehouse=WarehouseResource(url=two_days.url), alert_rules=AlertRules(path=str(rules), data_dir=str(tmp_path))
    )
    with dg.DagsterInstance.ephemeral() as instance:
        result = definitions.resolve_job_def("report_job").execute_in_process(instance=instance)
    metadata = result.asset_materializations_for_node("detector_report")[0].metadata
    assert "1 of 1" in str(metadata["report"].value)
    picture = re.search(r"base64,([^)]+)\)", str(metadata["calibration"].value))
    assert picture is not None
    assert Image.open(io.BytesIO(base64.b64decode(picture[1]))).format == "PNG"


def test_a_detector_that_keeps_its_word_lies_on_the_line_and_the_picture_is_small() -> None:
    rates = pl.DataFrame(
        [(f"detector_{number}", promised, promised) for number in range(10) for promised in (12.0, 2.0, 0.5, 0.1)],
        schema=["detector", "promised", "observed"],
        orient="row",
    )
    honest, loud = calibration_plot(rates), calibration_plot(rates.with_columns(pl.col("observed") * 10))
    assert honest != loud
    assert len(honest) < 15_000
