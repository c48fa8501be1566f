"""Trying rules: what would have rung, at the rate of the time in which something was watched."""

from datetime import timedelta

import pytest

from cryptotrace_dagster.pipeline.trial import try_rules
from cryptotrace_dagster.storage import Warehouse
from tests.builders import NOON
from tests.rules.market import SECOND, book, seconds_of, store, with_longer

MOVE = "kind = 'move'\nat_least_percent = 3\nwithin = '10s'"
RECORD = "kind = 'record'\ndays = 1"


@pytest.mark.parametrize("rules", [(MOVE,), (MOVE, RECORD)])
def test_young_data_are_tried_from_their_first_second_on(warehouse: Warehouse, rules: tuple[str, ...]) -> None:
    """A record rule brings in the day's bar, which begins at midnight; nothing was watched from there until noon."""
    store(warehouse, with_longer(seconds_of([100.0] * 1_800 + [104.0] * 1_800)))

    trial = try_rules(warehouse, book(*rules), NOON + 3_600 * SECOND, timedelta(days=1))

    assert trial.window.start == NOON
    assert trial.alerts_a_day == pytest.approx(24)


def test_a_message_that_ends_an_event_is_no_ring(warehouse: Warehouse) -> None:
    """Guards the picture of the page, which had more marks than the number beside it."""
    store(warehouse, seconds_of([100.0] * 100 + [104.0] * 1_000))

    trial = try_rules(warehouse, book(MOVE), NOON + 1_100 * SECOND, timedelta(hours=1))

    assert trial.alerts["phase"].to_list() == ["opening"]
