"""The broker that comes with `up`: found at a fixed port, again after it was killed."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition

from tests.ports import free_port

pytestmark = pytest.mark.timeout(90)


@contextmanager
def broker_process(port: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "cryptotrace_dagster.cli.main", "broker", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    ready = json.loads(process.stdout.readline())
    assert ready == {"event": "broker_ready", "bootstrap_servers": f"127.0.0.1:{port}"}
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def deliver(producer: Producer, value: bytes) -> None:
    failures: list[str] = []
    producer.produce("ticks", value, key=b"BTCUSDT", on_delivery=lambda error, _: error and failures.append(str(error)))
    assert producer.flush(20) == 0, "the broker did not answer within 20 s"
    assert failures == []


def read_all(port: int) -> list[bytes]:
    consumer = Consumer({"bootstrap.servers": f"127.0.0.1:{port}", "group.id": "test"})
    partitions = consumer.list_topics("ticks", timeout=10).topics["ticks"].partitions
    consumer.assign([TopicPartition("ticks", number, 0) for number in partitions])
    values = []
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and not values:
        message: Message | None = consumer.poll(0.5)
        if message is not None and message.error() is None:
            values.append(message.value())
    consumer.close()
    return values


def test_a_producer_goes_on_after_the_broker_was_killed_and_started_again() -> None:
    port = free_port()
    producer = Producer({"bootstrap.servers": f"127.0.0.1:{port}", "enable.idempotence": True, "log_level": 0})
    with broker_process(port):
        deliver(producer, b"before")
    with broker_process(port):
        deliver(producer, b"after")
        assert read_all(port) == [b"after"], "the new cluster starts empty; the feed fills what it lost"


def test_the_broker_ends_cleanly_when_it_is_told_to() -> None:
    with broker_process(free_port()) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=5) == 0


def test_a_taken_port_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "cryptotrace_dagster.cli.main", "broker", "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"cryptotrace: The broker cannot listen on 127.0.0.1:{port}")
    assert "Traceback" not in done.stderr
