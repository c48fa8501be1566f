"""Isolation forest: a minute whose combination of features is unlike the minutes of the days before.

scikit-learn's forests (Liu, Ting, Zhou, "Isolation Forest", ICDM 2008), five seeds averaged, over scale-free features, so
that one model serves all symbols. A model is its sample of past minutes and its seeds: fitting it again gives the
same trees, so nothing is pickled. Only minutes in which some deviation exceeds two are put to the forest; the rest cannot
be isolated and would cost most of the time. Sees: odd combinations, in either direction. Misses: everything before
the first model, which needs the better part of a day.
"""

from dataclasses import asdict, dataclass
from datetime import datetime
from functools import lru_cache

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.ensemble import IsolationForest

from cryptotrace_dagster.domain.calibration import Tail, TailPrior, advance_tail
from cryptotrace_dagster.domain.detectors.base import SCORE_SCHEMA, State, epoch_seconds, score_frame
from cryptotrace_dagster.domain.features import SLOW_INTERVAL

Floats = NDArray[np.float64]

SEEDS = (1, 2, 3, 4, 5)
TREES = 200
LARGEST_SUBSAMPLE = 512
LARGEST_SAMPLE = 2048
SMALLEST_SAMPLE = 512
SPEAKS_FROM = 2.0
# Liu et al.: about 0.5 for all that is nothing distinct. A floor of 0 would make the first loud minute, of 0.55, look as
# if it stood eleven prior scales above all that came before.
ORDINARY = 0.5
PRIOR = TailPrior(scale=0.05)

_SPEAKING = ("return_deviation", "range_deviation", "volume_deviation", "tick_count_deviation", "trade_size_deviation")
VECTOR = {
    **{name: pl.col(name).clip(-20, 20) for name in _SPEAKING},
    "taker_imbalance": pl.col("taker_imbalance"),
    "rush_orders": pl.col("rush_orders").cast(pl.Float64).log1p(),
    "volume_ratio": pl.col("volume_ratio").clip(1e-3, 1e3).log(),
    "bollinger_position": pl.col("bollinger_position").clip(-10, 10),
}


@dataclass(frozen=True)
class ForestModel:
    """A fitted forest: in force from an instant on, made from minutes before it (rows of `VECTOR`, float64)."""

    valid_from: datetime
    sample: bytes

    @property
    def rows(self) -> Floats:
        """Return the sample as a matrix."""
        return np.frombuffer(self.sample, dtype=np.float64).reshape(-1, len(VECTOR))

    def isolation(self, vectors: Floats) -> Floats:
        """Return how easily each vector is isolated, 0 to 1 (the paper's anomaly score), as the mean over the seeds."""
        scores: Floats = np.mean([-forest.score_samples(vectors) for forest in _forests(self)], axis=0)
        return scores


@lru_cache(maxsize=4)
def _forests(model: ForestModel) -> tuple[IsolationForest, ...]:
    rows = model.rows
    return tuple(
        IsolationForest(n_estimators=TREES, max_samples=min(LARGEST_SUBSAMPLE, len(rows)), random_state=seed).fit(rows)
        for seed in SEEDS
    )


def fit_forest(features: pl.DataFrame, valid_from: datetime) -> ForestModel | None:
    """Return a model of the 1-minute features before an instant, or None where there are too few.

    A sample of at most `LARGEST_SAMPLE` complete rows is drawn, the same for the same rows.
    """
    vectors = _vectors(features.filter(pl.col("bar_start") < valid_from)).drop_nulls()
    if vectors.height < SMALLEST_SAMPLE:
        return None
    sample = vectors.sample(min(LARGEST_SAMPLE, vectors.height), seed=0)
    return ForestModel(valid_from, np.ascontiguousarray(sample.to_numpy(), dtype=np.float64).tobytes())


def validate_forest(features: pl.DataFrame, valid_from: datetime) -> dict[str, float]:
    """Return how a model of the first four fifths of the time does on the last fifth, which it has not seen.

    `exceeding_share` is the share of later minutes beyond the 99 % quantile of the earlier ones: near 0.01 when the
    market has stayed what it was.
    """
    known = features.filter(pl.col("bar_start") < valid_from).sort("bar_start", "symbol")
    cut = int(known.height * 0.8)
    model = fit_forest(known[:cut], valid_from)
    later = _vectors(known[cut:]).drop_nulls()
    if model is None or later.is_empty():
        return {}
    limit = np.quantile(model.isolation(model.rows), 0.99)
    return {
        "exceeding_share": float((model.isolation(later.to_numpy()) > limit).mean()),
        "minutes": float(later.height),
    }


def _vectors(features: pl.DataFrame) -> pl.DataFrame:
    return features.select(expression.alias(name) for name, expression in VECTOR.items())


class IsolationForestDetector:
    """Scores how easily a minute's features are isolated from those of the days before, 0.5 (ordinary) to 1."""

    name = "isolation_forest"
    version = 2
    bar_interval = SLOW_INTERVAL
    over_market = False

    def __init__(self, models: tuple[ForestModel, ...] = ()) -> None:
        self.models = tuple(sorted(models, key=lambda model: model.valid_from))

    def begin(self) -> State:
        """Return the state before any bar."""
        return {"tail": asdict(Tail())}

    def advance(self, state: State, bars: pl.DataFrame) -> tuple[State, pl.DataFrame]:
        """Return the state after these 1-minute bars of one symbol, and their scores."""
        if bars.is_empty() or not self.models:
            return state, pl.DataFrame(schema=SCORE_SCHEMA)
        vectors = _vectors(bars)
        loudest = vectors.select(pl.max_horizontal(pl.col(name).abs() for name in _SPEAKING).alias("loudest"))[
            "loudest"
        ]
        is_complete = vectors.select(pl.all_horizontal(pl.all().is_not_null()).alias("complete"))["complete"]
        is_loud = (loudest.fill_null(0) >= SPEAKS_FROM) & is_complete
        raw = np.where(is_complete.to_numpy(), ORDINARY, np.nan)
        for index, model in enumerate(self.models):
            until = self.models[index + 1].valid_from if index + 1 < len(self.models) else datetime.max
            chosen = (is_loud & (bars["bar_start"] >= model.valid_from) & (bars["bar_start"] < until)).to_numpy()
            if chosen.any():
                isolation = model.isolation(vectors.to_numpy()[chosen].astype(np.float64))
                raw[chosen] = np.maximum(isolation, ORDINARY)
        raw[(bars["bar_start"] < self.models[0].valid_from).to_numpy()] = np.nan
        tail, times_a_day = advance_tail(Tail(**state["tail"]), epoch_seconds(bars) // 3600, raw, PRIOR)
        evidence = {name: vectors[name].cast(pl.Float64).to_numpy() for name in vectors.columns}
        return {"tail": asdict(tail)}, score_frame(bars, raw, times_a_day, evidence)
