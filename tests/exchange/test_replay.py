"""Recordings played back: nothing is lost, times stay, and the klines are the real ones."""

import csv
import gzip
import json
import math
import zipfile
from pathlib import Path

import pytest

from cryptotrace_dagster.exchange.replay import ReplayError, load_recordings
from cryptotrace_dagster.exchange.simulated import SimulatedExchange
from tests.exchange.reader import config, ids, reading, rest, take

ROWS = [(100 + index, f"{50 + index}.25000000", "0.50000000", 1_767_614_400_000 + index * 100) for index in range(40)]


def _agg_trade(symbol: str, row: tuple[int, str, str, int]) -> str:
    number, price, quantity, time = row
    data = {"e": "aggTrade", "E": time, "s": symbol, "a": number, "p": price, "q": quantity, "f": number * 2}
    return json.dumps({"stream": "x", "data": data | {"l": number * 2 + 1, "T": time, "m": False, "M": True}})


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "messages.jsonl.gz"
    lines = [f"{row[3] * 1_000_000} {_agg_trade('BTCUSDT', row)}" for row in ROWS]
    lines.insert(3, '1 {"stream":"btcusdt@bookTicker","data":{"u":1,"s":"BTCUSDT"}}')
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return path


async def test_a_recording_waits_for_its_reader_and_keeps_its_times(recording: Path) -> None:
    async with SimulatedExchange(config(replay=(recording,), speed=20)) as exchange, rest(exchange) as client:
        assert (await client.get("/_control/sent")).json()["trades_sent"] == 0
        async with reading(exchange, "BTCUSDT") as socket:
            payloads = await take(socket, len(ROWS))
        sent = (await client.get("/_control/sent")).json()
        rows = (await client.get("/api/v3/aggTrades?symbol=BTCUSDT&fromId=0")).json()
    assert [(p["a"], p["p"], p["q"], p["T"]) for p in payloads] == ROWS
    assert payloads[0]["f"] == 200
    assert payloads[0]["l"] == 201
    assert ids(rows) == ids(payloads)
    assert sent["symbols"]["BTCUSDT"]["count"] == len(ROWS)
    assert not sent["is_trading"]


async def test_a_recording_goes_at_its_own_pace_times_the_speed(recording: Path) -> None:
    async with SimulatedExchange(config(replay=(recording,), speed=4)) as exchange:
        async with reading(exchange, "BTCUSDT") as socket:
            await take(socket, len(ROWS))
        assert 0.9 < exchange.elapsed < 3.0, "3.9 recorded seconds take about one"


def test_dumps_in_milliseconds_and_microseconds_with_and_without_header_are_read(tmp_path: Path) -> None:
    plain = tmp_path / "BTCUSDT-aggTrades-2024-01-05.csv"
    plain.write_text("7,1.50000000,2.00000000,70,71,1704456000123,True,True\n")
    zipped = tmp_path / "ETHUSDT-aggTrades-2026-01-05.zip"
    with zipfile.ZipFile(zipped, "w") as archive:
        rows = "8,0.00000001,12345678901.00000000,80,80,1767614400123456,false,true\n"
        archive.writestr("ETHUSDT.csv", f"agg_trade_id,price,quantity,f,l,T,m,M\n{rows}{rows}")
    found = load_recordings([plain, zipped])
    assert found["BTCUSDT"].times_us.tolist() == [1_704_456_000_123_000]
    assert found["BTCUSDT"].is_buyer_maker.tolist() == [True]
    assert found["ETHUSDT"].times_us.tolist() == [1_767_614_400_123_456]
    assert found["ETHUSDT"].prices.tolist() == [1]
    assert found["ETHUSDT"].quantities.tolist() == [1_234_567_890_100_000_000]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("missing.jsonl", None, "could not be read"),
        ("empty.jsonl", b"", "holds no trades"),
        ("broken.jsonl", b"1 {not json", "could not be read"),
        ("trades.csv", b"1,2,3,4,5,6,True,True\n", "must be named SYMBOL-aggTrades-DATE"),
        ("torn.jsonl.gz", b"\x1f\x8b\x08", "could not be read"),
        ("rotten.jsonl.gz", b"\x1f\x8b\x08\0\0\0\0\0\0\x03" + b"\xff" * 20, "could not be read"),
    ],
)
def test_a_file_that_cannot_be_played_is_named(tmp_path: Path, name: str, content: bytes | None, problem: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ReplayError, match=problem) as refused:
        load_recordings([tmp_path / name])
    assert name in str(refused.value)


@pytest.fixture
def real_files(recordings: Path) -> tuple[Path, ...]:
    return tuple(sorted(recordings.glob("*_trade_*.jsonl.gz")))


@pytest.fixture
def real_minutes(recordings: Path) -> dict[str, list[str]]:
    [klines_file] = recordings.glob("btcusdt_klines_1m_*.csv")
    with klines_file.open() as lines:
        return {row[0]: row for row in csv.reader(lines)}


async def test_real_recordings_unpaced_lose_nothing_and_their_minutes_are_the_exchanges_own(
    real_files: tuple[Path, ...], real_minutes: dict[str, list[str]]
) -> None:
    async with SimulatedExchange(config(replay=real_files, speed=math.inf)) as exchange:
        async with reading(exchange, "BTCUSDT", "ETHUSDT") as socket:
            payloads = await take(socket, 34_419)
        async with rest(exchange) as client:
            parameters = {"symbol": "BTCUSDT", "interval": "1m", "startTime": 1_723_161_300_000, "limit": 10}
            served = (await client.get("/api/v3/klines", params=parameters)).json()
    for symbol in ("BTCUSDT", "ETHUSDT"):
        numbers = ids([payload for payload in payloads if payload["s"] == symbol])
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert len(served) == 10
    assert [[str(value) for value in row] for row in served] == [real_minutes[str(row[0])] for row in served]
