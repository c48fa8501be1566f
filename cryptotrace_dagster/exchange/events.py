"""Market events of a script: pump and dump, crash, volume surge, as what they change from second to second.

Owns the shape of each event. The pump follows La Morgia et al. ("Pump and Dumps in the Bitcoin Era", 2020): quiet
accumulation, then bundles of market buys in the same instant, a rise that is steepest at once, and a dump.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Annotated

import msgspec

from cryptotrace_dagster.exchange.market import ORDINARY, Effect

Positive = Annotated[float, msgspec.Meta(gt=0)]


class EventKind(StrEnum):
    """What happens."""

    PUMP = "pump"
    CRASH = "crash"
    VOLUME_SURGE = "volume_surge"


class MarketEvent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One event on one symbol; without a symbol it takes the whole market."""

    kind: EventKind
    symbol: str | None = None
    gain: Annotated[float, msgspec.Meta(gt=0, lt=20)] = 0.12  # share of the price that is won (pump) or lost (crash)
    intensity: Positive = 8.0  # times the ordinary rate of orders at the height
    accumulation_seconds: Annotated[float, msgspec.Meta(ge=0)] = 10.0
    rise_seconds: Positive = 15.0  # the move itself: up in a pump, down in a crash; the length of a surge
    fade_seconds: Positive = 45.0  # the dump, the recovery

    def __post_init__(self) -> None:
        if self.kind is EventKind.CRASH and self.gain >= 1:
            raise ValueError("a crash loses less than the whole price: give a gain below 1")

    @property
    def seconds(self) -> float:
        """Return how long the event lasts."""
        before = self.accumulation_seconds if self.kind is EventKind.PUMP else 0.0
        return before + self.rise_seconds + (0.0 if self.kind is EventKind.VOLUME_SURGE else self.fade_seconds)

    def effect_at(self, elapsed: float) -> Effect:
        """Return what the event changes so many seconds after its start."""
        if not 0 <= elapsed < self.seconds:
            return ORDINARY
        return {
            EventKind.PUMP: self._pump,
            EventKind.CRASH: self._crash,
            EventKind.VOLUME_SURGE: self._surge,
        }[self.kind](elapsed)

    def _pump(self, elapsed: float) -> Effect:
        risen = elapsed - self.accumulation_seconds
        if risen < 0:
            return Effect(rate=1.2, size=0.9, buy_bias=0.2, drift=0.03 * self.gain / self.accumulation_seconds)
        if risen < self.rise_seconds:
            return Effect(
                rate=self.intensity * _decay(risen, self.rise_seconds, 0.4),
                size=1.6,
                volatility=2.5,
                drift=math.log1p(self.gain) * _front_loaded(risen, self.rise_seconds),
                buy_bias=0.6,
                rushes=self.intensity * _decay(risen, self.rise_seconds, 0.2),
                rush_orders=6.0,
            )
        fading = risen - self.rise_seconds
        return Effect(
            rate=1 + (0.6 * self.intensity - 1) * _decay(fading, self.fade_seconds, 0.1),
            size=1.3,
            volatility=2.0,
            drift=-0.8 * math.log1p(self.gain) * _front_loaded(fading, self.fade_seconds),
            buy_bias=-0.3,
        )

    def _crash(self, elapsed: float) -> Effect:
        loss = -math.log1p(-self.gain)
        if elapsed < self.rise_seconds:
            return Effect(
                rate=self.intensity,
                size=2.0,
                volatility=3.0,
                drift=-loss * _front_loaded(elapsed, self.rise_seconds),
                buy_bias=-0.7,
            )
        fading = elapsed - self.rise_seconds
        return Effect(
            rate=1 + (0.5 * self.intensity - 1) * _decay(fading, self.fade_seconds, 0.1),
            size=1.4,
            volatility=2.0,
            drift=0.35 * loss * _front_loaded(fading, self.fade_seconds),
        )

    def _surge(self, elapsed: float) -> Effect:
        swell = math.sin(math.pi * min(1.0, elapsed / self.rise_seconds))
        return Effect(rate=1 + (self.intensity - 1) * swell, size=1.5, volatility=1.3)


def effects_at(
    events: Iterable[tuple[float, MarketEvent]], symbols: Iterable[str], elapsed: float
) -> Mapping[str, Effect]:
    """Return what the events, given with their starts, change for each symbol at this moment."""
    effects: dict[str, Effect] = {}
    every = tuple(symbols)
    for start, event in events:
        effect = event.effect_at(elapsed - start)
        for symbol in every if event.symbol is None else (event.symbol,):
            effects[symbol] = effects.get(symbol, ORDINARY) * effect
    return effects


def _decay(elapsed: float, seconds: float, final: float) -> float:
    """Return a factor that falls from 1 to `final`."""
    return float(final ** (elapsed / seconds))


def _front_loaded(elapsed: float, seconds: float) -> float:
    """Return the share per second of a move that is fastest at its start; it adds up to 1 over `seconds`."""
    pace = 3.0 / seconds
    return pace * math.exp(-pace * elapsed) / (1 - math.exp(-3.0))
