"""Evaluation: alerts held against labelled events, as a person would count them.

Owns the protocol. An event is hit when an alert comes within two minutes of it, before or after; what follows until an
hour after the event belongs to it and counts neither way; every other alert is a false alarm. Intervals come from
resampling symbol-days. Stays out: making alerts (pipeline/backtest.py) and reading files.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import numpy as np

HIT_REACH = timedelta(seconds=120)
AFTERMATH = timedelta(minutes=60)
RESAMPLES = 2000
_DAY = timedelta(days=1)
_QUOTES = ("USDT", "BUSD", "USDC", "TUSD", "FDUSD", "USD", "BTC", "ETH", "BNB", "EUR")


@dataclass(frozen=True)
class Event:
    """A labelled event: when it was announced; an empty symbol means whatever symbol there is."""

    symbol: str
    time: datetime

    def concerns(self, symbol: str) -> bool:
        """Return whether this is the symbol meant: `VIA`, `via/btc` and `VIABTC` all mean VIABTC."""
        wanted, found = normal_symbol(self.symbol), normal_symbol(symbol)
        return wanted in ("", found) or (found.startswith(wanted) and found.removeprefix(wanted) in _QUOTES)


@dataclass(frozen=True)
class Ring:
    """One alert, as far as it is judged: the moment is when live operation could have sent it."""

    symbol: str
    time: datetime


@dataclass(frozen=True)
class Span:
    """The time in which a symbol was watched."""

    symbol: str
    start: datetime
    end: datetime

    @property
    def days(self) -> float:
        """Return the length in days."""
        return (self.end - self.start) / _DAY


@dataclass(frozen=True)
class Interval:
    """A figure with the 95 % interval of its bootstrap."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Verdict:
    """How a rule's alerts compare with the events; None where a figure has no meaning (no events, no alerts)."""

    alerts: int
    symbol_days: float
    alerts_a_day: float
    events: int
    hits: int
    false_alarms: int
    false_alarms_a_symbol_day: Interval | None
    precision: Interval | None
    recall: Interval | None
    f1: Interval | None
    median_delay_seconds: float | None
    delays_seconds: tuple[float, ...]


def normal_symbol(symbol: str) -> str:
    """Return the exchange's spelling: upper case, letters and digits only."""
    return re.sub(r"[^A-Z0-9]", "", symbol.upper())


def judge(rings: Sequence[Ring], events: Sequence[Event], spans: Sequence[Span], seed: int = 0) -> Verdict:
    """Return how the alerts compare with the events that lie inside the watched spans."""
    known = [
        (span, event)
        for span in spans
        for event in events
        if event.concerns(span.symbol) and span.start - HIT_REACH <= event.time <= span.end + HIT_REACH
    ]
    delays = [_delay(event, [ring for ring in rings if ring.symbol == span.symbol]) for span, event in known]
    false_alarms = [ring for ring in rings if not any(_belongs(ring, span, event) for span, event in known)]
    hits = sum(delay is not None for delay in delays)
    days = sum(span.days for span in spans)
    resampled = _resampled(known, delays, false_alarms, spans, seed)
    found = tuple(delay for delay in delays if delay is not None)
    rates = _rates(hits, len(known), len(false_alarms))
    return Verdict(
        alerts=len(rings),
        symbol_days=days,
        alerts_a_day=len(rings) / days if days else 0.0,
        events=len(known),
        hits=hits,
        false_alarms=len(false_alarms),
        false_alarms_a_symbol_day=_interval(len(false_alarms) / days if days else 0.0, resampled[:, 3]),
        precision=_interval(rates[0], resampled[:, 0]),
        recall=_interval(rates[1], resampled[:, 1]),
        f1=_interval(rates[2], resampled[:, 2]),
        median_delay_seconds=float(np.median(found)) if found else None,
        delays_seconds=found,
    )


def _belongs(ring: Ring, span: Span, event: Event) -> bool:
    return ring.symbol == span.symbol and event.time - HIT_REACH < ring.time <= event.time + AFTERMATH


def _delay(event: Event, rings: Sequence[Ring]) -> float | None:
    """Return the seconds from the event to its first alert, negative before it; None when it was missed."""
    near = [ring.time for ring in rings if event.time - HIT_REACH < ring.time <= event.time + HIT_REACH]
    return (min(near) - event.time).total_seconds() if near else None


def _rates(hits: float, events: float, false_alarms: float) -> tuple[float, float, float]:
    """Return precision, recall and F1; NaN where there is nothing to divide by."""
    precision = hits / (hits + false_alarms) if hits + false_alarms else np.nan
    recall = hits / events if events else np.nan
    f1 = 2 * hits / (hits + false_alarms + events) if events else np.nan
    return precision, recall, f1


def _interval(value: float, resampled: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Interval | None:
    usable = resampled[np.isfinite(resampled)]
    if not np.isfinite(value) or len(usable) == 0:
        return None
    low, high = np.quantile(usable, [0.025, 0.975])
    return Interval(float(value), float(low), float(high))


def _resampled(
    known: Sequence[tuple[Span, Event]],
    delays: Sequence[float | None],
    false_alarms: Sequence[Ring],
    spans: Sequence[Span],
    seed: int,
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return precision, recall, F1 and false alarms a day of resampled symbol-days, one row a resample."""
    counts: dict[tuple[str, date], list[float]] = {}
    for span in spans:
        start = span.start
        while start < span.end:
            end = min(datetime.combine(start.date(), datetime.min.time()) + _DAY, span.end)
            cell = counts.setdefault((span.symbol, start.date()), [0.0, 0.0, 0.0, 0.0])
            cell[3] += (end - start) / _DAY
            start = end
    for (span, event), delay in zip(known, delays, strict=True):
        cell = counts.setdefault((span.symbol, event.time.date()), [0.0, 0.0, 0.0, 0.0])
        cell[0] += 1
        cell[1] += delay is not None
    for ring in false_alarms:
        counts.setdefault((ring.symbol, ring.time.date()), [0.0, 0.0, 0.0, 0.0])[2] += 1
    cells = np.array(list(counts.values())).reshape(-1, 4)
    if len(cells) == 0:
        return np.full((1, 4), np.nan)
    draws = np.random.default_rng(seed).integers(0, len(cells), size=(RESAMPLES, len(cells)))
    totals = np.stack([cells[:, column][draws].sum(axis=1) for column in range(4)], axis=1)
    rows = [(*_rates(hits, events, alarms), alarms / days if days else np.nan) for events, hits, alarms, days in totals]
    return np.array(rows)
