"""REST: the answers, limits and error bodies of the exchange's public API."""

from datetime import timedelta

import pytest

from cryptotrace_dagster.domain.windows import EPOCH
from cryptotrace_dagster.exchange.simulated import SimulatedExchange
from tests.exchange.reader import START, config, reading, rest, take, until

START_MS = (START - EPOCH) // timedelta(milliseconds=1)
HISTORY = {"start": START, "history_seconds": 1_800.0, "trades_per_second": 20.0}


async def test_aggregate_trades_can_be_walked_by_id_without_hole_or_repeat() -> None:
    async with SimulatedExchange(config(**HISTORY)) as exchange, rest(exchange) as client:
        exchange.stop_trading()
        book = exchange.book("BTCUSDT")
        assert book is not None
        next_id, walked = book.all().trade_ids[0], []
        while rows := (
            await client.get("/api/v3/aggTrades", params={"symbol": "BTCUSDT", "fromId": int(next_id), "limit": 1000})
        ).json():
            walked += [row["a"] for row in rows]
            next_id = walked[-1] + 1
        assert walked == book.all().trade_ids.tolist()
        assert len(walked) > 10_000


async def test_aggregate_trades_by_time_include_both_ends() -> None:
    async with SimulatedExchange(config(**HISTORY)) as exchange, rest(exchange) as client:
        parameters = {
            "symbol": "BTCUSDT",
            "startTime": START_MS - 600_000,
            "endTime": START_MS - 590_000,
            "limit": 1000,
        }
        rows = (await client.get("/api/v3/aggTrades", params=parameters)).json()
        narrow = parameters | {"startTime": rows[3]["T"], "endTime": rows[3]["T"]}
        same_instant = (await client.get("/api/v3/aggTrades", params=narrow)).json()
    assert len(rows) > 20
    assert all(START_MS - 600_000 <= row["T"] <= START_MS - 590_000 for row in rows)
    assert rows[3] in same_instant


async def test_klines_agree_with_the_trades_and_longer_ones_with_shorter_ones() -> None:
    async with SimulatedExchange(config(**HISTORY)) as exchange, rest(exchange) as client:
        exchange.stop_trading()

        async def klines(interval: str) -> list[list[object]]:
            parameters = {"symbol": "BTCUSDT", "interval": interval, "startTime": START_MS - 900_000, "limit": 15}
            return list((await client.get("/api/v3/klines", params=parameters)).json())

        minutes, quarter = await klines("1m"), (await klines("15m"))[0]
    assert [row[0] for row in minutes] == [START_MS - 900_000 + index * 60_000 for index in range(15)]
    assert minutes[0][6] == minutes[1][0] - 1
    assert quarter[1] == minutes[0][1]
    assert quarter[4] == minutes[-1][4]
    assert float(quarter[2]) == max(float(row[2]) for row in minutes)
    assert quarter[8] == sum(row[8] for row in minutes)


async def test_klines_without_a_start_are_the_latest() -> None:
    async with SimulatedExchange(config(**HISTORY)) as exchange, rest(exchange) as client:
        await until(lambda: exchange.sent()["trades_sent"])
        rows = (await client.get("/api/v3/klines", params={"symbol": "BTCUSDT", "interval": "1m", "limit": 5})).json()
    assert [row[0] for row in rows] == [START_MS + index * 60_000 for index in range(-4, 1)]


async def test_a_bar_that_has_not_begun_is_not_told() -> None:
    async with SimulatedExchange(config(**HISTORY)) as exchange, rest(exchange) as client:
        parameters = {"symbol": "BTCUSDT", "interval": "1m", "startTime": START_MS + 60_000}
        assert (await client.get("/api/v3/klines", params=parameters)).json() == []


async def test_microseconds_come_with_the_header() -> None:
    async with SimulatedExchange(config(**HISTORY)) as exchange, rest(exchange) as client:
        headers = {"X-MBX-TIME-UNIT": "MICROSECOND"}
        time = (await client.get("/api/v3/time", headers=headers)).json()["serverTime"]
        [trade] = (await client.get("/api/v3/aggTrades?symbol=BTCUSDT&limit=1", headers=headers)).json()
        [bar] = (await client.get("/api/v3/klines?symbol=BTCUSDT&interval=1m&limit=1", headers=headers)).json()
    assert {len(str(value)) for value in (time, trade["T"], bar[0], bar[6])} == {16}
    assert bar[6] - bar[0] == 59_999_999


