"""The copy for notebooks, and the ops that keep the warehouse, a lake's files and Dagster's own history small."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg

from cryptotrace_dagster.assets.alerting import alerts
from cryptotrace_dagster.assets.common import (
    RETRIES,
    WAREHOUSE_POOL,
    writing_asset,
)
from cryptotrace_dagster.domain.windows import utc_now
from cryptotrace_dagster.pipeline.housekeeping import (
    Retention,
    forget_old_rows,
    last_closed_day,
    maintain_lake,
    pack_ticks,
)
from cryptotrace_dagster.resources.warehouse import WarehouseResource
from cryptotrace_dagster.settings import load_settings

FINISHED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
_RUNS_AT_ONCE = 200


@writing_asset(
    deps=[alerts],
    group_name="housekeeping",
    kinds={"duckdb", "file"},
    description="A read-only copy of the whole warehouse for notebooks and scripts, renamed into place: whoever has the "
    "one before open keeps it, and nobody who reads keeps ingestion waiting.",
)
def published_copy(warehouse: WarehouseResource) -> dg.MaterializeResult[None]:
    path = load_settings().snapshot_path
    warehouse.open().publish(path)
    return dg.MaterializeResult(
        metadata={"path": dg.MetadataValue.path(str(path.absolute())), "size_bytes": path.stat().st_size}
    )


@dg.op(pool=WAREHOUSE_POOL, retry_policy=RETRIES)
def forget_old(context: dg.OpExecutionContext, warehouse: WarehouseResource) -> None:
    """Delete the rows that are older than the settings keep them."""
    forgotten = forget_old_rows(warehouse.open(), Retention.from_settings(load_settings()), utc_now())
    context.add_output_metadata({f"{name}_deleted": count for name, count in forgotten.items()})


@dg.op(pool=WAREHOUSE_POOL, retry_policy=RETRIES)
def pack_yesterday(context: dg.OpExecutionContext, warehouse: WarehouseResource) -> None:
    """Store the ticks of the day that has ended so that they take half the room."""
    store = warehouse.open()
    day = last_closed_day(store, utc_now())
    context.add_output_metadata({"ticks_packed": 0 if day is None else pack_ticks(store, day)})


@dg.op(pool=WAREHOUSE_POOL, retry_policy=RETRIES)
def merge_lake_files(context: dg.OpExecutionContext, warehouse: WarehouseResource) -> None:
    """Merge a lake's small files, and remove those that were replaced an hour ago; a DuckDB file needs nothing."""
    context.add_output_metadata(maintain_lake(warehouse.open(), utc_now()))


@dg.op
def delete_old_runs(context: dg.OpExecutionContext) -> None:
    """Delete the runs that RUN_RETENTION_DAYS no longer keeps; an asset's latest materialisation stays."""
    before = datetime.now(UTC) - timedelta(days=load_settings().run_retention_days)
    context.add_output_metadata({"runs_deleted": delete_runs_before(context.instance, before)})


def delete_runs_before(instance: dg.DagsterInstance, before: datetime) -> int:
    """Delete finished runs that were created earlier, with the database file that SQLite keeps for each."""
    path_of = getattr(instance.event_log_storage, "path_for_shard", None)
    deleted = 0
    while True:
        old = instance.get_runs(dg.RunsFilter(statuses=FINISHED, created_before=before), limit=_RUNS_AT_ONCE)
        for run in old:
            instance.delete_run(run.run_id)
            if path_of is not None:
                shard = Path(path_of(run.run_id))
                for file in (shard, *(Path(f"{shard}{suffix}") for suffix in ("-wal", "-shm", "-journal"))):
                    file.unlink(missing_ok=True)
        deleted += len(old)
        if len(old) < _RUNS_AT_ONCE:
            return deleted
