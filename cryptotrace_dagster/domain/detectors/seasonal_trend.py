"""Seasonal trend: a minute whose price, volume or range departs from what a state-space model of them foresaw.

A local level with two daily harmonics is filtered by statsmodels' Kalman filter for ln volume and ln range, a local
level under bid-ask noise for ln price (Durbin and Koopman, "Time Series Analysis by State Space Methods", 2012). The
one-step-ahead error over its robust scale is the raw score: the largest of |price|, volume and range, in standard
deviations. Minutes without trades are missing observations, not zeros. Sees: any sudden minute. Misses: slow change.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.signal import lfilter
from statsmodels.tsa.statespace.kalman_filter import KalmanFilter

from cryptotrace_dagster.domain.calibration import Tail, TailPrior, advance_tail
from cryptotrace_dagster.domain.detectors.base import SCORE_SCHEMA, State, epoch_seconds, score_frame
from cryptotrace_dagster.domain.features import SLOW_INTERVAL

Floats = NDArray[np.float64]

MINUTES_A_DAY = 1440
SCALE_MEMORY_MINUTES = 720.0
WARM_UP_MINUTES = 60
LONGEST_SILENCE_MINUTES = 2 * MINUTES_A_DAY  # after that the symbol starts afresh
PRIOR = TailPrior(scale=1.5)
_ROOT_OF_NORMAL = 0.82217895866  # mean of sqrt(|z|) for a standard normal z


@dataclass(frozen=True)
class _Model:
    """A local level with harmonics; variances relative to the observation noise, which the robust scale absorbs."""

    harmonics: int
    level_variance: float
    harmonic_variance: float = 1e-7


MODELS = {
    "price": _Model(harmonics=0, level_variance=1.0),
    "volume": _Model(harmonics=2, level_variance=2e-3),
    "range": _Model(harmonics=2, level_variance=2e-3),
}


class SeasonalTrendDetector:
    """Scores how far price, volume and range of a minute lie from their one-step forecast, in robust deviations."""

    name = "seasonal_trend"
    version = 1
    bar_interval = SLOW_INTERVAL
    over_market = False

    def begin(self) -> State:
        """Return the state before any bar."""
        return {"last_minute": None, "filters": {}, "tail": asdict(Tail())}

    def advance(self, state: State, bars: pl.DataFrame) -> tuple[State, pl.DataFrame]:
        """Return the state after these 1-minute bars of one symbol, and their scores."""
        if bars.is_empty():
            return state, pl.DataFrame(schema=SCORE_SCHEMA)
        minutes = epoch_seconds(bars) // 60
        last = state["last_minute"]
        if last is None or minutes[0] - last > LONGEST_SILENCE_MINUTES:
            last, state = int(minutes[0]) - 1, state | {"filters": {}}
        positions = minutes - last - 1
        observed = {
            "price": np.log(bars["close"].to_numpy()),
            "volume": np.log(np.maximum(bars["quote_volume"].to_numpy(), 1e-12)),
            "range": np.log1p(1e4 * bars["log_range"].to_numpy()),
        }
        filters, deviations = {}, {}
        for name, values in observed.items():
            series = np.full(int(positions[-1]) + 1, np.nan)
            series[positions] = values
            filters[name], errors = _forecast_errors(MODELS[name], state["filters"].get(name), series)
            filters[name], deviations[name] = _standardised(filters[name], errors[positions])
        strangest = np.fmax(np.fmax(np.abs(deviations["price"]), deviations["volume"]), deviations["range"])
        tail, times_a_day = advance_tail(Tail(**state["tail"]), minutes // 60, strangest, PRIOR)
        after = {"last_minute": int(minutes[-1]), "filters": filters, "tail": asdict(tail)}
        return after, score_frame(bars, strangest, times_a_day, deviations)


def _forecast_errors(model: _Model, memory: dict[str, Any] | None, series: Floats) -> tuple[dict[str, Any], Floats]:
    """Return the filter's memory after the series, and the standardised one-step-ahead errors."""
    size = 1 + 2 * model.harmonics
    kalman = KalmanFilter(k_endog=1, k_states=size, k_posdef=size, tolerance=0)  # no shortcut: cuts must not show
    transition = np.eye(size)
    for harmonic in range(model.harmonics):
        angle = 2 * np.pi * (harmonic + 1) / MINUTES_A_DAY
        block = slice(1 + 2 * harmonic, 3 + 2 * harmonic)
        transition[block, block] = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    kalman["transition"] = transition
    kalman["design"] = np.array([[1.0, *([1.0, 0.0] * model.harmonics)]])
    kalman["selection"] = np.eye(size)
    kalman["obs_cov"] = np.eye(1)
    kalman["state_cov"] = np.diag([model.level_variance, *([model.harmonic_variance] * (2 * model.harmonics))])
    if memory is None:
        start = np.zeros(size)
        start[0] = series[np.flatnonzero(np.isfinite(series))[0]]
        kalman.initialize_known(start, np.diag([1.0, *([0.1] * (2 * model.harmonics))]))
    else:
        kalman.initialize_known(np.array(memory["mean"]), np.array(memory["covariance"]))
    kalman.bind(series)
    result = kalman.filter()
    errors: Floats = result.forecasts_error[0] / np.sqrt(result.forecasts_error_cov[0, 0])
    after = {
        "mean": result.predicted_state[:, -1].copy(),
        "covariance": result.predicted_state_cov[:, :, -1].copy(),
        "scale": np.zeros(1) if memory is None else memory["scale"],
        "count": 0 if memory is None else memory["count"],
    }
    return after, errors


def _standardised(memory: dict[str, Any], errors: Floats) -> tuple[dict[str, Any], Floats]:
    """Return the errors over their exponentially weighted scale as it was before each; NaN during the warm-up.

    The scale is the squared mean root of |error|, which a lone outlier hardly moves.
    """
    forget = 1.0 / SCALE_MEMORY_MINUTES
    sums, carried = lfilter([forget], [1.0, forget - 1.0], np.sqrt(np.abs(errors)), zi=memory["scale"])
    before = np.concatenate([memory["scale"], sums[:-1] * (1 - forget)]) / (1 - forget)
    counts = memory["count"] + np.arange(len(errors))
    weight = -np.expm1(counts * np.log1p(-forget))
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = (before / weight / _ROOT_OF_NORMAL) ** 2
        deviations = np.where((counts >= WARM_UP_MINUTES) & (scale > 0), errors / scale, np.nan)
    return memory | {"scale": carried, "count": int(counts[-1]) + 1}, deviations
