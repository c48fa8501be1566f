"""The same contract for both brokers."""

import pytest

from tests.broker import Topic, create_topic, real_kafka


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def topic(request: pytest.FixtureRequest, cluster: str) -> Topic:
    """Return a topic of its own with a few partitions, on either broker."""
    if request.param == "embedded":
        return Topic(cluster)
    topic = Topic(real_kafka())
    create_topic(topic.bootstrap_servers, topic.name)
    return topic
