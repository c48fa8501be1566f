"""Time as people write it is read, or refused with an example."""

from datetime import datetime

import pytest

from cryptotrace_dagster.domain.instants import InstantError, parse_instant, parse_span


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-05T11:30:00Z",
        "2026-01-05T12:30:00+01:00",
        "2026-01-05T12:30:00 01:00",
        "2026-01-05 11:30",
        "1767612600",
        "1767612600000",
        "1767612600000000",
    ],
)
def test_one_instant_may_be_written_in_many_ways(text: str) -> None:
    assert parse_instant(text) == datetime(2026, 1, 5, 11, 30)


@pytest.mark.parametrize(
    "text", ["", "soon", "-1", "1e9", "99999999999999999999", "1969-12-31", "2200-01-02", "2026-13-01"]
)
def test_what_is_no_instant_is_refused(text: str) -> None:
    with pytest.raises(InstantError):
        parse_instant(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90m", 5400), ("1d", 86_400), ("2 h", 7200), ("1w", 604_800), ("5S", 5), ("315360000s", 315_360_000)],
)
def test_lengths_of_time_are_read(text: str, seconds: int) -> None:
    assert parse_span(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "1", "h", "-1h", "1.5h", "1y", "9999999w", "999999999w", "99999999999999d"])
def test_what_is_no_length_of_time_is_refused(text: str) -> None:
    with pytest.raises(InstantError, match="write 90m"):
        parse_span(text)
