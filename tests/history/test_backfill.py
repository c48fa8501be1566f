"""Past days from the exchange's dumps and from REST: complete, once, resumable."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import date, datetime
from typing import Any, TypeVar

import httpx
import msgspec
import pytest

from cryptotrace_dagster.binance.rest import BinanceRest, ExchangeError
from cryptotrace_dagster.domain.bars import bars_of
from cryptotrace_dagster.domain.exchange_times import instant_of
from cryptotrace_dagster.domain.windows import Window, day_window
from cryptotrace_dagster.exchange.faults import Fault
from cryptotrace_dagster.exchange.simulated import ExchangeConfig, SimulatedExchange
from cryptotrace_dagster.pipeline.history import HistoryReport, backfill_day, is_complete, refetch_window
from cryptotrace_dagster.pipeline.klines import compare_with_klines
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.tables import OHLC_BARS, RAW_TICKS

SYMBOL = "BTCUSDT"
Result = TypeVar("Result")


@asynccontextmanager
async def exchange_at(start: datetime, **fields: Any) -> AsyncIterator[SimulatedExchange]:
    """Run an exchange that stands still at `start` and has traded in the twenty minutes before."""
    chosen = {"symbols": (SYMBOL,), "trades_per_second": 5.0, "start": start, "history_seconds": 1_200.0, **fields}
    async with SimulatedExchange(ExchangeConfig(**chosen)) as exchange:
        exchange.stop_trading()
        yield exchange


async def asked(exchange: SimulatedExchange, ask: Callable[[BinanceRest], Result]) -> Result:
    """Run blocking work with a REST client beside the exchange's event loop."""

    def work() -> Result:
        with BinanceRest(exchange.rest_url) as rest:
            return ask(rest)

    return await asyncio.to_thread(work)


async def backfilled(exchange: SimulatedExchange, warehouse: Warehouse, day: date) -> HistoryReport:
    """Backfill a day from the exchange."""
    return await asked(
        exchange,
        lambda rest: backfill_day(warehouse, SYMBOL, day, rest, dump_url=exchange.dump_url, progress=lambda _: None),
    )


async def made(exchange: SimulatedExchange, window: Window) -> dict[int, tuple[str, str, datetime]]:
    """Return the trades that the exchange made in a window: id to price, quantity, time."""
    async with httpx.AsyncClient() as client:
        query = {"symbol": SYMBOL, "from_id": 0, "limit": 100_000}
        rows = msgspec.json.decode((await client.get(f"{exchange.rest_url}/_control/trades", params=query)).content)
    timed = [(row, instant_of(row["T"])) for row in rows]
    return {row["a"]: (row["p"], row["q"], at) for row, at in timed if window.start <= at < window.end}


def stored(warehouse: Warehouse, window: Window) -> dict[int, tuple[str, str, datetime]]:
    """Return the stored trades of a window in the same form; a doubled one fails."""
    ticks = warehouse.read_window(RAW_TICKS, window, symbol=SYMBOL)
    assert ticks["trade_id"].is_unique().all()
    return {row["trade_id"]: (str(row["price"]), str(row["quantity"]), row["trade_time"]) for row in ticks.to_dicts()}


