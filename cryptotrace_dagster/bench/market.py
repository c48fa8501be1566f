"""Seeded trades for the benchmarks: frames of a stream, messages of a topic, and a whole day in a warehouse.

The day has ten (or more) symbols of unequal activity, random walks with exact prices, fills that count up, and a few
pumps that the detectors must find. Rows are stored in the order in which a live run stores them: second by second.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec
import numpy as np
import polars as pl

from cryptotrace_dagster.bench.sizes import SEED
from cryptotrace_dagster.binance.messages import frame_prefix
from cryptotrace_dagster.connections import connected
from cryptotrace_dagster.domain.windows import EPOCH, Window
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.stream import decode_ticks
from cryptotrace_dagster.tables import OHLC_BARS, RAW_TICKS, TRADE_ID_RANGES

DAY_START = datetime(2026, 1, 5)
DAY = Window(DAY_START, DAY_START + timedelta(days=1))
PUMPED = ("SYM00USDT", "SYM01USDT", "SYM02USDT")
PUMP_HOURS = (9, 13, 18)
PUMP_SECONDS = 30.0
PUMP_GAIN = 0.07
_PRICES = (61_250.0, 2_640.0, 148.0, 640.0, 2.18, 0.71, 17.4, 0.102, 4.9, 31.5)
_PRICE_SCALE, _QUANTITY_SCALE = 4, 5


def symbol_names(count: int) -> list[str]:
    """Return the names of the simulated symbols."""
    return [f"SYM{number:02}USDT" for number in range(count)]


def trade_messages(count: int, symbols: list[str], start: datetime, trades_per_second: float) -> Iterator[bytes]:
    """Yield `aggTrade` messages in the order of their time, the symbols by turns, ids from 1 per symbol."""
    draw = np.random.default_rng(SEED)
    first_us = int((start - EPOCH).total_seconds() * 1e6)
    times = first_us + (np.arange(count) * (1e6 / trades_per_second)).astype(np.int64)
    prices = 100 * np.exp(np.cumsum(draw.normal(0, 2e-5, count)))
    quantities = np.exp(draw.normal(-3, 1.5, count)) + 1e-5
    is_maker = draw.random(count) < 0.5
    for index in range(count):
        trade_id = index // len(symbols) + 1
        time_us = int(times[index])
        yield msgspec.json.encode(
            {
                "e": "aggTrade",
                "E": time_us + 900,
                "s": symbols[index % len(symbols)],
                "a": trade_id,
                "p": f"{prices[index]:.8f}",
                "q": f"{quantities[index]:.8f}",
                "f": trade_id,
                "l": trade_id,
                "T": time_us,
                "m": bool(is_maker[index]),
                "M": True,
            }
        )


def stream_frames(count: int, symbols: list[str]) -> list[bytes]:
    """Return the frames of a combined stream that carry the messages of `trade_messages`."""
    prefixes = [frame_prefix(symbol) for symbol in symbols]
    return [
        prefixes[index % len(symbols)] + message + b"}"
        for index, message in enumerate(trade_messages(count, symbols, DAY_START, 1000.0))
    ]


def messages_frame(count: int, symbols: list[str], start: datetime, trades_per_second: float) -> pl.DataFrame:
    """Return the messages of `trade_messages` as `raw_ticks` rows, as the pipeline decodes them."""
    values = list(trade_messages(count, symbols, start, trades_per_second))
    received = [
        int((start - EPOCH).total_seconds() * 1000) + int(index * 1000 / trades_per_second) + 60
        for index in range(count)
    ]
    ticks, _ = decode_ticks(values, received)
    return ticks


@dataclass(frozen=True)
class MarketDay:
    """A day of trades in a warehouse, and what the file holds for it."""

    ticks: int
    symbols: list[str]
    bytes_per_tick: float


def fill_day(warehouse: Warehouse, count: int, symbols: int = 10) -> MarketDay:
    """Store a day of so many trades, and measure what they take on the disk."""
    names = symbol_names(symbols)
    weights = 1 / np.sqrt(np.arange(1, symbols + 1))
    counts = np.floor(count * weights / weights.sum()).astype(int)
    counts[0] += count - counts.sum()
    draw = np.random.default_rng(SEED)
    with warehouse.transaction() as transaction:
        transaction.connection.execute("CREATE TEMP TABLE staged AS SELECT * FROM raw_ticks LIMIT 0")
        for number, name in enumerate(names):
            rows = _symbol_day(draw, name, int(counts[number]), _PRICES[number % len(_PRICES)], 10**6 * (number + 1))
            transaction.execute(
                "INSERT INTO staged SELECT symbol, trade_id, "
                f"(price * {10**-_PRICE_SCALE:.{_PRICE_SCALE}f})::DECIMAL(20,8), "
                f"(quantity * {10**-_QUANTITY_SCALE:.{_QUANTITY_SCALE}f})::DECIMAL(20,8), "
                "first_trade_id, last_trade_id, make_timestamp(trade_us), is_buyer_maker, make_timestamp(received_us) "
                "FROM rows_of_symbol",
                rows_of_symbol=rows,
            )
        columns = ", ".join(RAW_TICKS.column_names)
        transaction.execute(
            f"INSERT INTO {RAW_TICKS.name} ({columns}) SELECT {columns} FROM staged "
            "ORDER BY time_bucket(INTERVAL '1 second', trade_time), symbol, trade_id"
        )
        transaction.execute(
            f"INSERT INTO {TRADE_ID_RANGES.name} ({', '.join(TRADE_ID_RANGES.column_names)}) "
            "SELECT symbol, min(trade_id), max(trade_id), min(trade_time), max(trade_time) FROM staged GROUP BY symbol"
        )
        transaction.connection.execute("DROP TABLE staged")
    return MarketDay(count, names, stored_bytes(warehouse) / count)


def stored_bytes(warehouse: Warehouse) -> int:
    """Return how much of the file its blocks hold, once the log is folded in."""
    with connected(warehouse.address, read_only=False, wait_seconds=60) as connection:
        connection.execute("CHECKPOINT")
        row = connection.execute("SELECT used_blocks * block_size FROM pragma_database_size()").fetchone()
    assert row is not None  # noqa: S101 - the pragma has one row
    return int(row[0])


def _symbol_day(draw: np.random.Generator, name: str, count: int, price: float, first_id: int) -> pl.DataFrame:
    seconds = np.sort(draw.uniform(0, 86_399.9, count))
    steps = draw.normal(0, 0.03 / np.sqrt(count), count)
    sizes = np.exp(draw.normal(-3, 1.5, count))
    is_maker = draw.random(count) < 0.5
    if name in PUMPED:
        start = PUMP_HOURS[PUMPED.index(name)] * 3600.0
        within = (seconds >= start) & (seconds < start + PUMP_SECONDS)
        steps[within] += np.log1p(PUMP_GAIN) / max(int(within.sum()), 1)
        sizes[within] *= 12
        is_maker[within] = draw.random(int(within.sum())) < 0.1
    prices = price * np.exp(np.cumsum(steps))
    ids = first_id + np.arange(count)
    fills = np.cumsum(draw.geometric(0.7, count))
    first_us = int((DAY_START - EPOCH).total_seconds() * 1e6)
    trade_us = first_us + (seconds * 1e6).astype(np.int64)
    return pl.DataFrame(
        {
            "symbol": pl.repeat(name, count, eager=True),
            "trade_id": ids,
            "price": np.maximum(np.rint(prices * 10**_PRICE_SCALE), 1).astype(np.int64),
            "quantity": np.maximum(np.rint(sizes * 10**_QUANTITY_SCALE), 1).astype(np.int64),
            "first_trade_id": 5 * first_id + np.concatenate([[0], fills[:-1]]),
            "last_trade_id": 5 * first_id + fills - 1,
            "trade_us": trade_us,
            "received_us": (trade_us + draw.integers(20_000, 120_000, count)) // 1000 * 1000,
            "is_buyer_maker": is_maker,
        }
    )


def bar_totals(warehouse: Warehouse) -> dict[str, int]:
    """Return how many ticks the stored bars of each interval hold."""
    rows = warehouse.read(
        f"SELECT bar_interval, sum(tick_count)::BIGINT FROM {OHLC_BARS.name} GROUP BY bar_interval ORDER BY ALL"
    )
    return dict(rows.iter_rows())
