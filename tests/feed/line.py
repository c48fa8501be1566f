"""The feed between a simulated exchange and an embedded broker, and the comparison of what went in with what came out."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import msgspec
from confluent_kafka import Consumer, TopicPartition

from cryptotrace_dagster.exchange.faults import Fault
from cryptotrace_dagster.exchange.simulated import ExchangeConfig, SimulatedExchange
from cryptotrace_dagster.feed.process import Feed
from cryptotrace_dagster.settings import Settings
from tests.ports import free_port

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")


@dataclass
class Line:
    """A running feed with both of its ends."""

    exchange: SimulatedExchange
    feed: Feed
    settings: Settings

    def happened(self) -> dict[str, list[int]]:
        """Return every trade id that the exchange has made since its start, by symbol."""
        sent: Any = self.exchange.sent()
        return {symbol: list(range(row["first_id"], row["last_id"] + 1)) for symbol, row in sent["symbols"].items()}

    def published(self) -> dict[str, list[int]]:
        """Return every trade id in the topic, by symbol, sorted, repeats included."""
        by_symbol: dict[str, list[int]] = {}
        for value in read_topic(self.settings.kafka_bootstrap_servers, self.settings.ticks_topic):
            trade = msgspec.json.decode(value)
            by_symbol.setdefault(trade["s"], []).append(trade["a"])
        return {symbol: sorted(ids) for symbol, ids in by_symbol.items()}

    def dead_letters(self) -> list[bytes]:
        """Return the payloads that were set aside."""
        return read_topic(self.settings.kafka_bootstrap_servers, self.settings.dead_letter_topic)

    def fault(self, **fields: Any) -> None:
        """Begin a fault at the exchange."""
        self.exchange.start_fault(msgspec.convert(fields, Fault))

    async def whole(self, timeout_seconds: float = 30.0) -> dict[str, list[int]]:
        """Stop trading, wait until nothing is missing in the topic, and return what is in it."""
        self.exchange.stop_trading()
        happened = self.happened()
        await until(lambda: self._covers(happened), timeout_seconds)
        return await asyncio.to_thread(self.published)

    def _covers(self, happened: dict[str, list[int]]) -> bool:
        for lane in self.feed.lanes:
            ids = happened.get(lane.symbol)
            if ids and (lane.ids.next_id <= ids[-1] or lane.ids.gaps.missing):
                return False
        return len(self.feed.publisher) == 0

    def watched_from(self) -> dict[str, int]:
        """Return the first id that the feed saw, by symbol; what was before is not the stream's to deliver."""
        return {lane.symbol: lane.ids.first_id for lane in self.feed.lanes}

    def assert_each_once(self, published: dict[str, list[int]]) -> None:
        """Compare, id by id, what the exchange made since the feed saw its first trade with what the topic holds."""
        expected = {
            symbol: [trade_id for trade_id in ids if trade_id >= self.watched_from()[symbol]]
            for symbol, ids in self.happened().items()
        }
        missing = {symbol: sorted(set(ids) - set(published.get(symbol, []))) for symbol, ids in expected.items()}
        doubled = {symbol: [i for i, n in Counter(published.get(symbol, [])).items() if n > 1] for symbol in expected}
        assert not any(missing.values()), f"missing: {missing}"
        assert not any(doubled.values()), f"doubled: {doubled}"
        assert published == expected

    async def health(self) -> httpx.Response:
        """Ask the feed whether data flows."""
        async with httpx.AsyncClient() as client:
            return await client.get(f"http://127.0.0.1:{self.feed.metrics_port}/healthz")


@asynccontextmanager
async def running(
    bootstrap_servers: str,
    data_dir: Path,
    *,
    exchange: SimulatedExchange | None = None,
    exchange_config: ExchangeConfig | None = None,
    **settings: Any,
) -> AsyncIterator[Line]:
    """Run exchange and feed until the block ends; both must end without an error."""
    if exchange is None:
        config = exchange_config or ExchangeConfig(symbols=SYMBOLS, trades_per_second=400)
        async with (
            SimulatedExchange(config) as started,
            running(bootstrap_servers, data_dir, exchange=started, **settings) as line,
        ):
            yield line
        return
    topic = f"ticks-{uuid4().hex[:8]}"
    chosen = {
        "symbols": exchange.config.symbols,
        "data_dir": data_dir,
        "kafka_bootstrap_servers": bootstrap_servers,
        "ticks_topic": topic,
        "dead_letter_topic": f"{topic}.dead_letter",
        "binance_stream_url": exchange.stream_url,
        "binance_rest_url": exchange.rest_url,
        "feed_port": free_port(),
        **settings,
    }
    line = Line(exchange, feed := Feed(Settings(**chosen)), Settings(**chosen))
    stop, ready = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(feed.run(stop, ready))
    waiting = asyncio.create_task(ready.wait())
    try:
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED, timeout=20)
        if task.done():
            task.result()
        assert ready.is_set(), "the feed did not become ready"
        yield line
    finally:
        waiting.cancel()
        stop.set()
        await task


async def until(is_so: Callable[[], bool], timeout_seconds: float = 15.0) -> None:
    """Return as soon as something is so; fail when it is not in time."""
    deadline = time.monotonic() + timeout_seconds
    while not is_so():
        assert time.monotonic() < deadline, f"not so within {timeout_seconds} s"
        await asyncio.sleep(0.05)


def read_topic(bootstrap_servers: str, topic: str) -> list[bytes]:
    """Return the values of all messages of a topic; fail when the broker has evicted some."""
    consumer = Consumer({"bootstrap.servers": bootstrap_servers, "group.id": "test", "fetch.queue.backoff.ms": 1})
    try:
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        ends = {}
        for number in partitions:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=10)
            assert low == 0, "the broker has evicted messages; send fewer in this test"
            ends[number] = high
        consumer.assign([TopicPartition(topic, number, 0) for number in ends])
        wanted, values = sum(ends.values()), []
        deadline = time.monotonic() + 20
        while len(values) < wanted and time.monotonic() < deadline:
            values += [m.value() or b"" for m in consumer.consume(1000, 0.5) if m.error() is None]
        assert len(values) == wanted
        return values
    finally:
        consumer.close()