@pytest.mark.parametrize(
    ("midnight", "faults"),
    [
        (datetime(2025, 1, 1), []),  # the last dump in milliseconds
        (datetime(2025, 6, 2), []),  # microseconds
        (datetime(2025, 6, 2), ["dump_header", "dump_duplicates"]),
    ],
)
async def test_a_day_that_is_over_comes_from_its_dump(
    warehouse: Warehouse, midnight: datetime, faults: list[str]
) -> None:
    async with exchange_at(midnight.replace(minute=10)) as exchange:
        for kind in faults:
            exchange.start_fault(msgspec.convert({"kind": kind, "seconds": 60}, Fault))
        day = date.fromordinal(midnight.toordinal() - 1)
        report = await backfilled(exchange, warehouse, day)
        expected = await made(exchange, day_window(day))
    found = stored(warehouse, day_window(day))
    if midnight.year == 2025 and midnight.month == 1:  # the dump has no microseconds
        expected = {
            key: (p, q, at.replace(microsecond=at.microsecond // 1000 * 1000)) for key, (p, q, at) in expected.items()
        }
    assert found == expected
    assert report.stored == len(expected) > 1_000
    assert "dump" in report.source


async def test_a_day_that_is_not_over_comes_from_rest_up_to_the_present(warehouse: Warehouse) -> None:
    async with exchange_at(datetime(2025, 6, 2, 0, 10)) as exchange:
        report = await backfilled(exchange, warehouse, date(2025, 6, 2))
        expected = await made(exchange, day_window(date(2025, 6, 2)))
    assert stored(warehouse, day_window(date(2025, 6, 2))) == expected
    assert len(expected) > 1_000
    assert "REST" in report.source


async def test_backfilling_again_changes_nothing_and_a_broken_one_is_completed(warehouse: Warehouse) -> None:
    window = day_window(date(2025, 6, 2))
    async with exchange_at(datetime(2025, 6, 2, 0, 10)) as exchange:
        exchange.start_fault(msgspec.convert({"kind": "rest_error", "status": 503, "seconds": 0.2}, Fault))
        await backfilled(exchange, warehouse, date(2025, 6, 2))
        whole, bars = stored(warehouse, window), warehouse.read_window(OHLC_BARS, window)
        again = await backfilled(exchange, warehouse, date(2025, 6, 2))
        assert (again.stored, stored(warehouse, window)) == (0, whole)
        assert warehouse.read_window(OHLC_BARS, window).equals(bars)
    other = Warehouse(warehouse.url + ".other")
    other.create()
    async with exchange_at(datetime(2025, 6, 2, 0, 10)) as exchange:
        part = Window(datetime(2025, 6, 2, 0, 3), datetime(2025, 6, 2, 0, 5))
        first = await asked(exchange, lambda rest: refetch_window(other, SYMBOL, part, rest))
        second = await backfilled(exchange, other, date(2025, 6, 2))
    assert stored(other, window) == whole
    assert first.stored > 100
    assert first.stored + second.stored == len(whole)


async def test_a_day_whose_ids_prove_it_complete_is_not_fetched_again(warehouse: Warehouse) -> None:
    day = date(2025, 6, 1)
    async with exchange_at(
        datetime(2025, 6, 2, 0, 10), history_seconds=86_400.0 + 1_200.0, trades_per_second=0.02
    ) as exchange:
        for each in (date(2025, 5, 31), day, date(2025, 6, 2)):
            await backfilled(exchange, warehouse, each)
        assert is_complete(warehouse, SYMBOL, day_window(day))
        requests = exchange.sent()["rest_requests"]
        report = await backfilled(exchange, warehouse, day)
        assert (report.stored, report.repeated) == (0, 0)
        assert exchange.sent()["rest_requests"] == requests


async def test_the_bars_are_those_of_the_trades_and_equal_the_exchanges_klines(warehouse: Warehouse) -> None:
    window = Window(datetime(2025, 6, 2), datetime(2025, 6, 2, 0, 9))
    async with exchange_at(datetime(2025, 6, 2, 0, 10)) as exchange:
        await backfilled(exchange, warehouse, date(2025, 6, 1))
        await backfilled(exchange, warehouse, date(2025, 6, 2))
        comparison = await asked(exchange, lambda rest: compare_with_klines(warehouse, rest, window, [SYMBOL]))
    assert (comparison.minutes_compared, comparison.mismatches) == (9, ())
    whole = Window(datetime(2025, 6, 1), datetime(2025, 6, 3))
    expected = bars_of(warehouse.read_window(RAW_TICKS, whole))
    found = warehouse.read_window(OHLC_BARS, whole)
    assert found.sort(OHLC_BARS.key).equals(expected.sort(OHLC_BARS.key))


async def test_minutes_that_differ_are_named_and_repaired(warehouse: Warehouse) -> None:
    window = Window(datetime(2025, 6, 2), datetime(2025, 6, 2, 0, 9))
    async with exchange_at(datetime(2025, 6, 2, 0, 10)) as exchange:
        await backfilled(exchange, warehouse, date(2025, 6, 1))
        await backfilled(exchange, warehouse, date(2025, 6, 2))
        with warehouse.transaction() as transaction:
            transaction.execute(
                "UPDATE ohlc_bars SET close = close + 0.00000001 WHERE bar_interval = '1m' AND bar_start = ?",
                [datetime(2025, 6, 2, 0, 4)],
            )
            transaction.execute(
                "DELETE FROM ohlc_bars WHERE bar_interval = '1m' AND bar_start = ?", [datetime(2025, 6, 2, 0, 5)]
            )
        comparison = await asked(exchange, lambda rest: compare_with_klines(warehouse, rest, window, [SYMBOL]))
        named = [(each.minute.minute, each.column) for each in comparison.mismatches]
        assert named == [(4, "close"), (5, "bar")]
        assert comparison.windows_to_repair() == {
            SYMBOL: [Window(datetime(2025, 6, 2, 0, 4), datetime(2025, 6, 2, 0, 6))]
        }
        for part in comparison.windows_to_repair()[SYMBOL]:
            await asked(exchange, lambda rest, part=part: refetch_window(warehouse, SYMBOL, part, rest))
        assert (await asked(exchange, lambda rest: compare_with_klines(warehouse, rest, window, [SYMBOL]))).is_equal


async def test_a_dump_that_stays_damaged_is_refused_with_its_reason(warehouse: Warehouse) -> None:
    async with exchange_at(datetime(2025, 6, 2, 0, 10)) as exchange:
        exchange.start_fault(msgspec.convert({"kind": "dump_wrong_checksum", "seconds": 600}, Fault))
        with pytest.raises(ExchangeError, match="sha256"):
            await backfilled(exchange, warehouse, date(2025, 6, 1))
    assert warehouse.read("SELECT count(*) FROM raw_ticks").item() == 0
