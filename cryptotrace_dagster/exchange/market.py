"""A market that looks like one: seeded, deterministic aggregate trades of several symbols.

Owns how ordinary trading is drawn: clustered arrivals (a Hawkes process, made by its branching), volatility and
activity that persist, a daily rhythm, fat-tailed returns, persistent taker sides, orders that walk the book, a factor
common to all symbols. What happens beyond the ordinary comes in as an `Effect` (events.py). No clock, no I/O.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryptotrace_dagster.exchange.trades import UNITS, Trades

Floats = NDArray[np.float64]

BRANCHING_RATIO = 0.6  # share of orders that answer an earlier one; estimates for liquid markets run from 0.5 to 0.9
ANSWER_DELAYS = ((0.7, 0.06), (0.3, 1.5))  # (share, mean seconds): most answers come at once, some a little later
BOOK_WALK_PROBABILITY = 0.12  # an order that eats more than one price level; each level is an aggregate trade
BOOK_WALK_CONTINUES = 0.45
ROWS_PER_ORDER = 1 + BOOK_WALK_PROBABILITY / (1 - BOOK_WALK_CONTINUES)
SIDE_PERSISTENCE = 0.72  # probability that a taker order goes the way of the one before
RETURN_TAIL = 4.0  # degrees of freedom of the Student distribution of small returns
ACTIVITY_SPREAD = 0.35  # of the logarithm of the rate
VOLATILITY_SPREAD = 0.5  # of the logarithm of the volatility
VOLUME_FOLLOWS_VOLATILITY = 0.4
_MEAN_BUSY = math.exp((ACTIVITY_SPREAD**2 + (VOLUME_FOLLOWS_VOLATILITY * VOLATILITY_SPREAD) ** 2) / 2)
RHYTHM_AMPLITUDE = 0.25
RHYTHM_PEAK_HOUR = 15.0  # UTC: Europe and America both awake
MICROSECONDS = 1_000_000
LISTED_AT = 1_577_836_800  # 2020-01-01: when ids began to count
IDS_A_SECOND = 5_000  # more than any symbol here trades on average
DAY_SECONDS = 86_400.0


@dataclass(frozen=True)
class SymbolProfile:
    """One symbol's ordinary day: price, steps, share of all trades, volatility a day, typical order in quote units."""

    symbol: str
    price: float
    tick_units: int  # hundred-millionths
    step_units: int
    weight: float
    daily_volatility: float
    order_notional: float
    market_beta: float = 1.0


_KNOWN = {
    profile.symbol: profile
    for profile in (
        SymbolProfile("BTCUSDT", 61_800.0, 1_000_000, 1_000, 0.34, 0.025, 420.0, 0.9),
        SymbolProfile("ETHUSDT", 2_680.0, 1_000_000, 10_000, 0.24, 0.032, 350.0, 1.0),
        SymbolProfile("SOLUSDT", 148.0, 1_000_000, 100_000, 0.17, 0.045, 260.0, 1.2),
        SymbolProfile("BNBUSDT", 512.0, 1_000_000, 100_000, 0.13, 0.028, 240.0, 0.8),
        SymbolProfile("XRPUSDT", 0.5632, 10_000, 10_000_000, 0.12, 0.035, 220.0, 1.0),
        SymbolProfile("PEPEUSDT", 0.00000812, 1, 100_000_000, 0.08, 0.06, 180.0, 1.4),
    )
}


def profile_of(symbol: str) -> SymbolProfile:
    """Return the profile of a symbol: a known one, or one derived from the name alone."""
    if symbol in _KNOWN:
        return _KNOWN[symbol]
    draw = np.random.default_rng(zlib.crc32(symbol.encode()))
    price = float(10 ** draw.uniform(-2, 2.5))
    tick_units = max(1, int(10 ** math.floor(math.log10(price * UNITS * 2e-4))))
    step_units = int(10 ** math.floor(math.log10(UNITS * 0.5 / price)))
    return SymbolProfile(symbol, price, tick_units, max(1, step_units), 0.1, float(draw.uniform(0.03, 0.07)), 150.0)


