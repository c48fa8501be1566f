"""Ranges of trade ids against the plain sets that they stand for."""

import itertools
from datetime import timedelta

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from cryptotrace_dagster.domain import trade_ids
from cryptotrace_dagster.tables import TRADE_ID_RANGES
from tests.builders import NOON, ticks

IDS = st.lists(st.tuples(st.sampled_from(["BTCUSDT", "ETHUSDT"]), st.integers(1, 40)), max_size=40)


def _frame(pairs: list[tuple[str, int]]):  # type: ignore[no-untyped-def]
    return ticks(*({"symbol": symbol, "trade_id": trade_id} for symbol, trade_id in pairs))


def _ids(ranges) -> set[tuple[str, int]]:  # type: ignore[no-untyped-def]
    rows = ranges.select("symbol", "first_id", "last_id").iter_rows()
    return {(symbol, trade_id) for symbol, first, last in rows for trade_id in range(first, last + 1)}


@given(IDS, IDS)
def test_ranges_hold_exactly_the_ids_that_were_seen_in_any_order(
    first: list[tuple[str, int]], second: list[tuple[str, int]]
) -> None:
    ranges = trade_ids.union(trade_ids.ranges_of(_frame(first)), trade_ids.ranges_of(_frame(second)))
    assert _ids(ranges) == set(first) | set(second)
    for _, group in ranges.group_by("symbol"):
        bounds = list(zip(group["first_id"], group["last_id"], strict=True))
        assert all(later[0] > earlier[1] + 1 for earlier, later in itertools.pairwise(bounds))


@given(IDS, IDS)
def test_unseen_returns_each_new_id_once_and_no_stored_one(
    stored: list[tuple[str, int]], incoming: list[tuple[str, int]]
) -> None:
    fresh = trade_ids.unseen(_frame(incoming), trade_ids.ranges_of(_frame(stored)))
    pairs = list(zip(fresh["symbol"], fresh["trade_id"], strict=True))
    assert sorted(pairs) == sorted(set(incoming) - set(stored))


@given(IDS)
def test_of_an_id_that_came_twice_the_first_one_received_stays(incoming: list[tuple[str, int]]) -> None:
    """Its latency is the true one; the answer is in the order of symbol and id, however the trades came."""
    received = [NOON + timedelta(seconds=(7 * index) % 41) for index in range(len(incoming))]
    frame = _frame(incoming).with_columns(received_at=pl.Series(received, dtype=pl.Datetime("us")))
    earliest = {
        pair: min(at for other, at in zip(incoming, received, strict=True) if other == pair) for pair in incoming
    }
    rows = trade_ids.unseen(frame, TRADE_ID_RANGES.empty()).select("symbol", "trade_id", "received_at").rows()
    assert rows == [(*pair, earliest[pair]) for pair in sorted(earliest)]


@given(IDS)
def test_gaps_are_exactly_the_ids_between_first_and_last_that_are_not_stored(pairs: list[tuple[str, int]]) -> None:
    gaps = trade_ids.gaps_in(trade_ids.ranges_of(_frame(pairs)))
    missing = {
        (symbol, trade_id)
        for symbol, first, last in gaps.select("symbol", "first_missing_id", "last_missing_id").iter_rows()
        for trade_id in range(first, last + 1)
    }
    expected = set()
    for symbol in {symbol for symbol, _ in pairs}:
        own = {trade_id for name, trade_id in pairs if name == symbol}
        expected |= {(symbol, trade_id) for trade_id in range(min(own), max(own)) if trade_id not in own}
    assert missing == expected


def test_no_ranges_have_no_gaps() -> None:
    assert trade_ids.gaps_in(TRADE_ID_RANGES.empty()).is_empty()
