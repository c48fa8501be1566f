"""Dump files: the trades of a day or month as the exchange's public data site would hold them."""

import hashlib
import io
import zipfile
from datetime import datetime

import pytest

from cryptotrace_dagster.exchange.dumps import parse_dump_path
from cryptotrace_dagster.exchange.faults import Fault, FaultKind
from cryptotrace_dagster.exchange.simulated import ExchangeConfig, SimulatedExchange
from tests.exchange.reader import config, rest

DAY = "daily/aggTrades/BTCUSDT/BTCUSDT-aggTrades-{day}.zip"


def _after_midnight(year: int) -> ExchangeConfig:
    start = datetime(year, 2, 1, 0, 30)
    return config(start=start, history_seconds=3 * 3_600.0, trades_per_second=2.0)


async def _lines(exchange: SimulatedExchange, path: str) -> list[str]:
    async with rest(exchange) as client:
        answer = await client.get(f"/dumps/data/spot/{path}")
        assert answer.status_code == 200
        checksum = (await client.get(f"/dumps/data/spot/{path}.CHECKSUM")).text
    assert checksum == f"{hashlib.sha256(answer.content).hexdigest()}  {path.rpartition('/')[2]}\n"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        [name] = archive.namelist()
        assert name == path.rpartition("/")[2].replace(".zip", ".csv")
        return archive.read(name).decode().splitlines()


@pytest.mark.parametrize(("year", "digits"), [(2024, 13), (2026, 16)])
async def test_a_day_holds_exactly_its_trades_in_the_units_of_its_year(year: int, digits: int) -> None:
    async with SimulatedExchange(_after_midnight(year)) as exchange:
        rows = [line.split(",") for line in await _lines(exchange, DAY.format(day=f"{year}-01-31"))]
        book = exchange.book("BTCUSDT")
        assert book is not None
        trades = book.all()
    midnight_us = int(datetime.fromisoformat(f"{year}-02-01T00:00+00:00").timestamp()) * 1_000_000
    count = int((trades.times_us < midnight_us).sum())
    assert count > 5_000
    assert [int(row[0]) for row in rows] == trades.trade_ids[:count].tolist()
    assert {len(row[5]) for row in rows} == {digits}
    assert {row[6] for row in rows} == {"True", "False"}
    assert rows[0][1] == f"{trades.prices[0] / 1e8:.8f}"


async def test_a_month_and_klines_are_there_too() -> None:
    async with SimulatedExchange(_after_midnight(2026)) as exchange:
        day = await _lines(exchange, DAY.format(day="2026-01-31"))
        month = await _lines(exchange, "monthly/aggTrades/BTCUSDT/BTCUSDT-aggTrades-2026-01.zip")
        bars = await _lines(exchange, "daily/klines/BTCUSDT/1m/BTCUSDT-1m-2026-01-31.zip")
    assert month == day
    assert len(bars) == 150
    assert sum(int(bar.split(",")[8]) for bar in bars) == sum(
        int(row.split(",")[4]) - int(row.split(",")[3]) + 1 for row in day
    )


async def test_a_day_that_is_not_over_or_not_known_is_not_found() -> None:
    async with SimulatedExchange(_after_midnight(2026)) as exchange, rest(exchange) as client:
        for day in ("2026-02-01", "2026-01-01"):
            assert (await client.get(f"/dumps/data/spot/{DAY.format(day=day)}")).status_code == 404
        wrong = DAY.format(day="2026-01-31").replace("BTCUSDT", "NOPE")
        assert (await client.get(f"/dumps/data/spot/{wrong}")).status_code == 404


async def test_faulty_files_have_headers_repeats_and_wrong_checksums() -> None:
    path = DAY.format(day="2026-01-31")
    async with SimulatedExchange(_after_midnight(2026)) as exchange, rest(exchange) as client:
        right = await _lines(exchange, path)
        exchange.start_fault(Fault(kind=FaultKind.DUMP_HEADER, seconds=60))
        exchange.start_fault(Fault(kind=FaultKind.DUMP_DUPLICATES, seconds=60))
        header, *rows = await _lines(exchange, path)
        exchange.start_fault(Fault(kind=FaultKind.DUMP_WRONG_CHECKSUM, seconds=60))
        content = (await client.get(f"/dumps/data/spot/{path}")).content
        checksum = (await client.get(f"/dumps/data/spot/{path}.CHECKSUM")).text
    assert header.startswith("agg_trade_id,price")
    assert len(rows) > len(right)
    assert sorted(set(rows)) == sorted(right)
    assert not checksum.startswith(hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize(
    "path",
    [
        "daily/aggTrades/BTCUSDT/ETHUSDT-aggTrades-2026-01-31.zip",
        "monthly/aggTrades/BTCUSDT/BTCUSDT-aggTrades-2026-01-31.zip",
        "daily/aggTrades/BTCUSDT/BTCUSDT-aggTrades-2026-02-31.zip",
        "daily/klines/BTCUSDT/7m/BTCUSDT-7m-2026-01-31.zip",
        "daily/aggTrades/BTCUSDT/../BTCUSDT-aggTrades-2026-01-31.zip",
    ],
)
def test_a_path_that_fits_no_file_is_no_dump(path: str) -> None:
    assert parse_dump_path(path) is None
