"""Models of the learned detectors: fitted rows of `detector_models`, and back again.

Owns how a model is stored and which stored rows it is made from. Stays out: what it learns
(domain/detectors/isolation_forest.py, pump_classifier.py) and when (the assets). scikit-learn is imported only where a
model is fitted or used, for it takes seconds to load.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl

from cryptotrace_dagster.domain.detectors.base import Detector
from cryptotrace_dagster.domain.evaluation import HIT_REACH, Event
from cryptotrace_dagster.domain.features import FAST_INTERVAL, SLOW_INTERVAL
from cryptotrace_dagster.pipeline.labels import PUMP
from cryptotrace_dagster.storage import Transaction
from cryptotrace_dagster.tables import DETECTOR_MODELS, EVENT_LABELS, FEATURES

if TYPE_CHECKING:
    from cryptotrace_dagster.domain.detectors.pump_classifier import Example, Label

FOREST = "isolation_forest"
CLASSIFIER = "pump_classifier"
MODEL_MEMORY = timedelta(days=7)

_NEEDED_COLUMNS = ("symbol", "bar_start", "close", "quote_volume", "taker_imbalance", "buy_orders", "rush_orders")


@dataclass(frozen=True)
class Fitted:
    """A `detector_models` row, or none where there was too little to learn from, and what there was."""

    rows: pl.DataFrame
    details: dict[str, int | float | str] = field(default_factory=dict)


Fit = Callable[[], Fitted]


def has_labels(transaction: Transaction) -> bool:
    """Return whether there is any label that the pump classifier could learn from."""
    found = transaction.query(f"SELECT count(*) FROM {EVENT_LABELS.name} WHERE kind = ? AND is_event", [PUMP])
    return bool(found.item())


def forest_of(transaction: Transaction, valid_from: datetime) -> Fit:
    """Return what fits a forest to the 1-minute features of the days before a midnight."""
    start = valid_from - MODEL_MEMORY
    features = transaction.query(
        f"SELECT * FROM {FEATURES.name} WHERE bar_interval = ? AND bar_start >= ? AND bar_start < ? "
        "ORDER BY bar_start, symbol",
        [SLOW_INTERVAL, start, valid_from],
    )
    return lambda: _fitted_forest(features, start, valid_from)


def _fitted_forest(features: pl.DataFrame, start: datetime, valid_from: datetime) -> Fitted:
    from cryptotrace_dagster.domain.detectors import isolation_forest as forest

    details: dict[str, int | float | str] = {"minutes": features.height, "trained_from": str(start)}
    model = forest.fit_forest(features, valid_from)
    if model is None:
        return Fitted(DETECTOR_MODELS.empty(), details)
    row = {
        "detector": FOREST,
        "detector_version": forest.IsolationForestDetector.version,
        "valid_from": valid_from,
        "trained_from": features["bar_start"].min(),
        "minutes": features.height,
        "parameters": json.dumps(
            {"trees": forest.TREES, "subsample": forest.LARGEST_SUBSAMPLE, "seeds": list(forest.SEEDS)}
        ),
        "validation": json.dumps(forest.validate_forest(features, valid_from)),
        "sample": model.sample,
    }
    return Fitted(pl.DataFrame([row], schema=DETECTOR_MODELS.polars_schema), details)


def classifier_of(transaction: Transaction, valid_from: datetime) -> Fit:
    """Return what fits a pump classifier to the labels before a midnight; bars around new ones are kept with them now."""
    if not has_labels(transaction):
        return lambda: Fitted(DETECTOR_MODELS.empty())
    _meet_labels(transaction, valid_from)
    examples = _examples(transaction, valid_from)
    return lambda: _fitted_classifier(examples, valid_from)


def _fitted_classifier(examples: list["Example"], valid_from: datetime) -> Fitted:
    from cryptotrace_dagster.domain.detectors import pump_classifier as classifier

    pumps = sum(example.is_pump for example in examples)
    details: dict[str, int | float | str] = {
        "labelled_pumps": pumps,
        "labelled_pumps_needed": classifier.FEWEST_EVENTS,
    }
    model = classifier.fit_classifier(examples, valid_from)
    if model is None:
        return Fitted(DETECTOR_MODELS.empty(), details)
    validation = classifier.validate_classifier(examples, valid_from)
    row = {
        "detector": CLASSIFIER,
        "detector_version": classifier.VERSION,
        "valid_from": valid_from,
        "trained_from": min(example.time for example in examples),
        "minutes": len(model.rows),
        "parameters": json.dumps({"trees": classifier.TREES, "seed": classifier.SEED, "labels": len(examples)}),
        "validation": json.dumps(validation),
        "sample": model.sample,
    }
    details |= {f"pump_classifier_{name}": value for name, value in validation.items()}
    return Fitted(pl.DataFrame([row], schema=DETECTOR_MODELS.polars_schema), details)


def _labels(transaction: Transaction, until: datetime) -> pl.DataFrame:
    """Return the labels of pumps before an instant; of two about the same moment of a symbol, the later word counts."""
    rows = transaction.query(
        f"SELECT * FROM {EVENT_LABELS.name} WHERE kind = ? AND event_time < ? ORDER BY symbol, event_time, recorded_at",
        [PUMP, until],
    )
    kept: list[dict[str, object]] = []
    for row in rows.iter_rows(named=True):
        before = kept[-1] if kept else None
        if before is None or before["symbol"] != row["symbol"] or row["event_time"] - before["event_time"] > HIT_REACH:
            kept.append(row)
        elif row["recorded_at"] > before["recorded_at"]:
            kept[-1] = row
    return pl.DataFrame(kept, schema=EVENT_LABELS.polars_schema)


def _as_label(row: dict[str, object]) -> "Label":
    from cryptotrace_dagster.domain.detectors.pump_classifier import Label

    event_time = row["event_time"]
    assert isinstance(event_time, datetime)  # noqa: S101 - narrows for the type checker
    return Label(Event(str(row["symbol"]), event_time), bool(row["is_event"]))


def _meet_labels(transaction: Transaction, valid_from: datetime) -> None:
    """Keep with each label that has none yet the vectors of the bars around it, while these bars are stored."""
    from cryptotrace_dagster.domain.detectors.pump_classifier import example_of, rising_bars

    labels = _labels(transaction, valid_from)
    new = labels.filter(pl.col("examples").is_null() & (pl.col("event_time") > valid_from - MODEL_MEMORY - HIT_REACH))
    if new.is_empty():
        return
    symbols = transaction.query(
        f"SELECT DISTINCT symbol FROM {FEATURES.name} WHERE bar_interval = ? AND bar_start >= ? AND bar_start < ? "
        "ORDER BY symbol",
        [FAST_INTERVAL, valid_from - MODEL_MEMORY, valid_from],
    )["symbol"].to_list()
    if not symbols:
        return
    rising = pl.concat([rising_bars(_fast_bars(transaction, symbol, valid_from)) for symbol in symbols])
    known = [_as_label(row) for row in labels.iter_rows(named=True)]
    met = [
        row | {"examples": example.encoded()}
        for row in new.iter_rows(named=True)
        if (example := example_of(_as_label(row), rising, known)) is not None
    ]
    transaction.merge(EVENT_LABELS, pl.DataFrame(met, schema=EVENT_LABELS.polars_schema))


def _fast_bars(transaction: Transaction, symbol: str, until: datetime) -> pl.DataFrame:
    return transaction.query(
        f"SELECT {', '.join(_NEEDED_COLUMNS)} FROM {FEATURES.name} "
        "WHERE bar_interval = ? AND symbol = ? AND bar_start >= ? AND bar_start < ? ORDER BY bar_start",
        [FAST_INTERVAL, symbol, until - MODEL_MEMORY, until],
    )


def _examples(transaction: Transaction, valid_from: datetime) -> list["Example"]:
    from cryptotrace_dagster.domain.detectors.pump_classifier import decoded_example

    rows = _labels(transaction, valid_from).drop_nulls("examples")
    found = [
        decoded_example(time, is_event, data)
        for time, is_event, data in rows.select("event_time", "is_event", "examples").iter_rows()
    ]
    return [example for example in found if example is not None]


def _with_forests(stored: pl.DataFrame) -> Detector:
    from cryptotrace_dagster.domain.detectors.isolation_forest import ForestModel, IsolationForestDetector

    return IsolationForestDetector(tuple(ForestModel(valid_from, sample) for valid_from, sample in stored.iter_rows()))


def _with_classifiers(stored: pl.DataFrame) -> Detector:
    from cryptotrace_dagster.domain.detectors.pump_classifier import ClassifierModel, PumpClassifierDetector

    return PumpClassifierDetector(
        tuple(ClassifierModel(valid_from, sample) for valid_from, sample in stored.iter_rows())
    )


@dataclass(frozen=True)
class Learner:
    """How a learned detector is fitted, and made from its stored models.

    What it learns from is read in a transaction; the fitting takes seconds, in which nobody is to be kept waiting.
    """

    learn: Callable[[Transaction, datetime], Fit]
    make: Callable[[pl.DataFrame], Detector]


LEARNERS = {
    FOREST: Learner(forest_of, _with_forests),
    CLASSIFIER: Learner(classifier_of, _with_classifiers),
}


def stored_models(transaction: Transaction, detectors: Sequence[Detector]) -> dict[str, tuple[datetime, ...]]:
    """Return from when on there are models, by learned detector and for its present version."""
    rows = transaction.query(f"SELECT detector, detector_version, valid_from FROM {DETECTOR_MODELS.name} ORDER BY ALL")
    return {
        each.name: tuple(
            rows.filter(pl.col("detector") == each.name, pl.col("detector_version") == each.version)["valid_from"]
        )
        for each in detectors
        if each.name in LEARNERS
    }


def with_models(detectors: Sequence[Detector], transaction: Transaction) -> tuple[Detector, ...]:
    """Return the detectors, the learned ones with the stored models of their version."""
    made = []
    for each in detectors:
        if each.name in LEARNERS:
            stored = transaction.query(
                f"SELECT valid_from, sample FROM {DETECTOR_MODELS.name} WHERE detector = ? AND detector_version = ?",
                [each.name, each.version],
            )
            made.append(LEARNERS[each.name].make(stored))
        else:
            made.append(each)
    return tuple(made)
