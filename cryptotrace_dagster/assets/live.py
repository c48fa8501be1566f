"""The live run's op: it follows the stream for a bounded time and keeps every asset's history truthful.

The work is `pipeline/live.py`; here are only when to stop, and what is written to Dagster's event log: every few minutes
and at the end one materialisation of each asset that was touched, so that the log stays small (ADR 0001).
"""

import time
from collections import defaultdict

import dagster as dg

from cryptotrace_dagster.assets.common import report_metadata
from cryptotrace_dagster.assets.handover import LiveRun, Phase
from cryptotrace_dagster.domain.windows import Window
from cryptotrace_dagster.pipeline.dirty import cut_by_day
from cryptotrace_dagster.pipeline.live import MarketFollower
from cryptotrace_dagster.pipeline.report import StageReport
from cryptotrace_dagster.resources.discord import Discord
from cryptotrace_dagster.resources.kafka import KafkaResource
from cryptotrace_dagster.resources.rules import AlertRules
from cryptotrace_dagster.resources.warehouse import WarehouseResource

PARTITIONED = {"ohlc_bars", "features", "anomaly_scores", "alerts"}
LOOKS_FOR_SUCCESSOR_EVERY = 5.0  # seconds; nearly always nobody is there, unless asked for
PREDECESSOR_LEAVES_WITHIN = 60.0  # seconds; its micro-batch of a backlog takes a few


class FollowConfig(dg.Config):
    """How long one live run lasts."""

    follow_seconds: float = 840.0  # then it asks to be relieved: a run's log and memory are bounded
    relief_seconds: float = 60.0  # so long it waits for the next run, and follows on; a run starts in some ten seconds
    at_least_seconds: float = 62.0  # so that a thin market costs one run a minute at most
    quiet_seconds: float = 10.0  # a topic quiet for so long ends the run
    step_seconds: float = 0.5  # how long a micro-batch waits for its first trade
    pace_seconds: float = 1.0  # from one micro-batch to the next: in between, readers have the warehouse
    first_report_seconds: float = 60.0  # after which the assets' histories are written, so that a newcomer sees them
    report_seconds: float = 300.0  # from then on: every entry stays in the event log, twice


@dg.op(
    description=__doc__,
    retry_policy=dg.RetryPolicy(max_retries=3, delay=1, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS),
)
def follow_market(
    context: dg.OpExecutionContext,
    config: FollowConfig,
    warehouse: WarehouseResource,
    kafka: KafkaResource,
    discord: Discord,
    alert_rules: AlertRules,
) -> None:
    """Follow the stream until it is quiet, or until the next run has come to relieve this one."""
    run = LiveRun(context.instance, context.run_id)
    ledger = Ledger()
    with kafka.ticks() as stream:
        follower = MarketFollower(
            warehouse.open(), stream, alert_rules.source(), discord.messenger(), config.pace_seconds
        )
        run.wait_for_its_turn(PREDECESSOR_LEAVES_WITHIN)
        ledger.add(follower.start())
        shift = Shift(run, config)
        while not shift.is_over(follower.idle_seconds):
            ledger.add(follower.step(config.step_seconds))
            if shift.has_to_report():
                ledger.write(context)
        follower.finish()
    run.say(Phase.GONE)
    ledger.write(context)


class Shift:
    """The time for which one run follows the stream."""

    def __init__(self, run: LiveRun, config: FollowConfig) -> None:
        self._run = run
        self._config = config
        self._began = self._looked = time.monotonic()
        self._report_at = self._began + config.first_report_seconds
        self._is_leaving = False

    def is_over(self, idle_seconds: float) -> bool:
        """Return whether the run is to end, and ask to be relieved when it is time to."""
        now = time.monotonic()
        elapsed = now - self._began
        if elapsed >= self._config.at_least_seconds and idle_seconds >= self._config.quiet_seconds:
            return True
        if elapsed >= self._config.follow_seconds and not self._is_leaving:
            self._is_leaving = True
            self._run.say(Phase.LEAVING)
        if not self._is_leaving and now - self._looked < LOOKS_FOR_SUCCESSOR_EVERY:
            return False
        self._looked = now
        return self._run.is_relieved() or elapsed >= self._config.follow_seconds + self._config.relief_seconds

    def has_to_report(self) -> bool:
        """Return whether the assets' histories are to be written now."""
        now = time.monotonic()
        if now < self._report_at:
            return False
        self._report_at = now + self._config.report_seconds
        return True


class Ledger:
    """What was done since the last entry in the event log, by asset and day."""

    def __init__(self) -> None:
        self._reports: dict[tuple[str, str | None], list[StageReport]] = defaultdict(list)

    def add(self, reports: list[StageReport]) -> None:
        """Remember what a micro-batch did; stages that touched no row are not worth an entry."""
        for report in reports:
            if report.rows == 0 and not any(report.details.values()):
                continue
            if report.asset in PARTITIONED and report.window is not None:
                for piece in cut_by_day(report.window):
                    day = piece.start.date().isoformat()
                    self._reports[report.asset, day].append(report)
            else:
                self._reports[report.asset, None].append(report)

    def write(self, context: dg.OpExecutionContext) -> None:
        """Write one materialisation for each asset and day, and start afresh."""
        for (asset, day), reports in self._reports.items():
            context.log_event(
                dg.AssetMaterialization(asset, partition=day, metadata=report_metadata(_summary(asset, reports)))
            )
        self._reports.clear()


def _summary(asset: str, reports: list[StageReport]) -> StageReport:
    windows = [report.window for report in reports if report.window is not None]
    window = Window(min(w.start for w in windows), max(w.end for w in windows)) if windows else None
    details: dict[str, int | float | str] = {"micro_batches": len(reports)}
    for report in reports:
        for name, value in report.details.items():
            total = details.get(name, 0)
            is_count = isinstance(value, int) and isinstance(total, int)
            details[name] = total + value if is_count else value  # type: ignore[operator]
    return StageReport(asset, window, sum(report.rows for report in reports), details)
