"""Fault by fault: every trade that the exchange made is in the topic, once, id by id."""

import asyncio
from pathlib import Path

import httpx
import pytest

from cryptotrace_dagster.exchange.simulated import ExchangeConfig
from tests.feed.line import SYMBOLS, running, until

RATE = ExchangeConfig(symbols=SYMBOLS, trades_per_second=1_000)
QUICK = {"feed_silence_seconds": 2.0}


async def test_every_trade_of_an_undisturbed_stream_arrives_once(broker: str, tmp_path: Path) -> None:
    async with running(broker, tmp_path, exchange_config=RATE) as line:
        await asyncio.sleep(2)
        line.assert_each_once(await line.whole())
        figures = line.feed.figures()
        assert (await line.health()).json()["status"] == "ok"
    assert sum(each.received for each in figures.symbols) > 1_000
    assert sum(each.missed for each in figures.symbols) == 0


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "abort"},
        {"kind": "half_frames"},
        {"kind": "gap", "seconds": 1.0},
        {"kind": "repeat", "seconds": 1.0},
        {"kind": "disorder", "seconds": 1.0},
        {"kind": "slow_frames", "seconds": 1.0},
        {"kind": "clock_skew", "seconds": 1.0},
        {"kind": "refuse", "seconds": 1.0, "status": 503},
    ],
    ids=lambda fault: str(fault["kind"]),
)
async def test_no_trade_is_lost_or_doubled_by(broker: str, tmp_path: Path, fault: dict[str, object]) -> None:
    async with running(broker, tmp_path, exchange_config=RATE) as line:
        await asyncio.sleep(0.7)
        line.fault(**fault)
        if fault["kind"] == "refuse":
            line.fault(kind="abort")
        await asyncio.sleep(2.0)
        line.assert_each_once(await line.whole())


async def test_an_abort_costs_trades_that_are_then_fetched(broker: str, tmp_path: Path) -> None:
    """Guards the test above against passing because nothing was ever missed."""
    async with running(broker, tmp_path, exchange_config=RATE) as line:
        await asyncio.sleep(0.5)
        line.fault(kind="abort", seconds=0.5)
        await until(lambda: line.feed.figures().reconnects.get("closed", 0) >= 1)
        await until(lambda: sum(each.filled for each in line.feed.figures().symbols) > 100)
        line.assert_each_once(await line.whole())


@pytest.mark.parametrize("kind", ["silence", "silence_from_start"])
async def test_a_socket_that_is_open_and_silent_is_replaced(broker: str, tmp_path: Path, kind: str) -> None:
    async with running(broker, tmp_path, exchange_config=RATE, **QUICK) as line:
        await asyncio.sleep(0.5)
        line.fault(kind=kind) if kind == "silence" else line.fault(kind=kind, seconds=1.0)
        if kind == "silence_from_start":
            line.fault(kind="abort")
        await until(lambda: line.feed.figures().reconnects.get("silence", 0) >= 1)
        await asyncio.sleep(1.0)
        line.assert_each_once(await line.whole())


async def test_a_rollover_overlaps_two_sockets_and_misses_nothing(broker: str, tmp_path: Path) -> None:
    async with running(broker, tmp_path, exchange_config=RATE, feed_rollover_hours=2.0 / 3600) as line:
        line.fault(kind="rollover", seconds=30, lifetime_seconds=6)
        await until(lambda: line.feed.figures().reconnects.get("rollover", 0) >= 2, 20)
        published = await line.whole()
        line.assert_each_once(published)
        figures = line.feed.figures()
    assert sum(each.missed for each in figures.symbols) == 0, "the stream was never unwhole"
    assert sum(each.repeated for each in figures.symbols) > 100, "both sockets delivered for a while"
    assert figures.reconnects.get("closed", 0) == 0


async def test_an_announced_shutdown_is_answered_by_an_overlapping_socket(broker: str, tmp_path: Path) -> None:
    async with running(broker, tmp_path, exchange_config=RATE) as line:
        await asyncio.sleep(1.2)
        line.fault(kind="server_shutdown", delay_seconds=2.0)
        await until(lambda: line.feed.figures().reconnects.get("server_shutdown", 0) == 1)
        await asyncio.sleep(2.5)
        line.assert_each_once(await line.whole())
        figures = line.feed.figures()
    assert sum(each.missed for each in figures.symbols) == 0
    assert figures.reconnects == {"server_shutdown": 1}


