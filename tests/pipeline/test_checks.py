"""The questions that are put to stored rows, while a live run goes on storing."""

from datetime import timedelta

from cryptotrace_dagster.domain.windows import Window, day_window, utc_now
from cryptotrace_dagster.pipeline.bars import refresh_bars
from cryptotrace_dagster.pipeline.checks import Made, bars_add_up_to_the_ticks, ticks_are_fresh
from cryptotrace_dagster.pipeline.ingest import store_ticks
from cryptotrace_dagster.storage import Warehouse
from tests.builders import NOON, ticks

DAY = day_window(NOON.date())


def test_ticks_that_still_await_their_bars_are_not_missed(warehouse: Warehouse) -> None:
    made = _made_bars_of_two_minutes(warehouse)
    store_ticks(warehouse, ticks({"trade_id": 9, "trade_time": NOON + timedelta(minutes=7)}), utc_now())

    assert bars_add_up_to_the_ticks(warehouse, made).passed


def test_a_bar_that_does_not_add_up_is_found_before_the_first_stale_tick(warehouse: Warehouse) -> None:
    made = _made_bars_of_two_minutes(warehouse)
    with warehouse.transaction() as transaction:
        transaction.execute("DELETE FROM ohlc_bars WHERE bar_interval = '5m'")
    store_ticks(warehouse, ticks({"trade_id": 9, "trade_time": NOON + timedelta(minutes=7)}), utc_now())

    found = bars_add_up_to_the_ticks(warehouse, made)

    assert not found.passed
    assert "BTCUSDT 5m" in found.sentence


def test_who_only_asks_compares_what_nobody_has_still_to_make(warehouse: Warehouse) -> None:
    made = _made_bars_of_two_minutes(warehouse)
    with warehouse.transaction() as transaction:
        transaction.execute("DELETE FROM ohlc_bars")

    assert not bars_add_up_to_the_ticks(warehouse, made).passed
    assert bars_add_up_to_the_ticks(warehouse).passed


def test_a_backfill_does_not_make_a_silent_feed_look_fresh(warehouse: Warehouse) -> None:
    now = NOON + timedelta(hours=1)
    store_ticks(warehouse, ticks({"trade_id": 9, "trade_time": NOON, "received_at": NOON}), now)
    store_ticks(warehouse, ticks({"trade_id": 1, "trade_time": NOON - timedelta(days=1), "received_at": now}), now)
    assert not ticks_are_fresh(warehouse, now).passed


def _made_bars_of_two_minutes(warehouse: Warehouse) -> Made:
    """Store two ticks and make the day's bars as a run does; they stay recorded as stale until all stages are made."""
    rows = [{"trade_id": number, "trade_time": NOON + timedelta(minutes=number)} for number in (0, 1)]
    store_ticks(warehouse, ticks(*rows), utc_now())
    made = Made(DAY, utc_now())
    refresh_bars(warehouse, Window(DAY.start, DAY.end))
    return made
