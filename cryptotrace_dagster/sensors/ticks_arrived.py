"""The Kafka sensor: when the topic is ahead of the warehouse and nobody follows it, it asks for a live run.

It also asks for the next one when the present one wants to be relieved, so that alerts never wait for a run to start.
It keeps no cursor and no run key: the offsets in the warehouse are the truth, and a key would never fire again after a
failed run.
"""

import dagster as dg

from cryptotrace_dagster.assets.common import LIVE_JOB
from cryptotrace_dagster.assets.handover import is_followed, wants_a_live_run
from cryptotrace_dagster.pipeline.ingest import plan_from
from cryptotrace_dagster.resources.kafka import KafkaResource
from cryptotrace_dagster.resources.warehouse import WarehouseResource
from cryptotrace_dagster.stream import StreamError


@dg.sensor(
    job_name=LIVE_JOB,
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Starts a live run when Kafka holds trades that the warehouse does not.",
)
def ticks_arrived(
    context: dg.SensorEvaluationContext, warehouse: WarehouseResource, kafka: KafkaResource
) -> dg.RunRequest | dg.SkipReason:
    if not wants_a_live_run(context.instance):
        return dg.SkipReason("A live run follows the stream, or is about to.")
    if is_followed(context.instance):
        return dg.RunRequest()
    store = warehouse.open()
    try:
        with kafka.ticks() as stream:
            lag = plan_from(store, stream).lag
    except StreamError as error:
        return dg.SkipReason(str(error))
    if not lag:
        return dg.SkipReason("The warehouse holds every trade that Kafka has.")
    return dg.RunRequest(tags={"cryptotrace/lag": str(lag)})
