"""What may stand in alerts.toml, and what is said about what may not."""

from datetime import datetime, time, timedelta

import pytest

from cryptotrace_dagster.domain.rules import (
    MoveRule,
    QuietHours,
    RulesError,
    Severity,
    is_quiet,
    next_time_of_day,
    parse_rules,
)

MOVE = """\
[[rules]]
name = "fast move"
kind = "move"
at_least_percent = 3.0
within = "60s"
"""
VOLUME = "[[rules]]\nname = 'v'\nkind = 'volume'\nat_least_times = 2\n"
DATA = "[[rules]]\nname = 'd'\nkind = 'data'\ntrouble = '{}'\nafter = '0s'\n"
INLINE = "rules = [\n  {{ {0} = 'p', kind = 'price', above = 1 }},\n  {{ kind = 'price', {0} = 'p', above = 2 }},\n]\n"


def test_a_rule_is_read_with_its_defaults() -> None:
    (rule,) = parse_rules(MOVE, "alerts.toml").rules

    assert isinstance(rule, MoveRule)
    assert (rule.within, rule.severity, rule.cooldown) == (
        timedelta(seconds=60),
        Severity.warning,
        timedelta(minutes=30),
    )
    assert rule.watches("BTCUSDT")


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[[rules]]\nname = 'a\n", 2, "not TOML"),
        ("[[rules]]\nname = 'a'\nkind = 'mvoe'\n", 3, "kind 'mvoe' is not known; write one of price, move"),
        ("[[rules]]\nname = 'a'\n", 1, "kind is missing"),
        (MOVE + "percent = 3\n", 6, "percent is not known in a rule of kind move; write one of name, symbols"),
        (MOVE.replace("3.0", "-3"), 4, "at_least_percent: Input should be greater than 0 (found -3)"),
        (MOVE.replace('"60s"', '"60 seconds"'), 5, 'number and s, m, h, d or w, at most ten years, for example "60s"'),
        (MOVE.replace('"60s"', '"99999999999999d"'), 5, "at most ten years"),
        (MOVE.replace('"60s"', '"999999999w"'), 5, "at most ten years"),
        (MOVE.replace('"60s"', '"0s"'), 5, 'within: must be longer than nothing; write for example "60s" (found'),
        (VOLUME + "within = '0s'\n", 5, "within: must be longer than nothing"),
        (VOLUME + "compared_with = '0m'\n", 5, "compared_with: must be longer than nothing"),
        (DATA.format("silence"), 1, 'after must be longer than nothing for trouble = "silence"'),
        (MOVE.replace("at_least_percent = 3.0\n", ""), 1, "at_least_percent is missing; add it"),
        (MOVE + "severity = 'urgent'\n", 6, 'write "info", "warning" or "critical"'),
        (MOVE + "message = '{symbl} moved'\n", 6, "{symbl} is not known; use {symbol}"),
        (MOVE + "message = '{symbol moved'\n", 6, "braces do not match"),
        (MOVE + "message = '{price:.2f}'\n", 6, "{price} takes no format; write {price} alone"),
        (MOVE + "message = 'at {price!r}'\n", 6, "{price} takes no format; write {price} alone"),
        (MOVE + "\n" + MOVE, 8, "the rule name 'fast move' is used twice"),
        (INLINE.format("name"), 3, "the rule name 'p' is used twice"),
        (INLINE.format('"name"'), 1, "the rule name 'p' is used twice"),
        ("[[rules]]\nname = 'p'\nkind = 'price'\nabove = 1\nbelow = 2\n", 1, "set either above or below"),
        ("[quiet_hours]\nstart = '22:00'\nend = '25:00'\n", 3, 'write a time of day as "22:30"'),
        ("[quiet_hours]\nstart = '22:00'\nend = '07:00'\ntime_zone = 'Berlin'\n", 4, 'for example "Europe/Berlin"'),
        ("[[routes]]\nname = 'a'\nwebhook_variable = 'https://x'\n", 3, "webhook_variable"),
        ("[conversation]\nend_after = '5m'\n", 1, "conversation is not known in the file; write one of rules, routes"),
        (MOVE + "\n[[rules]]\nname = 'b'\nkind = 'price'\nabove = 'high'\n", 10, "above"),
    ],
)
def test_an_error_names_the_line_and_the_remedy(text: str, line: int, words: str) -> None:
    """A user who mistypes a key at night must find it without reading our code."""
    with pytest.raises(RulesError) as raised:
        parse_rules(text, "alerts.toml")

    assert f"alerts.toml, line {line}:" in str(raised.value)
    assert words in str(raised.value)


def test_no_time_at_all_is_allowed_where_it_means_at_once() -> None:
    """No cooldown, no pause that ends an event, and a gap that is told as soon as it is seen."""
    at_once = DATA.format("gap") + "cooldown = '0s'\n[conversations]\nend_after = '0s'\n"

    rules = parse_rules(at_once, "alerts.toml")

    assert rules.conversations.end_after == rules.lookback == rules.rules[0].cooldown == timedelta(0)


def test_quiet_hours_pass_midnight_in_their_own_time_zone() -> None:
    """22:00 in Berlin is 20:00 UTC in summer and 21:00 UTC in winter."""
    hours = QuietHours(start=time(22), end=time(7), time_zone="Europe/Berlin")

    assert is_quiet(hours, datetime(2026, 7, 1, 20, 30))
    assert not is_quiet(hours, datetime(2026, 1, 5, 20, 30))
    assert is_quiet(hours, datetime(2026, 1, 5, 21, 30))
    assert is_quiet(hours, datetime(2026, 1, 5, 5, 59))
    assert not is_quiet(hours, datetime(2026, 1, 5, 6))


def test_the_next_time_of_day_is_local_and_in_the_future() -> None:
    assert next_time_of_day(datetime(2026, 1, 5, 6), time(7), "Europe/Berlin") == datetime(2026, 1, 6, 6)
    assert next_time_of_day(datetime(2026, 1, 5, 5), time(7), "Europe/Berlin") == datetime(2026, 1, 5, 6)
    # The clocks go forward in the night of 29 March 2026.
    assert next_time_of_day(datetime(2026, 3, 28, 7), time(7), "Europe/Berlin") == datetime(2026, 3, 29, 5)
