"""Pump: price, number of buying orders and rush orders rise together beyond what the symbol has done before.

Over the last 15 s and the last 25 s each of them is calibrated against the symbol's own hourly records ("how many hours
a day would see as much?"). The sum of these surprises is the raw score; it is calibrated in turn, with a prior that
is worth about two days. Aggressive buying has to be unusual too but adds nothing: volume alone says little. A rise
of less than a per cent is never a pump. Sees: a sudden pump, within the first or second bar of 5 s. Misses: a slow
one, and one on a symbol that has done as much within the week.
Sources: La Morgia et al., "The Doge of Wall Street" (ACM TOIT 2023), for rush orders and the length of the windows;
Siffer et al., "Anomaly Detection in Streams with Extreme Value Theory" (KDD 2017), for rates from tails.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cryptotrace_dagster.domain.calibration import Tail, TailPrior, advance_tail
from cryptotrace_dagster.domain.detectors.base import (
    SCORE_SCHEMA,
    State,
    epoch_seconds,
    score_frame,
)
from cryptotrace_dagster.domain.features import FAST_INTERVAL

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
_Earlier = tuple[NDArray[np.intp], NDArray[np.bool_]]  # where another bar is, and whether it is there

STEP_SECONDS = 5
WINDOWS = (3, 5)  # in bars; a pump lasts, a lone large order does not
REFERENCE_BARS = 60  # a rise counts from the highest close of the five minutes before, so that a bounce is no rise
SMALLEST_RISE = 1e-5  # below it, all rises are alike
LEAST_PUMP = np.log(1.01)

SUMMED = ("rise", "orders", "rush")
QUANTITIES = (*SUMMED, "buying")
LARGEST_SURPRISE = 4.0  # one quantity alone shall not carry the sum
# A pump is all of them together: each must come less than about three times a day, the rise less than ten times, for a
# cheap coin moves by whole ticks of several per cent.
LEAST_SURPRISE = {"rise": -1.0, "orders": -0.5, "rush": -0.5, "buying": -0.5}
NOT_TOGETHER = -3.0  # the usual peak of an hour
# Mean excess of an hour's peak over the median peak, in natural logarithms.
COMPONENT_PRIOR = {
    "rise": TailPrior(0.6),
    "buying": TailPrior(0.9),
    "orders": TailPrior(0.7),
    "rush": TailPrior(0.6),
}
TOTAL_PRIOR = TailPrior(0.7, weight=40.0)


class PumpDetector:
    """Scores how far beyond its own past a symbol's price, buying, orders and rush orders rise together."""

    name = "pump"
    version = 1
    bar_interval = FAST_INTERVAL
    over_market = False

    def begin(self) -> State:
        """Return the state before any bar."""
        return {"recent": {name: np.empty(0) for name in ("time", "close", "bought", "orders", "rush")}, "tails": {}}

    def advance(self, state: State, bars: pl.DataFrame) -> tuple[State, pl.DataFrame]:
        """Return the state after these 5-second bars of one symbol, and their scores."""
        if bars.is_empty():
            return state, pl.DataFrame(schema=SCORE_SCHEMA)
        measured = advance_surprises(state, bars)
        tails = measured.tails
        raw = np.full(bars.height, -np.inf)
        evidence: dict[str, Floats] = {}
        for width in WINDOWS:
            surprises = measured.surprises[width]
            evidence |= {_key(name, width): surprises[name] for name in QUANTITIES}
            raw = np.maximum(raw, _together(surprises, measured.log_rise[width]))
        hours = epoch_seconds(bars) // 3600
        tails["total"], times_a_day = advance_tail(tails.get("total", Tail()), hours, raw, TOTAL_PRIOR)
        return measured.state, score_frame(bars, raw, times_a_day, evidence)


@dataclass(frozen=True)
class Measured:
    """What a stretch of bars says by the symbol's own records, and what is remembered of it.

    Attributes:
        recent: the series that the next bars look back on.
        tails: the calibrations by quantity and window, and any other that the state held.
        surprises: by window (bars) and quantity, one value a bar: -log10 of its rate a day, capped.
        log_rise: by window, ln of the rise as the measure takes it.
    """

    recent: dict[str, Floats]
    tails: dict[str, Tail]
    surprises: dict[int, dict[str, Floats]]
    log_rise: dict[int, Floats]

    @property
    def state(self) -> State:
        """Return the detector's state after these bars."""
        return {"recent": self.recent, "tails": {key: asdict(tail) for key, tail in self.tails.items()}}


