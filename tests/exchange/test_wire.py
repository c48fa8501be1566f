"""The exchange's number formats and klines, against plain decimal arithmetic."""

import json
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptotrace_dagster.exchange import wire
from cryptotrace_dagster.exchange.trades import Trades

MINUTE_US = 60_000_000
AMOUNTS = st.integers(1, 10**18)


def _trades(rows: list[tuple[int, int, int, int, bool]]) -> Trades:
    """Return trades from (price, quantity, fills, time, is_buyer_maker)."""
    prices, quantities, fills, times, makers = (np.array(column) for column in zip(*rows, strict=True))
    last = np.cumsum(fills)
    ids = np.arange(1, len(rows) + 1)
    return Trades(ids, prices, quantities, last - fills + 1, last, np.sort(times), makers)


ROWS = st.lists(
    st.tuples(st.integers(1, 10**13), AMOUNTS, st.integers(1, 5), st.integers(0, 5 * MINUTE_US), st.booleans()),
    min_size=1,
    max_size=30,
)


@given(ROWS)
@settings(max_examples=100, deadline=None)
def test_klines_are_exact_for_every_size_of_price_and_quantity(rows: list[tuple[int, int, int, int, bool]]) -> None:
    trades = _trades(rows)
    klines = {kline.open_us: kline for kline in wire.klines_of(trades, MINUTE_US)}
    ticks = list(wire.ticks_of("BTCUSDT", trades))
    assert set(klines) == {tick.time_us // MINUTE_US * MINUTE_US for tick in ticks}
    for open_us, kline in klines.items():
        inside = [tick for tick in ticks if tick.time_us // MINUTE_US * MINUTE_US == open_us]
        bought = [tick for tick in inside if not tick.is_buyer_maker]
        assert kline == wire.Kline(
            open_us,
            inside[0].price,
            max(tick.price for tick in inside),
            min(tick.price for tick in inside),
            inside[-1].price,
            sum(tick.quantity for tick in inside),
            sum(tick.price * tick.quantity for tick in inside),
            sum(tick.last_trade_id - tick.first_trade_id + 1 for tick in inside),
            sum(tick.quantity for tick in bought),
            sum(tick.price * tick.quantity for tick in bought),
        )


@pytest.mark.parametrize(
    ("units", "text"), [(0, "0.00000000"), (1, "0.00000001"), (6_183_763_000_000, "61837.63000000")]
)
def test_amounts_have_eight_decimals(units: int, text: str) -> None:
    assert wire.decimal_text(units) == text


@given(st.integers(0, 10**30))
def test_quote_amounts_lose_no_digit(units: int) -> None:
    assert Fraction(wire.quote_text(units)) == Fraction(units, 10**16)


@given(st.integers(1, 20), st.integers(20, 10**12))
def test_single_trades_add_up_to_their_aggregate(fills: int, quantity: int) -> None:
    tick = wire.Tick("BTCUSDT", 5, 100, quantity, 40, 40 + fills - 1, 1_000, True)
    messages = [json.loads(text) for text in wire.trade_messages(tick, 2_000, wire.MICROSECOND)]
    assert [message["t"] for message in messages] == list(range(40, 40 + fills))
    assert sum(Decimal(message["q"]) for message in messages) == Decimal(wire.decimal_text(quantity))
    assert all(Decimal(message["q"]) > 0 for message in messages)


def test_bars_without_trades_lie_flat_at_the_last_price() -> None:
    klines = wire.klines_of(_trades([(5, 1, 1, 0, True), (9, 1, 1, 3 * MINUTE_US, True)]), MINUTE_US)
    filled = wire.with_empty_bars(klines, MINUTE_US, 5 * MINUTE_US)
    assert [(bar.open, bar.close, bar.trade_count) for bar in filled] == [
        (5, 5, 1),
        (5, 5, 0),
        (5, 5, 0),
        (9, 9, 1),
        (9, 9, 0),
    ]
