"""Each fault does what its name says, seen from a real client."""

import asyncio
import json
from datetime import timedelta
from itertools import pairwise
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from cryptotrace_dagster.domain.windows import EPOCH, utc_now
from cryptotrace_dagster.exchange.faults import Fault, FaultBoard, FaultKind, TickDistortion
from cryptotrace_dagster.exchange.simulated import SimulatedExchange
from cryptotrace_dagster.exchange.wire import Tick
from tests.exchange.reader import (
    config,
    ids,
    opened,
    raw_socket,
    reading,
    rest,
    take,
    take_for,
    take_the_rest,
    trade_on,
    until,
)


def _fault(kind: FaultKind, **options: Any) -> Fault:
    return Fault(kind=kind, **options)


async def _rest_ids(exchange: SimulatedExchange, first: int, last: int) -> list[int]:
    async with rest(exchange) as client:
        parameters = {"symbol": "BTCUSDT", "from_id": first, "limit": last - first + 1}
        return ids((await client.get("/_control/trades", params=parameters)).json())


async def _closed(socket: ClientConnection) -> ConnectionClosed:
    with pytest.raises(ConnectionClosed) as closed:
        await take(socket, 1_000_000)
    return closed.value


async def test_abort_breaks_the_socket_without_a_close_frame() -> None:
    async with SimulatedExchange(config()) as exchange, reading(exchange) as socket:
        await take(socket, 10)
        exchange.start_fault(_fault(FaultKind.ABORT))
        closed = await _closed(socket)
    assert closed.rcvd is None
    assert isinstance(closed.__cause__, ConnectionResetError)


async def test_abort_for_some_time_resets_new_sockets_too() -> None:
    async with SimulatedExchange(config()) as exchange:
        exchange.start_fault(_fault(FaultKind.ABORT, seconds=0.4))
        with pytest.raises((OSError, WebSocketException)):
            async with reading(exchange) as socket:
                await take(socket, 1)
        await asyncio.sleep(0.5)
        async with reading(exchange) as socket:
            assert len(await take(socket, 5)) == 5


async def test_refuse_answers_the_upgrade_with_a_status() -> None:
    async with SimulatedExchange(config()) as exchange:
        exchange.start_fault(_fault(FaultKind.REFUSE, status=503, count=1))
        with pytest.raises(InvalidStatus) as refused:
            await opened(exchange, "/ws/btcusdt@aggTrade")
        assert refused.value.response.status_code == 503
        async with reading(exchange) as socket:
            await take(socket, 1)


async def test_silence_mutes_open_sockets_that_still_answer_pings_while_a_new_one_works() -> None:
    async with SimulatedExchange(config()) as exchange, reading(exchange) as silent:
        before = await take(silent, 50)
        exchange.start_fault(_fault(FaultKind.SILENCE))
        await take_for(silent, 0.2)
        assert await take_for(silent, 0.5) == []
        await asyncio.wait_for(await silent.ping(), 1)
        async with reading(exchange) as fresh:
            after = await take(fresh, 10)
        assert after[0]["a"] > before[-1]["a"]


async def test_silence_for_some_time_ends_and_leaves_a_hole() -> None:
    async with SimulatedExchange(config()) as exchange, reading(exchange) as socket:
        before = await take(socket, 50)
        while not exchange.sent()["frames_silenced"]:  # a busy machine can sleep through a short one
            exchange.start_fault(_fault(FaultKind.SILENCE, seconds=0.5))
            await asyncio.sleep(0.6)
        await until(lambda: not exchange.faults())
        await trade_on(exchange)
        numbers = ids(before + await take_the_rest(socket, exchange))
        assert len(numbers) + exchange.sent()["frames_silenced"] == numbers[-1] - numbers[0] + 1
    steps = [second - first for first, second in pairwise(numbers)]
    assert sum(step > 1 for step in steps) == 1, "one hole"


async def test_silence_from_the_start_never_ends_for_sockets_opened_in_that_time() -> None:
    async with SimulatedExchange(config()) as exchange:
        exchange.start_fault(_fault(FaultKind.SILENCE_FROM_START, seconds=0.3))
        async with reading(exchange) as silent:
            assert await take_for(silent, 0.8) == []
            await asyncio.wait_for(await silent.ping(), 1)
            async with reading(exchange) as later:
                await take(later, 5)


async def test_rollover_closes_sockets_of_the_age_and_a_younger_one_runs_on() -> None:
    async with SimulatedExchange(config()) as exchange, reading(exchange) as old:
        await take(old, 5)
        await asyncio.sleep(1)
        async with reading(exchange) as young:
            await take(young, 1)
            exchange.start_fault(_fault(FaultKind.ROLLOVER, lifetime_seconds=0.8, seconds=0.2))
            closed = await _closed(old)
            assert closed.rcvd is not None
            await asyncio.sleep(0.3)
            await take(young, 50)


