"""The words of an alert, as people read them."""

import pytest

from cryptotrace_dagster.domain.alerting import alerts_of
from cryptotrace_dagster.domain.wording import how_often, number
from cryptotrace_dagster.pipeline.dirty import ALLOWED_LATENESS
from tests.builders import NOON
from tests.rules.market import SECOND, book, market, score, seconds_of


def told(rule: str, *, jump: float = 4.0, volume: float = 12.0) -> list[tuple[str, str]]:
    """Return title and message of what a jump after five quiet minutes makes a rule say."""
    prices = [100.0] * 300 + [100.0 + jump] * 60
    volumes = [1000.0] * 300 + [1000.0 * volume] * 60
    scores = [score(NOON + 295 * SECOND, 1 / 40)]
    rung = alerts_of(
        book(rule),
        market(seconds_of(list(prices), volumes=volumes), scores),
        until=NOON + 360 * SECOND,
        lateness=ALLOWED_LATENESS,
        raised_at=NOON,
    )
    return list(rung.select("title", "message").iter_rows())


def test_a_move_says_from_where_to_where_how_much_was_traded_and_how_rare_it_is() -> None:
    assert told("kind = 'move'\nat_least_percent = 3\nwithin = '2m'") == [
        (
            "BTCUSDT rose 4.0 % within 2 min",
            "From 100 to 104. In the last minute 1.2 times the usual volume was traded. "
            "A move like this comes about once in 40 days on BTCUSDT.",
        )
    ]


def test_a_usual_volume_is_called_usual() -> None:
    ((_, message),) = told("kind = 'move'\nat_least_percent = 3\nwithin = '2m'", volume=1.0)

    assert "The volume of the last minute was as usual." in message


def test_an_anomaly_names_its_detector() -> None:
    (opening,) = told("kind = 'anomaly'\ndetector = 'pump'\nat_most_a_day = 0.1")

    assert opening[0] == "BTCUSDT is behaving unusually (pump)"
    assert opening[1].endswith("Trading like this comes about once in 40 days on BTCUSDT.")


def test_a_price_level_says_what_it_was_a_minute_before() -> None:
    ((title, message),) = told("kind = 'price'\nabove = 103")

    assert title == "BTCUSDT is above 103"
    assert message.startswith("The price is 104; a minute before it was 100.")


def test_a_template_speaks_in_the_users_own_words() -> None:
    rule = "kind = 'move'\nat_least_percent = 3\nmessage = '{{{symbol}}} {change_percent} % to {price}: {how_often}'"

    assert told(rule)[0][1] == "{BTCUSDT} 4 % to 104: about once in 40 days"


@pytest.mark.parametrize(
    ("times_a_day", "words"),
    [
        (100.0, "several times an hour"),
        (3.2, "about 3 times a day"),
        (1.0, "about once a day"),
        (0.5, "about once in 2 days"),
        (0.025, "about once in 40 days"),
        (1e-9, "less than once in two years"),
        (0.0, "less than once in two years"),
    ],
)
def test_a_rate_is_told_in_plain_words(times_a_day: float, words: str) -> None:
    assert how_often(times_a_day) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.00001234, "0.00001234"), (98765.4321, "98,765"), (1.5, "1.5"), (0.0, "0"), (None, "-"), (float("inf"), "-")],
)
def test_numbers_have_no_exponent(value: float | None, words: str) -> None:
    assert number(value) == words
