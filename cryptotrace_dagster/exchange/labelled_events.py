"""What happens to a symbol in labelled days: pumps, and the natural events that must not be taken for one.

Owns the shapes, drawn from what the literature tells of real pumps (La Morgia, Mei, Sassi, Stefa 2020 and 2023; Xu and
Livshits 2019; Kamps and Kleinberg 2018): thin coins; announced on the full hour more often than not; insiders buy
before; members buy at market within seconds, many in the same millisecond; the price peaks after seconds to minutes,
a few per cent to several hundred above; then a dump, and an aftermath of hours. No number here was fitted to a detector.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cryptotrace_dagster.exchange.labelled_market import (
    Draw,
    Floats,
    Habits,
    Orders,
    PriceBend,
    biased_sides,
    persistent_sides,
    plain_orders,
)

HOUR = 3_600.0


@dataclass(frozen=True)
class LabelledEvent:
    """One event: its kind, start and height (seconds from the start of the days), and the share by which it moves."""

    kind: str
    start: float
    peak: float
    move: float
    orders: int


@dataclass(frozen=True)
class Happening:
    """An event with the orders it brings and what it does to the price."""

    event: LabelledEvent
    orders: Orders
    bend: PriceBend


@dataclass(frozen=True)
class PumpPlan:
    """A pump's own numbers; times in seconds from its announcement."""

    gain: float
    delay: float  # from the announcement to the first reaction
    rise: float
    dump: float
    buyers: int
    rush_share: float  # of the buyers whose orders arrive bundled in the same instant
    bundle: float  # orders in a bundle, on average
    buy_share: float
    sell_share: float  # of the orders after the peak
    accumulation: float
    accumulated_share: float  # of the gain that the insiders' buying already takes
    leaked_share: float  # of the buyers who are early by up to a minute
    kept_share: float  # of the gain that stays after the dump
    steepness: float


def draw_pump(draw: Draw, habits: Habits) -> PumpPlan:
    """Return a pump: strong or failed, of seconds or minutes, by a few or by thousands."""
    is_weak = draw.random() < 0.12
    gain = float(draw.uniform(0.03, 0.1) if is_weak else np.clip(draw.lognormal(np.log(0.45), 0.75), 0.06, 4.0))
    crowd = draw.lognormal(np.log(90.0 if is_weak else 550.0), 0.8) * (gain / 0.45) ** 0.3
    crowd *= {"thin": 1.0, "middling": 2.0, "large": 6.0}[habits.kind.name]
    has_accumulation = draw.random() < 0.6
    return PumpPlan(
        gain=gain,
        delay=float(draw.uniform(0.3, 6.0)),
        rise=float(np.clip(draw.lognormal(np.log(40.0), 1.0), 4.0, 900.0)),
        dump=float(np.clip(draw.lognormal(np.log(300.0), 0.9), 20.0, 3_600.0)),
        buyers=int(np.clip(crowd, 25, 12_000)),
        rush_share=float(draw.uniform(0.2, 0.85)),
        bundle=float(draw.uniform(2.5, 15.0)),
        buy_share=float(draw.uniform(0.65, 0.93)),
        sell_share=float(draw.uniform(0.5, 0.7)),
        accumulation=float(draw.uniform(1, 20)) * HOUR if has_accumulation else 0.0,
        accumulated_share=float(draw.uniform(0.0, 0.2)) if has_accumulation else 0.0,
        leaked_share=float(draw.uniform(0.02, 0.15)) if draw.random() < 0.3 else 0.0,
        kept_share=float(draw.beta(1.6, 5.0)),
        steepness=float(draw.uniform(0.5, 5.0)),
    )


