"""A budget is kept where nothing happens; the long measurement is measure_budget.py."""

from tests.detection.measure_budget import BUDGET, spent


def test_two_a_day_rings_between_one_and_four_times_a_day() -> None:
    """Every market has minutes that depart from their forecast, so this detector has something to spend its budget on."""
    (found,) = [each for each in spent("thin", 2, 5, 1, ["seasonal_trend"]) if each.detector == "seasonal_trend"]
    assert BUDGET / 2 <= found.alerts_a_day <= 2 * BUDGET
