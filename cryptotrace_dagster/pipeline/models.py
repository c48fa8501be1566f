"""Models of the learned detectors: fitted rows of `detector_models`, and back again.

Owns how a model is stored. Stays out: what it learns (domain/detectors/isolation_forest.py) and when (the assets).
scikit-learn is imported only where a model is fitted or used, for it takes seconds to load.
"""

import json
from datetime import datetime, timedelta

import polars as pl

from cryptotrace_dagster.domain.detectors.base import Detector
from cryptotrace_dagster.storage import Transaction
from cryptotrace_dagster.tables import DETECTOR_MODELS

LEARNED = "isolation_forest"
MODEL_MEMORY = timedelta(days=7)


def fitted_rows(features: pl.DataFrame, valid_from: datetime) -> pl.DataFrame:
    """Return the `detector_models` row of a model of these 1-minute features, or none where there are too few."""
    from cryptotrace_dagster.domain.detectors import isolation_forest as forest

    model = forest.fit_forest(features, valid_from)
    if model is None:
        return DETECTOR_MODELS.empty()
    parameters = {"trees": forest.TREES, "subsample": forest.LARGEST_SUBSAMPLE, "seeds": list(forest.SEEDS)}
    row = {
        "detector": LEARNED,
        "detector_version": forest.IsolationForestDetector.version,
        "valid_from": valid_from,
        "trained_from": features["bar_start"].min(),
        "minutes": features.height,
        "parameters": json.dumps(parameters),
        "validation": json.dumps(forest.validate_forest(features, valid_from)),
        "sample": model.sample,
    }
    return pl.DataFrame([row], schema=DETECTOR_MODELS.polars_schema)


def with_models(detectors: tuple[Detector, ...], transaction: Transaction) -> tuple[Detector, ...]:
    """Return the detectors, the learned one with the stored models of its version."""
    from cryptotrace_dagster.domain.detectors.isolation_forest import ForestModel, IsolationForestDetector

    rows = transaction.query(
        f"SELECT valid_from, sample FROM {DETECTOR_MODELS.name} WHERE detector = ? AND detector_version = ?",
        [LEARNED, IsolationForestDetector.version],
    )
    models = tuple(ForestModel(valid_from, sample) for valid_from, sample in rows.iter_rows())
    return tuple(IsolationForestDetector(models) if each.name == LEARNED else each for each in detectors)
