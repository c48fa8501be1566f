"""Pump classifier: what people called a pump, learned by a random forest from the surprises that the pump detector measures.

A random forest, as in La Morgia et al., "The Doge of Wall Street" (ACM TOIT 2023), but over features that have no scale
of their own, so that labels of all symbols teach one model. Only bars that end a rise of a per cent are put to it. A
model is its sample of labelled bars: fitting it again gives the same trees, so nothing is pickled. Without enough
labels there is no model, and then it costs nothing and says nothing. Sees: what was labelled. Misses: any other kind,
and what comes before its first model; its first hours are quiet, like everybody's.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cryptotrace_dagster.domain.calibration import Tail, TailPrior, advance_tail
from cryptotrace_dagster.domain.detectors.base import (
    SCORE_SCHEMA,
    State,
    decode_state,
    encode_state,
    epoch_seconds,
    score_frame,
)
from cryptotrace_dagster.domain.detectors.pump import LEAST_PUMP, QUANTITIES, WINDOWS, Measured, advance_surprises
from cryptotrace_dagster.domain.evaluation import AFTERMATH, HIT_REACH, Event
from cryptotrace_dagster.domain.features import FAST_INTERVAL
from cryptotrace_dagster.domain.windows import EPOCH, ceil

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestClassifier  # takes seconds to load, and most markets have no labels

Floats = NDArray[np.float64]
Rows = NDArray[np.float32]

NAME = "pump_classifier"
VERSION = 1
TREES = 200
SEED = 1
FEWEST_EVENTS = 20  # labelled pumps whose bars were met; with fewer, the last third could not validate anything
MOST_LABELS = 100
BARS_A_LABEL = 12
CALM_BARS_A_LABEL = 12
TRAINED_SHARE = 0.7  # of the events, the earlier ones; the later ones validate
PRIOR = TailPrior(scale=1.5)  # mean excess of an hour's peak over the median peak, in natural log-odds
NOT_RISING = float(np.log(0.5 / (TREES + 0.5)))  # the log-odds of a bar that no tree calls a pump

VECTOR = (
    *(f"{name}_{width}" for width in WINDOWS for name in QUANTITIES),
    *(f"log_rise_{width}" for width in WINDOWS),
    "taker_imbalance",
    "rush_share",
)


@dataclass(frozen=True)
class Label:
    """A labelled moment of a symbol: a pump, or what looked like one and was none."""

    event: Event
    is_pump: bool


@dataclass(frozen=True)
class Example:
    """What the bars around a labelled pump (or no pump) looked like, and other rising bars of the same week.

    Attributes:
        time: when it happened.
        is_pump: whether it was a pump.
        bars: vectors of its rising bars, float32, one row a bar.
        calm: vectors of rising bars that nobody labelled.
    """

    time: datetime
    is_pump: bool
    bars: Rows
    calm: Rows

    def encoded(self) -> bytes:
        """Return the vectors as bytes that name the version of their definition."""
        return encode_state({"version": VERSION, "bars": self.bars, "calm": self.calm})


def decoded_example(label_time: datetime, is_pump: bool, data: bytes) -> Example | None:
    """Return the example that was kept, or None where another version of the vectors made it."""
    kept = decode_state(data)
    return Example(label_time, is_pump, kept["bars"], kept["calm"]) if kept["version"] == VERSION else None


def rising_bars(bars: pl.DataFrame) -> pl.DataFrame:
    """Return symbol, bar_start and the vector (float32) of each bar of one symbol's history that ends a rise."""
    if bars.is_empty():
        return pl.DataFrame(schema={"symbol": pl.String, "bar_start": pl.Datetime("us"), **_VECTOR_SCHEMA})
    measured = advance_surprises(_beginning(), bars)
    vectors = _vectors(measured, bars)
    chosen = _is_rising(measured, vectors)
    places = bars.select("symbol", "bar_start").filter(chosen)
    return places.hstack(pl.DataFrame(vectors[chosen], schema=_VECTOR_SCHEMA))


