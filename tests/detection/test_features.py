"""Features: formulas by example, and the same rows however the day is cut."""

from datetime import timedelta
from decimal import Decimal

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from cryptotrace_dagster.domain.windows import Window
from cryptotrace_dagster.pipeline.bars import refresh_bars
from cryptotrace_dagster.pipeline.detection import Detection
from cryptotrace_dagster.pipeline.ingest import store_ticks
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.tables import FEATURES
from tests.builders import NOON, ticks
from tests.detection.history import START, stored, trades


def features_of(warehouse: Warehouse) -> pl.DataFrame:
    return warehouse.read(f"SELECT * FROM {FEATURES.name} ORDER BY bar_interval, symbol, bar_start")


def test_five_second_features_follow_their_formulas(warehouse: Warehouse) -> None:
    same = NOON + timedelta(milliseconds=1500)
    frame = ticks(
        {"price": Decimal("100"), "quantity": Decimal("2"), "is_buyer_maker": True},
        {"price": Decimal("101"), "trade_time": same},
        {"price": Decimal("102"), "trade_time": same},
        {"price": Decimal("102"), "trade_time": NOON + timedelta(seconds=6)},
    )
    store_ticks(warehouse, frame, NOON)
    window = Window(NOON, NOON + timedelta(seconds=10))
    refresh_bars(warehouse, window)
    Detection(warehouse).refresh_features(window)
    first, second = features_of(warehouse).filter(pl.col("bar_interval") == "5s").iter_rows(named=True)
    assert (first["close"], first["tick_count"], first["quote_volume"]) == (102.0, 3, 403.0)
    assert (first["buy_orders"], first["rush_orders"]) == (1, 1)
    assert first["taker_imbalance"] == pytest.approx(2 * 203 / 403 - 1)
    assert first["log_return"] is None  # nothing is known before it
    assert (second["log_return"], second["rush_orders"], second["buy_orders"]) == (0.0, 0, 1)


def test_indicators_are_null_until_their_lookback_is_full(warehouse: Warehouse) -> None:
    stored(warehouse, trades(hours=4, a_minute=20), 4)
    minutes = features_of(warehouse).filter(pl.col("bar_interval") == "1m")
    first_known = {
        name: minutes.filter(pl.col(name).is_not_null())["bar_start"].min() for name in ("rsi", "bollinger_position")
    }
    begin = minutes["bar_start"][0]
    assert first_known == {"rsi": begin + timedelta(minutes=120), "bollinger_position": begin + timedelta(minutes=19)}
    assert minutes["volume_deviation"].head(60).null_count() == 60
    assert minutes["rsi"].drop_nulls().is_between(0, 100).all()


def test_a_day_in_pieces_gives_the_features_of_the_whole(warehouse: Warehouse) -> None:
    """Guards against an indicator whose memory depends on where the window began."""
    window = stored(warehouse, trades(hours=9, a_minute=4), 9)
    expected = features_of(warehouse)
    with warehouse.transaction() as transaction:
        transaction.execute(f"DELETE FROM {FEATURES.name}")
    detection, reached = Detection(warehouse), START
    for minutes in [33, 1, 100, 7, 59, 181, 60, 99]:
        until = min(reached + timedelta(minutes=minutes), window.end)
        detection.refresh_features(Window(reached, until))
        reached = until
    assert reached == window.end
    assert_frame_equal(features_of(warehouse), expected, check_exact=True)


def test_a_live_run_of_micro_batches_ends_with_the_features_of_the_whole(warehouse: Warehouse) -> None:
    """Guards against a minute that is never finished because no later window touches it."""
    frame = trades(hours=1, a_minute=30)
    stored(warehouse, frame, 1)
    whole_minutes = pl.col("bar_start") < frame["trade_time"].max().replace(second=0, microsecond=0)  # type: ignore[union-attr]
    expected = features_of(warehouse).filter(whole_minutes)
    with warehouse.transaction() as transaction:
        transaction.execute(f"DELETE FROM {FEATURES.name}")
    detection = Detection(warehouse)
    times = frame["trade_time"].to_list()
    for first, last in zip(times[::40], [*times[39::40], times[-1]], strict=False):
        detection.refresh_features(Window(first.replace(second=0, microsecond=0), last + timedelta(microseconds=1)))
    assert_frame_equal(features_of(warehouse).filter(whole_minutes), expected, check_exact=True)
