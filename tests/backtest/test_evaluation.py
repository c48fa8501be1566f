"""The protocol: what counts as a hit, what as a false alarm, and what as neither."""

from datetime import datetime, timedelta

import pytest

from cryptotrace_dagster.domain.evaluation import Event, Ring, Span, judge

NOON = datetime(2021, 3, 7, 12)
SPAN = Span("VIA/BTC", NOON - timedelta(days=2), NOON + timedelta(days=2))


def ring(seconds: float) -> Ring:
    return Ring("VIA/BTC", NOON + timedelta(seconds=seconds))


@pytest.mark.parametrize(
    ("seconds", "hits", "false_alarms"),
    [(-120, 0, 1), (-119, 1, 0), (5, 1, 0), (120, 1, 0), (121, 0, 0), (3600, 0, 0), (3601, 0, 1)],
)
def test_an_alert_is_judged_by_its_distance_from_the_event(seconds: float, hits: int, false_alarms: int) -> None:
    verdict = judge([ring(seconds)], [Event("VIA", NOON)], [SPAN])
    assert (verdict.hits, verdict.false_alarms) == (hits, false_alarms)


def test_figures_follow_from_hits_misses_and_false_alarms() -> None:
    spans = [SPAN, Span("NXSBTC", SPAN.start, SPAN.end)]
    events = [Event("VIABTC", NOON), Event("NXS", NOON)]
    verdict = judge([ring(8), ring(90), ring(-9000), ring(20_000)], events, spans)
    assert verdict.precision is not None and verdict.recall is not None and verdict.f1 is not None
    assert verdict.precision.value == pytest.approx(1 / 3)
    assert verdict.recall.value == 0.5
    assert verdict.f1.value == pytest.approx(2 / 5)
    assert verdict.f1.low <= 0.4 <= verdict.f1.high
    assert verdict.false_alarms_a_symbol_day is not None
    assert verdict.false_alarms_a_symbol_day.value == 0.25
    assert verdict.median_delay_seconds == 8


@pytest.mark.parametrize("name", ["via", "VIA/BTC", "VIABTC", "via_btc", ""])
def test_a_label_may_spell_its_symbol_in_any_usual_way(name: str) -> None:
    assert judge([ring(5)], [Event(name, NOON)], [SPAN]).hits == 1


def test_a_label_of_another_symbol_or_time_is_no_event_here() -> None:
    events = [Event("VI", NOON), Event("VIA", NOON + timedelta(days=9))]
    verdict = judge([], events, [SPAN])
    assert (verdict.events, verdict.recall, verdict.precision) == (0, None, None)
