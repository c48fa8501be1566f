"""New alerts and growing bars as server-sent events.

Owns what is sent and when: a cheap look at the data version twice a second, and a query only when it changed.
Stays out: the wire format, which is FastAPI's, and the questions of a single moment (app.py).
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from fastapi.concurrency import run_in_threadpool
from fastapi.sse import ServerSentEvent

from cryptotrace_dagster import formats
from cryptotrace_dagster.api.problems import Problem
from cryptotrace_dagster.domain.bars import BAR_INTERVALS
from cryptotrace_dagster.domain.instants import InstantError, parse_instant
from cryptotrace_dagster.queries import Reader, data_version
from cryptotrace_dagster.storage import StorageError
from cryptotrace_dagster.tables import ALERTS, NEWEST_TRADE_TIME, OHLC_BARS

EventKind = Literal["alert", "bar"]
LOOK_EVERY_SECONDS = 0.5
MAX_LISTENERS = 50
_OVERLAP = timedelta(minutes=5)  # alerts are told by their id; one that was committed late is found within this time
_RETRY_MILLISECONDS = 2000


class Listeners:
    """Counts who listens, and refuses more than the server can serve."""

    def __init__(self, limit: int = MAX_LISTENERS) -> None:
        self._limit = limit
        self._count = 0

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """Hold a place while somebody listens."""
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1

    def check(self) -> None:
        """Refuse when every place is taken.

        Raises:
            Problem: 503 with the time to wait.
        """
        if self._count >= self._limit:
            raise Problem(
                503,
                "too-many-listeners",
                "Too many listeners",
                f"{self._limit} clients already listen to events; close one, or ask again later.",
                {"Retry-After": "10"},
            )


@dataclass
class EventSource:
    """What one listener has been told, and what is new for it."""

    reader: Reader
    kinds: Collection[EventKind]
    symbol: str | None
    interval: str
    since: datetime
    _told_alerts: dict[str, datetime] = field(default_factory=dict)
    _told_bars: dict[str, tuple[datetime, int]] = field(default_factory=dict)

    async def follow(self, listeners: Listeners) -> AsyncIterator[ServerSentEvent]:
        """Yield events until the client leaves."""
        with listeners.one_more():
            yield ServerSentEvent(comment="listening", retry=_RETRY_MILLISECONDS)
            version = ""
            while True:
                if (now := data_version(self.reader.warehouse)) != version:
                    try:
                        news = await run_in_threadpool(self.news)
                    except StorageError:
                        news = []  # not there yet or being written: the next look will tell
                    else:
                        version = now
                    for event in news:
                        yield event
                await asyncio.sleep(LOOK_EVERY_SECONDS)

    def news(self) -> list[ServerSentEvent]:
        """Return the events that this listener has not had, oldest first."""
        alerts = self._new_alerts() if "alert" in self.kinds else []
        return alerts + (self._new_bars() if "bar" in self.kinds else [])

    def _new_alerts(self) -> list[ServerSentEvent]:
        rows = self.reader.warehouse.read(
            f"SELECT {', '.join(ALERTS.column_names)} FROM {ALERTS.name} WHERE raised_at > ? AND retracted_at IS NULL "
            "AND (symbol = ? OR ? IS NULL) AND NOT list_contains(?::VARCHAR[], alert_id) "
            "ORDER BY raised_at, alert_id LIMIT 1000",
            [
                self.since - (_OVERLAP if self._told_alerts else timedelta(0)),
                self.symbol,
                self.symbol,
                list(self._told_alerts),
            ],
        )
        events = []
        for row, raised_at in zip(formats.records(rows), rows["raised_at"].to_list(), strict=True):
            self._told_alerts[row["alert_id"]] = raised_at
            self.since = max(self.since, raised_at)
            events.append(ServerSentEvent(data=row, event="alert", id=row["raised_at"]))
        forgotten = self.since - 2 * _OVERLAP
        self._told_alerts = {name: at for name, at in self._told_alerts.items() if at > forgotten}
        return events

    def _new_bars(self) -> list[ServerSentEvent]:
        rows = self.reader.read(
            f"SELECT {', '.join(OHLC_BARS.column_names)} FROM {OHLC_BARS.name} WHERE bar_interval = ? AND bar_start > "
            f"{NEWEST_TRADE_TIME} - 2 * to_microseconds(?) "  # the newest bar and the one before it
            "AND (symbol = ? OR ? IS NULL) ORDER BY bar_start, symbol LIMIT 2000",
            [self.interval, _microseconds(self.interval), self.symbol, self.symbol],
        )
        events = []
        for row, stored in zip(formats.records(rows), rows.iter_rows(named=True), strict=True):
            state = (stored["bar_start"], stored["tick_count"])
            told = self._told_bars.get(row["symbol"])
            if told is None or state > told:
                self._told_bars[row["symbol"]] = state
                events.append(ServerSentEvent(data=row, event="bar"))
        return events


def _microseconds(interval: str) -> int:
    return int(BAR_INTERVALS[interval].total_seconds() * 1_000_000)


def resume_point(last_event_id: str | None, now: datetime) -> datetime:
    """Return from when on alerts are news: after the event that the client had last, or from now on."""
    if not last_event_id:
        return now
    try:
        return max(parse_instant(last_event_id), now - timedelta(days=1))
    except InstantError:
        return now


def event_examples() -> dict[str, Any]:
    """Return how the stream looks, for the document."""
    text = 'id: 2026-01-05T12:00:00Z\nevent: alert\ndata: {"alert_id": "...", "title": "SOLUSDT rose 4.6 % in one minute"}\n\n'
    return {"text/event-stream": {"schema": {"type": "string"}, "example": text}}
