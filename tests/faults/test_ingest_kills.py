"""An ingesting process is killed at random moments: no trade is missing, none is there twice."""

import random
import threading
import time

import pytest

from cryptotrace_dagster.storage import Warehouse
from tests.broker import Topic, create_topic, real_kafka
from tests.faults.ingest_loop import kill, start_ingest

TRADES_PER_SECOND = 600
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")


class Trading:
    """Writes trades of three symbols at a steady rate until it is stopped."""

    def __init__(self, topic: Topic) -> None:
        self.last_id = 0
        self._topic = topic
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._trade)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _trade(self) -> None:
        while not self._over.wait(0.1):
            ids = range(self.last_id + 1, self.last_id + 1 + TRADES_PER_SECOND // 10 // len(SYMBOLS))
            for partition, symbol in enumerate(SYMBOLS):
                self._topic.send_ids(ids, symbol, partition=partition)
            self.last_id = ids[-1]


def wait_until_stored(store: Warehouse, last_id: int, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    question = "SELECT count(*) FROM trade_id_ranges WHERE first_id = 1 AND last_id >= ?"
    while store.read(question, [last_id]).item() < len(SYMBOLS):
        assert time.monotonic() < deadline, store.read("SELECT * FROM trade_id_ranges")
        time.sleep(0.2)


def kill_often(store: Warehouse, topic: Topic, times: int, seed: int) -> None:
    generator = random.Random(seed)
    trading = Trading(topic)
    trading.start()
    moments = set()
    try:
        for _ in range(times):
            process = start_ingest(store, topic.bootstrap_servers, topic.name, batch_messages=100)
            before = stored(store)
            deadline = time.monotonic() + 30
            while stored(store) == before and time.monotonic() < deadline:
                time.sleep(0.02)  # it is at work
            time.sleep(generator.uniform(0, 0.4))
            kill(process)
            moments.add(stored(store))
    finally:
        trading.stop()
    process = start_ingest(store, topic.bootstrap_servers, topic.name)
    try:
        wait_until_stored(store, trading.last_id)
    finally:
        kill(process)
    assert len(moments) == times, "every kill must meet a process that had stored something"
    rows = store.read(
        "SELECT symbol, count(*), count(DISTINCT trade_id), min(trade_id), max(trade_id) FROM raw_ticks "
        "GROUP BY symbol ORDER BY symbol"
    ).rows()
    assert rows == [(symbol, *[trading.last_id] * 2, 1, trading.last_id) for symbol in sorted(SYMBOLS)]


def stored(store: Warehouse) -> int:
    count: int = store.read("SELECT count(*) FROM raw_ticks").item()
    return count


def test_killing_ingest_ten_times_neither_loses_nor_doubles_a_trade(warehouse: Warehouse, cluster: str) -> None:
    """On a DuckDB file; with TEST_STORE=lake on a lake, whose small commits take minutes on a busy machine."""
    kill_often(warehouse, Topic(cluster), times=10, seed=1)


@pytest.mark.kafka
def test_killing_ingest_ten_times_on_apache_kafka_neither_loses_nor_doubles_a_trade(warehouse: Warehouse) -> None:
    address = real_kafka()
    topic = Topic(address)
    create_topic(address, topic.name, partitions=len(SYMBOLS))
    kill_often(warehouse, topic, times=10, seed=2)
