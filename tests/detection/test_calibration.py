"""A score means what it says: how many hours a day would see as much."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptotrace_dagster.domain.calibration import Tail, TailPrior, advance_tail

PRIOR = TailPrior(scale=1.0)


def hourly(hours: int, seed: int, a_hour: int = 20) -> tuple[np.ndarray, np.ndarray]:
    scores = np.random.default_rng(seed).exponential(1.0, hours * a_hour)
    return np.repeat(np.arange(hours, dtype=np.int64), a_hour), scores


@pytest.mark.parametrize("wanted", [2.0, 0.5])
def test_scores_without_events_are_as_frequent_as_they_claim(wanted: float) -> None:
    hours, scores = hourly(24 * 400, seed=3)
    _, rates = advance_tail(Tail(), hours, scores, PRIOR)
    loud_hours = len(np.unique(hours[rates <= wanted]))
    assert wanted / 2 <= loud_hours / 400 <= 2 * wanted


def test_a_cold_start_is_quiet_even_before_a_large_score() -> None:
    hours = np.zeros(30, dtype=np.int64)
    _, rates = advance_tail(Tail(), hours, np.append(np.ones(29), 3.0), PRIOR)
    assert np.isnan(rates[:10]).all()
    assert rates[-1] > 1.0


def test_the_same_score_is_stranger_after_a_calmer_past() -> None:
    hours, scores = hourly(48, seed=1)
    last = len(scores) - 1
    _, calm = advance_tail(Tail(), hours, np.append(scores[:last], 20.0), PRIOR)
    _, wild = advance_tail(Tail(), hours, np.append(4 * scores[:last], 20.0), PRIOR)
    assert calm[-1] < wild[-1]


@given(st.lists(st.integers(1, 899), max_size=12))
def test_rates_are_the_same_to_the_bit_however_the_history_is_cut(cuts: list[int]) -> None:
    """Guards against a calibration that looks at its whole batch, and so at the future."""
    hours, scores = hourly(45, seed=5)
    _, whole = advance_tail(Tail(), hours, scores, PRIOR)
    tail, parts = Tail(), []
    bounds = sorted({0, len(scores), *cuts})
    for start, end in itertools.pairwise(bounds):
        tail, rates = advance_tail(tail, hours[start:end], scores[start:end], PRIOR)
        parts.append(rates)
    np.testing.assert_array_equal(np.concatenate(parts), whole)
