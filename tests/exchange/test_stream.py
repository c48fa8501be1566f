"""The streams, read by a real WebSocket client over loopback."""

import asyncio
import json
from decimal import Decimal
from itertools import pairwise

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from cryptotrace_dagster.exchange.faults import FaultBoard, TickDistortion
from cryptotrace_dagster.exchange.simulated import ExchangeConfig, SimulatedExchange
from cryptotrace_dagster.exchange.stream_server import StreamServer
from cryptotrace_dagster.exchange.wire import Tick
from cryptotrace_dagster.loopback import bind, port_of
from tests.exchange.reader import START, config, ids, opened, raw_socket, reading, rest, take, until


async def test_a_combined_stream_brings_every_trade_once_in_order() -> None:
    async with SimulatedExchange(config(symbols=("BTCUSDT", "ETHUSDT"))) as exchange, reading(exchange) as socket:
        payloads = await take(socket, 400)
    for symbol in ("BTCUSDT", "ETHUSDT"):
        own = ids([payload for payload in payloads if payload["s"] == symbol])
        assert own == list(range(own[0], own[0] + len(own)))
    assert set(payloads[0]) == {"e", "E", "s", "a", "p", "q", "f", "l", "T", "m", "M"}
    assert all(first["T"] <= second["T"] for first, second in pairwise(payloads))
    assert all(payload["E"] >= payload["T"] for payload in payloads)


async def test_what_was_streamed_is_what_rest_tells() -> None:
    async with SimulatedExchange(config()) as exchange:
        async with reading(exchange) as socket:
            payloads = await take(socket, 300)
        async with rest(exchange) as client:
            parameters = {"symbol": "BTCUSDT", "fromId": payloads[0]["a"], "limit": 300}
            rows = (await client.get("/api/v3/aggTrades", params=parameters)).json()
    assert rows == [{key: payload[key] for key in "apqflTmM"} for payload in payloads]


async def test_two_readers_get_the_same_trades() -> None:
    async with SimulatedExchange(config()) as exchange, reading(exchange) as first, reading(exchange) as second:
        one, two = await asyncio.gather(take(first, 200), take(second, 200))
    common = set(ids(one)) & set(ids(two))
    assert len(common) > 150
    assert [p for p in one if p["a"] in common] == [p for p in two if p["a"] in common]


async def test_the_same_seed_and_start_stream_the_same_trades() -> None:
    runs = []
    for _ in range(2):
        async with SimulatedExchange(config(start=START)) as exchange, reading(exchange) as socket:
            await take(socket, 100)
            book = exchange.book("BTCUSDT")
            assert book is not None
            runs.append(book.all().rows(0, 100))
    assert runs[0].prices.tolist() == runs[1].prices.tolist()
    assert runs[0].times_us.tolist() == runs[1].times_us.tolist()


async def test_microseconds_are_sent_only_when_asked_for() -> None:
    async with SimulatedExchange(config()) as exchange:
        async with reading(exchange) as socket:
            [milliseconds] = await take(socket, 1)
        async with reading(exchange, extra="&timeUnit=MICROSECOND") as socket:
            [microseconds] = await take(socket, 1)
    assert len(str(milliseconds["T"])) == 13
    assert len(str(microseconds["T"])) == 16


async def test_a_raw_stream_has_no_envelope_and_single_trades_add_up() -> None:
    path = "/ws/btcusdt@trade/btcusdt@aggTrade"
    async with SimulatedExchange(config()) as exchange, opened(exchange, path) as socket:
        payloads = [json.loads(await socket.recv()) for _ in range(200)]
    singles = {payload["t"]: payload for payload in payloads if payload["e"] == "trade"}
    whole = [p for p in payloads if p["e"] == "aggTrade" and all(t in singles for t in range(p["f"], p["l"] + 1))]
    assert len(whole) > 20
    for aggregate in whole:
        inside = [singles[number] for number in range(aggregate["f"], aggregate["l"] + 1)]
        assert sum(Decimal(single["q"]) for single in inside) == Decimal(aggregate["q"])
        assert {single["p"] for single in inside} == {aggregate["p"]}


