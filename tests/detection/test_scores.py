"""The same history gives the same features and scores, however it comes; a pump stands out."""

import itertools
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from cryptotrace_dagster.domain.detectors import find_detectors
from cryptotrace_dagster.domain.detectors.base import WHOLE_MARKET, Detector, decode_state, encode_state
from cryptotrace_dagster.domain.detectors.isolation_forest import IsolationForestDetector, fit_forest
from cryptotrace_dagster.domain.windows import Window
from cryptotrace_dagster.pipeline import detection
from cryptotrace_dagster.pipeline.bars import refresh_bars
from cryptotrace_dagster.pipeline.detection import Detection
from cryptotrace_dagster.pipeline.ingest import store_ticks
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.tables import ANOMALY_SCORES, DETECTOR_STATES, FEATURES
from tests.detection.history import START, stored, trades

HOURS = 14
PUMP_AT = START + timedelta(hours=12, minutes=30)


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """Return a warehouse with the features of two symbols, one of which is pumped after twelve and a half hours."""
    warehouse = Warehouse(str(Path(tmp_path_factory.mktemp("market")) / "market.duckdb"))
    warehouse.create()
    ticks = pl.concat([trades(hours=HOURS, pump_at=PUMP_AT), trades("CALMBTC", hours=HOURS, seed=1)])
    stored(warehouse, ticks, HOURS)
    return warehouse


def everything(warehouse: Warehouse) -> pl.DataFrame:
    return warehouse.read(f"SELECT * FROM {ANOMALY_SCORES.name} ORDER BY ALL")


def forget_scores(warehouse: Warehouse) -> None:
    with warehouse.transaction() as transaction:
        transaction.execute(f"DELETE FROM {ANOMALY_SCORES.name}")
        transaction.execute(f"DELETE FROM {DETECTOR_STATES.name}")


def whole_day(warehouse: Warehouse) -> pl.DataFrame:
    forget_scores(warehouse)
    window = Window(START, START + timedelta(hours=HOURS))
    Detection(warehouse).refresh_scores(window, window.end)
    return everything(warehouse)


def advanced(detector: Detector, bars: pl.DataFrame, cuts: list[int]) -> pl.DataFrame:
    state, parts = detector.begin(), []
    bounds = sorted({0, bars.height, *(cut % bars.height for cut in cuts)})
    for start, end in itertools.pairwise(bounds):
        state, scores = detector.advance(decode_state(encode_state(state)), bars[start:end])
        parts.append(scores)
    return pl.concat(parts)


@pytest.mark.parametrize("detector", find_detectors(), ids=lambda detector: detector.name)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, 10**6), min_size=1, max_size=6))
def test_no_detector_sees_the_future(market: Warehouse, detector: Detector, cuts: list[int]) -> None:
    """Any cut of the history, each part with nothing but the stored state, finds the scores of the whole."""
    symbols = ["CALMBTC", "THINBTC"] if detector.over_market else ["THINBTC"]
    window = Window(START, START + timedelta(hours=HOURS))
    bars = market.read_window(FEATURES, window, bar_interval=detector.bar_interval, symbol=symbols)
    bars = bars.sort("bar_start", "symbol")
    if detector.over_market:  # all bars of an instant close together
        starts = bars["bar_start"].unique(maintain_order=True)
        cuts = [int(bars["bar_start"].search_sorted(starts[cut % len(starts)])) for cut in cuts]
    assert_frame_equal(advanced(detector, bars, cuts), advanced(detector, bars, []), check_exact=True)
    assert WHOLE_MARKET not in symbols


def test_a_learned_detector_scores_alike_however_the_history_is_cut_and_knows_only_the_past(market: Warehouse) -> None:
    window, valid_from = Window(START, START + timedelta(hours=HOURS)), START + timedelta(hours=11)
    minutes = market.read_window(FEATURES, window, bar_interval="1m").sort("bar_start", "symbol")
    model = fit_forest(minutes, valid_from)
    assert model is not None
    assert model == fit_forest(minutes.filter(pl.col("bar_start") < valid_from), valid_from)
    bars = minutes.filter(pl.col("symbol") == "THINBTC")
    detector = IsolationForestDetector((model,))
    whole = advanced(detector, bars, [])
    assert whole["bar_start"].min() >= valid_from  # type: ignore[operator]
    assert_frame_equal(advanced(detector, bars, [17, bars.height - 40, bars.height - 9]), whole, check_exact=True)
    assert whole.sort("raw_score")["bar_start"][-1] >= PUMP_AT - timedelta(minutes=1)


