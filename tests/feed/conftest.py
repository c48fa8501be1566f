"""A broker for the feed's tests."""

from collections.abc import Iterator

import pytest
from confluent_kafka import Producer


@pytest.fixture(scope="session")
def broker() -> Iterator[str]:
    """Return the address of a real Kafka protocol server: the mock cluster inside librdkafka."""
    host = Producer({"bootstrap.servers": "replaced-by-the-cluster", "test.mock.num.brokers": 1, "log_level": 2})
    yield ",".join(f"{each.host}:{each.port}" for each in host.list_topics(timeout=10).brokers.values())
    del host