def advance_surprises(state: State, bars: pl.DataFrame) -> Measured:
    """Return how surprising rise, orders, rush orders and buying of these bars (one symbol, at least one) are."""
    seconds = epoch_seconds(bars)
    fresh = {
        "time": (seconds // STEP_SECONDS).astype(np.float64),
        "close": bars["close"].to_numpy().astype(np.float64),
        "bought": bars["quote_volume"].to_numpy() * (1 + bars["taker_imbalance"].to_numpy()) / 2,
        "orders": bars["buy_orders"].to_numpy().astype(np.float64),
        "rush": bars["rush_orders"].to_numpy().astype(np.float64),
    }
    series = {name: np.concatenate([state["recent"][name], values]) for name, values in fresh.items()}
    old = len(state["recent"]["time"])
    hours = seconds // 3600
    tails = {key: Tail(**record) for key, record in state["tails"].items()}
    surprises: dict[int, dict[str, Floats]] = {width: {} for width in WINDOWS}
    log_rise: dict[int, Floats] = {}
    earlier = _earlier(series["time"], max(WINDOWS))
    for width in WINDOWS:
        measures = _measures(series, earlier[: width - 1], old, width)
        log_rise[width] = measures["rise"]
        for name in QUANTITIES:
            key = _key(name, width)
            tails[key], rates = advance_tail(tails.get(key, Tail()), hours, measures[name], COMPONENT_PRIOR[name])
            surprises[width][name] = np.minimum(-np.log10(rates), LARGEST_SURPRISE)
    return Measured(_recent(series), tails, surprises, log_rise)


def _key(name: str, width: int) -> str:
    return f"{name}_{width * STEP_SECONDS}s"


def _together(surprises: dict[str, Floats], log_rise: Floats) -> Floats:
    """Return the sum of the surprises where all speak and the price has risen, else at most an ordinary hour's peak."""
    total: Floats = np.sum([surprises[name] for name in SUMMED], axis=0)
    is_pump_like = log_rise >= np.log(LEAST_PUMP)
    for name, least in LEAST_SURPRISE.items():
        is_pump_like &= surprises[name] >= least
    return np.where(is_pump_like | np.isnan(total), total, np.minimum(total, NOT_TOGETHER))


def _measures(series: dict[str, Floats], earlier: Sequence[_Earlier], old: int, width: int) -> dict[str, Floats]:
    """Return the four quantities over the `width` bars that end with each new bar, as logarithms."""
    bought, orders, rush = (_sum_back(series[name], earlier)[old:] for name in ("bought", "orders", "rush"))
    rise = np.log(series["close"] / _reference(series, width))[old:]
    return {
        "rise": np.log(np.maximum(rise, SMALLEST_RISE)),
        "buying": np.log(np.maximum(bought, 1e-300)),
        "orders": np.log1p(orders),
        "rush": np.log1p(rush),
    }


def _earlier(time: Floats, width: int) -> list[_Earlier]:
    """Return for each of the steps 1, 2, ... before a bar, up to a window's width, where its bar is, and if it is there."""
    positions = [np.searchsorted(time, time - lag) for lag in range(1, width)]
    return [(position, time[position] == time - lag) for lag, position in enumerate(positions, start=1)]


def _sum_back(values: Floats, earlier: Sequence[_Earlier]) -> Floats:
    """Return the sum over each bar and those before it, always added in the same order, so that cuts do not show."""
    total = values.copy()
    for position, is_there in earlier:
        total = total + np.where(is_there, values[position], 0.0)
    return total


def _reference(series: dict[str, Floats], width: int) -> Floats:
    """Return the highest close in the `REFERENCE_BARS` before the window, else the last close before it."""
    time, close = series["time"], series["close"]
    end = np.searchsorted(time, time - width + 1)
    start = np.searchsorted(time, time - width + 1 - REFERENCE_BARS)
    bounds = np.stack([start, np.maximum(end, start)], axis=1).ravel()
    highest = np.maximum.reduceat(close, np.minimum(bounds, len(close) - 1))[::2]
    last_before = close[np.maximum(end - 1, 0)]
    return np.where(end > start, highest, last_before)


def _recent(series: dict[str, Floats]) -> dict[str, Floats]:
    """Return what the next bars will look back on: the reference stretch, the widest window, and one bar before."""
    time = series["time"]
    first = np.searchsorted(time, time[-1] - REFERENCE_BARS - max(WINDOWS))
    keep = max(int(first) - 1, 0)
    return {name: values[keep:].copy() for name, values in series.items()}
