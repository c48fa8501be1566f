"""The stored ids are the proof: what never arrived there is fetched again, and what is only on its way is not."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from cryptotrace_dagster.domain.windows import utc_now
from cryptotrace_dagster.exchange.simulated import ExchangeConfig, SimulatedExchange
from cryptotrace_dagster.feed.filling import Fill
from cryptotrace_dagster.feed.ids import NOTHING_SEEN
from cryptotrace_dagster.feed.repair import Hole, StoredIds, hole_before, lost, seen_twice, stored_ids
from cryptotrace_dagster.pipeline.ingest import ingest_available
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.stream import StreamError, TickStream
from cryptotrace_dagster.tables import TRADE_ID_RANGES
from tests.feed.line import Line, running, until
from tests.ports import free_port

NOON = datetime(2026, 1, 5, 12)
SECOND = timedelta(seconds=1)


def ranges(*rows: tuple[int, int, int, int]) -> pl.DataFrame:
    """Return ranges of one symbol: first id, last id, and their times as seconds from noon."""
    complete = [("BTCUSDT", first, last, NOON + a * SECOND, NOON + b * SECOND) for first, last, a, b in rows]
    return pl.DataFrame(complete, schema=TRADE_ID_RANGES.polars_schema, orient="row")


def test_holes_are_what_lies_between_the_stored_ranges() -> None:
    stored = stored_ids(ranges((1, 9, 0, 5), (15, 20, 8, 9)), oldest=NOON)["BTCUSDT"]
    assert stored.last_id == 20
    assert stored.holes == (Hole(10, 14, NOON + 5 * SECOND),)


def test_a_hole_that_closed_before_the_reach_is_left_to_backfill() -> None:
    assert stored_ids(ranges((1, 9, 0, 5), (15, 20, 8, 9)), oldest=NOON + 60 * SECOND)["BTCUSDT"].holes == ()


@pytest.mark.parametrize(
    ("first_seen", "expected"), [(NOTHING_SEEN, ()), (100, ()), (101, ()), (105, (Hole(101, 104, NOON),))]
)
def test_the_time_before_a_start_is_a_hole_too(first_seen: int, expected: tuple[Hole, ...]) -> None:
    assert hole_before(first_seen, StoredIds(100, (), NOON)) == expected


def test_a_fill_is_on_its_way_until_something_newer_has_arrived() -> None:
    fill = Fill(10, 14, head=50, published_at=0.0)
    hole = Hole(8, 16, NOON)
    assert lost([hole], [fill], stored_last_id=50, now=1.0) == [Hole(8, 9, NOON), Hole(15, 16, None)]
    assert lost([hole], [fill], stored_last_id=51, now=1.0) == [hole]


def test_where_nothing_newer_comes_each_fill_is_given_twice_the_time_of_the_one_before() -> None:
    hole = Hole(10, 14, NOON)
    once = [Fill(10, 14, head=50, published_at=0.0)]
    twice = [*once, Fill(10, 14, head=50, published_at=21.0)]
    assert lost([hole], once, 50, now=19.0) == []
    assert lost([hole], once, 50, now=21.0) == [hole]
    assert lost([hole], twice, 50, now=60.0) == []
    assert lost([hole], twice, 50, now=62.0) == [hole]


def test_only_what_was_missing_at_two_looks_is_fetched() -> None:
    assert seen_twice([Hole(10, 20, NOON)], []) == []
    assert seen_twice([Hole(10, 20, NOON)], [Hole(15, 30, NOON)]) == [Hole(15, 20, None)]


@asynccontextmanager
async def ingesting(line: Line, warehouse: Warehouse) -> AsyncIterator[None]:
    """Ingest again and again, as the live run does; a broker that is away is tried again."""
    is_done = asyncio.Event()

    def once() -> None:
        with TickStream(line.settings.kafka_bootstrap_servers, line.settings.ticks_topic) as stream:
            for _ in ingest_available(warehouse, stream):
                pass

    async def on_and_on() -> None:
        while not is_done.is_set():
            try:
                await asyncio.to_thread(once)
            except StreamError:
                await asyncio.sleep(0.1)
            await asyncio.sleep(0.2)

    task = asyncio.create_task(on_and_on())
    try:
        yield
    finally:
        is_done.set()
        await task


def held(warehouse: Warehouse) -> dict[str, tuple[int, int, int]]:
    """Return ranges, first and last stored id by symbol."""
    rows = warehouse.read(
        "SELECT symbol, count(*), min(first_id), max(last_id) FROM trade_id_ranges GROUP BY symbol"
    ).iter_rows()
    return {symbol: (count, first, last) for symbol, count, first, last in rows}


def is_whole(line: Line, warehouse: Warehouse, starts: dict[str, int]) -> bool:
    """Return whether the warehouse holds every trade from `starts` on, each once."""
    expected = {symbol: (1, starts[symbol], ids[-1]) for symbol, ids in line.happened().items()}
    counts = warehouse.read("SELECT count(*) AS n, count(DISTINCT (symbol, trade_id)) AS d FROM raw_ticks").row(0)
    return held(warehouse) == expected and counts[0] == counts[1] == sum(
        last - first + 1 for _, first, last in expected.values()
    )


@contextmanager
def broker_process(port: int) -> Iterator[str]:
    """Run the embedded broker as `cryptotrace up` does, and kill it without warning at the end."""
    command = [sys.executable, "-m", "cryptotrace_dagster.cli.main", "broker", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["bootstrap_servers"]
        finally:
            process.kill()


async def test_trades_that_died_with_the_brokers_memory_are_fetched_again(tmp_path: Path, warehouse: Warehouse) -> None:
    """Also when nothing comes after them that would show the hole."""
    port = free_port()
    config = ExchangeConfig(symbols=("BTCUSDT", "ETHUSDT"), trades_per_second=500)
    async with AsyncExitStack() as stack:
        with broker_process(port) as address:
            line = await stack.enter_async_context(
                running(address, tmp_path, exchange_config=config, warehouse_url=warehouse.url)
            )
            await asyncio.sleep(0.5)
            async with ingesting(line, warehouse):
                await until(lambda: len(held(warehouse)) == 2)
            starts = line.watched_from()
            await asyncio.sleep(1.5)  # what comes now is acknowledged by the broker and read by nobody
            line.exchange.stop_trading()
            await asyncio.sleep(0.5)
            assert len(line.feed.publisher) == 0
            lost_count = line.feed.figures().published - warehouse.read("SELECT count(*) FROM raw_ticks").item()
            await line.feed.repair.look()
        with broker_process(port):
            async with ingesting(line, warehouse):
                await until(lambda: is_whole(line, warehouse, starts), 40)
        assert line.feed.repair.repaired == lost_count > 300


async def test_the_hole_between_the_last_stored_trade_and_a_start_is_filled(
    broker: str, tmp_path: Path, warehouse: Warehouse
) -> None:
    config = ExchangeConfig(symbols=("BTCUSDT", "ETHUSDT"), trades_per_second=500)
    async with SimulatedExchange(config) as exchange:
        async with (
            running(broker, tmp_path, exchange=exchange, warehouse_url=warehouse.url) as first_life,
            ingesting(first_life, warehouse),
        ):
            await until(lambda: len(held(warehouse)) == 2)
            starts = first_life.watched_from()
        await asyncio.sleep(1.5)  # between two lives of the feed the market goes on
        async with (
            running(broker, tmp_path, exchange=exchange, warehouse_url=warehouse.url) as line,
            ingesting(line, warehouse),
        ):
            await asyncio.sleep(1.0)
            line.exchange.stop_trading()
            await until(lambda: is_whole(line, warehouse, starts), 30)
            assert line.feed.repair.repaired > 300


async def test_trades_that_were_only_on_their_way_are_not_fetched(
    broker: str, tmp_path: Path, warehouse: Warehouse
) -> None:
    """Guards against a feed that fetches for ever what ingest has merely not read yet."""
    config = ExchangeConfig(symbols=("BTCUSDT",), trades_per_second=300)
    async with running(broker, tmp_path, exchange_config=config, warehouse_url=warehouse.url) as line:
        await asyncio.sleep(0.5)
        line.fault(kind="gap", seconds=0.5)
        await until(lambda: line.feed.figures().symbols[0].filled > 50)
        filled = line.feed.figures().symbols[0].filled
        fill = line.feed.filler.fills_of("BTCUSDT")[0]
        gap_at, after = (utc_now() - 2 * SECOND, utc_now() - SECOND)
        rows = [
            ("BTCUSDT", line.feed.lanes[0].ids.first_id, fill.first - 1, gap_at, gap_at),
            ("BTCUSDT", fill.last + 1, fill.head - 1, after, after),
        ]
        with warehouse.transaction() as transaction:  # as if ingest stood a moment before the fill
            frame = pl.DataFrame(rows, schema=TRADE_ID_RANGES.polars_schema, orient="row")
            transaction.append(TRADE_ID_RANGES, frame)
        for _ in range(3):
            await line.feed.repair.look()
        await asyncio.sleep(0.5)
        assert line.feed.repair.repaired == 0
        assert line.feed.figures().symbols[0].filled == filled
