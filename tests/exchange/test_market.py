"""The simulated market: deterministic, consistent, and statistically like a market."""

from dataclasses import fields

import numpy as np
import pytest

from cryptotrace_dagster.exchange.events import EventKind, MarketEvent, effects_at
from cryptotrace_dagster.exchange.market import MICROSECONDS, Market, daily_rhythm, profile_of
from cryptotrace_dagster.exchange.trades import Trades

NOON_US = 1_767_614_400 * MICROSECONDS
SYMBOLS = ("BTCUSDT", "XRPUSDT", "NEWCOINUSDT")


def _market(seed: int = 1, rate: float = 300.0) -> Market:
    return Market([profile_of(name) for name in SYMBOLS], trades_per_second=rate, seed=seed, start_us=NOON_US)


def _trades(
    market: Market, blocks: int, seconds: float = 0.25, events: tuple[MarketEvent, ...] = ()
) -> dict[str, Trades]:
    parts: dict[str, list[Trades]] = {symbol: [] for symbol in market.symbols}
    starts = [(0.0, event) for event in events]
    for _ in range(blocks):
        effects = effects_at(starts, market.symbols, market.elapsed)
        for symbol, trades in market.advance(seconds, effects).items():
            parts[symbol].append(trades)
    return {symbol: Trades.joined(made) for symbol, made in parts.items()}


@pytest.fixture(scope="module")
def ten_minutes() -> dict[str, Trades]:
    return _trades(_market(), 2_400)


def _per_second(trades: Trades) -> tuple[np.ndarray, np.ndarray]:
    """Return trade counts and closing prices of each full second."""
    seconds = (trades.times_us - NOON_US) // MICROSECONDS
    counts = np.bincount(seconds)
    last = np.searchsorted(seconds, np.arange(len(counts)), side="right") - 1
    return counts, trades.prices[last].astype(float)


def test_the_same_seed_makes_the_same_trades_and_another_seed_others() -> None:
    first, again, other = (_trades(_market(seed), 40) for seed in (5, 5, 6))
    for symbol in SYMBOLS:
        for column in fields(Trades):
            assert np.array_equal(getattr(first[symbol], column.name), getattr(again[symbol], column.name))
    assert not np.array_equal(first["BTCUSDT"].prices[:50], other["BTCUSDT"].prices[:50])


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_ids_are_consecutive_and_times_never_go_back(ten_minutes: dict[str, Trades], symbol: str) -> None:
    trades = ten_minutes[symbol]
    assert set(np.diff(trades.trade_ids)) == {1}
    assert np.array_equal(trades.first_trade_ids[1:], trades.last_trade_ids[:-1] + 1)
    assert (trades.last_trade_ids >= trades.first_trade_ids).all()
    assert (np.diff(trades.times_us) >= 0).all()
    assert trades.times_us[0] >= NOON_US
    assert trades.times_us[-1] < NOON_US + 600 * MICROSECONDS
    assert trades.trade_ids[0] > 1_000_000


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_prices_and_quantities_are_whole_steps_above_zero(ten_minutes: dict[str, Trades], symbol: str) -> None:
    trades, profile = ten_minutes[symbol], profile_of(symbol)
    assert not (trades.prices % profile.tick_units).any()
    assert not (trades.quantities % profile.step_units).any()
    assert trades.prices.min() > 0
    assert trades.quantities.min() > 0
    fills = trades.last_trade_ids - trades.first_trade_ids + 1
    assert (trades.quantities >= fills * profile.step_units).all(), "every single trade inside needs a quantity"


def test_a_later_start_never_gives_an_id_again() -> None:
    profiles = [profile_of("BTCUSDT")]
    first = Market(profiles, trades_per_second=2_000, seed=1, start_us=NOON_US).advance(60)["BTCUSDT"]
    second = Market(profiles, trades_per_second=2_000, seed=1, start_us=NOON_US + 60 * MICROSECONDS).advance(1)[
        "BTCUSDT"
    ]
    assert second.trade_ids[0] > first.trade_ids[-1]
    assert second.first_trade_ids[0] > first.last_trade_ids[-1]


