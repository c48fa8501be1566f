"""The feed as a process among others: start, stop, shards, a broker that is slow or away."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from cryptotrace_dagster.exchange.simulated import ExchangeConfig, SimulatedExchange
from cryptotrace_dagster.feed.process import Feed
from cryptotrace_dagster.feed.publisher import BrokerUnreachableError
from cryptotrace_dagster.loopback import PortTakenError
from cryptotrace_dagster.settings import Settings, SettingsError, load_settings
from tests.feed.line import SYMBOLS, Line, running, until
from tests.ports import free_port

FIVE = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "BNBUSDT", "XRPUSDT")


def child(command: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    """Start a process whose standard output can be read."""
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


async def test_on_sigterm_all_that_was_received_is_published_and_the_process_ends_well(
    broker: str, tmp_path: Path
) -> None:
    async with SimulatedExchange(ExchangeConfig(symbols=SYMBOLS, trades_per_second=1_000)) as exchange:
        environment = {
            **os.environ,
            "SYMBOLS": ",".join(SYMBOLS),
            "DATA_DIR": str(tmp_path),
            "KAFKA_BOOTSTRAP_SERVERS": broker,
            "TICKS_TOPIC": "sigterm",
            "BINANCE_STREAM_URL": exchange.stream_url,
            "BINANCE_REST_URL": exchange.rest_url,
            "FEED_PORT": str(free_port()),
        }
        command = [sys.executable, "-m", "cryptotrace_dagster.cli.main", "feed"]
        process = await asyncio.to_thread(child, command, environment)
        try:
            assert process.stdout is not None
            ready = json.loads(await asyncio.to_thread(process.stdout.readline))
            await asyncio.sleep(1.5)
            async with httpx.AsyncClient() as client:
                health = (await client.get(ready["metrics_url"].replace("metrics", "healthz"))).json()
            process.send_signal(signal.SIGTERM)
            asked_at = time.monotonic()
            assert await asyncio.to_thread(process.wait, 15) == 0
        finally:
            process.kill()
    assert (ready["event"], ready["symbols"]) == ("feed_ready", list(SYMBOLS))
    assert time.monotonic() - asked_at < 10
    line = Line(exchange, Feed(Settings()), Settings(kafka_bootstrap_servers=broker, ticks_topic="sigterm"))
    published = line.published()
    for ids in published.values():
        assert ids == list(range(ids[0], ids[-1] + 1)), "nothing is missing or doubled up to the end"
    assert sum(len(ids) for ids in published.values()) >= health["received"] > 500


async def test_two_shards_share_the_symbols_without_overlap_or_hole(broker: str, tmp_path: Path) -> None:
    async with (
        SimulatedExchange(ExchangeConfig(symbols=FIVE, trades_per_second=300)) as exchange,
        running(broker, tmp_path, exchange=exchange, feed_shard="1/2") as one,
        running(broker, tmp_path, exchange=exchange, feed_shard="2/2") as two,
    ):
        await asyncio.sleep(1.0)
        assert sorted([*one.feed.symbols, *two.feed.symbols]) == sorted(FIVE)
        exchange.stop_trading()
        await asyncio.sleep(0.5)
        first, second = await asyncio.to_thread(one.published), await asyncio.to_thread(two.published)
        assert set(first).isdisjoint(second)
        for line, published in ((one, first), (two, second)):
            for symbol, ids in published.items():
                assert ids == list(range(line.watched_from()[symbol], line.happened()[symbol][-1] + 1))


async def test_symbols_can_be_spread_over_several_connections(broker: str, tmp_path: Path) -> None:
    config = ExchangeConfig(symbols=FIVE, trades_per_second=300)
    async with running(broker, tmp_path, exchange_config=config, feed_connections=3) as line:
        await asyncio.sleep(1.0)
        line.fault(kind="abort", connections="oldest")
        await asyncio.sleep(1.0)
        line.assert_each_once(await line.whole())
        figures = line.feed.figures()
    assert (figures.connections, figures.connections_open) == (3, 3)
    assert sum(figures.reconnects.values()) == 1, "the other two were left alone"


async def test_when_the_broker_takes_no_more_reading_stops_and_nothing_is_lost(
    broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cryptotrace_dagster.feed.publisher.QUEUE_MESSAGES", 20)
    async with running(broker, tmp_path, exchange_config=ExchangeConfig(trades_per_second=2_000)) as line:
        await until(lambda: line.feed.figures().pauses > 5)
        line.assert_each_once(await line.whole())


async def test_a_broker_that_stays_away_makes_the_feed_unhealthy_without_growing_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cryptotrace_dagster.cli.main", "broker", "--port", str(port := free_port())]

    def start() -> subprocess.Popen[str]:
        process = child(command, dict(os.environ))
        assert process.stdout is not None and process.stdout.readline()
        return process

    broker = await asyncio.to_thread(start)
    try:
        config = ExchangeConfig(symbols=SYMBOLS, trades_per_second=300)
        async with running(f"127.0.0.1:{port}", tmp_path, exchange_config=config) as line:
            await asyncio.sleep(0.5)
            broker.kill()
            broker.wait()
            await until(lambda: any("acknowledged nothing" in each for each in line.feed.figures().problems), 20)
            assert (await line.health()).status_code == 503
            held = line.feed.figures().lag
            broker = await asyncio.to_thread(start)
            await until(lambda: len(line.feed.publisher) < 100 and not line.feed.figures().problems, 20)
            assert (await line.health()).status_code == 200
            line.exchange.stop_trading()
            await until(lambda: len(line.feed.publisher) == 0)
            published = await asyncio.to_thread(line.published)
            assert sum(len(ids) for ids in published.values()) >= held > 1_000
            for symbol, ids in published.items():
                assert ids == list(range(ids[0], line.happened()[symbol][-1] + 1))
    finally:
        broker.kill()


def started(**settings: object) -> None:
    """Run a feed that is expected to refuse its start."""
    asyncio.run(Feed(Settings(**settings)).run(asyncio.Event(), asyncio.Event()))  # type: ignore[arg-type]


def test_a_missing_broker_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cryptotrace_dagster.feed.process._BROKER_SECONDS", 0.5)
    with pytest.raises(BrokerUnreachableError, match="KAFKA_BOOTSTRAP_SERVERS"):
        started(kafka_bootstrap_servers=f"127.0.0.1:{free_port()}", data_dir=tmp_path, feed_port=free_port())


async def test_a_taken_port_is_one_sentence(broker: str, tmp_path: Path) -> None:
    async with running(broker, tmp_path) as line:
        with pytest.raises(PortTakenError, match=str(line.settings.feed_port)):
            await Feed(line.settings).run(asyncio.Event(), asyncio.Event())


@pytest.mark.parametrize("shard", ["0/2", "3/2", "2", "a/b", "1/0", ""])
def test_a_malformed_shard_is_one_sentence(shard: str) -> None:
    with pytest.raises(SettingsError, match="FEED_SHARD"):
        load_settings(feed_shard=shard)
