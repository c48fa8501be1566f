"""The Kafka sensor: when the topic is ahead of the warehouse and no run is under way, it starts a live run.

It keeps no cursor and no run key: the offsets in the warehouse are the truth, and a key would never fire again after a
failed run.
"""

import dagster as dg

from cryptotrace_dagster.assets.common import LIVE_JOB, MARKET_JOB
from cryptotrace_dagster.pipeline.ingest import plan_from
from cryptotrace_dagster.resources.kafka import KafkaResource
from cryptotrace_dagster.resources.warehouse import WarehouseResource
from cryptotrace_dagster.stream import StreamError

UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


@dg.sensor(
    job_name=LIVE_JOB,
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Starts a live run when Kafka holds trades that the warehouse does not.",
)
def ticks_arrived(
    context: dg.SensorEvaluationContext, warehouse: WarehouseResource, kafka: KafkaResource
) -> dg.RunRequest | dg.SkipReason:
    runs = context.instance.get_runs(dg.RunsFilter(statuses=UNFINISHED), limit=20)
    under_way = [run for run in runs if run.job_name in {LIVE_JOB, MARKET_JOB}]
    if under_way:
        return dg.SkipReason(f"A {under_way[0].job_name} run is still under way.")
    store = warehouse.open()
    try:
        with kafka.ticks() as stream:
            lag = plan_from(store, stream).lag
    except StreamError as error:
        return dg.SkipReason(str(error))
    if not lag:
        return dg.SkipReason("The warehouse holds every trade that Kafka has.")
    return dg.RunRequest(tags={"cryptotrace/lag": str(lag)})