async def test_a_server_shutdown_is_announced_and_trades_flow_until_the_close() -> None:
    async with SimulatedExchange(config()) as exchange, reading(exchange) as socket:
        await take(socket, 5)
        exchange.start_fault(_fault(FaultKind.SERVER_SHUTDOWN, delay_seconds=0.6))
        frames = []
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                frames.append(json.loads(await socket.recv()))
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1001
    announced = [index for index, frame in enumerate(frames) if frame["stream"] == "!serverShutdown"]
    assert len(announced) == 1
    assert frames[announced[0]]["data"]["e"] == "serverShutdown"
    assert len(frames) - announced[0] > 20


async def test_a_gap_keeps_trades_from_the_stream_that_rest_has() -> None:
    async with SimulatedExchange(config()) as exchange, reading(exchange) as socket:
        before = await take(socket, 20)
        exchange.start_fault(_fault(FaultKind.GAP, count=30))
        await until(lambda: exchange.sent()["trades_withheld"] == 30)
        await trade_on(exchange)
        numbers = ids(before + await take_the_rest(socket, exchange))
        missing = sorted(set(range(numbers[0], numbers[-1])) - set(numbers))
        assert len(missing) == 30
        assert missing == list(range(missing[0], missing[0] + 30))
        assert await _rest_ids(exchange, missing[0], missing[-1]) == missing
        assert exchange.sent()["trades_withheld"] == 30


async def test_a_gap_of_one_symbol_leaves_the_others_whole() -> None:
    async with SimulatedExchange(config(symbols=("BTCUSDT", "ETHUSDT"))) as exchange, reading(exchange) as socket:
        before = await take(socket, 60)
        exchange.start_fault(_fault(FaultKind.GAP, symbol="ETHUSDT", count=20))
        await until(lambda: exchange.sent()["trades_withheld"] == 20)
        await trade_on(exchange, "ETHUSDT")
        payloads = before + await take_the_rest(socket, exchange)
    for symbol, is_whole in (("BTCUSDT", True), ("ETHUSDT", False)):
        numbers = ids([payload for payload in payloads if payload["s"] == symbol])
        assert (numbers[-1] - numbers[0] + 1 == len(numbers)) == is_whole


async def test_repeats_come_again_and_nothing_is_missing() -> None:
    async with SimulatedExchange(config()) as exchange, reading(exchange) as socket:
        await take(socket, 20)
        exchange.start_fault(_fault(FaultKind.REPEAT, count=40, share=0.5))
        await until(lambda: exchange.sent()["trades_repeated"] == 40)
        payloads = await take_the_rest(socket, exchange)
    numbers = ids(payloads)
    assert len(numbers) - len(set(numbers)) >= 15, "the others repeat trades from before the first read"
    first_seen = list(dict.fromkeys(number for number in numbers if number >= numbers[0]))
    assert first_seen == list(range(first_seen[0], first_seen[0] + len(first_seen)))
    by_id = {payload["a"]: payload | {"E": 0} for payload in payloads}
    assert all(payload | {"E": 0} == by_id[payload["a"]] for payload in payloads), "a repeat is the same trade"


async def test_disorder_changes_the_order_and_nothing_else() -> None:
    async with SimulatedExchange(config()) as exchange, reading(exchange) as socket:
        first = (await take(socket, 20))[-1]["a"] + 1
        exchange.start_fault(_fault(FaultKind.DISORDER, count=60))
        await until(lambda: not exchange.faults())
        await asyncio.sleep(2)
        numbers = ids(await take_the_rest(socket, exchange))
        last = exchange.sent()["symbols"]["BTCUSDT"]["last_id"]
    assert numbers != sorted(numbers)
    assert sorted(numbers) == list(range(first, last + 1))


async def test_garbage_comes_between_trades_that_are_all_there() -> None:
    async with SimulatedExchange(config()) as exchange, reading(exchange) as socket:
        exchange.start_fault(_fault(FaultKind.GARBAGE, count=40, per_second=200))
        frames = [await socket.recv() for _ in range(400)]
        assert exchange.sent()["garbage_frames"] == 40
    good, bad = [], 0
    for frame in frames:
        try:
            good.append(int(json.loads(frame)["data"]["a"]))
        except (ValueError, TypeError, KeyError):
            bad += 1
    assert bad == 40
    assert good == list(range(good[0], good[0] + len(good)))


