"""Days of ordinary trading of one symbol, drawn at once: the ground on which labelled events are laid.

Owns the classes of symbols (from a coin that trades once in two minutes to a large one), the arrival of orders, the
wandering of the price and the form of a trade. Events (labelled_events.py) add orders and bend the price's path. The
live market of market.py is drawn second by second instead; this one is made for many thousands of symbol-days.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]
Draw = np.random.Generator

DAY = 86_400.0
MINUTE = 60.0
ANSWER_DELAYS = ((0.55, 0.2), (0.3, 6.0), (0.15, 90.0))  # (share, mean seconds) of orders that answer orders


@dataclass(frozen=True)
class SymbolClass:
    """A kind of symbol: ranges from which one symbol's habits are drawn (log-uniformly where a range spans decades)."""

    name: str
    rate: tuple[float, float]  # orders a second
    spread: tuple[float, float]  # half of it, as a share of the price
    tick: tuple[float, float]  # as a share of the price
    daily_volatility: tuple[float, float]
    notional: tuple[float, float]  # of a typical order, quote units
    news_a_day: float
    sweeps_a_day: float  # large orders that eat through the book
    rallies_a_day: float
    surges_a_day: float  # volume without direction


SYMBOL_CLASSES = {
    kind.name: kind
    for kind in (
        SymbolClass(
            name="thin",
            rate=(1 / 120, 1 / 25),
            spread=(0.0012, 0.006),
            tick=(0.0001, 0.01),
            daily_volatility=(0.04, 0.09),
            notional=(25.0, 120.0),
            news_a_day=0.02,
            sweeps_a_day=0.12,
            rallies_a_day=0.03,
            surges_a_day=0.05,
        ),
        SymbolClass(
            name="middling",
            rate=(1 / 20, 1 / 3),
            spread=(0.0004, 0.0015),
            tick=(0.0001, 0.002),
            daily_volatility=(0.035, 0.07),
            notional=(80.0, 300.0),
            news_a_day=0.06,
            sweeps_a_day=0.05,
            rallies_a_day=0.03,
            surges_a_day=0.05,
        ),
        SymbolClass(
            name="large",
            rate=(0.5, 1.5),
            spread=(0.00005, 0.0003),
            tick=(0.00001, 0.0002),
            daily_volatility=(0.02, 0.045),
            notional=(200.0, 800.0),
            news_a_day=0.15,
            sweeps_a_day=0.02,
            rallies_a_day=0.02,
            surges_a_day=0.03,
        ),
    )
}


@dataclass(frozen=True)
class Habits:
    """One symbol's own numbers."""

    kind: SymbolClass
    price: float
    rate: float
    spread: float
    tick: float
    daily_volatility: float
    notional: float
    beta: float
    branching: float  # share of orders that answer an earlier one
    side_persistence: float
    walk_probability: float  # an order that eats more than one level
    walk_continues: float
    size_spread: float  # of the logarithm of order sizes
    rhythm: float
    rhythm_hour: float
    hourly_bot: float  # orders that a bot sends on the full five minutes, 0 for most


def draw_habits(draw: Draw, kind: SymbolClass) -> Habits:
    """Return a new symbol of the class."""
    price = float(10 ** draw.uniform(-4, 1.5)) if kind.name != "large" else float(10 ** draw.uniform(-0.5, 4.5))
    return Habits(
        kind=kind,
        price=price,
        rate=_log_uniform(draw, *kind.rate),
        spread=_log_uniform(draw, *kind.spread),
        tick=float(10 ** np.round(np.log10(price * _log_uniform(draw, *kind.tick)))),
        daily_volatility=float(draw.uniform(*kind.daily_volatility)),
        notional=_log_uniform(draw, *kind.notional),
        beta=float(draw.normal(1.0, 0.35)),
        branching=float(draw.uniform(0.35, 0.75)),
        side_persistence=float(draw.uniform(0.55, 0.8)),
        walk_probability=float(draw.uniform(0.05, 0.3)),
        walk_continues=float(draw.uniform(0.3, 0.65)),
        size_spread=float(draw.uniform(1.0, 1.7)),
        rhythm=float(draw.uniform(0.1, 0.6)),
        rhythm_hour=float(draw.uniform(11, 18)),
        hourly_bot=float(draw.choice([0.0, 1.0, 4.0], p=[0.75, 0.15, 0.1])),
    )


