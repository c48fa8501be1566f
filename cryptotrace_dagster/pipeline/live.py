"""The live run's work: follow the stream, micro-batch by micro-batch, through all the stages.

Owns the order of the stages, which windows each micro-batch makes anew, and its pace: a micro-batch keeps readers out,
so it leaves them their turn. The stages are the ones that the assets call; what this module adds is memory between
micro-batches (a warm detector, the watermark). No Dagster.
"""

import time
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timedelta

import polars as pl

from cryptotrace_dagster.domain.windows import Window, merged, utc_now
from cryptotrace_dagster.notify.messenger import Messenger
from cryptotrace_dagster.pipeline.alerts import refresh_alerts
from cryptotrace_dagster.pipeline.bars import refresh_bars
from cryptotrace_dagster.pipeline.delivery import deliver_alerts, is_anything_unsent
from cryptotrace_dagster.pipeline.detection import Detection
from cryptotrace_dagster.pipeline.dirty import ALLOWED_LATENESS, Remade, clear_dirty, market_watermark, pending_dirty
from cryptotrace_dagster.pipeline.ingest import BATCH_MESSAGES, StoreReport, plan_from, store_batch
from cryptotrace_dagster.pipeline.report import StageReport
from cryptotrace_dagster.pipeline.rule_source import RuleSource
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.stream import TickStream
from cryptotrace_dagster.tables import ALERTS, RAW_TICKS

LIVE_REACH = timedelta(hours=6)  # older stale windows are left to the schedule: remaking them here would delay alerts
MADE_AS_ONE_WITHIN = timedelta(seconds=10)
HELD_FOR_AT_MOST = timedelta(minutes=2)  # of market time
LEFT_TO_READERS = 0.3  # of the pace, however long a micro-batch takes on a busy machine
DELIVERIES_EVERY_SECONDS = 1.0  # are looked for: a message that has to wait says itself until when
IDLE_CLOSES_BARS_AFTER = timedelta(seconds=2)  # without a new trade the clock itself moves the watermark on


