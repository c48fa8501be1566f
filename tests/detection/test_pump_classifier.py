"""Labels become a classifier: from answers and files, out of time, and never from the future."""

import itertools
import json
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from typer.testing import CliRunner

from cryptotrace_dagster.cli.main import build_app
from cryptotrace_dagster.domain.detectors import find_detectors
from cryptotrace_dagster.domain.detectors.base import decode_state, encode_state
from cryptotrace_dagster.domain.detectors.pump_classifier import FEWEST_EVENTS, ClassifierModel, PumpClassifierDetector
from cryptotrace_dagster.domain.rules import AnomalyRule, RuleBook
from cryptotrace_dagster.domain.windows import Window
from cryptotrace_dagster.pipeline.backtest import backtest_stored
from cryptotrace_dagster.pipeline.detection import Detection
from cryptotrace_dagster.pipeline.feedback import record_feedback
from cryptotrace_dagster.pipeline.labels import import_labels
from cryptotrace_dagster.pipeline.trade_files import TradeFileError
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.tables import ALERTS, ANOMALY_SCORES, DETECTOR_MODELS, EVENT_LABELS, FEATURES, RAW_TICKS
from tests.detection.history import START, stored, trades

HOURS = 27
PUMPED = 24
MIDNIGHT = START + timedelta(days=1)
LATER_JUMP, LATER_PUMP = START + timedelta(hours=25), START + timedelta(hours=26)


def pump_time(number: int) -> object:
    return START + timedelta(hours=10, minutes=25 * number)


def jumping(ticks: pl.DataFrame, *hours: float) -> pl.DataFrame:
    """Return the trades with the price 3 % higher from each hour on, though nobody crowds."""
    price = pl.col("price").cast(pl.Float64)
    for hour in hours:
        price = price * pl.when(pl.col("trade_time") >= START + timedelta(hours=hour)).then(1.03).otherwise(1.0)
    return ticks.with_columns(price.round(8)).cast(RAW_TICKS.polars_schema)


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """Return a warehouse of one day with 24 pumps and twice as many jumps, and of the first hours after it."""
    warehouse = Warehouse(str(Path(tmp_path_factory.mktemp("labelled")) / "market.duckdb"))
    warehouse.create()
    frames = [
        jumping(trades(f"COIN{number:02d}BTC", hours=HOURS, seed=number, pump_at=pump_time(number)), 7, 9)  # type: ignore[arg-type]
        for number in range(PUMPED)
    ]
    frames.append(jumping(trades("LATERBTC", hours=HOURS, seed=99, pump_at=LATER_PUMP), 8, 25))
    stored(warehouse, pl.concat(frames), HOURS)
    return warehouse


@pytest.fixture(scope="module")
def label_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = Path(tmp_path_factory.mktemp("labels")) / "pumps.csv"
    lines = [f"COIN{number:02d},{pump_time(number)}" for number in range(PUMPED)]
    path.write_text("\n".join(["symbol,timestamp", *lines]) + "\n")
    return path


@pytest.fixture
def trained(market: Warehouse, label_file: Path) -> ClassifierModel:
    forget(market)
    import_labels(market, label_file, "pump", MIDNIGHT)
    Detection(market, find_detectors("pump_classifier")).refresh_models(MIDNIGHT)
    return model_of(market)


def forget(warehouse: Warehouse) -> None:
    with warehouse.transaction() as transaction:
        for table in (EVENT_LABELS, DETECTOR_MODELS, ANOMALY_SCORES):
            transaction.execute(f"DELETE FROM {table.name}")


def model_of(warehouse: Warehouse) -> ClassifierModel:
    (row,) = warehouse.read(f"SELECT valid_from, sample FROM {DETECTOR_MODELS.name}").rows()
    return ClassifierModel(*row)


def bars_of(warehouse: Warehouse, symbol: str) -> pl.DataFrame:
    window = Window(START, START + timedelta(hours=HOURS))
    return warehouse.read_window(FEATURES, window, bar_interval="5s", symbol=symbol).sort("bar_start")


def advanced(detector: PumpClassifierDetector, bars: pl.DataFrame, cuts: list[int]) -> pl.DataFrame:
    state, parts = detector.begin(), []
    for start, end in itertools.pairwise(sorted({0, bars.height, *(cut % bars.height for cut in cuts)})):
        state, scores = detector.advance(decode_state(encode_state(state)), bars[start:end])
        parts.append(scores)
    return pl.concat(parts)


def test_an_answer_about_an_alert_is_a_label_and_the_newest_word_counts(warehouse: Warehouse) -> None:
    alert = {
        "alert_id": "a1",
        "rule": "pump",
        "symbol": "VIABTC",
        "severity": "critical",
        "phase": "opening",
        "conversation_id": "a1",
        "bar_interval": "5s",
        "bar_start": START,
        "detector": "pump",
        "score": 2.0,
        "event_time": START + timedelta(seconds=4),
        "available_at": START,
        "raised_at": START,
        "price": None,
        "title": "",
        "message": "",
        "evidence": "{}",
        "retracted_at": None,
    }
    other = alert | {"alert_id": "a2", "rule": "fast move", "detector": None, "event_time": START}
    with warehouse.transaction() as transaction:
        transaction.append(ALERTS, pl.DataFrame([alert, other], schema=ALERTS.polars_schema))
    record_feedback(warehouse, "a1", True)
    record_feedback(warehouse, "a1", False, "a listing")
    record_feedback(warehouse, "a2", True)
    record_feedback(warehouse, "gone", True)
    labels = warehouse.read(
        f"SELECT symbol, event_time, kind, is_event, source, note FROM {EVENT_LABELS.name} ORDER BY kind DESC"
    )
    assert labels.rows() == [
        ("VIABTC", START + timedelta(seconds=4), "pump", False, "feedback", "a listing"),
        ("VIABTC", START, "fast move", True, "feedback", None),
    ]


