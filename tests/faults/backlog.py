"""A backlog of many messages drains in bounded batches: how fast, and in how much memory.

    python -m tests.kafka_server -- .venv/bin/python -m tests.faults.backlog [--messages N]

Writes trades of three symbols to a topic of its own on the Apache Kafka at KAFKA_REAL_BOOTSTRAP_SERVERS, ingests them in
another process, and prints the largest memory of that process as JSON; exits with 1 when it was 1 GB or more, or when a
trade is missing or doubled.
"""

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

from confluent_kafka import Producer

from cryptotrace_dagster.pipeline.ingest import ingest_available
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.stream import TickStream
from tests.broker import Topic, create_topic, trade
from tests.faults.rig import SYMBOLS

LIMIT_BYTES = 10**9


def drain(url: str, address: str, topic: str, peak: "multiprocessing.connection.Connection") -> None:
    """Ingest all of the topic, and tell the largest memory that took, in bytes."""
    with TickStream(address, topic) as stream:
        batches = [report.stored for report in ingest_available(Warehouse(url), stream)]
    peak.send((len(batches), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


def fill(address: str, topic: str, messages: int) -> None:
    """Write so many trades, as the feed does."""
    producer = Producer({"bootstrap.servers": address, "linger.ms": 20, "compression.type": "lz4"})
    for number in range(messages):
        partition = number % len(SYMBOLS)
        value = trade(number // len(SYMBOLS) + 1, SYMBOLS[partition])
        while True:
            try:
                producer.produce(topic, value, partition=partition)
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(300) == 0


def main() -> int:
    """Measure from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000_000)
    messages = parser.parse_args().messages - parser.parse_args().messages % len(SYMBOLS)
    topic = Topic(os.environ["KAFKA_REAL_BOOTSTRAP_SERVERS"])
    create_topic(topic.bootstrap_servers, topic.name, partitions=len(SYMBOLS))
    fill(topic.bootstrap_servers, topic.name, messages)
    with tempfile.TemporaryDirectory(prefix="cryptotrace-backlog-") as folder:
        store = Warehouse(str(Path(folder) / "store.duckdb"))
        store.create()
        receiving, sending = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("spawn").Process(
            target=drain, args=(store.url, topic.bootstrap_servers, topic.name, sending)
        )
        began = time.monotonic()
        process.start()
        process.join()
        seconds = time.monotonic() - began
        batches, peak = receiving.recv()
        stored, distinct = store.read("SELECT count(*), count(DISTINCT (symbol, trade_id)) FROM raw_ticks").row(0)
    summary = {
        "messages": messages,
        "stored": stored,
        "doubled": stored - distinct,
        "batches": batches,
        "seconds": round(seconds, 1),
        "messages_per_second": round(messages / seconds),
        "peak_memory_mb": round(peak / 1e6),
    }
    print(json.dumps(summary))
    return 0 if stored == distinct == messages and peak < LIMIT_BYTES else 1


if __name__ == "__main__":
    sys.exit(main())