def example_of(label: Label, rising: pl.DataFrame, known: Sequence[Label]) -> Example | None:
    """Return what a label teaches: the rising bars (of `rising_bars`) around it, and some that no label concerns.

    None where no bar of its symbol rises within the reach of its time. `known` are all labels, for what is near any of
    them, or within an hour after, is not calm.
    """
    near = _within(rising, label.event, -HIT_REACH, HIT_REACH).sort("bar_start")
    if near.is_empty():
        return None
    # Not beyond the day of the event, so that the first model after it knows nothing later.
    calm = rising.filter(pl.col("bar_start") < ceil(label.event.time, timedelta(days=1)))
    for other in known:
        calm = calm.join(
            _within(calm, other.event, -HIT_REACH, AFTERMATH).select("symbol", "bar_start"),
            on=["symbol", "bar_start"],
            how="anti",
            maintain_order="left",
        )
    drawn = calm.sample(min(CALM_BARS_A_LABEL, calm.height), seed=(label.event.time - EPOCH) // timedelta(seconds=1))
    return Example(label.event.time, label.is_pump, _matrix(near.head(BARS_A_LABEL)), _matrix(drawn))


def _within(rising: pl.DataFrame, event: Event, before: timedelta, after: timedelta) -> pl.DataFrame:
    concerned = [symbol for symbol in rising["symbol"].unique() if event.concerns(symbol)]
    is_near = pl.col("bar_start").is_between(event.time + before, event.time + after)
    return rising.filter(pl.col("symbol").is_in(concerned) & is_near)


@dataclass(frozen=True)
class ClassifierModel:
    """A fitted classifier: in force from an instant on, made from labelled bars before it.

    The sample's rows are float32: the vector, and the weight of the row, negative where it is no pump.
    """

    valid_from: datetime
    sample: bytes

    @property
    def rows(self) -> Rows:
        """Return the sample as a matrix."""
        return np.frombuffer(self.sample, dtype=np.float32).reshape(-1, len(VECTOR) + 1)

    def log_odds(self, vectors: Rows) -> Floats:
        """Return ln(p / (1 - p)) of each vector to be a pump's; as far as so many trees can tell."""
        share = _forest(self).predict_proba(vectors)[:, 1]
        p = (TREES * share + 0.5) / (TREES + 1)
        odds: Floats = np.log(p / (1 - p))
        return odds


@lru_cache(maxsize=4)
def _forest(model: ClassifierModel) -> "RandomForestClassifier":
    from sklearn.ensemble import RandomForestClassifier

    rows = model.rows
    forest = RandomForestClassifier(n_estimators=TREES, min_samples_leaf=2, random_state=SEED)
    return forest.fit(rows[:, :-1], rows[:, -1] > 0, sample_weight=np.abs(rows[:, -1]))


def fit_classifier(examples: Sequence[Example], valid_from: datetime) -> ClassifierModel | None:
    """Return a model of the examples before an instant, or None where there are too few pumps or nothing else.

    Each labelled moment weighs the same, however many bars it has; all the calm bars together weigh as much as the
    pumps, for else "never" would be a good answer.
    """
    known = _known(examples, valid_from)
    pumps = sum(example.is_pump for example in known)
    return _model(known, valid_from) if pumps >= FEWEST_EVENTS else None


def validate_classifier(examples: Sequence[Example], valid_from: datetime) -> dict[str, float]:
    """Return how a model of the earlier pumps does on the later ones, which it has not seen.

    Counted by labelled moment: a pump is hit when the forest gives one of its bars at least even odds. `calm_share` is
    the share of later calm bars that it takes for a pump's, `refused_share` that of later moments that a person called
    no pump (left out where there are none).
    """
    known = _known(examples, valid_from)
    times = [example.time for example in known if example.is_pump]
    cut = times[int(len(times) * TRAINED_SHARE)]
    model = _model([example for example in known if example.time < cut], cut)
    later = [example for example in known if example.time >= cut]
    if model is None:
        return {}
    taken = [(example.is_pump, bool((model.log_odds(example.bars) >= 0).any())) for example in later]
    pumps, others = ([is_taken for is_pump, is_taken in taken if is_pump is wanted] for wanted in (True, False))
    calm = np.concatenate([example.calm for example in later])
    found = {"trained_pumps": float(len(times) - len(pumps)), "later_pumps": float(len(pumps))}
    found["recall"] = sum(pumps) / len(pumps)
    if len(calm):
        found["calm_share"] = float((model.log_odds(calm) >= 0).mean())
    if others:
        found["refused_share"] = 1 - sum(others) / len(others)
    return found


def _known(examples: Sequence[Example], valid_from: datetime) -> list[Example]:
    """Return the latest examples that were over before an instant, in order of time."""
    before = [example for example in examples if example.time + HIT_REACH < valid_from]
    return sorted(before, key=lambda example: example.time)[-MOST_LABELS:]


def _model(known: Sequence[Example], valid_from: datetime) -> ClassifierModel | None:
    pumps = sum(example.is_pump for example in known)
    calm = sum(len(example.calm) for example in known)
    if not pumps or (pumps == len(known) and not calm):
        return None
    parts = [_weighted(example.bars, (1 if example.is_pump else -1) / len(example.bars)) for example in known] + [
        _weighted(example.calm, -pumps / calm) for example in known if len(example.calm)
    ]
    return ClassifierModel(valid_from, np.ascontiguousarray(np.concatenate(parts), dtype=np.float32).tobytes())


def _weighted(rows: Rows, weight: float) -> Rows:
    return np.column_stack([rows, np.full(len(rows), weight, dtype=np.float32)])


class PumpClassifierDetector:
    """Scores how much a rising bar looks like those that people called pumps, in natural log-odds."""

    name = NAME
    version = VERSION
    bar_interval = FAST_INTERVAL
    over_market = False

    def __init__(self, models: tuple[ClassifierModel, ...] = ()) -> None:
        self.models = tuple(sorted(models, key=lambda model: model.valid_from))

    def begin(self) -> State:
        """Return the state before any bar."""
        return _beginning() | {"tail": asdict(Tail())}

    def advance(self, state: State, bars: pl.DataFrame) -> tuple[State, pl.DataFrame]:
        """Return the state after these 5-second bars of one symbol, and their scores."""
        bars = bars.filter(pl.col("bar_start") >= self.models[0].valid_from) if self.models else bars.clear()
        if bars.is_empty():
            return state, pl.DataFrame(schema=SCORE_SCHEMA)
        measured = advance_surprises(state, bars)
        vectors = _vectors(measured, bars)
        is_rising = _is_rising(measured, vectors)
        raw = np.full(bars.height, NOT_RISING)
        for index, model in enumerate(self.models):
            until = self.models[index + 1].valid_from if index + 1 < len(self.models) else datetime.max
            is_in_force = bars["bar_start"].is_between(model.valid_from, until, closed="left").to_numpy()
            chosen = is_rising & is_in_force
            if chosen.any():
                raw[chosen] = model.log_odds(vectors[chosen])
        tail, times_a_day = advance_tail(Tail(**state["tail"]), epoch_seconds(bars) // 3600, raw, PRIOR)
        evidence = {"log_odds": raw} | {name: vectors[:, index].astype(np.float64) for index, name in enumerate(VECTOR)}
        return measured.state | {"tail": asdict(tail)}, score_frame(bars, raw, times_a_day, evidence)


_VECTOR_SCHEMA = dict.fromkeys(VECTOR, pl.Float32())


def _beginning() -> State:
    return {"recent": {name: np.empty(0) for name in ("time", "close", "bought", "orders", "rush")}, "tails": {}}


def _matrix(rising: pl.DataFrame) -> Rows:
    matrix: Rows = rising.select(VECTOR).to_numpy().astype(np.float32)
    return np.ascontiguousarray(matrix).reshape(-1, len(VECTOR))


def _vectors(measured: Measured, bars: pl.DataFrame) -> Rows:
    columns = [measured.surprises[width][name] for width in WINDOWS for name in QUANTITIES]
    columns += [measured.log_rise[width] for width in WINDOWS]
    rush = bars["rush_orders"].to_numpy() / np.maximum(bars["buy_orders"].to_numpy(), 1)
    vectors: Rows = np.column_stack([*columns, bars["taker_imbalance"].to_numpy(), rush]).astype(np.float32)
    return vectors


def _is_rising(measured: Measured, vectors: Rows) -> NDArray[np.bool_]:
    """Return which bars end a rise of a per cent, with a past to be surprised by."""
    rise = np.max([measured.log_rise[width] for width in WINDOWS], axis=0)
    is_rising: NDArray[np.bool_] = (rise >= np.log(LEAST_PUMP)) & np.isfinite(vectors).all(axis=1)
    return is_rising
