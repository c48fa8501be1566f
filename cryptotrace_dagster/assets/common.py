"""What all assets share: the day partitions, the pool, the retry policy, and how a table describes itself in the UI."""

from datetime import datetime, timedelta
from functools import partial
from typing import Any

import dagster as dg

from cryptotrace_dagster.domain.windows import EPOCH, Window, day_window
from cryptotrace_dagster.pipeline.report import StageReport
from cryptotrace_dagster.tables import Table

WAREHOUSE_POOL = "warehouse"  # scheduled runs go one by one; the live run is in no pool (ADR 14)
FIRST_DAY = "2017-08-17"  # Binance's first trading day for BTCUSDT and ETHUSDT
DAYS = dg.DailyPartitionsDefinition(start_date=FIRST_DAY, end_offset=1)  # today included
OWNERS = ["team:cryptotrace"]
RETRIES = dg.RetryPolicy(max_retries=3, delay=1, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)
MARKET_JOB = "market_job"
LIVE_JOB = "live_job"
RUN_LIMIT_TAGS = {"dagster/max_runtime": "1800"}

# Whoever makes rows waits its turn for the warehouse and is tried again when that was in vain.
writing_asset = partial(dg.asset, owners=OWNERS, pool=WAREHOUSE_POOL, retry_policy=RETRIES)


def partition_window(context: dg.AssetExecutionContext) -> Window:
    """Return the UTC day of the run's partition."""
    return day_window(datetime.strptime(context.partition_key, "%Y-%m-%d").date())


def bars_began_at(instance: dg.DagsterInstance, run_id: str) -> datetime | None:
    """Return when a run began to read ticks for its bars, if it did; what was stored later may not be in them."""
    stats = instance.get_run_step_stats(run_id, ["ohlc_bars"])
    return None if not stats else EPOCH + timedelta(seconds=stats[0].start_time or 0.0)


def table_metadata(table: Table) -> dict[str, Any]:
    """Return the column schema and the table's name, for the asset's page."""
    columns = [
        dg.TableColumn(
            name=column.name,
            type=column.type.sql,
            description=column.description,
            constraints=dg.TableColumnConstraints(nullable=column.nullable),
        )
        for column in table.columns
    ]
    schema = dg.TableSchema(columns, constraints=dg.TableConstraints(other=[f"unique: {', '.join(table.key)}"]))
    return {"dagster/column_schema": schema, "dagster/table_name": table.name}


def report_metadata(report: StageReport) -> dict[str, Any]:
    """Return a stage's report as metadata of a materialisation."""
    metadata: dict[str, Any] = {"dagster/partition_row_count": report.rows, **report.details}
    if report.window is not None:
        metadata["window_start"] = as_timestamp(report.window.start)
        metadata["window_end"] = as_timestamp(report.window.end)
    return metadata


def as_timestamp(instant: datetime) -> dg.TimestampMetadataValue:
    """Return a naive UTC instant as a value that the UI shows in the reader's own time zone."""
    return dg.MetadataValue.timestamp((instant - EPOCH).total_seconds())
