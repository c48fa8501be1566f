"""Readers of a topic, each in a process of its own: the bare loop, and the product's ingest. A worker."""

import json
import resource
import sys
import time
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from cryptotrace_dagster.bench.broker import topic_ends
from cryptotrace_dagster.pipeline.ingest import ingest_available
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.stream import TickStream
from cryptotrace_dagster.tables import RAW_TICKS

_CALL_MESSAGES = 1000


def consume_bare(bootstrap_servers: str, topic: str) -> dict[str, Any]:
    """Take all messages of the topic and throw them away; the client is set up as the product's own."""
    ends = topic_ends(bootstrap_servers, topic)
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": "cryptotrace-bench",
            "enable.auto.commit": False,
            "fetch.queue.backoff.ms": 1,
            "queued.max.messages.kbytes": 65536,
            "fetch.wait.max.ms": 100,
        }
    )
    wanted, taken = sum(ends.values()), 0
    began = time.perf_counter()
    consumer.assign([TopicPartition(topic, number, 0) for number in ends])
    while taken < wanted:
        taken += sum(message.error() is None for message in consumer.consume(_CALL_MESSAGES, 1.0))
    seconds = time.perf_counter() - began
    consumer.close()
    return {"seconds": seconds, "messages": taken}


def ingest(bootstrap_servers: str, topic: str, path: str) -> dict[str, Any]:
    """Bring the topic into a new warehouse, batch by batch, and count what is in it."""
    warehouse = Warehouse(path)
    warehouse.create()
    with TickStream(bootstrap_servers, topic) as stream:
        began = time.perf_counter()
        stored = sum(report.stored for report in ingest_available(warehouse, stream))
        seconds = time.perf_counter() - began
    peak_kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows, id_sum = warehouse.read(f"SELECT count(*), sum(trade_id)::BIGINT FROM {RAW_TICKS.name}").row(0)
    return {
        "seconds": seconds,
        "messages": stored,
        "rows": rows,
        "id_sum": id_sum,
        "peak_mb": peak_kilobytes * 1024 / 1e6,
    }


if __name__ == "__main__":
    answer = consume_bare(*sys.argv[2:]) if sys.argv[1] == "bare" else ingest(*sys.argv[2:])
    print(json.dumps(answer))  # noqa: T201 - a worker's answer
