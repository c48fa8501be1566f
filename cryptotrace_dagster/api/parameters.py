"""What a request may ask: times, ranges, symbols, pages; checked before anything reaches the warehouse.

Owns the parsing and the bounds of parameters. Values leave here as Python values, which queries bind; no text of a
request ever becomes SQL.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import Depends, Query

from cryptotrace_dagster.api.problems import Problem, invalid_parameter
from cryptotrace_dagster.domain.bars import BAR_INTERVALS
from cryptotrace_dagster.domain.instants import InstantError, parse_instant
from cryptotrace_dagster.domain.windows import EPOCH, Window, floor
from cryptotrace_dagster.queries import Reader, known_symbols

MAX_LIMIT = 10_000
_SYMBOLS_STAY_SECONDS = 60.0  # a symbol that is stored stays so; only an unknown one may have come since

_INSTANT_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "string", "format": "date-time", "minLength": 1, "maxLength": 40},
        {"type": "integer", "minimum": 0, "maximum": 7_258_118_400_000_000},
    ]
}
_INSTANT_TEXT = "ISO-8601 (UTC without an offset), or seconds, milliseconds or microseconds since 1970."
Start = Annotated[
    str | None,
    Query(
        alias="from",
        max_length=40,
        description=f"Start of the range, inclusive: {_INSTANT_TEXT}",
        json_schema_extra=_INSTANT_SCHEMA,
    ),
]
End = Annotated[
    str | None,
    Query(
        alias="to",
        max_length=40,
        description=f"End of the range, exclusive: {_INSTANT_TEXT}",
        json_schema_extra=_INSTANT_SCHEMA,
    ),
]
Symbol = Annotated[
    str,
    Query(min_length=1, max_length=40, description="Exchange spelling; case does not matter.", examples=["BTCUSDT"]),
]
OptionalSymbol = Annotated[
    str | None,
    Query(min_length=1, max_length=40, description="Exchange spelling; case does not matter.", examples=["BTCUSDT"]),
]
Interval = Annotated[
    str, Query(description="Length of the bar.", examples=["1m"], json_schema_extra={"enum": list(BAR_INTERVALS)})
]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Rows in a page.", examples=[500])]
Cursor = Annotated[
    str | None,
    Query(max_length=400, pattern=r"^[A-Za-z0-9_-]+$", description="`next_cursor` of the page before."),
]
NewestFirst = Annotated[
    bool | None,
    Query(description="Newest rows first, so that pages go back in time; alerts, deliveries and gaps do so anyway."),
]


def _instant(parameter: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return parse_instant(text)
    except InstantError as error:
        raise invalid_parameter(parameter, str(error)) from error


@dataclass(frozen=True)
class PageRequest:
    """Which page of a collection is wanted."""

    window: Window
    limit: int
    cursor: str | None
    newest_first: bool


class PageParameters:
    """A dependency that gathers what all collections take: range, size, position and direction."""

    def __init__(
        self,
        *,
        start: Start = None,
        end: End = None,
        limit: Limit = 500,
        cursor: Cursor = None,
        newest_first: NewestFirst = None,
    ) -> None:
        self._since = _instant("from", start)
        self._until = _instant("to", end)
        self._limit = limit
        self._cursor = cursor
        self._newest_first = newest_first

    def within(
        self, now: datetime, *, default_range: timedelta, max_range: timedelta, newest_first: bool = False
    ) -> PageRequest:
        """Return the page that is asked for; without `from` and `to`, of the last `default_range` before `now`.

        Raises:
            Problem: 422 when the range is upside down or longer than `max_range`.
        """
        window = self._window(default_range, max_range, now)
        backwards = newest_first if self._newest_first is None else self._newest_first
        return PageRequest(window, self._limit, self._cursor, backwards)

    def _window(self, default_range: timedelta, max_range: timedelta, now: datetime) -> Window:
        # The end of "now" is a whole minute ahead: the same question asked twice stays the same, and is remembered.
        ahead = floor(now, timedelta(minutes=1)) + timedelta(minutes=2)
        since, until = self._since, self._until
        if until is None:
            until = ahead if since is None else max(since, min(ahead, since + max_range))
        if since is None:
            since = max(until - default_range, EPOCH)
        if since > until:
            raise invalid_parameter("from", "later than `to`.")
        if until - since > max_range:
            raise invalid_parameter(
                "from", f"the range is longer than {_spoken(max_range)}; ask for less at a time, or use `read`."
            )
        return Window(since, until)


Pages = Annotated[PageParameters, Depends(PageParameters)]


def _spoken(span: timedelta) -> str:
    return f"{span.days} days" if span >= timedelta(days=2) else f"{int(span.total_seconds() // 3600)} hours"


def stored_symbol(reader: Reader, text: str) -> str:
    """Return the stored spelling of a symbol.

    Raises:
        Problem: 422 for what cannot be a symbol, 404 for one of which nothing is stored.
    """
    symbol = text.strip().upper()
    if not symbol.isalnum():
        raise invalid_parameter("symbol", "letters and digits only, for example BTCUSDT.")
    if symbol in known_symbols(reader, fresh_for=_SYMBOLS_STAY_SECONDS):
        return symbol
    known = known_symbols(reader)
    if symbol not in known:
        listed = ", ".join(known[:20]) or "none yet"
        raise Problem(404, "unknown-symbol", "Unknown symbol", f"Nothing is stored of {symbol}. Known: {listed}.")
    return symbol


def bar_interval(text: str) -> str:
    """Return the interval if it is one of ours.

    Raises:
        Problem: 422 otherwise.
    """
    if text not in BAR_INTERVALS:
        raise invalid_parameter("interval", f"one of {', '.join(BAR_INTERVALS)}.")
    return text
