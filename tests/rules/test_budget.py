"""A budget keeps its word: from raw scores through calibration and rules to the number of alerts a day."""

from datetime import timedelta

import numpy as np
import polars as pl
import pytest

from cryptotrace_dagster.domain.alerting import as_signals
from cryptotrace_dagster.domain.calibration import Tail, TailPrior, advance_tail
from cryptotrace_dagster.domain.conversations import hold_conversations
from cryptotrace_dagster.domain.signals import Market, find_signals
from cryptotrace_dagster.domain.windows import EPOCH
from cryptotrace_dagster.tables import ANOMALY_SCORES, OHLC_BARS, TRADE_ID_GAPS
from tests.rules.market import book

DAYS, BARS_AN_HOUR = 60, 720
START_HOUR = 490_000  # a midnight in November 2025


def raw_scores(symbol_class: str, seed: int) -> np.ndarray:
    """Return 60 days of raw scores of bars of 5 seconds without any event, as differently behaved symbols have them."""
    chance = np.random.default_rng(seed)
    count = DAYS * 24 * BARS_AN_HOUR
    if symbol_class == "calm":
        return chance.exponential(1.0, count)
    if symbol_class == "wild":
        return chance.pareto(3.0, count)
    bursts = np.repeat(chance.lognormal(0.0, 0.5, count // 60), 60)  # five minutes have their mood
    return bursts * chance.exponential(1.0, count)


@pytest.mark.parametrize("symbol_class", ["calm", "wild", "bursting"])
def test_two_a_day_rings_between_once_and_four_times_a_day(symbol_class: str) -> None:
    raw = raw_scores(symbol_class, seed=7)
    hours = START_HOUR + np.arange(len(raw)) // BARS_AN_HOUR
    _, rates = advance_tail(Tail(), hours.astype(np.int64), raw, TailPrior(scale=1.0))
    rules = book("kind = 'anomaly'\ndetector = 'any'\nat_most_a_day = 2\ncooldown = '30m'")
    seconds = START_HOUR * 3600 + np.arange(len(raw)) * 5
    scores = (
        pl.DataFrame({"bar_start": seconds * 1_000_000, "times_a_day": rates})
        .filter(pl.col("times_a_day") <= 2)
        .select(
            symbol=pl.lit("BTCUSDT"),
            bar_interval=pl.lit("5s"),
            bar_start=pl.col("bar_start").cast(pl.Datetime("us")),
            detector=pl.lit("any"),
            detector_version=pl.lit(1, dtype=pl.Int64),
            raw_score=pl.lit(0.0),
            times_a_day="times_a_day",
            score=-pl.col("times_a_day").log10(),
            explanation=pl.lit("{}"),
        )
        .cast(ANOMALY_SCORES.polars_schema)
    )
    market = Market(OHLC_BARS.empty(), scores, TRADE_ID_GAPS.empty())

    decisions, _ = hold_conversations(
        rules, as_signals(find_signals(rules, market)), {}, EPOCH + timedelta(hours=START_HOUR + DAYS * 24)
    )

    rung = [each for each in decisions if each.phase != "end"]
    assert 1 <= len(rung) / DAYS <= 4
