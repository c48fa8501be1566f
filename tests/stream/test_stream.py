"""The one door to Kafka for readers: plans, batches, and logs that change under the reader."""

import threading
import time

import pytest
from confluent_kafka import Producer

from cryptotrace_dagster import stream as stream_module
from cryptotrace_dagster.domain.offsets import OffsetPlan, OffsetRange, plan_offsets
from cryptotrace_dagster.stream import StreamError, TickBatch, TickStream, empty_topic
from tests.broker import Topic, create_topic, delete_topic, mock_cluster, real_kafka, trade


def plan_of(stream: TickStream, stored: dict[int, int] | None = None) -> OffsetPlan:
    return plan_offsets(stored or {}, *stream.watermarks())


def ids(batches: list[TickBatch]) -> list[int]:
    return sorted(trade_id for batch in batches for trade_id in batch.ticks["trade_id"])


def test_a_plan_is_read_to_its_end_in_bounded_batches(topic: Topic) -> None:
    topic.send_ids(range(1, 2501), partition=0)
    topic.send_ids(range(2501, 3001), partition=1)
    with TickStream(topic.bootstrap_servers, topic.name) as stream:
        plan = plan_of(stream)
        topic.send_ids([9999], partition=0)  # came after the plan: for the next one
        batches = list(stream.read(plan, 1000))
    assert ids(batches) == list(range(1, 3001))
    assert all(batch.ticks.height <= 1000 for batch in batches)
    reached: dict[int, int] = {}
    for batch in batches:
        reached |= batch.next_offsets
    assert {p: offset for p, offset in reached.items() if offset} == {0: 2500, 1: 500}


def test_the_second_plan_reads_what_the_first_left(topic: Topic) -> None:
    topic.send_ids(range(1, 11))
    with TickStream(topic.bootstrap_servers, topic.name) as stream:
        assert ids(list(stream.read(plan_of(stream, {0: 7}), 100))) == [8, 9, 10]
        assert plan_of(stream, {0: 10}).lag == 0


def test_following_returns_what_comes_from_the_plan_on(topic: Topic) -> None:
    topic.send_ids(range(1, 6))
    with TickStream(topic.bootstrap_servers, topic.name) as stream:
        stream.follow(plan_of(stream, {0: 3}), *stream.watermarks())
        first = stream.next_batch(100, 10)
        topic.send_ids([6])
        second = stream.next_batch(100, 10)
        assert first is not None and second is not None
        assert (ids([first]), ids([second])) == ([4, 5], [6])
        assert stream.next_batch(100, 0.3) is None


def test_a_batch_of_garbage_in_megabytes_is_cut_by_its_size(topic: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "_BATCH_BYTES", 100_000)
    topic.send(*[b"x" * 50_000] * 8)
    with TickStream(topic.bootstrap_servers, topic.name) as stream:
        batches = list(stream.read(plan_of(stream), 100_000))
    assert len(batches) >= 1
    assert sum(batch.dead_letters.height for batch in batches) == 8
    letter = batches[0].dead_letters.row(0, named=True)
    assert (letter["payload"], letter["message_offset"]) == (b"x" * 50_000, 0)
    assert batches[-1].next_offsets[0] == 8


def test_no_broker_is_an_error_that_says_what_to_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "REQUEST_SECONDS", 0.5)
    with TickStream("127.0.0.1:1", "ticks") as stream, pytest.raises(StreamError, match="KAFKA_BOOTSTRAP_SERVERS"):
        stream.watermarks()


@pytest.mark.kafka
def test_an_emptied_topic_is_read_from_what_came_afterwards() -> None:
    """Guards a demo on a Kafka of the user's own, which would take the last demo's trades for its own."""
    topic = Topic(real_kafka())
    create_topic(topic.bootstrap_servers, topic.name)
    topic.send_ids(range(1, 11))
    topic.send_ids(range(11, 21), partition=1)
    empty_topic(topic.bootstrap_servers, topic.name)
    topic.send_ids([21])
    with TickStream(topic.bootstrap_servers, topic.name) as stream:
        assert ids(list(stream.read(plan_of(stream), 100))) == [21]
    empty_topic(topic.bootstrap_servers, "not-there-yet")