class MarketFollower:
    """Takes one micro-batch after another from the stream to the alerts, at most one in `pace_seconds`."""

    def __init__(
        self,
        warehouse: Warehouse,
        stream: TickStream,
        rules: RuleSource,
        messenger: Messenger,
        pace_seconds: float = 0.0,
    ) -> None:
        self._warehouse = warehouse
        self._stream = stream
        self._rules = rules
        self._messenger = messenger
        self._detection = Detection(warehouse)
        self._watermark: datetime | None = None
        self._latest_trade_time: datetime | None = None
        self._remade: list[Remade] = []  # and still recorded as stale
        self._last_batch_at = time.monotonic()
        self._pace_seconds = pace_seconds
        self._rests_until = 0.0
        self._looks_for_deliveries_at = 0.0

    def start(self) -> list[StageReport]:
        """Stand where the last run's commits ended, and finish what it left undone.

        Making a follower takes seconds, for it loads what the detectors need; starting it does not.
        """
        self._watermark = market_watermark(self._warehouse)
        self._latest_trade_time = self._watermark + ALLOWED_LATENESS if self._watermark else None
        low_watermarks, high_watermarks = self._stream.watermarks()
        self._stream.follow(plan_from(self._warehouse, self._stream), low_watermarks, high_watermarks)
        return self._refresh(pending_dirty(self._warehouse), utc_now())

    def step(self, wait_seconds: float) -> list[StageReport]:
        """Take the next micro-batch through all the stages, and return what was done.

        Waits at most so long for trades. Without any, bars that time has closed are still scored and undelivered
        alerts still sent.
        """
        time.sleep(max(0.0, self._rests_until - time.monotonic()))
        batch = self._stream.next_batch(BATCH_MESSAGES, wait_seconds)
        now = utc_now()
        if batch is None:
            return self._refresh([], now)
        self._last_batch_at = time.monotonic()
        length = self._length_of(batch.ticks)
        with self._held_if(length):
            closed = self._closed()
            stored = store_batch(self._warehouse, batch, now, closed)
            self._remade = [each for each in self._remade if each not in closed]
            reports = self._make_up_for(stored.windows, now)
            has_to_deliver = self._has_to_deliver(reports)
        if length <= HELD_FOR_AT_MOST:  # what is behind hurries
            least = time.monotonic() + self._pace_seconds * LEFT_TO_READERS
            self._rests_until = max(self._last_batch_at + self._pace_seconds, least)
        return [_ingest_report(stored), *reports, *(self._deliver(now) if has_to_deliver else [])]

    def _length_of(self, ticks: pl.DataFrame) -> timedelta:
        """Return how much of the market's time is to be made up for with these trades."""
        first, last = ticks["trade_time"].min(), ticks["trade_time"].max()
        if not isinstance(first, datetime) or not isinstance(last, datetime):
            return timedelta(0)  # no trade in it
        return last - min(first, self._watermark or first)

    def finish(self) -> None:
        """Write down what is no longer stale, so that the next run need not look at it again."""
        closed = self._closed()
        if closed:
            with self._warehouse.transaction() as transaction:
                clear_dirty(transaction, closed)
            self._remade = [each for each in self._remade if each not in closed]

    def _closed(self) -> list[Remade]:
        watermark = self._watermark
        return [each for each in self._remade if watermark is not None and each.is_closed_by(watermark)]

    @property
    def idle_seconds(self) -> float:
        """Return how long the topic has been quiet."""
        return time.monotonic() - self._last_batch_at

    def _refresh(self, dirty: list[Window], now: datetime) -> list[StageReport]:
        reports = self._make_up_for(dirty, now)
        return [*reports, *(self._deliver(now) if self._has_to_deliver(reports) else [])]

    def _make_up_for(self, dirty: list[Window], now: datetime) -> list[StageReport]:
        """Make anew what follows from the changed windows, and decide about what time has closed."""
        began = utc_now()  # after the dirty windows were recorded, before anything is made anew
        before, watermark = self._watermark, self._advanced_watermark(dirty)
        if watermark is None:
            return []
        reach = Window(watermark - LIVE_REACH, max([watermark, *(w.end for w in dirty)]) + timedelta(days=1))
        # Each window costs the same statements, however short it is: those of one batch after another are made as one.
        recent = merged((window for window in dirty if window.start >= reach.start), MADE_AS_ONE_WITHIN)
        newly_closed = [Window(before, watermark)] if before is not None and before < watermark else []
        decided = merged([*recent, *newly_closed], MADE_AS_ONE_WITHIN)
        reports = self._make_anew(recent, decided, watermark, now)
        self._watermark = watermark
        self._remade.extend(Remade(window, began) for window in recent)
        return reports

    def _make_anew(
        self, changed: list[Window], decided: list[Window], watermark: datetime, now: datetime
    ) -> list[StageReport]:
        """Make bars and all that follows from them, each stage in its own transaction."""
        if not decided:
            return []
        rules = self._rules.current()
        with self._held_if(sum((window.end - window.start for window in decided), timedelta(0))):
            reports = [refresh_bars(self._warehouse, window) for window in changed]
            for window in decided:
                reports.append(self._detection.refresh_features(window))
                reports.append(self._detection.refresh_scores(window, watermark))
                reports.append(refresh_alerts(self._warehouse, rules, window, watermark, now))
        return reports

    def _held_if(self, length: timedelta) -> AbstractContextManager[None]:
        """Keep the store open for a short stretch; a longer one takes seconds, in which readers want their turn."""
        return self._warehouse.held(threads=1) if length <= HELD_FOR_AT_MOST else nullcontext()

    def _has_to_deliver(self, reports: list[StageReport]) -> bool:
        """Return whether these stages have raised alerts, or, looked at now and then, something is still to be sent."""
        is_new = any(report.asset == ALERTS.name and report.rows for report in reports)
        if not is_new and time.monotonic() < self._looks_for_deliveries_at:
            return False
        self._looks_for_deliveries_at = time.monotonic() + DELIVERIES_EVERY_SECONDS
        return is_new or is_anything_unsent(self._warehouse)

    def _deliver(self, now: datetime) -> list[StageReport]:
        return [deliver_alerts(self._warehouse, self._messenger, now, self._rules.current()).as_stage_report()]

    def _advanced_watermark(self, dirty: list[Window]) -> datetime | None:
        seen = [window.end for window in dirty] + [t for t in (self._latest_trade_time,) if t is not None]
        if not seen:
            return None
        self._latest_trade_time = max(seen)
        idle = timedelta(seconds=self.idle_seconds)
        grace = idle if idle > IDLE_CLOSES_BARS_AFTER else timedelta(0)
        advanced = self._latest_trade_time - ALLOWED_LATENESS + grace
        return advanced if self._watermark is None else max(advanced, self._watermark)


def _ingest_report(stored: StoreReport) -> StageReport:
    window = Window(stored.windows[0].start, stored.windows[-1].end) if stored.windows else None
    return StageReport(
        RAW_TICKS.name, window, stored.stored, {"repeated": stored.repeated, "dead_letters": stored.dead_letters}
    )
