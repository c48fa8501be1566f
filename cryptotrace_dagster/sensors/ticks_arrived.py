"""The Kafka sensor: when the topic is ahead of the warehouse and no live run is under way, it asks for one.

While the scheduled job has its turn the next live run already waits in the queue, so that alerts wait for nothing else.
It keeps no cursor and no run key: the offsets in the warehouse are the truth, and a key would never fire again after a
failed run.
"""

import dagster as dg

from cryptotrace_dagster.assets.common import LIVE_JOB
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
    if context.instance.get_runs(dg.RunsFilter(job_name=LIVE_JOB, statuses=UNFINISHED), limit=1):
        return dg.SkipReason("A live run is still under way, or waits for its turn.")
    store = warehouse.open()
    try:
        with kafka.ticks() as stream:
            lag = plan_from(store, stream).lag
    except StreamError as error:
        return dg.SkipReason(str(error))
    if not lag:
        return dg.SkipReason("The warehouse holds every trade that Kafka has.")
    return dg.RunRequest(tags={"cryptotrace/lag": str(lag)})
