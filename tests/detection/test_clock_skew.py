"""A clock that is off is heard; trades that are fetched afterwards are not taken for one."""

import itertools
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from cryptotrace_dagster.domain.detectors.base import decode_state, encode_state
from cryptotrace_dagster.domain.detectors.data_trouble import CLOCK, ClockSkewDetector
from cryptotrace_dagster.domain.windows import Window
from cryptotrace_dagster.pipeline.detection import Detection
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.tables import FEATURES
from tests.detection.history import START, stored, trades

MINUTES = 2 * 1440
STEP_AT = MINUTES - 30  # half an hour before the end


def arrivals(symbol: str = "BTCUSDT", seed: int = 0, a_minute: float = 0.8) -> pl.DataFrame:
    """Return minutes of a symbol that trades in most of them, received after 80 ms and some."""
    draw = np.random.default_rng(seed)
    minutes = np.flatnonzero(draw.random(MINUTES) < a_minute)
    return pl.DataFrame(
        {
            "symbol": [symbol] * len(minutes),
            "bar_start": pl.Series(minutes).cast(pl.Int64).cast(pl.Duration("us")) * 60_000_000 + START,
            "latency_seconds": 0.08 + draw.exponential(0.03, len(minutes)),
            "last_trade_second": draw.uniform(0, 60, len(minutes)).round(3),
        }
    )


def later_by(bars: pl.DataFrame, seconds: float, since: int = STEP_AT, until: int = MINUTES) -> pl.DataFrame:
    """Return the minutes with a clock that runs ahead by so many seconds from one minute to another."""
    is_off = pl.col("bar_start").is_between(
        START + timedelta(minutes=since), START + timedelta(minutes=until), closed="left"
    )
    return bars.with_columns(pl.col("latency_seconds") + pl.when(is_off).then(seconds).otherwise(0.0))


def fetched_at(bars: pl.DataFrame, minute: int, since: int) -> pl.DataFrame:
    """Return the minutes from `since` up to `minute` as received all at once in that minute."""
    received = START + timedelta(minutes=minute)
    last_trade = pl.col("bar_start") + (pl.col("last_trade_second") * 1e6).cast(pl.Duration("us"))
    is_fetched = pl.col("bar_start").is_between(
        START + timedelta(minutes=since), START + timedelta(minutes=minute), closed="left"
    )
    waited = (pl.lit(received) - last_trade).dt.total_microseconds() / 1e6
    return bars.with_columns(latency_seconds=pl.when(is_fetched).then(waited).otherwise("latency_seconds"))


def scores_of(bars: pl.DataFrame, cuts: tuple[int, ...] = ()) -> pl.DataFrame:
    detector, parts = ClockSkewDetector(), []
    state = detector.begin()
    ordered = bars.sort("bar_start", "symbol")
    bounds = [START + timedelta(minutes=minute) for minute in sorted({0, MINUTES, *cuts})]
    for start, end in itertools.pairwise(bounds):
        part = ordered.filter(pl.col("bar_start").is_between(start, end, closed="left"))
        state, scores = detector.advance(decode_state(encode_state(state)), part)
        parts.append(scores)
    return pl.concat(parts)


def rarest(scores: pl.DataFrame, since: int = 720) -> float:
    """Return the rarest rate after the first half day."""
    found = scores.filter(pl.col("bar_start") >= START + timedelta(minutes=since))["times_a_day"].min()
    return 24.0 if found is None else float(found)  # type: ignore[arg-type]


def test_a_clock_that_steps_by_seconds_is_heard_once_for_all_symbols() -> None:
    bars = pl.concat([arrivals(), arrivals("ETHUSDT", 1), arrivals("THINBTC", 2, a_minute=0.1)])
    scores = scores_of(later_by(bars, 3.0))
    assert scores["symbol"].unique().to_list() == [CLOCK]
    assert rarest(scores) < 0.05
    assert scores.filter(pl.col("times_a_day") < 0.05)["bar_start"].min() == START + timedelta(minutes=STEP_AT)


def test_a_clock_that_goes_back_by_an_hour_is_heard_too() -> None:
    assert rarest(scores_of(later_by(arrivals(), -3600.0))) < 0.05


def test_ordinary_latency_is_quiet() -> None:
    assert rarest(scores_of(arrivals())) > 0.05


def test_trades_that_are_imported_or_fetched_after_an_outage_are_no_skew() -> None:
    """Guards the trap: what was fetched afterwards was received long after it was traded."""
    assert scores_of(fetched_at(arrivals(), MINUTES + 5000, 0)).is_empty()
    after_outage = fetched_at(arrivals(), STEP_AT, STEP_AT - 7)
    assert rarest(scores_of(after_outage)) > 0.05
    thin = fetched_at(arrivals(a_minute=0.05), STEP_AT, STEP_AT - 300)
    assert rarest(scores_of(thin)) > 0.05


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(1, MINUTES - 1), min_size=1, max_size=5))
def test_the_scores_are_the_same_however_the_history_is_cut(cuts: list[int]) -> None:
    bars = later_by(pl.concat([arrivals(), arrivals("ETHUSDT", 1)]), 1.0)
    assert_frame_equal(scores_of(bars, tuple(cuts)), scores_of(bars), check_exact=True)


def test_latency_comes_from_the_ticks_to_the_minutes_features(warehouse: Warehouse) -> None:
    late = pl.col("trade_time") + pl.duration(milliseconds=80)
    ticks = trades(hours=2, a_minute=10).with_columns(received_at=late)
    stored(warehouse, ticks, 2)
    window = Window(START, START + timedelta(hours=2))
    minutes = warehouse.read_window(FEATURES, window, bar_interval="1m")
    assert minutes["latency_seconds"].to_list() == [0.08] * minutes.height
    expected = ticks.group_by("symbol", pl.col("trade_time").dt.truncate("1m").alias("bar_start")).agg(
        last=pl.col("trade_time").max()
    )
    seconds = minutes.join(expected, on=["symbol", "bar_start"]).select(
        found=pl.col("last_trade_second"), wanted=(pl.col("last") - pl.col("bar_start")).dt.total_microseconds() / 1e6
    )
    assert seconds["found"].to_list() == pytest.approx(seconds["wanted"].to_list())
    assert Detection(warehouse).refresh_scores(window, window.end).rows > 0