async def test_half_a_frame_is_followed_by_a_reset() -> None:
    async with SimulatedExchange(config()) as exchange:
        reader, writer = await raw_socket(int(exchange.stream_url.rpartition(":")[2]), "/ws/btcusdt@aggTrade")
        exchange.start_fault(_fault(FaultKind.HALF_FRAMES, seconds=1.0))
        received = b""
        with pytest.raises(ConnectionResetError):
            while chunk := await reader.read(65_536):
                received += chunk
        writer.close()
    while received:
        header, length = (4, int.from_bytes(received[2:4], "big")) if received[1] == 126 else (2, received[1])
        if len(received) < header + length:
            break
        received = received[header + length :]
    assert received, "the last frame is not whole"


async def test_slow_frames_trickle_and_then_catch_up() -> None:
    async with SimulatedExchange(config()) as exchange, reading(exchange) as socket:
        first = (await take(socket, 20))[-1]["a"] + 1
        exchange.start_fault(_fault(FaultKind.SLOW_FRAMES, seconds=1.0, bytes_per_second=2_000))
        slow = ids(await take_for(socket, 0.8))
        await asyncio.sleep(0.5)
        rest_of_them = ids(await take_the_rest(socket, exchange))
        last = exchange.sent()["symbols"]["BTCUSDT"]["last_id"]
    assert len(slow) < 30
    assert slow + rest_of_them == list(range(first, last + 1))


@pytest.mark.parametrize(("status", "retry_after", "code"), [(429, 3, -1003), (418, 120, -1003), (503, None, -1000)])
async def test_rest_fails_with_the_status_asked_for(status: int, retry_after: int | None, code: int) -> None:
    async with SimulatedExchange(config()) as exchange, rest(exchange) as client:
        exchange.start_fault(_fault(FaultKind.REST_ERROR, status=status, retry_after=retry_after, count=2))
        answers = [await client.get("/api/v3/time") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [status, status, 200]
    assert answers[0].json()["code"] == code
    assert answers[0].headers.get("Retry-After") == (None if retry_after is None else str(retry_after))


async def test_rest_stalls_and_resets() -> None:
    async with SimulatedExchange(config()) as exchange, rest(exchange) as client:
        exchange.start_fault(_fault(FaultKind.REST_STALL, delay_seconds=1, count=1))
        with pytest.raises(httpx.ReadTimeout):
            await client.get("/api/v3/time", timeout=0.2)
        exchange.start_fault(_fault(FaultKind.REST_RESET, count=1))
        with pytest.raises(httpx.NetworkError):
            await client.get("/api/v3/time")
        assert (await client.get("/api/v3/time")).status_code == 200


async def test_a_skewed_clock_shows_in_trades_and_rest_and_comes_back_without_turning_trades_round() -> None:
    async with SimulatedExchange(config()) as exchange, reading(exchange) as socket, rest(exchange) as client:

        async def offset_ms() -> float:
            served = (await client.get("/api/v3/time")).json()["serverTime"]
            return float(served - (utc_now() - EPOCH) / timedelta(milliseconds=1))

        assert abs(await offset_ms()) < 100
        exchange.start_fault(_fault(FaultKind.CLOCK_SKEW, skew_ms=800, seconds=0.8))
        await asyncio.sleep(0.6)
        assert 600 < await offset_ms() < 1_000
        payloads = await take_for(socket, 2.5)
        assert abs(await offset_ms()) < 200
    assert len(payloads) > 100
    times = [payload["T"] for payload in payloads]
    assert times == sorted(times)


async def test_faults_under_way_are_listed_and_can_be_ended() -> None:
    async with SimulatedExchange(config()) as exchange, rest(exchange) as client:
        assert (await client.post("/_control/fault", json={"kind": "gap", "seconds": 60})).status_code == 200
        [listed] = (await client.get("/_control/faults")).json()
        assert listed["kind"] == "gap"
        assert 0 < listed["seconds_left"] <= 60
        assert (await client.delete("/_control/faults")).json() == []
        async with reading(exchange) as socket:
            await take(socket, 5)


async def test_only_the_oldest_socket_can_be_broken() -> None:
    async with SimulatedExchange(config()) as exchange, reading(exchange) as old, reading(exchange) as young:
        await take(old, 1)
        exchange.start_fault(_fault(FaultKind.ABORT, connections="oldest"))
        await _closed(old)
        await take(young, 20)
        await until(lambda: exchange.sent()["connections_open"] == 1)


def test_distortion_is_the_same_for_the_same_seed() -> None:
    ticks = [Tick("BTCUSDT", number, 1, 1, number, number, number, True) for number in range(200)]
    runs = []
    for _ in range(2):
        board = FaultBoard()
        board.start(_fault(FaultKind.DISORDER, seconds=10), now=0.0)
        board.start(_fault(FaultKind.REPEAT, seconds=10), now=0.0)
        distortion = TickDistortion(board, seed=3)
        runs.append(distortion.apply(ticks, 1.0) + distortion.apply([], 9.0))
    assert runs[0] == runs[1]
    assert set(runs[0]) == set(ticks)
