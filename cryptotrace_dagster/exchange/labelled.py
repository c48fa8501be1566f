"""Labelled symbol-days for detection research: trades of many kinds of symbols, with every pump known.

Owns which symbols, days and events make a set, and its files. Symbols come in groups that live through the same days
and the same market; about a third of the symbols have one pump each. How trading is drawn is in labelled_market.py,
what happens in labelled_events.py. The same plan and seed make the same set.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from cryptotrace_dagster.domain.windows import EPOCH
from cryptotrace_dagster.errors import UserError
from cryptotrace_dagster.exchange.labelled_events import HOUR, Happening, LabelledEvent, natural_events, pump
from cryptotrace_dagster.exchange.labelled_market import (
    DAY,
    SYMBOL_CLASSES,
    Draw,
    Habits,
    MarketPath,
    Orders,
    draw_habits,
    draw_market_path,
    filled,
    ordinary_orders,
)

FIRST_DAY = datetime(2025, 3, 3)
GROUP_SIZE = 25
PUMPED_CLASSES = {"thin": 0.68, "middling": 0.28, "large": 0.04}  # where the literature saw pumps
CALM_CLASSES = {"thin": 0.5, "middling": 0.37, "large": 0.13}
TRADES_SCHEMA = {
    "symbol": pl.String,
    "timestamp": pl.Int64,
    "side": pl.String,
    "price": pl.Float64,
    "amount": pl.Float64,
}
EVENTS_SCHEMA = {
    "symbol": pl.String,
    "timestamp": pl.Int64,
    "kind": pl.String,
    "peak_timestamp": pl.Int64,
    "move": pl.Float64,
    "orders": pl.Int64,
    "symbol_class": pl.String,
}


class LabelledError(UserError):
    """The set asked for cannot be made or written."""


@dataclass(frozen=True)
class LabelledPlan:
    """How much to make: pumps (one symbol each), symbol-days without one, and the length of each symbol's record."""

    pumps: int = 200
    calm_symbol_days: int = 2_000
    days: int = 4
    seed: int = 1
    symbol_class: str | None = None  # only symbols of this class; by default a mixture
    has_natural_events: bool = True  # news, swept books, rallies, surges, market moves, halts
    pump_window: tuple[float, float] = (0.45, 0.75)  # where in its record a pump lies, as shares: history comes first

    def __post_init__(self) -> None:
        if self.pumps < 0 or self.calm_symbol_days < 0 or self.days < 1 or not self.pumps + self.calm_symbol_days:
            raise LabelledError(
                "A labelled set needs at least one pump or calm symbol-day, and records of 1 day or more."
            )

        if self.symbol_class is not None and self.symbol_class not in SYMBOL_CLASSES:
            raise LabelledError(
                f"There is no class {self.symbol_class!r} of symbols: give one of {', '.join(SYMBOL_CLASSES)}."
            )

    @property
    def symbols(self) -> int:
        """Return the number of symbols: the pumped ones' other days count as calm too."""
        calm_left = max(0, self.calm_symbol_days - self.pumps * (self.days - 1))
        return self.pumps + -(-calm_left // self.days)


@dataclass(frozen=True)
class LabelledCase:
    """One symbol's record: its trades (time in ms since the epoch) and everything that happened in it."""

    symbol: str
    symbol_class: str
    start: datetime
    days: int
    trades: pl.DataFrame
    events: pl.DataFrame

    @property
    def pumps(self) -> pl.DataFrame:
        """Return the labels: the events that are pumps."""
        return self.events.filter(pl.col("kind") == "pump")


def labelled_cases(plan: LabelledPlan) -> Iterator[LabelledCase]:
    """Return the records one by one, reproducible each by itself."""
    pumped = np.random.default_rng([plan.seed, 1]).permutation(np.arange(plan.symbols) < plan.pumps)
    for group in range(-(-plan.symbols // GROUP_SIZE)):
        shared = _Shared.drawn(plan, group)
        for index in range(group * GROUP_SIZE, min(plan.symbols, (group + 1) * GROUP_SIZE)):
            yield _case(plan, shared, index, is_pumped=bool(pumped[index]))


def write_labelled(plan: LabelledPlan, folder: Path) -> Iterator[LabelledCase]:
    """Write `trades/SYMBOL.parquet`, `labels.csv` (the pumps) and `events.csv` (everything), case by case.

    Raises:
        LabelledError: the folder cannot be written, or already holds a set.
    """
    if (folder / "labels.csv").exists():
        raise LabelledError(f"{folder} already holds a labelled set: choose another folder, or remove that one first.")
    try:
        (folder / "trades").mkdir(parents=True, exist_ok=True)
        events = []
        for case in labelled_cases(plan):
            case.trades.write_parquet(folder / "trades" / f"{case.symbol}.parquet")
            events.append(case.events)
            yield case
        everything = pl.concat(events)
        everything.write_csv(folder / "events.csv")
        everything.filter(pl.col("kind") == "pump").write_csv(folder / "labels.csv")
    except OSError as error:
        raise LabelledError(f"The labelled set could not be written to {folder}: {error.strerror}.") from error


@dataclass(frozen=True)
class _Shared:
    """What the symbols of a group have in common."""

    start: datetime
    market: MarketPath
    moves: tuple[tuple[float, float, float], ...]
    halts: tuple[tuple[float, float], ...]

    @classmethod
    def drawn(cls, plan: LabelledPlan, group: int) -> _Shared:
        draw = np.random.default_rng([plan.seed, 2, group])
        seconds, often = plan.days * DAY, float(plan.has_natural_events)
        moves = tuple(
            (
                float(draw.uniform(0, seconds)),
                float(draw.uniform(120, 2_400)),
                float(draw.choice([-1.0, 1.0], p=[0.65, 0.35]) * draw.uniform(0.015, 0.09)),
            )
            for _ in range(draw.poisson(0.12 * plan.days * often))
        )
        halts = tuple(
            (start, start + float(draw.uniform(0.5, 4.0)) * HOUR)
            for start in draw.uniform(0, seconds, draw.poisson(0.03 * plan.days * often)).tolist()
        )
        market = draw_market_path(draw, seconds, moves)
        return cls(FIRST_DAY + timedelta(days=group * plan.days), market, moves, halts)


def _case(plan: LabelledPlan, shared: _Shared, index: int, *, is_pumped: bool) -> LabelledCase:
    draw = np.random.default_rng([plan.seed, 3, index])
    seconds = plan.days * DAY
    classes = PUMPED_CLASSES if is_pumped else CALM_CLASSES
    drawn = str(draw.choice(list(classes), p=list(classes.values())))
    habits = draw_habits(draw, SYMBOL_CLASSES[plan.symbol_class or drawn])
    happenings = natural_events(draw, habits, seconds) if plan.has_natural_events else []
    if is_pumped:
        happenings.append(_pump_at_some_time(draw, habits, plan, shared))
    orders = ordinary_orders(draw, habits, shared.market, seconds, shared.start.hour)
    halts = _halts_of(draw, shared, happenings, seconds) if plan.has_natural_events else ()
    orders = _without(Orders.joined([orders, *(happening.orders for happening in happenings)]), halts)
    fills = filled(draw, habits, orders, shared.market, [happening.bend for happening in happenings])
    symbol = f"SIM{index:05d}USDT"
    start_ms = (shared.start - EPOCH) // timedelta(milliseconds=1)
    trades = pl.DataFrame(
        {
            "symbol": np.full(len(fills.times), symbol),
            "timestamp": start_ms + np.floor(fills.times * 1_000).astype(np.int64),
            "side": np.where(fills.sides > 0, "buy", "sell"),
            "price": fills.prices,
            "amount": fills.amounts,
        },
        schema=TRADES_SCHEMA,
    )
    shared_events = [
        LabelledEvent("market_move", start, start + length, move, 0) for start, length, move in shared.moves
    ]
    shared_events += [LabelledEvent("halt", start, end, 0.0, 0) for start, end in halts]
    events = sorted([*(happening.event for happening in happenings), *shared_events], key=lambda event: event.start)
    rows = [_event_row(event, symbol, habits, start_ms) for event in events]
    frame = pl.DataFrame(rows, schema=EVENTS_SCHEMA, orient="row")
    return LabelledCase(symbol, habits.kind.name, shared.start, plan.days, trades, frame)


def _pump_at_some_time(draw: Draw, habits: Habits, plan: LabelledPlan, shared: _Shared) -> Happening:
    """Return a pump announced on a full hour more often than not, and outside any halt."""
    seconds = plan.days * DAY
    while True:
        start = float(draw.uniform(*plan.pump_window) * seconds)
        if draw.random() < 0.7:
            start = round(start / HOUR) * HOUR
        if not any(begin - 600 <= start <= end + 600 for begin, end in shared.halts):
            return pump(draw, habits, start, seconds)


def _halts_of(
    draw: Draw, shared: _Shared, happenings: list[Happening], seconds: float
) -> tuple[tuple[float, float], ...]:
    """Return the exchange's halts and, seldom, one of this symbol alone; none of its own around a pump."""
    if draw.random() >= 0.03 or any(happening.event.kind == "pump" for happening in happenings):
        return shared.halts
    start = float(draw.uniform(0, seconds))
    return (*shared.halts, (start, start + float(draw.uniform(0.3, 6.0)) * HOUR))


def _without(orders: Orders, halts: tuple[tuple[float, float], ...]) -> Orders:
    keeps = np.ones(len(orders.times), dtype=np.bool_)
    for start, end in halts:
        keeps &= (orders.times < start) | (orders.times >= end)
    return orders.where(keeps)


def _event_row(event: LabelledEvent, symbol: str, habits: Habits, start_ms: int) -> tuple[object, ...]:
    return (
        symbol,
        start_ms + round(event.start * 1_000),
        event.kind,
        start_ms + round(event.peak * 1_000),
        event.move,
        event.orders,
        habits.kind.name,
    )