def pump(draw: Draw, habits: Habits, start: float, end: float) -> Happening:
    """Return a pump announced at `start`."""
    plan = draw_pump(draw, habits)
    rise_at = start + plan.delay
    peak = rise_at + plan.rise
    leaked = int(plan.buyers * plan.leaked_share)
    early = plain_orders(
        draw, habits, start - draw.exponential(20.0, leaked).clip(max=110.0), biased_sides(draw, leaked, 0.9)
    )
    rush = _rush(draw, habits, plan, rise_at)
    singles = int(plan.buyers * (1 - plan.rush_share))
    eager = plain_orders(
        draw,
        habits,
        rise_at + plan.rise * draw.beta(0.8, 1.5, singles),
        biased_sides(draw, singles, plan.buy_share),
        size=1.3,
    )
    sellers = int(plan.buyers * draw.uniform(0.5, 1.8))
    dump = plain_orders(
        draw,
        habits,
        peak + plan.dump * draw.beta(0.7, 2.5, sellers),
        biased_sides(draw, sellers, 1 - plan.sell_share),
        size=1.2,
    )
    parts = [_accumulation(draw, habits, plan, start), early, rush, eager, dump, _aftermath(draw, habits, peak)]
    orders = Orders.joined(parts)
    orders = orders.where((orders.times >= 0) & (orders.times < end))
    event = LabelledEvent("pump", start, peak, plan.gain, len(orders.times))
    return Happening(event, orders, _pump_bend(plan, start, rise_at, peak))


def _rush(draw: Draw, habits: Habits, plan: PumpPlan, rise_at: float) -> Orders:
    """Return the buyers' market orders that arrive bundled within one millisecond."""
    bundles = max(1, round(plan.buyers * plan.rush_share / plan.bundle))
    moments = rise_at + plan.rise * draw.beta(0.7, 1.8, bundles)
    times = np.repeat(moments, draw.geometric(1 / plan.bundle, bundles))
    return plain_orders(draw, habits, times, biased_sides(draw, len(times), 0.97), size=1.5)


def _accumulation(draw: Draw, habits: Habits, plan: PumpPlan, start: float) -> Orders:
    """Return the insiders' quiet buying: small orders, a little more towards the announcement."""
    count = draw.poisson(habits.rate * plan.accumulation * draw.uniform(0.1, 0.5)) if plan.accumulation else 0
    times = start - plan.accumulation * draw.beta(1.0, 1.4, count)
    return plain_orders(draw, habits, times, biased_sides(draw, count, 0.8), size=0.7)


def _aftermath(draw: Draw, habits: Habits, peak: float) -> Orders:
    """Return the elevated trading of the hours after."""
    hours = draw.uniform(0.5, 3.0)
    count = draw.poisson(habits.rate * HOUR * hours * draw.uniform(2.0, 12.0))
    times = peak + draw.exponential(hours * HOUR / 2, count)
    return plain_orders(draw, habits, times, biased_sides(draw, count, 0.48))


def _pump_bend(plan: PumpPlan, start: float, rise_at: float, peak: float) -> PriceBend:
    height = np.log1p(plan.gain)

    def path(times: Floats) -> Floats:
        before = plan.accumulated_share * np.clip((times - start) / max(plan.accumulation, 1.0) + 1, 0, 1)
        share = np.clip((times - rise_at) / plan.rise, 0, 1)
        risen = (1 - np.exp(-plan.steepness * share)) / (1 - np.exp(-plan.steepness))
        fallen = 1 - np.exp(-np.maximum(0, times - peak) / (plan.dump / 3))
        remains = 1 - (1 - plan.kept_share) * fallen
        return np.asarray(height * (before + (1 - plan.accumulated_share) * risen) * remains)

    def noise(times: Floats) -> Floats:
        calm = np.exp(-np.maximum(0, times - peak) / plan.dump)
        return np.where(times < rise_at, 0.0, 0.06 * height * calm)

    return PriceBend(path, noise)


