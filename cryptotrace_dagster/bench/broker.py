"""The broker that the benchmarks use: the Apache Kafka at KAFKA_REAL_BOOTSTRAP_SERVERS, else one in memory."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import uuid4

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from cryptotrace_dagster.bench.rows import require

ADDRESS_VARIABLE = "KAFKA_REAL_BOOTSTRAP_SERVERS"
PARTITIONS = 4  # what the embedded broker gives every topic
_SECONDS = 30.0


@dataclass(frozen=True)
class Broker:
    """Where it listens, and which kind it is."""

    bootstrap_servers: str
    is_real: bool

    @property
    def kind(self) -> str:
        """Return the kind in words for the table."""
        return "Apache Kafka" if self.is_real else "embedded broker"


def without_real_broker() -> None:
    """Measure through the embedded broker from now on: recorded ratios are compared on machines without a Kafka."""
    os.environ.pop(ADDRESS_VARIABLE, None)


@contextmanager
def bench_broker() -> Iterator[Broker]:
    """Lend a broker while the block lasts."""
    address = os.environ.get(ADDRESS_VARIABLE, "")
    if address:
        yield Broker(address, is_real=True)
        return
    host = Producer({"bootstrap.servers": "replaced-by-the-cluster", "test.mock.num.brokers": 1, "log_level": 2})
    found = next(iter(host.list_topics(timeout=_SECONDS).brokers.values()))
    yield Broker(f"{found.host}:{found.port}", is_real=False)
    del host


@contextmanager
def fresh_topic(broker: Broker) -> Iterator[str]:
    """Lend the name of an empty topic while the block lasts."""
    name = f"bench-{uuid4().hex[:10]}"
    admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers, "log_level": 2})
    if broker.is_real:
        admin.create_topics([NewTopic(name, PARTITIONS, 1)])[name].result(_SECONDS)
    yield name
    if broker.is_real:
        admin.delete_topics([name])[name].result(_SECONDS)


def topic_ends(bootstrap_servers: str, topic: str, *, may_be_evicted: bool = False) -> dict[int, int]:
    """Return the offset after the last message of each partition."""
    consumer = Consumer({"bootstrap.servers": bootstrap_servers, "group.id": "cryptotrace-bench"})
    try:
        partitions = consumer.list_topics(topic, timeout=_SECONDS).topics[topic].partitions
        ends = {}
        for number in partitions:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=_SECONDS)
            require(
                low == 0 or may_be_evicted,
                f"the broker evicted {low} messages of partition {number}: measure with fewer",
            )
            ends[number] = high
        return ends
    finally:
        consumer.close()
