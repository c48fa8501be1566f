"""The jobs, and the schedules that run the asset job every quarter of an hour and keep house."""

from collections.abc import Iterator
from datetime import UTC, timedelta

import dagster as dg

from cryptotrace_dagster.assets.common import LIVE_JOB, MARKET_JOB, RETRIES, RUN_LIMIT_TAGS
from cryptotrace_dagster.assets.housekeeping import delete_old_runs, forget_old, merge_lake_files, pack_yesterday
from cryptotrace_dagster.assets.live import follow_market
from cryptotrace_dagster.pipeline.dirty import dirty_days, market_watermark
from cryptotrace_dagster.resources.warehouse import WarehouseResource
from cryptotrace_dagster.storage import WarehouseMissingError

STRAGGLER_HOURS = 1  # so long after midnight yesterday is refreshed too
CATCH_UP_DAYS = 10  # stale days of the past that one evaluation starts runs for

market_job = dg.define_asset_job(
    MARKET_JOB,
    selection=["raw_ticks", "ohlc_bars", "features", "anomaly_scores", "alerts", "alert_deliveries", "published_copy"],
    description="Ingests, and makes every stage of one UTC day anew, with all the checks.",
    tags=RUN_LIMIT_TAGS,
    op_retry_policy=RETRIES,
)

models_job = dg.define_asset_job(
    "models_job",
    selection=["detector_models"],
    description="Fits the learned detectors on the days before a UTC day.",
    tags=RUN_LIMIT_TAGS,
    op_retry_policy=RETRIES,
)


report_job = dg.define_asset_job(
    "report_job",
    selection=["detector_report"],
    description="Replays the last days and reports how rules and detectors did.",
    tags=RUN_LIMIT_TAGS,
)


@dg.job(
    name=LIVE_JOB,
    tags=RUN_LIMIT_TAGS,
    executor_def=dg.in_process_executor,
    description="Follows the stream from trade to alert, micro-batch by micro-batch, for a bounded time.",
)
def live_job() -> None:
    """Follow the stream."""
    follow_market()


@dg.schedule(
    job=market_job,
    cron_schedule="*/15 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Refreshes today, yesterday while stragglers may come, and days of the past that became stale.",
)
def every_15_minutes(
    context: dg.ScheduleEvaluationContext, warehouse: WarehouseResource
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Start a run for each day that is not finished."""
    now = context.scheduled_execution_time.astimezone(UTC).replace(tzinfo=None)
    days = {now.date(), (now - timedelta(hours=STRAGGLER_HOURS)).date()}
    try:
        store = warehouse.open()
        days |= {day.start.date() for day in dirty_days(store)[-CATCH_UP_DAYS:]}
        watermark = market_watermark(store)
    except WarehouseMissingError as error:
        yield dg.SkipReason(str(error))
        return
    if watermark is not None:
        days.add(watermark.date())  # a replayed recording lives in its own day
    for day in sorted(days, reverse=True):
        # Several requests need keys; with the evaluation's own time in it, a failed run never keeps a later one away.
        yield dg.RunRequest(run_key=f"{now.isoformat()} {day.isoformat()}", partition_key=day.isoformat())


@dg.schedule(
    job=models_job,
    cron_schedule="5 0 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Fits the models of the day that has just begun.",
)
def after_midnight(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """Start the fit for today."""
    return dg.RunRequest(partition_key=context.scheduled_execution_time.astimezone(UTC).date().isoformat())


every_week = dg.ScheduleDefinition(
    name="every_week",
    job=report_job,
    cron_schedule="40 3 * * 1",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Reports on the detectors on Monday, early.",
)


@dg.job(
    tags=RUN_LIMIT_TAGS,
    executor_def=dg.in_process_executor,
)
def housekeeping() -> None:
    """Deletes rows and runs that are older than the settings keep them, and packs the ticks of the day that ended."""
    forget_old()
    pack_yesterday()
    delete_old_runs()


@dg.job(
    tags=RUN_LIMIT_TAGS,
    executor_def=dg.in_process_executor,
)
def lake_maintenance() -> None:
    """Merges the small files of a lake and removes those that were replaced."""
    merge_lake_files()


every_night = dg.ScheduleDefinition(
    job=housekeeping,
    cron_schedule="20 0 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)


@dg.schedule(
    job=lake_maintenance,
    cron_schedule="5-59/10 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Merges a lake's small files every ten minutes; a DuckDB file needs nothing.",
)
def every_10_minutes(warehouse: WarehouseResource) -> dg.RunRequest | dg.SkipReason:
    """Start the maintenance of a lake."""
    if not warehouse.is_lake:
        return dg.SkipReason("The warehouse is a DuckDB file, which reuses its space by itself.")
    return dg.RunRequest()
