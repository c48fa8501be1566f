"""Where each kind of rule rings."""

from datetime import timedelta

import polars as pl
import pytest

from cryptotrace_dagster.domain.signals import find_signals
from tests.builders import NOON
from tests.rules.market import book, market, rings, score, seconds_of, with_longer


@pytest.mark.parametrize(
    ("rule", "prices", "expected"),
    [
        ("kind = 'price'\nabove = 105", [100, 105, 106, 104.9, 104.0, 105.2], [2, 6]),
        ("kind = 'price'\nbelow = 95", [100, 94, 95.2, 96, 94], [2, 5]),
        ("kind = 'move'\nat_least_percent = 3\nwithin = '3s'", [100, 101, 102, 103.1, 104.9, 105], [4, 5]),
        ("kind = 'move'\nat_least_percent = 3\nwithin = '3s'\ndirection = 'down'", [100, 104, 100, 100], [3, 4]),
        ("kind = 'move'\nat_least_percent = 3\nwithin = '3s'\ndirection = 'up'", [100, 96, 97, 98.9], [4]),
        # The price of second 2 stays in force through the silence; that of second 1 is too old to speak of.
        ("kind = 'move'\nat_least_percent = 3\nwithin = '3s'", [100, 100, None, None, 104], [5]),
        ("kind = 'move'\nat_least_percent = 3\nwithin = '3s'", [100, *[None] * 10, 104], []),
        ("kind = 'data'\ntrouble = 'silence'\nafter = '5s'", [1, 1, *[None] * 6, 1], [7, 14]),
    ],
)
def test_a_rule_rings_at_these_seconds(rule: str, prices: list[float | None], expected: list[int]) -> None:
    assert rings(book(rule), seconds_of(prices)) == expected


def test_a_volume_rule_waits_for_half_of_its_comparison_and_then_sees_a_surge() -> None:
    """At a cold start the first trades would otherwise all be surges."""
    rule = book("kind = 'volume'\nat_least_times = 5\nwithin = '2s'\ncompared_with = '20s'")
    volumes = [100.0] * 6 + [5000.0] + [100.0] * 25 + [5000.0] + [100.0] * 3

    assert rings(rule, seconds_of([1.0] * len(volumes), volumes=volumes)) == [33, 34]


def test_a_volume_rule_can_ask_for_a_least_volume() -> None:
    """Fifty times nothing is nothing."""
    rule = "kind = 'volume'\nat_least_times = 5\nwithin = '2s'\ncompared_with = '20s'\nminimum_quote_volume = {}"
    bars = seconds_of([1.0] * 40, volumes=[1.0] * 36 + [500.0] * 4)

    assert rings(book(rule.format(2000)), bars) == []
    assert rings(book(rule.format(900)), bars) == [38, 39, 40]


def test_an_anomaly_rule_rings_at_the_end_of_a_rare_bar_of_its_detector() -> None:
    rule = book("kind = 'anomaly'\ndetector = '*pump*'\nat_most_a_day = 0.1")
    scores = [score(NOON, 0.05), score(NOON + timedelta(seconds=5), 0.5), score(NOON, 0.01, detector="trend")]

    found = find_signals(rule, market(seconds_of([100.0] * 10), scores))

    assert found["decided_at"].to_list() == [NOON + timedelta(seconds=5)]
    assert found["event_time"].to_list() == [NOON + timedelta(seconds=4.5)]
    assert found["price"].cast(float).to_list() == [100.0]


def test_a_record_is_seen_only_against_whole_days_and_only_at_its_first_second() -> None:
    """A new high of two days needs two whole days; the first price of today above them is one."""
    three_days_ago = NOON - timedelta(days=3)
    past = [
        seconds_of([100.0, 110.0, 100.0], start=three_days_ago),
        seconds_of([100.0, 105.0], start=NOON - timedelta(days=2)),
        seconds_of([104.0], start=NOON - timedelta(days=1)),
    ]
    today = seconds_of([104.0, 105.0, 105.5, 105.2, None, 105.5, 105.6], start=NOON)
    rule = book("kind = 'record'\ndays = 2\ndirection = 'high'")

    assert rings(rule, with_longer(pl.concat([*past, today]))) == [3, 7]
    assert [second for second in rings(rule, with_longer(pl.concat([*past[1:], today]))) if second > 0] == []


def test_symbols_are_chosen_by_patterns() -> None:
    rule = book("kind = 'price'\nabove = 1\nsymbols = ['ETH*', 'SOLUSDT']")
    bars = pl.concat([seconds_of([2.0], symbol) for symbol in ("BTCUSDT", "ETHUSDT", "ETHBTC", "SOLUSDT", "SOLUSDC")])

    assert find_signals(rule, market(bars))["symbol"].to_list() == ["ETHBTC", "ETHUSDT", "SOLUSDT"]
