"""A broker for the tests of those who read from Kafka, and trades to put into it.

Either librdkafka's own in-process cluster, or the Apache Kafka at KAFKA_REAL_BOOTSTRAP_SERVERS.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import uuid4

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from cryptotrace_dagster.domain.windows import EPOCH
from tests.builders import NOON

NOON_MS = int((NOON - EPOCH).total_seconds() * 1000)


def trade(trade_id: int, symbol: str = "BTCUSDT", **fields: object) -> bytes:
    """Return an `aggTrade` as the exchange writes it; ids are tens of milliseconds after noon."""
    message = {
        "e": "aggTrade",
        "E": NOON_MS + trade_id * 10,
        "s": symbol,
        "a": trade_id,
        "p": f"{100 + trade_id % 7}.50000000",
        "q": "0.25000000",
        "f": trade_id,
        "l": trade_id,
        "T": NOON_MS + trade_id * 10,
        "m": trade_id % 2 == 0,
        "M": True,
    }
    return json.dumps(message | fields).encode()


@dataclass
class Topic:
    """A topic of its own, and a producer for it."""

    bootstrap_servers: str
    name: str = field(default_factory=lambda: f"ticks-{uuid4().hex[:8]}")

    def __post_init__(self) -> None:
        self._producer = Producer(
            {
                "bootstrap.servers": self.bootstrap_servers,
                "enable.idempotence": True,
                "linger.ms": 5,
                "compression.type": "lz4",  # the embedded broker keeps no more than 5 MiB of a partition
                "log_level": 2,
            }
        )

    def make(self) -> None:
        """Make the topic, empty, on an in-process cluster: asking for it is enough there."""
        self._producer.list_topics(self.name, timeout=10)

    def send(self, *values: bytes, partition: int = 0, received_ms: int | None = None) -> None:
        """Write the values, in order, and wait until the broker has them all."""
        for value in values:
            while True:
                try:
                    self._producer.produce(
                        self.name, value, partition=partition, timestamp=received_ms or int(time.time() * 1000)
                    )
                    break
                except BufferError:
                    self._producer.poll(0.1)
        assert self._producer.flush(30) == 0, "the broker took not all of it"

    def send_ids(self, ids: Iterable[int], symbol: str = "BTCUSDT", partition: int = 0) -> None:
        """Write trades with these ids."""
        self.send(*(trade(trade_id, symbol) for trade_id in ids), partition=partition)


@contextmanager
def mock_cluster() -> Iterator[str]:
    """Run librdkafka's in-process cluster while the block lasts, and lend its address."""
    host = Producer({"bootstrap.servers": "replaced-by-the-cluster", "test.mock.num.brokers": 1, "log_level": 2})
    broker = next(iter(host.list_topics(timeout=10).brokers.values()))
    yield f"{broker.host}:{broker.port}"
    del host


def real_kafka() -> str:
    """Return the address of the Apache Kafka that was started for the tests, or skip where there is none."""
    address = os.environ.get("KAFKA_REAL_BOOTSTRAP_SERVERS", "")
    if not address:
        pytest.skip("no Apache Kafka at KAFKA_REAL_BOOTSTRAP_SERVERS: `python -m tests.kafka_server -- ...` starts one")
    return address


def create_topic(bootstrap_servers: str, name: str, partitions: int = 3, **config: str) -> None:
    """Make a topic on an Apache Kafka and wait until it is there."""
    admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 2})
    admin.create_topics([NewTopic(name, partitions, 1, config=config)])[name].result(20)
    _await(lambda: name in admin.list_topics(timeout=10).topics)


def delete_topic(bootstrap_servers: str, name: str) -> None:
    """Delete a topic on an Apache Kafka and wait until it is gone."""
    admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 2})
    admin.delete_topics([name])[name].result(20)
    _await(lambda: name not in admin.list_topics(timeout=10).topics)


def _await(is_so: object, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"not so within {seconds} s"
        time.sleep(0.1)