def test_micro_batches_and_restarts_find_the_scores_of_the_whole_day(market: Warehouse) -> None:
    expected = whole_day(market)
    forget_scores(market)
    assert set(expected["detector"]) >= {"pump", "seasonal_trend", "regime_change", "combined", "data_silence"}
    detection, reached = Detection(market), START
    for number, minutes in enumerate([1, 7, 61, 130, 2, 3, 180, 59, 1, 200, 11, 90, 95]):
        until = min(reached + timedelta(minutes=minutes, seconds=number), START + timedelta(hours=HOURS))
        detection.refresh_scores(Window(reached.replace(second=0), until), until)
        reached = until
        if number % 3 == 2:
            detection = Detection(market)  # a new live run picks up the stored states
    assert reached == START + timedelta(hours=HOURS)
    assert_frame_equal(everything(market), expected, check_exact=True)


def test_late_trades_change_the_scores_after_them_as_if_they_had_come_in_time(warehouse: Warehouse) -> None:
    ticks = trades(hours=4, a_minute=10)
    is_late = pl.col("trade_time").is_between(START + timedelta(minutes=70), START + timedelta(minutes=75))
    window = stored(warehouse, ticks.filter(~is_late), 4)
    detection = Detection(warehouse)
    detection.refresh_scores(window, window.end)
    incomplete = everything(warehouse)
    store_ticks(warehouse, ticks.filter(is_late), START)
    hole = Window(START + timedelta(minutes=70), START + timedelta(minutes=75))
    refresh_bars(warehouse, hole)
    detection.refresh_features(hole)
    detection.refresh_scores(hole, window.end)
    healed = everything(warehouse)
    forget_scores(warehouse)
    Detection(warehouse).refresh_scores(window, window.end)
    assert not healed.equals(incomplete)
    assert_frame_equal(healed, everything(warehouse), check_exact=True)


@pytest.mark.parametrize("times", [1, 99], ids=["once", "again and again"])
def test_what_others_change_while_the_detectors_compute_is_seen(
    market: Warehouse, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """The store is free meanwhile; scores of what is no longer stored must not be kept."""
    expected, changes = whole_day(market), []
    scores_of = detection._scores_of

    def disturbed(fold: detection._Fold, window: Window) -> detection._Scores:
        scores = scores_of(fold, window)
        if market._held is None and len(changes) < times:  # one more bar of the pump goes away
            bar = f"bar_interval = '5s' AND bar_start = TIMESTAMP '{PUMP_AT + timedelta(seconds=5 * len(changes))}'"
            changes.append(market.read(f"SELECT * FROM {FEATURES.name} WHERE {bar}"))
            with market.transaction() as transaction:
                transaction.execute(f"DELETE FROM {FEATURES.name} WHERE {bar}")
        return scores

    monkeypatch.setattr(detection, "_scores_of", disturbed)
    try:
        found = whole_day(market)
        assert len(changes) == min(times, 6), (
            "two lines of detectors, each tried three times before others are kept out"
        )
        assert not found.equals(expected), "the bars that went away have no scores"
        monkeypatch.undo()
        assert_frame_equal(found, whole_day(market), check_exact=True)
    finally:
        with market.transaction() as transaction:
            for rows in changes:
                transaction.append(FEATURES, rows)


def test_only_closed_bars_are_scored(market: Warehouse) -> None:
    forget_scores(market)
    watermark = PUMP_AT + timedelta(seconds=22)
    Detection(market).refresh_scores(Window(START, START + timedelta(hours=HOURS)), watermark)
    last = market.read(f"SELECT max(bar_start) FROM {ANOMALY_SCORES.name} WHERE bar_interval = '5s'").item()
    assert last == PUMP_AT + timedelta(seconds=15)


def test_a_pump_is_by_far_the_strangest_thing_of_the_day(market: Warehouse) -> None:
    pumps = whole_day(market).filter(pl.col("detector") == "pump")
    near = pl.col("bar_start").is_between(PUMP_AT, PUMP_AT + timedelta(seconds=60)) & (pl.col("symbol") == "THINBTC")
    assert pumps.filter(near)["times_a_day"].min() < 0.02  # type: ignore[operator]
    assert pumps.filter(~near)["times_a_day"].min() > 0.02  # type: ignore[operator]
