"""The live run's work: follow the stream, micro-batch by micro-batch, through all the stages.

Owns the order of the stages and which windows each micro-batch makes anew. The stages are the ones that the assets
call; what this module adds is memory between micro-batches (a warm detector, the watermark). No Dagster.
"""

import time
from contextlib import nullcontext
from datetime import datetime, timedelta

from cryptotrace_dagster.domain.rules import RuleBook
from cryptotrace_dagster.domain.windows import Window, merged, utc_now
from cryptotrace_dagster.notify.messenger import Messenger
from cryptotrace_dagster.pipeline.alerts import refresh_alerts
from cryptotrace_dagster.pipeline.bars import refresh_bars
from cryptotrace_dagster.pipeline.delivery import deliver_alerts
from cryptotrace_dagster.pipeline.detection import Detection
from cryptotrace_dagster.pipeline.dirty import ALLOWED_LATENESS, Remade, clear_dirty, market_watermark, pending_dirty
from cryptotrace_dagster.pipeline.ingest import BATCH_MESSAGES, StoreReport, plan_from, store_batch
from cryptotrace_dagster.pipeline.report import StageReport
from cryptotrace_dagster.pipeline.rule_source import RuleSource
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.stream import TickStream

LIVE_REACH = timedelta(hours=6)  # older stale windows are left to the schedule: remaking them here would delay alerts
HELD_FOR_AT_MOST = timedelta(minutes=2)  # of market time
IDLE_CLOSES_BARS_AFTER = timedelta(seconds=2)  # without a new trade the clock itself moves the watermark on


class MarketFollower:
    """Takes one micro-batch after another from the stream to the alerts."""

    def __init__(self, warehouse: Warehouse, stream: TickStream, rules: RuleSource, messenger: Messenger) -> None:
        self._warehouse = warehouse
        self._stream = stream
        self._rules = rules
        self._messenger = messenger
        self._detection = Detection(warehouse)
        self._watermark = market_watermark(warehouse)
        self._latest_trade_time = self._watermark + ALLOWED_LATENESS if self._watermark else None
        self._remade: list[Remade] = []  # and still recorded as stale
        self._last_batch_at = time.monotonic()

    def start(self) -> list[StageReport]:
        """Stand where the last run's commits ended, and finish what it left undone."""
        low_watermarks, high_watermarks = self._stream.watermarks()
        self._stream.follow(plan_from(self._warehouse, self._stream), low_watermarks, high_watermarks)
        return self._refresh(pending_dirty(self._warehouse), utc_now())

    def step(self, wait_seconds: float) -> list[StageReport]:
        """Take the next micro-batch through all the stages, and return what was done.

        Waits at most so long for trades. Without any, bars that time has closed are still scored and undelivered
        alerts still sent.
        """
        batch = self._stream.next_batch(BATCH_MESSAGES, wait_seconds)
        now = utc_now()
        if batch is None:
            return self._refresh([], now)
        self._last_batch_at = time.monotonic()
        closed = self._closed()
        stored = store_batch(self._warehouse, batch, now, closed)
        self._remade = [each for each in self._remade if each not in closed]
        return [_ingest_report(stored), *self._refresh(stored.windows, now)]

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
        rules = self._rules.current()
        began = utc_now()  # after the dirty windows were recorded, before anything is made anew
        before, watermark = self._watermark, self._advanced_watermark(dirty)
        if watermark is None:
            return []
        reach = Window(watermark - LIVE_REACH, max([watermark, *(w.end for w in dirty)]) + timedelta(days=1))
        recent = [window for window in dirty if window.start >= reach.start]
        newly_closed = [Window(before, watermark)] if before is not None and before < watermark else []
        reports = self._make_anew(recent, merged([*recent, *newly_closed]), rules, watermark, now)
        self._watermark = watermark
        self._remade.extend(Remade(window, began) for window in recent)
        delivery = deliver_alerts(self._warehouse, self._messenger, now, rules)
        return [*reports, delivery.as_stage_report()]

    def _make_anew(
        self, changed: list[Window], decided: list[Window], rules: RuleBook, watermark: datetime, now: datetime
    ) -> list[StageReport]:
        """Make bars and all that follows from them, each stage in its own transaction, in one opening of the store."""
        if not decided:
            return []
        is_short = sum((window.end - window.start for window in decided), timedelta(0)) <= HELD_FOR_AT_MOST
        # Making up for a longer stretch takes seconds, in which readers want their turn between the stages.
        with self._warehouse.held() if is_short else nullcontext():
            reports = [refresh_bars(self._warehouse, window) for window in changed]
            for window in decided:
                reports.append(self._detection.refresh_features(window))
                reports.append(self._detection.refresh_scores(window, watermark))
                reports.append(refresh_alerts(self._warehouse, rules, window, watermark, now))
        return reports

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
        "raw_ticks", window, stored.stored, {"repeated": stored.repeated, "dead_letters": stored.dead_letters}
    )