@dataclass(frozen=True)
class Effect:
    """What an event changes while it lasts: factors on the ordinary (1 is ordinary) and additions to it (0 is none)."""

    rate: float = 1.0
    size: float = 1.0
    volatility: float = 1.0
    drift: float = 0.0  # log price per second
    buy_bias: float = 0.0  # -1 all takers sell, 0 as ordinary, 1 all takers buy
    rushes: float = 0.0  # per second: bundles of buy orders that arrive in the same instant
    rush_orders: float = 0.0  # orders in one bundle, on average

    def __mul__(self, other: Effect) -> Effect:
        """Return both at once."""
        return Effect(
            self.rate * other.rate,
            self.size * other.size,
            self.volatility * other.volatility,
            self.drift + other.drift,
            max(-1.0, min(1.0, self.buy_bias + other.buy_bias)),
            self.rushes + other.rushes,
            max(self.rush_orders, other.rush_orders),
        )


ORDINARY = Effect()


class Market:
    """Several symbols that trade together; each `advance` makes the next stretch of time."""

    def __init__(
        self, profiles: Sequence[SymbolProfile], *, trades_per_second: float, seed: int, start_us: int
    ) -> None:
        """Start at `start_us` (microseconds since the epoch) with an average rate over all symbols together."""
        total = sum(profile.weight for profile in profiles)
        self._start_us = start_us
        self._elapsed = 0.0
        self._draw = np.random.default_rng([seed, 0])
        self._symbols = {
            profile.symbol: SymbolMarket(
                profile, trades_per_second * profile.weight / total, np.random.default_rng([seed, index]), start_us
            )
            for index, profile in enumerate(profiles, start=1)
        }

    @property
    def symbols(self) -> tuple[str, ...]:
        """Return the symbols in the order given."""
        return tuple(self._symbols)

    @property
    def elapsed(self) -> float:
        """Return the seconds made so far."""
        return self._elapsed

    def advance(self, seconds: float, effects: Mapping[str, Effect] | None = None) -> dict[str, Trades]:
        """Return each symbol's trades of the next stretch, during which the effects hold."""
        rhythm = daily_rhythm(self._start_us / MICROSECONDS + self._elapsed)
        common = float(self._draw.standard_normal()) * 0.018 * math.sqrt(seconds / DAY_SECONDS) * rhythm
        self._elapsed += seconds
        return {
            symbol: market.advance(self._elapsed, rhythm, common, (effects or {}).get(symbol, ORDINARY))
            for symbol, market in self._symbols.items()
        }


@dataclass(frozen=True)
class _Flow:
    """The orders of one stretch, and the price's pull and restlessness (log price, per second and its root) in it."""

    times: Floats
    is_rush: NDArray[np.bool_]
    start: float
    drift: float
    sigma: float