def natural_events(draw: Draw, habits: Habits, seconds: float) -> list[Happening]:
    """Return what happens to this symbol by itself: news, swept books, rallies, volume without direction."""
    kinds = (
        (_news, habits.kind.news_a_day),
        (_sweep, habits.kind.sweeps_a_day),
        (_rally, habits.kind.rallies_a_day),
        (_surge, habits.kind.surges_a_day),
    )
    return [
        make(draw, habits, float(draw.uniform(0, seconds)), seconds)
        for make, times_a_day in kinds
        for _ in range(draw.poisson(times_a_day * seconds / 86_400))
    ]


def _news(draw: Draw, habits: Habits, start: float, end: float) -> Happening:
    """A move up or down that stays: takers of both sides, over minutes."""
    move = float(draw.choice([-1.0, 1.0]) * np.clip(draw.lognormal(np.log(0.03), 0.7), 0.008, 0.3))
    length = float(draw.lognormal(np.log(300.0), 0.8))
    count = int(habits.rate * length * draw.uniform(3, 20)) + int(draw.uniform(10, 60))
    times = start + length * draw.beta(0.9, 2.0, count)
    sides = biased_sides(draw, count, 0.5 + 0.15 * np.sign(move))
    return _happening("news", start, start + length, move, plain_orders(draw, habits, times, sides, size=1.4), end)


def _rally(draw: Draw, habits: Habits, start: float, end: float) -> Happening:
    """A climb over hours on rising interest."""
    move = float(draw.uniform(0.06, 0.5))
    length = float(draw.uniform(1.0, 8.0)) * HOUR
    count = int(habits.rate * length * draw.uniform(1, 6)) + 20
    times = start + length * draw.beta(1.5, 1.8, count)
    sides = persistent_sides(draw, count, habits.side_persistence) * biased_sides(draw, count, 0.75)
    return _happening("rally", start, start + length, move, plain_orders(draw, habits, times, sides), end)


def _surge(draw: Draw, habits: Habits, start: float, end: float) -> Happening:
    """Much volume and no direction, as wash trading makes it: equal orders to either side."""
    length = float(draw.uniform(60, 1_800))
    count = int(habits.rate * length * draw.uniform(5, 25)) + int(draw.uniform(20, 150))
    times = start + np.sort(draw.uniform(0, length, count))
    sides = np.where(np.arange(count) % 2, 1.0, -1.0)
    orders = Orders(times, sides, np.ones(count, np.int64), np.full(count, draw.uniform(1, 4)))
    return _happening("volume_surge", start, start + length, 0.0, orders, end)


def _sweep(draw: Draw, habits: Habits, start: float, end: float) -> Happening:
    """One large order, or a few, through a thin book: a jump in one instant that comes back within minutes."""
    side = float(draw.choice([-1.0, 1.0]))
    move = float(side * np.clip(draw.lognormal(np.log(0.03), 0.6), 0.005, 0.2))
    count = int(draw.integers(1, 4))
    times = np.sort(start + draw.exponential(0.5, count))
    orders = Orders(times, np.full(count, side), draw.integers(5, 40, count), draw.uniform(15, 120, count))
    back = float(draw.uniform(20, 600))

    def path(moments: Floats) -> Floats:
        return np.where(moments >= start, 0.7 * move * np.exp(-np.maximum(0, moments - start) / back), 0.0)

    event = LabelledEvent("swept_book", start, start, move, count)
    keeps = orders.times < end
    return Happening(event, orders.where(keeps), PriceBend(path, _steady))


def _happening(kind: str, start: float, peak: float, move: float, orders: Orders, end: float) -> Happening:
    def path(times: Floats) -> Floats:
        return np.asarray(np.log1p(move) * np.clip((times - start) / (peak - start), 0, 1) ** 0.6)

    event = LabelledEvent(kind, start, peak, move, len(orders.times))
    return Happening(event, orders.where(orders.times < end), PriceBend(path, _steady))


def _steady(times: Floats) -> Floats:
    return np.zeros(len(times))
