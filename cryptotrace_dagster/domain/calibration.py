"""Calibration: what a raw score means, as the number of hours a day in which its symbol scores at least as high.

Owns the tail model that all detectors share: peaks over a threshold, one peak an hour so that a burst counts once
(Siffer et al., "Anomaly Detection in Streams with Extreme Value Theory", KDD 2017), with a conjugate prior, so that a
short history makes it quiet rather than noisy. Also the check that calibrated scores keep their word.
Stays out: raw scores (detectors/) and thresholds (rules).
"""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

HOURS_A_DAY = 24.0
MEMORY_HOURS = 7 * 24
MINIMUM_BARS = 10  # below that a symbol has no past to be judged by


@dataclass(frozen=True)
class TailPrior:
    """What is believed about a raw score's tail before the symbol has shown its own.

    Attributes:
        scale: mean excess of an hour's peak over the median peak, in raw units.
        weight: how many observed excesses this belief is worth.
    """

    scale: float
    weight: float = 4.0


@dataclass(frozen=True)
class Tail:
    """The memory of one raw score of one symbol: the peak of every hour of the last week."""

    bars: int = 0
    first_hour: int = -1
    open_hour: int = -1
    open_peak: float = -np.inf
    hours: Integers = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    peaks: Floats = field(default_factory=lambda: np.empty(0))


def advance_tail(tail: Tail, hours: Integers, scores: Floats, prior: TailPrior) -> tuple[Tail, Floats]:
    """Return the tail after these bars, and for each bar how many hours a day would see a score at least this high.

    A bar is judged by the hours before its own and by the bars of its hour before it, never by itself or the future.

    Args:
        tail: the memory before the first bar.
        hours: hours since the epoch in which the bars start, ascending.
        scores: raw scores, larger is stranger; NaN means that there is nothing to judge.
        prior: the belief that stands in for missing history.
    """
    rates = np.full(len(scores), np.nan)
    boundaries = np.flatnonzero(np.diff(hours)) + 1
    for start, end in zip(np.append(0, boundaries), np.append(boundaries, len(hours)), strict=True):
        if start == end:
            continue
        tail = _opened(tail, int(hours[start]))
        before = np.fmax.accumulate(np.append(tail.open_peak, scores[start:end]))
        rates[start:end] = _rates(tail, before[:-1], scores[start:end], prior)
        known = np.isfinite(scores[start:end])
        seen = tail.bars + np.cumsum(known)
        rates[start:end][seen <= MINIMUM_BARS] = np.nan
        tail = replace(tail, bars=tail.bars + int(known.sum()), open_peak=float(before[-1]))
    return tail, rates


def _opened(tail: Tail, hour: int) -> Tail:
    """Return the tail with this hour open, and the hour that was open before among the remembered ones."""
    if tail.open_hour == hour:
        return tail
    if tail.open_hour < 0:
        return replace(tail, first_hour=hour, open_hour=hour)
    hours, peaks = tail.hours, tail.peaks
    if np.isfinite(tail.open_peak):
        hours, peaks = np.append(hours, tail.open_hour), np.append(peaks, tail.open_peak)
    recent = hours >= hour - MEMORY_HOURS
    return replace(tail, open_hour=hour, open_peak=-np.inf, hours=hours[recent], peaks=peaks[recent])


def _rates(tail: Tail, peak_before: Floats, scores: Floats, prior: TailPrior) -> Floats:
    """Return the posterior predictive rate of exceedance: exponential excesses, whose rate has a Gamma prior.

    The first, incomplete hour of a symbol is counted as history of its own, so that a start is quiet.
    """
    observed = min(tail.open_hour - tail.first_hour, MEMORY_HOURS)
    lowest = np.where(np.isfinite(peak_before), peak_before, np.nan)
    threshold = _median_peak(tail.peaks, observed) if len(tail.peaks) else np.nan
    base = lowest if np.isnan(threshold) else np.full(len(scores), threshold)
    excess_now = np.fmax(lowest - base, 0.0)  # 0 where nothing is known
    excesses = tail.peaks[tail.peaks > threshold] - threshold
    count = len(excesses) + (excess_now > 0)
    total = float(excesses.sum()) + excess_now
    share = np.minimum((count + 1.0) / (observed + 2.0), 1.0)
    distance = np.maximum(scores - base, 0.0)
    survival = np.exp(-(count + prior.weight) * np.log1p(distance / (prior.weight * prior.scale + total)))
    return np.where(distance > 0, HOURS_A_DAY * share * survival, np.where(np.isnan(scores), np.nan, HOURS_A_DAY))


def _median_peak(peaks: Floats, observed: int) -> float:
    """Return the median hourly peak, where an hour without trades lies below every other."""
    silent = max(observed - len(peaks), 0)
    rank = (observed - 1) // 2 - silent
    return float(np.sort(peaks)[max(rank, 0)])
