"""Time as people write it: instants in ISO-8601 or as a number since 1970, lengths as 90m, 6h or 1d."""

import re
from datetime import UTC, datetime, timedelta

from cryptotrace_dagster.domain.windows import EPOCH

LATEST_INSTANT = datetime(2200, 1, 1)
_UNITS_A_SECOND = ((10**11, 1), (10**14, 1_000), (10**17, 1_000_000))  # numbers below the first are seconds, and so on


_SPAN = re.compile(r"(\d{1,9})\s*([smhdw])")  # nine digits hold the longest span in seconds
_SPAN_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
LONGEST_SPAN = timedelta(days=3660)


class InstantError(ValueError):
    """A text names no instant between 1970 and 2200, or no length of time."""


def parse_instant(text: str) -> datetime:
    """Return the instant that a text names, naive UTC; a time without an offset is UTC.

    Raises:
        InstantError: it is neither ISO-8601 nor a number since 1970, or outside 1970 to 2200.
    """
    try:
        instant = _from_epoch(int(text)) if text.isascii() and text.isdigit() else _from_iso(text)
    except (ValueError, OverflowError) as error:
        raise InstantError(f"{text[:40]!r} is not a time; write 2026-01-05T12:00:00Z or seconds since 1970.") from error
    if not EPOCH <= instant <= LATEST_INSTANT:
        raise InstantError("a time outside the years 1970 to 2200.")
    return instant


def _from_epoch(number: int) -> datetime:
    for below, units_a_second in _UNITS_A_SECOND:
        if number < below:
            return EPOCH + timedelta(microseconds=number * (1_000_000 // units_a_second))
    raise ValueError("too large for microseconds since 1970")


def _from_iso(text: str) -> datetime:
    # An unescaped + of an offset arrives from a URL as a space.
    instant = datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
    return instant if instant.tzinfo is None else instant.astimezone(UTC).replace(tzinfo=None)


def parse_span(text: str) -> timedelta:
    """Return the length of time that a text such as `90m`, `6h` or `1d` names.

    Raises:
        InstantError: it names none, or more than ten years.
    """
    match = _SPAN.fullmatch(text.strip().lower())
    seconds = int(match[1]) * _SPAN_SECONDS[match[2]] if match else None
    if seconds is None or seconds > LONGEST_SPAN.total_seconds():  # compared as a number: it may be no timedelta
        raise InstantError(f"{text[:20]!r} is not a length of time up to ten years; write 90m, 6h or 1d.")
    return timedelta(seconds=seconds)