async def test_exchange_info_tells_the_steps_that_prices_keep() -> None:
    async with SimulatedExchange(config(symbols=("BTCUSDT", "ETHUSDT"))) as exchange, rest(exchange) as client:
        info = (await client.get("/api/v3/exchangeInfo")).json()
        one = (await client.get("/api/v3/exchangeInfo", params={"symbols": '["ETHUSDT"]'})).json()
    assert [row["symbol"] for row in info["symbols"]] == ["BTCUSDT", "ETHUSDT"]
    assert [row["symbol"] for row in one["symbols"]] == ["ETHUSDT"]
    filters = {row["filterType"]: row for row in info["symbols"][0]["filters"]}
    assert filters["PRICE_FILTER"]["tickSize"] == "0.01000000"


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("aggTrades", -1102),
        ("aggTrades?symbol=NOPE", -1121),
        ("aggTrades?symbol=BTCUSDT&fromId=abc", -1100),
        ("aggTrades?symbol=BTCUSDT&limit=0", -1130),
        ("aggTrades?symbol=BTCUSDT&fromId=1&startTime=1", -1128),
        ("klines?symbol=BTCUSDT&interval=7m", -1120),
        ("exchangeInfo?symbol=NOPE", -1121),
    ],
)
async def test_a_wrong_request_gets_the_exchanges_own_error_body(target: str, code: int) -> None:
    async with SimulatedExchange(config()) as exchange, rest(exchange) as client:
        answer = await client.get(f"/api/v3/{target}")
    assert answer.status_code == 400
    assert answer.json()["code"] == code
    assert set(answer.json()) == {"code", "msg"}


async def test_weight_adds_up_and_going_on_over_the_limit_earns_a_ban() -> None:
    async with SimulatedExchange(config(weight_per_minute=10)) as exchange, rest(exchange) as client:
        answers = [await client.get("/api/v3/aggTrades?symbol=BTCUSDT") for _ in range(25)]
    assert [answer.headers["X-MBX-USED-WEIGHT-1M"] for answer in answers[:3]] == ["4", "8", "12"]
    statuses = [answer.status_code for answer in answers]
    assert statuses[:2] == [200, 200]
    assert set(statuses[2:-1]) <= {429, 418}
    assert statuses[2] == 429
    assert statuses[-1] == 418
    assert int(answers[2].headers["Retry-After"]) <= 60
    assert answers[2].json()["code"] == -1003


async def test_the_control_api_tells_every_trade_and_counts_them() -> None:
    async with SimulatedExchange(config()) as exchange, rest(exchange) as client:
        await until(lambda: exchange.sent()["trades_sent"] >= 100)
        await client.post("/_control/stop")
        sent = (await client.get("/_control/sent")).json()
        symbol = sent["symbols"]["BTCUSDT"]
        parameters = {"symbol": "BTCUSDT", "from_id": symbol["first_id"], "limit": 100_000}
        trades = (await client.get("/_control/trades", params=parameters)).json()
    assert [trade["a"] for trade in trades] == list(range(symbol["first_id"], symbol["last_id"] + 1))
    assert sent["trades_sent"] == symbol["count"] == len(trades)
    assert trades[-1]["T"] // 1_000 == symbol["last_trade_time_ms"]


async def test_the_first_trade_that_somebody_could_hear_is_told() -> None:
    async with SimulatedExchange(config()) as exchange:
        await until(lambda: exchange.sent()["trades_sent"] >= 50)
        unheard = exchange.sent()["symbols"]["BTCUSDT"]
        async with reading(exchange) as socket:
            [first] = await take(socket, 1)
            heard = exchange.sent()["symbols"]["BTCUSDT"]
    assert unheard["first_heard_id"] is None
    assert heard["first_id"] < heard["first_heard_id"] == first["a"]


async def test_history_is_there_but_was_not_sent() -> None:
    async with SimulatedExchange(config(**HISTORY)) as exchange:
        exchange.stop_trading()
        sent, book = exchange.sent(), exchange.book("BTCUSDT")
    assert book is not None
    assert book.count - sent["trades_sent"] > 10_000


@pytest.mark.parametrize(
    ("path", "body", "problem"),
    [
        ("event", {"kind": "party", "symbol": "BTCUSDT"}, "party"),
        ("event", {"kind": "pump", "symbol": "NOPE"}, "NOPE is not traded here"),
        ("event", {"kind": "crash", "symbol": "BTCUSDT", "gain": 3}, "less than the whole price"),
        ("fault", {"kind": "gap", "mood": "bad"}, "mood"),
    ],
)
async def test_a_wrong_wish_is_refused_with_the_reason(path: str, body: dict[str, object], problem: str) -> None:
    async with SimulatedExchange(config()) as exchange, rest(exchange) as client:
        answer = await client.post(f"/_control/{path}", json=body)
    assert answer.status_code == 400
    assert problem in answer.json()["error"]


async def test_an_event_by_request_moves_the_price() -> None:
    async with SimulatedExchange(config()) as exchange, rest(exchange) as client:
        await until(lambda: exchange.sent()["trades_sent"] >= 50)
        book = exchange.book("BTCUSDT")
        assert book is not None
        before = int(book.latest(1).prices[0])
        body = {"kind": "pump", "symbol": "BTCUSDT", "gain": 0.5, "accumulation_seconds": 0, "rise_seconds": 2}
        assert (await client.post("/_control/event", json=body)).status_code == 200
        await until(lambda: int(book.latest(1).prices[0]) > before * 1.3)
