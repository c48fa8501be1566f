"""Bars against a plain re-count in Python, under any order of arrival, and against the exchange's own klines."""

import csv
from collections import defaultdict
from datetime import datetime, timedelta
from decimal import Decimal, localcontext
from pathlib import Path

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptotrace_dagster.domain.bars import BAR_INTERVALS, bars_of
from cryptotrace_dagster.domain.windows import EPOCH, floor
from cryptotrace_dagster.tables import OHLC_BARS
from tests.builders import NOON, ticks
from tests.recordings import recorded_ticks

TRADES = st.lists(
    st.tuples(
        st.integers(0, 200_000),
        st.decimals(Decimal("0.00000001"), Decimal("10000000"), places=8),
        st.decimals(Decimal("0.00000001"), Decimal("90000000000"), places=8),
        st.integers(1, 5),
        st.booleans(),
    ),
    min_size=1,
    max_size=30,
)


@settings(deadline=None, max_examples=25)
@given(TRADES, st.randoms())
def test_bars_are_the_same_under_any_order_of_arrival_and_equal_a_plain_count(trades, random) -> None:  # type: ignore[no-untyped-def]
    moments = sorted(trade[0] for trade in trades)
    rows = [
        {
            "trade_id": index + 1,
            "trade_time": NOON + timedelta(milliseconds=moment),
            "price": price,
            "quantity": quantity,
            "first_trade_id": index * 10,
            "last_trade_id": index * 10 + count - 1,
            "is_buyer_maker": is_buyer_maker,
        }
        for index, (moment, (_, price, quantity, count, is_buyer_maker)) in enumerate(zip(moments, trades, strict=True))
    ]
    shuffled = rows[:]
    random.shuffle(shuffled)
    assert bars_of(ticks(*shuffled)).equals(bars_of(ticks(*rows)))
    with localcontext(prec=60):  # Python's default of 28 digits would round what the bars keep
        for bar in bars_of(ticks(*rows)).iter_rows(named=True):
            inside = [r for r in rows if bar["bar_start"] <= r["trade_time"] < bar["bar_end"]]  # type: ignore[operator]
            buys = [r for r in inside if not r["is_buyer_maker"]]
            assert bar["open"] == inside[0]["price"] and bar["close"] == inside[-1]["price"]
            assert bar["high"] == max(r["price"] for r in inside) and bar["low"] == min(r["price"] for r in inside)  # type: ignore[type-var]
            assert bar["volume"] == sum(r["quantity"] for r in inside)  # type: ignore[misc]
            assert bar["quote_volume"] == sum(r["price"] * r["quantity"] for r in inside)  # type: ignore[operator]
            assert bar["taker_buy_volume"] == sum(r["quantity"] for r in buys)  # type: ignore[misc]
            assert bar["tick_count"] == len(inside)
            assert bar["trade_count"] == sum(r["last_trade_id"] - r["first_trade_id"] + 1 for r in inside)  # type: ignore[operator]


def test_every_interval_names_its_bars_by_their_start() -> None:
    moment = datetime(2026, 3, 4, 13, 47, 59, 999_999)
    bars = bars_of(ticks({"trade_time": moment}))
    starts = dict(zip(bars["bar_interval"], bars["bar_start"], strict=True))
    assert starts == {name: floor(moment, step) for name, step in BAR_INTERVALS.items()}


def test_an_interval_without_trades_has_no_bar() -> None:
    bars = bars_of(ticks({"trade_time": NOON}, {"trade_time": NOON + timedelta(minutes=3)}))
    minutes = bars.filter(pl.col("bar_interval") == "1m")["bar_start"].to_list()
    assert minutes == [NOON, NOON + timedelta(minutes=3)]


def test_no_ticks_make_no_bars() -> None:
    assert bars_of(ticks()).schema == OHLC_BARS.polars_schema


def test_the_exchanges_own_klines_are_met_to_the_last_digit(recordings: Path) -> None:
    bars = bars_of(recorded_ticks(recordings / "btcusdt_trade_20240808T2354_20240809T0005.jsonl.gz"))
    ours = {bar["bar_start"]: bar for bar in bars.filter(pl.col("bar_interval") == "1m").iter_rows(named=True)}
    compared = 0
    with (recordings / "btcusdt_klines_1m_20240808T2354_20240809T0005.csv").open() as file:
        for kline in csv.reader(file):
            start = EPOCH + timedelta(milliseconds=int(kline[0]))
            if not datetime(2024, 8, 8, 23, 55) <= start <= datetime(2024, 8, 9, 0, 4):
                continue
            bar = ours[start]
            names = ("open", "high", "low", "close", "volume", "quote_volume")
            values = dict(zip(names, [*kline[1:6], kline[7]], strict=True))
            assert {name: bar[name] for name in names} == {name: Decimal(value) for name, value in values.items()}
            assert bar["trade_count"] == int(kline[8])
            assert bar["taker_buy_volume"] == Decimal(kline[9])
            assert bar["taker_buy_quote_volume"] == Decimal(kline[10])
            compared += 1
    assert compared == 10


def test_the_sum_of_longer_bars_is_the_sum_of_shorter_ones() -> None:
    frame = ticks(*({"trade_time": NOON + timedelta(seconds=7 * n), "trade_id": n} for n in range(1, 400)))
    sums = defaultdict(set)
    for interval, volume in bars_of(frame).group_by("bar_interval").agg(pl.col("volume").sum()).iter_rows():
        sums[volume].add(interval)
    assert list(sums.values()) == [set(BAR_INTERVALS)]