async def test_a_shutdown_announced_while_two_sockets_overlap_is_answered_by_a_third(
    broker: str, tmp_path: Path
) -> None:
    async with running(broker, tmp_path, exchange_config=RATE, feed_rollover_hours=2.0 / 3600) as line:
        await until(lambda: line.feed.figures().reconnects.get("rollover", 0) == 1)
        line.fault(kind="server_shutdown", delay_seconds=1.9)
        await until(lambda: line.feed.figures().reconnects.get("server_shutdown", 0) == 1)
        await asyncio.sleep(2.5)
        line.assert_each_once(await line.whole())
        figures = line.feed.figures()
    assert sum(each.missed for each in figures.symbols) == 0
    assert figures.reconnects.get("closed", 0) == 0


async def test_garbage_is_set_aside_with_its_reason_and_hurts_nobody(broker: str, tmp_path: Path) -> None:
    async with running(broker, tmp_path, exchange_config=RATE) as line:
        line.fault(kind="garbage", seconds=1.5, per_second=50)
        await asyncio.sleep(2)
        line.assert_each_once(await line.whole())
        figures = line.feed.figures()
        letters = await asyncio.to_thread(line.dead_letters)
        sent = line.exchange.sent()["garbage_frames"]
    assert figures.reconnects == {}
    assert len(letters) == sum(figures.dead_letters.values()) > 10
    assert len(letters) <= int(str(sent))


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "rest_error", "status": 429, "retry_after": 2, "count": 1},
        {"kind": "rest_error", "status": 418, "retry_after": 2, "count": 1},
        {"kind": "rest_error", "status": 500, "seconds": 2.0},
        {"kind": "rest_reset", "seconds": 2.0},
        {"kind": "rest_stall", "seconds": 2.0, "delay_seconds": 1.0},
    ],
    ids=["429", "418", "500", "reset", "stall"],
)
async def test_a_gap_is_filled_although_rest(broker: str, tmp_path: Path, fault: dict[str, object]) -> None:
    async with running(broker, tmp_path, exchange_config=RATE) as line:
        await asyncio.sleep(0.5)
        line.fault(**fault)
        line.fault(kind="gap", seconds=0.5)
        await asyncio.sleep(1.5)
        line.assert_each_once(await line.whole())
        assert sum(each.filled for each in line.feed.figures().symbols) > 50


async def test_a_symbol_that_the_socket_withholds_is_fetched_and_its_socket_replaced(
    broker: str, tmp_path: Path
) -> None:
    async with running(broker, tmp_path, exchange_config=RATE) as line:
        await asyncio.sleep(11)  # its rate must be known before its silence means anything
        line.fault(kind="gap", symbol="BTCUSDT", seconds=12)
        await until(lambda: line.feed.figures().reconnects.get("symbol_silence", 0) >= 1, 10)
        btc = line.feed.lanes[0]
        assert btc.symbol == "BTCUSDT"
        await until(lambda: btc.filled > 100, 10)
        line.assert_each_once(await line.whole())


async def test_an_open_gap_is_visible_until_it_is_filled(broker: str, tmp_path: Path) -> None:
    async with running(broker, tmp_path, exchange_config=RATE) as line:
        await asyncio.sleep(0.5)
        line.fault(kind="rest_error", status=503, seconds=3.0)
        line.fault(kind="gap", seconds=0.5)
        await until(lambda: sum(each.open_gaps for each in line.feed.figures().symbols) >= 1)
        async with httpx.AsyncClient() as client:
            text = (await client.get(f"http://127.0.0.1:{line.feed.metrics_port}/metrics")).text
        numbers = [float(row.split()[-1]) for row in text.splitlines() if row.startswith("cryptotrace_feed_open_gap_")]
        assert sum(numbers) > 10
        line.assert_each_once(await line.whole())
        assert sum(each.open_gaps for each in line.feed.figures().symbols) == 0