def test_a_topic_that_cannot_be_emptied_is_named_with_a_way_out(cluster: str) -> None:
    """The in-process cluster is such a broker."""
    topic = Topic(cluster)
    topic.send_ids([1])
    with pytest.raises(StreamError, match=f"{topic.name} .* could not be emptied .*: delete it"):
        empty_topic(cluster, topic.name)


def test_another_cluster_is_another_identity() -> None:
    with mock_cluster() as one, mock_cluster() as other:
        identities = []
        for address in (one, other):
            Topic(address, "ticks").send(trade(1))
            with TickStream(address, "ticks") as stream:
                identities.append(stream.identity())
    assert identities[0].cluster_id != identities[1].cluster_id


def test_an_offset_that_is_not_there_any_more_is_an_error_and_no_silent_jump(topic: Topic) -> None:
    topic.send_ids(range(1, 4))
    with TickStream(topic.bootstrap_servers, topic.name) as stream, pytest.raises(StreamError):
        list(stream.read(OffsetPlan((OffsetRange(0, 100, 200),), {}, ()), 10))


def reader_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ticks")]


def test_who_stops_early_leaves_no_reader_at_work_and_may_read_again(topic: Topic) -> None:
    """The reader is one batch ahead; what it had taken is nobody's, and is read again from the stored offsets."""
    topic.send_ids(range(1, 2001))
    with TickStream(topic.bootstrap_servers, topic.name) as stream:
        batches = stream.read(plan_of(stream), 100)
        assert ids([next(batches)]) == list(range(1, 101))
        batches.close()
        assert ids(list(stream.read(plan_of(stream, {0: 100}), 100))) == list(range(101, 2001))
    assert reader_threads() == []


def test_a_stream_that_is_closed_while_its_reader_waits_does_not_wait_with_it(topic: Topic) -> None:
    topic.send_ids(range(1, 11))
    began = time.monotonic()
    with TickStream(topic.bootstrap_servers, topic.name) as stream:
        stream.watermarks()
        batches = stream.read(OffsetPlan((OffsetRange(0, 0, 30),), {}, ()), 10)
        assert ids([next(batches)]) == list(range(1, 11))
        assert reader_threads() != []  # it waits for twenty that are not there
    assert reader_threads() == []
    assert time.monotonic() - began < stream_module.SILENCE_SECONDS / 2


def test_what_breaks_behind_a_batch_is_told_after_it(topic: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "SILENCE_SECONDS", 3.0)
    topic.send_ids(range(1, 11))
    with TickStream(topic.bootstrap_servers, topic.name) as stream:
        batches = stream.read(OffsetPlan((OffsetRange(0, 0, 30),), {}, ()), 10)
        first = next(batches)
        assert (ids([first]), first.next_offsets) == (list(range(1, 11)), {0: 10})
        with pytest.raises(StreamError, match="still owes"):
            next(batches)


@pytest.mark.kafka
def test_a_topic_made_anew_is_another_identity() -> None:
    address = real_kafka()
    topic = Topic(address)
    create_topic(address, topic.name)
    with TickStream(address, topic.name) as stream:
        before = stream.identity()
        delete_topic(address, topic.name)
        create_topic(address, topic.name)
        after = stream.identity()
    assert before.cluster_id == after.cluster_id
    assert before.topic_id != after.topic_id


@pytest.mark.kafka
def test_a_log_that_ends_in_a_transactions_marker_is_read_to_its_end() -> None:
    """The marker has an offset and is no message: waiting for it would never end."""
    address = real_kafka()
    topic = Topic(address)
    create_topic(address, topic.name, partitions=1)
    producer = Producer({"bootstrap.servers": address, "transactional.id": topic.name})
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce(topic.name, trade(1), partition=0)
    producer.commit_transaction(20)
    with TickStream(address, topic.name) as stream:
        deadline = time.monotonic() + 20
        while (plan := plan_of(stream)).lag < 2 and time.monotonic() < deadline:
            time.sleep(0.1)  # the marker is written after the commit was confirmed
        assert plan.lag == 2
        batches = list(stream.read(plan, 100))
        assert (ids(batches), batches[-1].next_offsets) == ([1], {0: 2})
        stream.follow(plan_of(stream, {0: 1}), *stream.watermarks())
        only_the_marker = stream.next_batch(100, 1)
        assert only_the_marker is not None
        assert (only_the_marker.ticks.height, only_the_marker.next_offsets) == (0, {0: 2})
        assert stream.next_batch(100, 0.3) is None
