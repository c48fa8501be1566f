"""Tells people when a run failed for good: the pipeline that should wake them must not fall silent itself."""

import dagster as dg
import structlog

from cryptotrace_dagster.notify.message import note
from cryptotrace_dagster.notify.messenger import DEFAULT_ROUTE
from cryptotrace_dagster.resources.discord import Discord

log = structlog.get_logger(__name__)


@dg.run_failure_sensor(
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
    description="Sends a message when a run has failed.",
)
def run_failed(context: dg.RunFailureSensorContext, discord: Discord) -> None:
    """Send what failed and where to look; a message that cannot be sent is logged, for there is nobody else to tell."""
    run = context.dagster_run
    messenger = discord.messenger()
    if not messenger.has_channel(DEFAULT_ROUTE):
        return
    text = (
        f"Run {run.run_id[:8]} of {run.job_name} failed: {context.failure_event.message or 'no reason was given'}. "
        "Trades stay in Kafka until a run stores them. Open Dagster's UI, page Runs, to see why."
    )
    sent = messenger.send(DEFAULT_ROUTE, note("A run failed", text, name=run.run_id[:25]))
    if sent.outcome != "delivered":
        log.warning("run_failed.not_told", run_id=run.run_id, outcome=sent.outcome, reason=sent.reason)
