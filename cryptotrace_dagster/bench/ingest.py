"""The ingest's rows: Kafka to committed rows in DuckDB, against a bare loop that throws the messages away."""

import tempfile
import time
from pathlib import Path

from confluent_kafka import Producer

from cryptotrace_dagster.bench.broker import PARTITIONS, Broker, bench_broker, fresh_topic, topic_ends
from cryptotrace_dagster.bench.market import DAY_START, symbol_names, trade_messages
from cryptotrace_dagster.bench.rows import Pair, Row, Target, measured_pairs, require, row_of_pairs
from cryptotrace_dagster.bench.sizes import Sizes
from cryptotrace_dagster.bench.workers import run_worker

SYMBOLS = 10
RATE_TARGET = Target(0.4, is_lower=True)
MEMORY_TARGET = Target(1000.0, of_value=True)
_FLUSH_SECONDS = 120.0


def measure_ingest(sizes: Sizes) -> list[Row]:
    """Return the rows `ingest` (messages a second) and `ingest_memory` (peak of the process)."""
    peaks: list[float] = []
    with bench_broker() as broker, fresh_topic(broker) as topic, tempfile.TemporaryDirectory() as folder:
        count = sizes.kafka_messages if broker.is_real else sizes.embedded_messages
        id_sum = fill_topic(broker, topic, count)

        def once() -> Pair:
            bare = run_worker("ingest_reader", "bare", broker.bootstrap_servers, topic)
            require(bare["messages"] == count, f"the bare loop took {bare['messages']} of {count} messages")
            path = Path(folder) / f"{time.monotonic_ns()}.duckdb"
            ours = run_worker("ingest_reader", "ingest", broker.bootstrap_servers, topic, str(path))
            path.unlink()
            is_right = ours["messages"] == ours["rows"] == count and ours["id_sum"] == id_sum
            require(is_right, f"ingest stored {ours['rows']} of {count} trades, ids add up to {ours['id_sum']}")
            peaks.append(ours["peak_mb"])
            return Pair(count / ours["seconds"], count / bare["seconds"])

        is_long = count > 5_000_000  # it warms up by itself, and would take minutes more
        pairs = measured_pairs(once, 1 if is_long else sizes.repeats, warm_ups=0 if is_long else sizes.warm_ups)
    return [
        row_of_pairs(
            "ingest",
            "ingest: Kafka to committed rows, messages per second",
            "1/s",
            pairs,
            "bare consume() loop over the same topic",
            RATE_TARGET,
            messages=count,
            broker=broker.kind,
        ),
        Row(
            name="ingest_memory",
            what=f"ingest: peak memory over {count:,} messages",
            value=max(peaks),
            unit="MB",
            repeats=len(peaks),
            target=MEMORY_TARGET,
            details={"messages": count, "broker": broker.kind},
        ),
    ]


def fill_topic(broker: Broker, topic: str, count: int) -> int:
    """Publish so many trades, compressed and keyed as the feed does, and return what their ids add up to."""
    symbols = symbol_names(SYMBOLS)
    producer = Producer(
        {
            "bootstrap.servers": broker.bootstrap_servers,
            "enable.idempotence": True,
            "compression.type": "lz4",
            "linger.ms": 20,
            "log_level": 2,
        }
    )
    id_sum = 0
    for index, message in enumerate(trade_messages(count, symbols, DAY_START, 1000.0)):
        id_sum += index // SYMBOLS + 1
        while True:
            try:
                # Spread evenly, so that the embedded broker's small partitions hold all of them.
                producer.produce(topic, message, symbols[index % SYMBOLS], partition=index % SYMBOLS % PARTITIONS)
                break
            except BufferError:
                producer.poll(0.05)
    require(producer.flush(_FLUSH_SECONDS) == 0, "the broker did not take all messages")
    held = sum(topic_ends(broker.bootstrap_servers, topic).values())
    require(held == count, f"the topic holds {held} of {count} messages")
    return id_sum