def test_a_label_file_is_imported_by_the_command_once_however_often(tmp_path: Path) -> None:
    path = tmp_path / "pumps.csv"
    path.write_text("symbol,timestamp\nvia/btc,2026-01-05T18:00:00Z\nOAX,2026-01-06T17:00:00Z\n")
    arguments = ["labels", "import", str(path), "--data-dir", str(tmp_path)]
    for _ in range(2):
        result = CliRunner().invoke(build_app(), arguments, catch_exceptions=False)
        assert "2 labels of kind pump" in result.stdout
    (found,) = tmp_path.glob("*.duckdb")
    rows = Warehouse(str(found)).read(f"SELECT symbol, kind, is_event, origin FROM {EVENT_LABELS.name} ORDER BY symbol")
    assert rows.rows() == [("OAX", "pump", True, "pumps.csv"), ("VIABTC", "pump", True, "pumps.csv")]


def test_labels_without_a_symbol_are_refused(warehouse: Warehouse, tmp_path: Path) -> None:
    (tmp_path / "pumps.csv").write_text("timestamp\n2026-01-05T18:00:00Z\n")
    with pytest.raises(TradeFileError, match="symbol column"):
        import_labels(warehouse, tmp_path / "pumps.csv", "pump", START)


def test_without_labels_nothing_is_learned_and_nothing_said(market: Warehouse) -> None:
    forget(market)
    detection = Detection(market, find_detectors("*pump*"))
    assert not detection.learns
    window = Window(START, START + timedelta(hours=HOURS))
    detection.refresh_scores(window, window.end)
    assert market.read(f"SELECT DISTINCT detector FROM {ANOMALY_SCORES.name}").rows() == [("pump",)]


def test_too_few_labels_make_no_model_and_the_report_says_how_many_are_needed(
    market: Warehouse, label_file: Path, tmp_path: Path
) -> None:
    forget(market)
    few = tmp_path / "few.csv"
    few.write_text("\n".join(label_file.read_text().splitlines()[:6]))
    import_labels(market, few, "pump", MIDNIGHT)
    report = Detection(market, find_detectors("pump_classifier")).refresh_models(MIDNIGHT)
    assert report.rows == 0
    assert report.details == {"labelled_pumps": 5, "labelled_pumps_needed": FEWEST_EVENTS}


def test_enough_labels_make_a_model_that_is_validated_on_later_pumps(
    market: Warehouse, trained: ClassifierModel
) -> None:
    validation = json.loads(market.read(f"SELECT validation FROM {DETECTOR_MODELS.name}").item())
    assert (validation["trained_pumps"], validation["later_pumps"]) == (16, 8)
    assert validation["recall"] >= 0.75
    assert validation["calm_share"] <= 0.25
    assert trained.valid_from == MIDNIGHT


def test_a_model_knows_nothing_that_came_after_its_midnight(market: Warehouse, trained: ClassifierModel) -> None:
    late = pl.DataFrame(
        [("LATERBTC", LATER_PUMP, "pump", True, "file", "late.csv", None, LATER_PUMP, None)],
        schema=EVENT_LABELS.polars_schema,
        orient="row",
    )
    with market.transaction() as transaction:
        transaction.append(EVENT_LABELS, late)
        transaction.execute(f"UPDATE {EVENT_LABELS.name} SET examples = NULL")
    Detection(market, find_detectors("pump_classifier")).refresh_models(MIDNIGHT)
    assert model_of(market) == trained


def test_a_label_outlives_its_bars(market: Warehouse, trained: ClassifierModel) -> None:
    """Fine bars go after a week; what they taught must not."""
    later = MIDNIGHT + timedelta(days=60)
    Detection(market, find_detectors("pump_classifier")).refresh_models(later)
    rows = market.read(f"SELECT sample FROM {DETECTOR_MODELS.name} ORDER BY valid_from")["sample"].to_list()
    assert rows[1] == rows[0] == trained.sample


def test_a_pump_is_told_from_a_jump_of_the_price(market: Warehouse, trained: ClassifierModel) -> None:
    scores = advanced(PumpClassifierDetector((trained,)), bars_of(market, "LATERBTC"), [])
    assert scores["bar_start"].min() >= MIDNIGHT  # type: ignore[operator]

    def strangest(near: object) -> float:
        around = pl.col("bar_start").is_between(near, near + timedelta(seconds=60))  # type: ignore[operator]
        rates = scores.filter(around)["times_a_day"]
        return float(rates.min()) if rates.len() else 24.0  # type: ignore[arg-type]

    assert strangest(LATER_PUMP) < 1.0 < strangest(LATER_JUMP)


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, 10**6), min_size=1, max_size=6))
def test_the_scores_are_the_same_however_the_history_is_cut(
    market: Warehouse, trained: ClassifierModel, cuts: list[int]
) -> None:
    detector, bars = PumpClassifierDetector((trained,)), bars_of(market, "LATERBTC")
    assert_frame_equal(advanced(detector, bars, cuts), advanced(detector, bars, []), check_exact=True)


def test_a_backtest_of_stored_history_learns_from_the_labels_too(market: Warehouse, trained: ClassifierModel) -> None:
    rule = AnomalyRule(name="labelled pump", kind="anomaly", detector="pump_classifier", at_most_a_day=0.02)
    report = backtest_stored(market, RuleBook(rules=(rule,)), Window(MIDNIGHT, START + timedelta(hours=HOURS)))
    assert "pump_classifier" in set(report.scores["detector"])