async def test_streams_can_be_subscribed_listed_and_left() -> None:
    async def ask(socket: object, **request: object) -> dict[str, object]:
        await socket.send(json.dumps(request))  # type: ignore[attr-defined]
        while "id" not in (answer := json.loads(await socket.recv())):  # type: ignore[attr-defined]
            pass
        return answer

    async with SimulatedExchange(config()) as exchange, opened(exchange, "/ws") as socket:
        assert await ask(socket, method="SUBSCRIBE", params=["btcusdt@aggTrade"], id=1) == {"result": None, "id": 1}
        assert json.loads(await socket.recv())["e"] == "aggTrade"
        listed = await ask(socket, method="LIST_SUBSCRIPTIONS", id=2)
        assert listed == {"result": ["btcusdt@aggTrade"], "id": 2}
        await ask(socket, method="UNSUBSCRIBE", params=["btcusdt@aggTrade"], id=3)
        assert "error" in await ask(socket, method="MAKE_COFFEE", id=4)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(socket.recv(), 0.3)


async def test_more_than_five_messages_a_second_end_the_connection() -> None:
    async with SimulatedExchange(config()) as exchange, opened(exchange, "/ws") as socket:
        for number in range(6):
            await socket.send(json.dumps({"method": "LIST_SUBSCRIPTIONS", "id": number}))
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                await socket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1008


@pytest.mark.parametrize(
    ("path", "status"),
    [("/nowhere", 404), ("/stream?streams=" + "/".join(f"s{i}usdt@aggTrade" for i in range(1_025)), 400)],
)
async def test_a_wrong_path_and_too_many_streams_are_refused(path: str, status: int) -> None:
    async with SimulatedExchange(config()) as exchange:
        with pytest.raises(InvalidStatus) as refused:
            await opened(exchange, path)
    assert refused.value.response.status_code == status


async def test_a_connection_lives_no_longer_than_the_limit() -> None:
    async with SimulatedExchange(config(connection_lifetime_seconds=0.4)) as exchange, reading(exchange) as socket:
        with pytest.raises(ConnectionClosed):
            await take(socket, 10_000)
        assert exchange.sent()["connections_open"] == 0


async def test_a_reader_that_stops_reading_is_dropped_rather_than_buffered_for_ever() -> None:
    board = FaultBoard()
    server = StreamServer(
        board,
        TickDistortion(board, seed=1),
        now_us=lambda: 0,
        seed=1,
        connection_lifetime_seconds=86_400,
        buffer_bytes=100_000,
    )
    listener = bind("127.0.0.1", 0)
    await server.start(listener)
    _, writer = await raw_socket(port_of(listener), "/ws/btcusdt@aggTrade")
    await until(lambda: server.subscribers)
    ticks = [Tick("BTCUSDT", number, 1, 1, number, number, number, True) for number in range(1_000)]
    for _ in range(1_000):
        if server.counters.slow_consumers_dropped:
            break
        server.deliver(ticks)
        await asyncio.sleep(0)
    assert server.counters.slow_consumers_dropped == 1
    assert not server.subscribers
    writer.close()
    await server.stop()


async def test_trades_happen_at_about_the_rate_asked_for() -> None:
    async with SimulatedExchange(ExchangeConfig(trades_per_second=1_000.0, seed=3)) as exchange:
        await asyncio.sleep(3)
        sent = exchange.sent()["trades_sent"]
    assert 1_500 < sent < 6_000


async def test_stopping_ends_trading_but_not_the_connection() -> None:
    async with SimulatedExchange(config()) as exchange, reading(exchange) as socket, rest(exchange) as client:
        await take(socket, 50)
        stopped = (await client.post("/_control/stop")).json()
        read = []
        with pytest.raises(TimeoutError):
            while True:
                read.append(json.loads(await asyncio.wait_for(socket.recv(), 0.5))["data"])
        assert stopped == (await client.get("/_control/sent")).json() | {"rest_requests": stopped["rest_requests"]}
        assert not stopped["is_trading"]
        assert exchange.sent()["connections_open"] == 1
    assert not read or read[-1]["a"] == stopped["symbols"]["BTCUSDT"]["last_id"]