class SymbolMarket:
    """One symbol's order flow and price. Use through `Market`, which adds what symbols share."""

    def __init__(self, profile: SymbolProfile, rate: float, draw: np.random.Generator, start_us: int) -> None:
        self.profile = profile
        self._order_rate = rate / ROWS_PER_ORDER
        self._draw = draw
        self._start_us = start_us
        self._until = 0.0
        self._last_order_at = 0.0
        self._log_price = math.log(profile.price)
        self._side = 1
        self._activity = _Persistent(draw, spread=ACTIVITY_SPREAD, memory_seconds=90.0)
        self._log_volatility = _Persistent(draw, spread=VOLATILITY_SPREAD, memory_seconds=1_800.0)
        self._answers_to_come: Floats = np.empty(0)
        # Ids grow with the time of the start: an exchange that is started again never gives an id a second time.
        since_listing = max(0, start_us // MICROSECONDS - LISTED_AT)
        self._next_id = since_listing * IDS_A_SECOND + int(draw.integers(1_000_000, 2_000_000))
        self._next_trade_id = 2 * since_listing * IDS_A_SECOND + int(draw.integers(2_000_000, 4_000_000))

    def advance(self, until: float, rhythm: float, common_return: float, effect: Effect) -> Trades:
        """Return the trades up to `until` (seconds from the start)."""
        start, self._until = self._until, until
        calm_or_not = self._log_volatility.step(until - start)
        busy = math.exp(self._activity.step(until - start) + VOLUME_FOLLOWS_VOLATILITY * calm_or_not) / _MEAN_BUSY
        times = self._arrivals(start, until, self._order_rate * busy * rhythm * effect.rate)
        rush_times = self._rushes(start, until, effect)
        order_times = np.concatenate([times, rush_times])
        order = np.argsort(order_times, kind="stable")
        is_rush = (np.arange(len(order_times)) >= len(times))[order]
        order_times = order_times[order]
        drift = common_return * self.profile.market_beta / (until - start) + effect.drift
        sigma = self.profile.daily_volatility / math.sqrt(DAY_SECONDS) * math.exp(calm_or_not) * rhythm
        if not len(order_times):
            self._log_price += drift * (until - start)
            return Trades.empty()
        flow = _Flow(order_times, is_rush, start, drift, sigma * effect.volatility)
        return self._trades(flow, effect)

    def _arrivals(self, start: float, until: float, rate: float) -> Floats:
        """Return the instants of a Hawkes process: immigrants, and answers to every order, generation by generation."""
        draw = self._draw
        immigrants = draw.uniform(start, until, draw.poisson(rate * (1 - BRANCHING_RATIO) * (until - start)))
        due = self._answers_to_come < until
        waiting = [self._answers_to_come[~due]]
        generation = np.concatenate([immigrants, self._answers_to_come[due]])
        arrived = [generation]
        while len(generation):
            parents = np.repeat(generation, draw.poisson(BRANCHING_RATIO, len(generation)))
            means = np.where(draw.random(len(parents)) < ANSWER_DELAYS[0][0], ANSWER_DELAYS[0][1], ANSWER_DELAYS[1][1])
            answers = parents + draw.exponential(means)
            waiting.append(answers[answers >= until])
            generation = answers[answers < until]
            arrived.append(generation)
        self._answers_to_come = np.concatenate(waiting)
        return np.concatenate(arrived)

    def _rushes(self, start: float, until: float, effect: Effect) -> Floats:
        if effect.rushes <= 0:
            return np.empty(0)
        bundles = self._draw.uniform(start, until, self._draw.poisson(effect.rushes * (until - start)))
        return np.repeat(bundles, 1 + self._draw.poisson(max(0.0, effect.rush_orders - 1), len(bundles)))

    def _sides(self, count: int, is_rush: NDArray[np.bool_], buy_bias: float) -> Floats:
        turns = np.where(self._draw.random(count) < SIDE_PERSISTENCE, 1, -1)
        sides = self._side * np.cumprod(turns)
        self._side = int(sides[-1])
        forced = self._draw.random(count) < abs(buy_bias)
        return np.where(is_rush, 1.0, np.where(forced, math.copysign(1.0, buy_bias), sides)).astype(np.float64)

    def _trades(self, flow: _Flow, effect: Effect) -> Trades:
        draw, profile, order_times, count = self._draw, self.profile, flow.times, len(flow.times)
        sides = self._sides(count, flow.is_rush, effect.buy_bias)
        waits = np.diff(order_times, prepend=self._last_order_at)
        shocks = draw.standard_t(RETURN_TAIL, count) / math.sqrt(RETURN_TAIL / (RETURN_TAIL - 2))
        moves = flow.sigma * np.sqrt(waits) * shocks + flow.drift * np.diff(order_times, prepend=flow.start)
        log_mids = self._log_price + np.cumsum(moves)
        self._log_price = float(log_mids[-1]) + flow.drift * (self._until - float(order_times[-1]))
        mids = np.exp(log_mids)
        self._last_order_at = float(order_times[-1])

        levels = self._levels(count, flow.is_rush)
        level = np.arange(levels.sum()) - np.repeat(np.cumsum(levels) - levels, levels)
        tick = profile.tick_units / UNITS
        spread = np.maximum(tick, 0.00008 * mids)
        reach = np.repeat(sides, levels) * (np.repeat(spread, levels) * (0.5 + 0.7 * level))
        price_ticks = np.maximum(1, np.rint((np.repeat(mids, levels) + reach) / tick)).astype(np.int64)
        quantities = self._quantities(mids, levels, effect.size)
        fills = 1 + draw.poisson(0.35, len(level))
        return self._numbered(
            prices=price_ticks * profile.tick_units,
            quantities=quantities,
            fills=fills.astype(np.int64),
            times_us=np.repeat((order_times * MICROSECONDS).astype(np.int64) + self._start_us, levels),
            is_buyer_maker=np.repeat(sides < 0, levels),
        )

    def _levels(self, count: int, is_rush: NDArray[np.bool_]) -> NDArray[np.int64]:
        walks = (self._draw.random(count) < BOOK_WALK_PROBABILITY) & ~is_rush
        deeper: NDArray[np.int64] = self._draw.geometric(1 - BOOK_WALK_CONTINUES, count)
        return np.where(walks, 1 + deeper, 1)

    def _quantities(self, mids: Floats, levels: NDArray[np.int64], size: float) -> NDArray[np.int64]:
        draw, profile, count = self._draw, self.profile, len(mids)
        notional = profile.order_notional * size * np.exp(draw.normal(-0.7, 1.25, count))
        notional *= np.where(draw.random(count) < 0.01, 1 + draw.pareto(1.4, count).clip(max=60), 1)
        amounts = notional * levels / mids
        magnitude = 10.0 ** np.floor(np.log10(amounts))
        amounts = np.where(draw.random(count) < 0.15, np.rint(amounts / magnitude) * magnitude, amounts)
        steps = np.repeat(amounts / levels, levels) * UNITS / profile.step_units
        return np.maximum(1, np.rint(steps)).astype(np.int64) * profile.step_units

    def _numbered(
        self,
        *,
        prices: NDArray[np.int64],
        quantities: NDArray[np.int64],
        fills: NDArray[np.int64],
        times_us: NDArray[np.int64],
        is_buyer_maker: NDArray[np.bool_],
    ) -> Trades:
        fills = np.minimum(fills, quantities // self.profile.step_units)
        last_trade_ids = self._next_trade_id + np.cumsum(fills) - 1
        trade_ids = self._next_id + np.arange(len(prices), dtype=np.int64)
        self._next_id += len(prices)
        self._next_trade_id = int(last_trade_ids[-1]) + 1
        return Trades(
            trade_ids, prices, quantities, last_trade_ids - fills + 1, last_trade_ids, times_us, is_buyer_maker
        )


class _Persistent:
    """A quantity that wanders around zero and forgets with time (Ornstein-Uhlenbeck), stepped by any duration."""

    def __init__(self, draw: np.random.Generator, *, spread: float, memory_seconds: float) -> None:
        self._draw = draw
        self._spread = spread
        self._memory_seconds = memory_seconds
        self._value = float(draw.normal(0, spread * 0.5))

    def step(self, seconds: float) -> float:
        """Return the value after so many seconds."""
        keeps = math.exp(-seconds / self._memory_seconds)
        self._value = self._value * keeps + self._spread * math.sqrt(1 - keeps**2) * float(self._draw.standard_normal())
        return self._value


def daily_rhythm(epoch_seconds: float) -> float:
    """Return how busy this time of day is, 1 on average over the day."""
    hour = epoch_seconds % DAY_SECONDS / 3_600
    return 1 + RHYTHM_AMPLITUDE * math.cos((hour - RHYTHM_PEAK_HOUR) / 24 * 2 * math.pi)