def test_the_rate_over_a_day_is_the_one_asked_for() -> None:
    made = _trades(_market(rate=2.0), 1_440, seconds=60.0)
    assert sum(map(len, made.values())) / 86_400 == pytest.approx(2.0, rel=0.1)


def test_arrivals_cluster_far_beyond_chance(ten_minutes: dict[str, Trades]) -> None:
    counts, _ = _per_second(ten_minutes["BTCUSDT"])
    assert counts.var() / counts.mean() > 3, "a Poisson process has 1"


def test_returns_have_fat_tails_and_their_size_persists() -> None:
    trades = _trades(_market(seed=3, rate=60.0), 8 * 60, seconds=60.0)["BTCUSDT"]
    _, prices = _per_second(trades)
    minute_returns = np.diff(np.log(prices[::60]))
    standard = (minute_returns - minute_returns.mean()) / minute_returns.std()
    sizes = np.abs(standard)
    assert (standard**4).mean() > 3.5, "a normal distribution has 3"
    assert np.corrcoef(sizes[:-1], sizes[1:])[0, 1] > 0.1


def test_takers_keep_to_a_side(ten_minutes: dict[str, Trades]) -> None:
    sides = np.where(ten_minutes["BTCUSDT"].is_buyer_maker, -1.0, 1.0)
    assert np.corrcoef(sides[:-1], sides[1:])[0, 1] > 0.3
    assert abs(sides.mean()) < 0.2


def test_symbols_share_the_moves_of_the_market() -> None:
    made = _trades(_market(seed=2, rate=60.0), 4 * 60, seconds=60.0)
    returns = [np.diff(np.log(_per_second(made[name])[1][::60][:235])) for name in ("BTCUSDT", "XRPUSDT")]
    assert np.corrcoef(*returns)[0, 1] > 0.15


def test_the_day_has_a_rhythm_of_mean_one() -> None:
    rhythm = [daily_rhythm(hour * 3_600) for hour in range(24)]
    assert np.mean(rhythm) == pytest.approx(1.0)
    assert max(rhythm) / min(rhythm) > 1.4


def test_a_pump_raises_the_price_with_rush_orders_in_the_same_instant_and_then_falls() -> None:
    pump = MarketEvent(
        kind=EventKind.PUMP, symbol="XRPUSDT", gain=0.3, accumulation_seconds=10, rise_seconds=20, fade_seconds=40
    )
    made = _trades(_market(), 320, events=(pump,))
    counts, prices = _per_second(made["XRPUSDT"])
    assert prices[28:33].max() / prices[8] > 1.2
    assert prices[-1] < prices[30] * 0.9
    assert counts[10:16].mean() > 4 * counts[:9].mean()
    rise = made["XRPUSDT"].times_us // MICROSECONDS - NOON_US // MICROSECONDS
    buys = made["XRPUSDT"].times_us[(rise >= 10) & (rise < 30) & ~made["XRPUSDT"].is_buyer_maker]
    assert np.unique(buys, return_counts=True)[1].max() >= 5
    _, others = _per_second(made["BTCUSDT"])
    assert abs(others[-1] / others[0] - 1) < 0.05


def test_a_crash_falls_and_a_surge_only_trades_more() -> None:
    crash = MarketEvent(kind=EventKind.CRASH, symbol="BTCUSDT", gain=0.1, rise_seconds=15, fade_seconds=30)
    surge = MarketEvent(kind=EventKind.VOLUME_SURGE, symbol="XRPUSDT", intensity=8, rise_seconds=30)
    made = _trades(_market(), 120, events=(crash, surge))
    _, fallen = _per_second(made["BTCUSDT"])
    counts, level = _per_second(made["XRPUSDT"])
    assert fallen[14:16].min() / fallen[0] < 0.94
    assert counts[10:20].sum() > 3 * counts[:2].mean() * 10
    assert abs(level[-1] / level[0] - 1) < 0.03


def test_an_event_without_a_symbol_takes_the_whole_market() -> None:
    crash = MarketEvent(kind=EventKind.CRASH, gain=0.1, rise_seconds=15, fade_seconds=30)
    made = _trades(_market(), 60, events=(crash,))
    assert all(trades.prices[-1] < trades.prices[0] * 0.96 for trades in made.values())
