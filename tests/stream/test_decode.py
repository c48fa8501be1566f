"""What counts as a trade, and that a poisoned batch costs nothing but its poison."""

import time
from datetime import datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from cryptotrace_dagster.stream import decode_ticks
from tests.broker import NOON_MS, trade

YEAR_5000_MS = 95_617_584_000_000


def test_an_aggregate_trade_is_read_to_the_last_digit() -> None:
    value = trade(7, "1000SATSUSDT", p="0.00000001", q="123456789012.12345678", f=90, l=93, T=NOON_MS, m=True)
    ticks, refused = decode_ticks([value], [NOON_MS + 85])
    assert refused == {}
    assert ticks.row(0, named=True) == {
        "symbol": "1000SATSUSDT",
        "trade_id": 7,
        "price": Decimal("0.00000001"),
        "quantity": Decimal("123456789012.12345678"),
        "first_trade_id": 90,
        "last_trade_id": 93,
        "trade_time": datetime(2026, 1, 5, 12),
        "is_buyer_maker": True,
        "received_at": datetime(2026, 1, 5, 12, 0, 0, 85_000),
    }


def test_microseconds_are_told_from_milliseconds_by_their_size() -> None:
    ticks, _ = decode_ticks([trade(1, T=NOON_MS), trade(2, T=NOON_MS * 1000 + 123)], [NOON_MS, NOON_MS])
    assert ticks["trade_time"].to_list() == [datetime(2026, 1, 5, 12), datetime(2026, 1, 5, 12, 0, 0, 123)]


def test_a_single_trade_stands_for_itself() -> None:
    value = b'{"e":"trade","s":"BTCUSDT","t":5,"p":"1.0","q":"2","T":1767614400000,"m":false}'
    ticks, refused = decode_ticks([value], [NOON_MS])
    assert refused == {}
    assert ticks.select("trade_id", "first_trade_id", "last_trade_id").row(0) == (5, 5, 5)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "Input data was truncated"),
        (b"garbage", "malformed"),
        (b'{"s":"BTCUSDT","a":1', "truncated"),
        (b"null", "Expected `object`"),
        (b"\xff\xfe", "malformed"),
        (b'{"s":"BTCUSDT","p":"1","q":"1","T":1,"m":true}', "neither an aggregate trade id"),
        (trade(1) + b"\n" + trade(2), "trailing"),
        (trade(1, a=None), "neither an aggregate trade id"),
        (trade(1, s="BTC USDT"), "symbol"),
        (trade(1, s=""), "symbol"),
        (trade(1, p="-1.0"), "price"),
        (trade(1, p="NaN"), "price"),
        (trade(1, p="1e3"), "price"),
        (trade(1, p="0.000000001"), "price"),
        (trade(1, q="1234567890123.0"), "quantity"),
        (trade(1, l=0), "out of order"),
        (trade(-1), ">= 0"),
        (trade(1, a=2**62), "<= 4611686018427387903"),
        (trade(1, a=2**64), "<= 4611686018427387903"),
        (trade(1, T=0), "trade time"),
        (trade(1, T=YEAR_5000_MS), "a year ahead"),
        (trade(1, T=10**18), "trade time"),
        (trade(1, m="yes"), "Expected `bool`"),
    ],
)
def test_what_is_no_trade_is_set_aside_with_its_reason(value: bytes, reason: str) -> None:
    ticks, refused = decode_ticks([trade(1), value, trade(3)], [NOON_MS] * 3)
    assert list(refused) == [1]
    assert reason in refused[1]
    assert ticks["trade_id"].to_list() == [1, 3]


def test_two_trades_in_one_message_do_not_hide_behind_an_empty_one() -> None:
    """Joined by line ends, they would count as two readable messages."""
    ticks, refused = decode_ticks([trade(1) + b"\n" + trade(2), b""], [NOON_MS] * 2)
    assert (ticks.height, sorted(refused)) == (0, [0, 1])


@given(st.lists(st.one_of(st.integers(1, 99).map(trade), st.binary(max_size=40)), max_size=12), st.randoms())
def test_a_message_means_the_same_whatever_stands_beside_it(values: list[bytes], _random: object) -> None:
    together, refused = decode_ticks(values, [NOON_MS] * len(values))
    alone = [decode_ticks([value], [NOON_MS]) for value in values]
    assert sorted(refused) == [index for index, (_, reasons) in enumerate(alone) if reasons]
    readable = [ticks for ticks, _ in alone if ticks.height]
    assert together.height == len(readable)
    for index, ticks in enumerate(readable):
        assert_frame_equal(together[index], ticks)


def test_one_poisoned_message_in_a_large_batch_costs_no_minutes() -> None:
    values = [trade(number) for number in range(50_000)]
    values[25_000] = b"poison"
    began = time.process_time()
    ticks, refused = decode_ticks(values, [NOON_MS] * len(values))
    assert (ticks.height, list(refused)) == (49_999, [25_000])
    assert time.process_time() - began < 5