@dataclass(frozen=True)
class Orders:
    """Taker orders: when (seconds), to which side (+1 buys), over how many levels, how large against an ordinary one."""

    times: Floats
    sides: Floats
    levels: Whole
    sizes: Floats

    @staticmethod
    def joined(parts: Sequence[Orders]) -> Orders:
        """Return all orders in the order of their time."""
        times = np.concatenate([part.times for part in parts])
        order = np.argsort(times, kind="stable")
        return Orders(
            times[order],
            np.concatenate([part.sides for part in parts])[order],
            np.concatenate([part.levels for part in parts])[order],
            np.concatenate([part.sizes for part in parts])[order],
        )

    def where(self, keeps: NDArray[np.bool_]) -> Orders:
        """Return the orders for which the mask is true."""
        return Orders(self.times[keeps], self.sides[keeps], self.levels[keeps], self.sizes[keeps])


@dataclass(frozen=True)
class MarketPath:
    """What the whole market did: log price by minute, and how busy it was (1 is ordinary)."""

    log_price: Floats
    busyness: Floats


def draw_market_path(draw: Draw, seconds: float, moves: Sequence[tuple[float, float, float]]) -> MarketPath:
    """Return a market that wanders and makes the moves given as (start, seconds, log return)."""
    minutes = int(seconds // MINUTE) + 2
    calm_or_not = np.exp(_wander(draw, minutes, 0.5, memory=600))
    steps = 0.022 / np.sqrt(1_440) * calm_or_not * draw.standard_t(4, minutes) / np.sqrt(2)
    log_price, busyness = np.cumsum(steps), calm_or_not**0.5
    clock = np.arange(minutes) * MINUTE
    for start, length, total in moves:
        log_price += total * np.clip((clock - start) / length, 0, 1) ** 0.7
        busyness *= 1 + 6 * np.exp(-np.maximum(0, clock - start) / (2 * length)) * (clock >= start)
    return MarketPath(log_price, busyness)


def ordinary_orders(draw: Draw, habits: Habits, market: MarketPath, seconds: float, start_hour: float) -> Orders:
    """Return the orders of days on which nothing happens to this symbol in particular."""
    minutes = int(np.ceil(seconds / MINUTE))
    hours = start_hour + np.arange(minutes) / 60
    rhythm = 1 + habits.rhythm * np.cos((hours - habits.rhythm_hour) / 24 * 2 * np.pi)
    activity = np.exp(_wander(draw, minutes, 0.5, memory=240) + _wander(draw, minutes, 0.35, memory=15))
    rate = habits.rate * (1 - habits.branching) * rhythm * activity / activity.mean() * market.busyness[:minutes]
    counts = draw.poisson(rate * MINUTE)
    immigrants = np.repeat(np.arange(minutes) * MINUTE, counts) + draw.uniform(0, MINUTE, counts.sum())
    times = _with_answers(draw, immigrants, habits.branching, seconds)
    if habits.hourly_bot:
        beats = np.arange(0, seconds, 300.0) + 0.05
        times = np.concatenate([times, np.repeat(beats, draw.poisson(habits.hourly_bot, len(beats)))])
    times = np.sort(times[times < seconds])
    return plain_orders(draw, habits, times, persistent_sides(draw, len(times), habits.side_persistence))


def plain_orders(draw: Draw, habits: Habits, times: Floats, sides: Floats, size: float = 1.0) -> Orders:
    """Return orders of this symbol's usual depth and size, times a factor."""
    count = len(times)
    walks = draw.random(count) < habits.walk_probability
    levels = np.where(walks, 1 + draw.geometric(1 - habits.walk_continues, count), 1).astype(np.int64)
    sizes = size * np.exp(draw.normal(0, habits.size_spread, count)) * levels
    whales = draw.random(count) < 0.004
    return Orders(times, sides, levels, np.where(whales, sizes * (1 + draw.pareto(1.3, count)).clip(max=80), sizes))


def persistent_sides(draw: Draw, count: int, persistence: float) -> Floats:
    """Return sides of which each is that of the one before with this probability."""
    turns = np.where(draw.random(count) < persistence, 1.0, -1.0)
    return np.asarray(np.cumprod(turns), dtype=np.float64)


def biased_sides(draw: Draw, count: int, buy_share: float) -> Floats:
    """Return sides of which this share buys."""
    return np.where(draw.random(count) < buy_share, 1.0, -1.0)


@dataclass(frozen=True)
class PriceBend:
    """What an event does to the log price, as a function of time, and how unsteady each fill then is."""

    path: Callable[[Floats], Floats]
    noise: Callable[[Floats], Floats]


@dataclass(frozen=True)
class Fills:
    """The trades of the days: seconds from the start, side (+1 buys), price, amount."""

    times: Floats
    sides: Floats
    prices: Floats
    amounts: Floats


def filled(draw: Draw, habits: Habits, orders: Orders, market: MarketPath, bends: Sequence[PriceBend]) -> Fills:
    """Return the trades that the orders make on a price that wanders, follows the market and is bent by events."""
    count = len(orders.times)
    waits = np.diff(orders.times, prepend=0.0)
    minutes = len(market.log_price)
    own = np.exp(_wander(draw, minutes, 0.45, memory=720))[(orders.times // MINUTE).astype(np.int64)]
    sigma = habits.daily_volatility / np.sqrt(DAY) * own
    steps = sigma * np.sqrt(waits) * draw.standard_t(4, count) / np.sqrt(2)
    log_mid = np.log(habits.price) + np.cumsum(steps)
    log_mid += habits.beta * np.interp(orders.times, np.arange(minutes) * MINUTE, market.log_price)
    for bend in bends:
        log_mid += bend.path(orders.times) + bend.noise(orders.times) * draw.standard_normal(count)

    level = np.arange(orders.levels.sum()) - np.repeat(np.cumsum(orders.levels) - orders.levels, orders.levels)
    depth = habits.spread * (1 + 0.8 * level) * draw.uniform(0.6, 1.4, len(level))
    sides = np.repeat(orders.sides, orders.levels)
    ideal = np.exp(np.repeat(log_mid, orders.levels) + sides * depth)
    prices = np.maximum(1, np.rint(ideal / habits.tick)) * habits.tick
    notional = habits.notional * np.repeat(orders.sizes / orders.levels, orders.levels)
    return Fills(np.repeat(orders.times, orders.levels), sides, prices, _rounded(notional / ideal, habits))


def _rounded(amounts: Floats, habits: Habits) -> Floats:
    step = 10.0 ** np.floor(np.log10(habits.notional / habits.price) - 3)
    return np.asarray(np.maximum(1, np.rint(amounts / step)) * step, dtype=np.float64)


def _with_answers(draw: Draw, immigrants: Floats, branching: float, seconds: float) -> Floats:
    """Return the orders and all that answer them, generation by generation (a Hawkes process by its branching)."""
    shares, means = zip(*ANSWER_DELAYS, strict=True)
    arrived = [immigrants]
    generation = immigrants
    while len(generation):
        parents = np.repeat(generation, draw.poisson(branching, len(generation)))
        delays = draw.exponential(np.array(means)[draw.choice(len(means), len(parents), p=shares)])
        generation = (parents + delays)[parents + delays < seconds]
        arrived.append(generation)
    return np.concatenate(arrived)


def _wander(draw: Draw, steps: int, spread: float, *, memory: float) -> Floats:
    """Return a quantity that wanders around zero and forgets within `memory` steps (AR(1))."""
    keeps = float(np.exp(-1 / memory))
    start = draw.normal(0, spread)
    shocks = draw.normal(0, spread * np.sqrt(1 - keeps**2), steps)
    wandering, _ = lfilter([1.0], [1.0, -keeps], shocks, zi=np.array([keeps * start]))
    return np.asarray(wandering, dtype=np.float64)


def _log_uniform(draw: Draw, low: float, high: float) -> float:
    return float(np.exp(draw.uniform(np.log(low), np.log(high))))
