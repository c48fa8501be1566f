"""Trades as the exchange's own JSON: stream messages, REST rows, klines.

Owns the field letters and number formats of Binance's spot market data (facts from its public API documentation).
Who gets a message is stream_server.py's affair, which rows a request means is rest.py's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cryptotrace_dagster.exchange.trades import UNITS, Trades

MILLISECOND = 1_000  # microseconds in the unit that a client asked for
MICROSECOND = 1

KLINE_INTERVALS_US = {
    name: seconds * 1_000_000
    for name, seconds in {
        "1s": 1,
        "1m": 60,
        "3m": 180,
        "5m": 300,
        "15m": 900,
        "30m": 1_800,
        "1h": 3_600,
        "2h": 7_200,
        "4h": 14_400,
        "6h": 21_600,
        "8h": 28_800,
        "12h": 43_200,
        "1d": 86_400,
    }.items()
}


class Tick(NamedTuple):
    """One aggregate trade on its way to the subscribers."""

    symbol: str
    trade_id: int
    price: int
    quantity: int
    first_trade_id: int
    last_trade_id: int
    time_us: int
    is_buyer_maker: bool


class Kline(NamedTuple):
    """One bar in exact integers; quote amounts count 1e-16."""

    open_us: int
    open: int
    high: int
    low: int
    close: int
    volume: int
    quote_volume: int
    trade_count: int
    taker_buy_volume: int
    taker_buy_quote_volume: int


def decimal_text(units: int) -> str:
    """Return hundred-millionths as the exchange writes them, with eight decimals."""
    return f"{units // UNITS}.{units % UNITS:08d}"


def quote_text(units: int) -> str:
    """Return 1e-16 units with eight decimals, or all sixteen where eight would round."""
    eight, rest = divmod(units, UNITS)
    return decimal_text(eight) if not rest else f"{decimal_text(eight)}{rest:08d}"


def ticks_of(symbol: str, trades: Trades) -> Iterator[Tick]:
    """Return the rows one by one."""
    columns = (
        trades.trade_ids,
        trades.prices,
        trades.quantities,
        trades.first_trade_ids,
        trades.last_trade_ids,
        trades.times_us,
        trades.is_buyer_maker,
    )
    for row in zip(*(column.tolist() for column in columns), strict=True):
        yield Tick(symbol, *row)


def agg_trade_message(tick: Tick, event_us: int, unit: int) -> str:
    """Return the `aggTrade` payload."""
    return (
        f'{{"e":"aggTrade","E":{event_us // unit},"s":"{tick.symbol}","a":{tick.trade_id},'
        f'"p":"{decimal_text(tick.price)}","q":"{decimal_text(tick.quantity)}","f":{tick.first_trade_id},'
        f'"l":{tick.last_trade_id},"T":{tick.time_us // unit},"m":{_json(tick.is_buyer_maker)},"M":true}}'
    )


def trade_messages(tick: Tick, event_us: int, unit: int) -> Iterator[str]:
    """Return the `trade` payloads of the single trades inside, whose quantities add up to the aggregate's."""
    count = tick.last_trade_id - tick.first_trade_id + 1
    part = tick.quantity // count
    for index in range(count):
        quantity = part if index < count - 1 else tick.quantity - part * (count - 1)
        yield (
            f'{{"e":"trade","E":{event_us // unit},"s":"{tick.symbol}","t":{tick.first_trade_id + index},'
            f'"p":"{decimal_text(tick.price)}","q":"{decimal_text(quantity)}","T":{tick.time_us // unit},'
            f'"m":{_json(tick.is_buyer_maker)},"M":true}}'
        )


def agg_trade_rows(symbol: str, trades: Trades, unit: int) -> str:
    """Return the REST array of aggregate trades."""
    rows = (
        f'{{"a":{tick.trade_id},"p":"{decimal_text(tick.price)}","q":"{decimal_text(tick.quantity)}",'
        f'"f":{tick.first_trade_id},"l":{tick.last_trade_id},"T":{tick.time_us // unit},'
        f'"m":{_json(tick.is_buyer_maker)},"M":true}}'
        for tick in ticks_of(symbol, trades)
    )
    return f"[{','.join(rows)}]"


def kline_row(kline: Kline, interval_us: int, unit: int) -> str:
    """Return one REST row of twelve values."""
    close = (kline.open_us + interval_us) // unit - 1
    prices = ",".join(f'"{decimal_text(units)}"' for units in (kline.open, kline.high, kline.low, kline.close))
    return (
        f'[{kline.open_us // unit},{prices},"{decimal_text(kline.volume)}",{close},'
        f'"{quote_text(kline.quote_volume)}",{kline.trade_count},"{decimal_text(kline.taker_buy_volume)}",'
        f'"{quote_text(kline.taker_buy_quote_volume)}","0"]'
    )


def klines_of(trades: Trades, interval_us: int) -> list[Kline]:
    """Return the bars of the trades, without those in which nothing was traded."""
    if not len(trades):
        return []
    buckets = trades.times_us // interval_us
    starts = np.flatnonzero(np.diff(buckets, prepend=buckets[0] - 1))
    last = np.append(starts[1:], len(trades)) - 1
    is_taker_buy = ~trades.is_buyer_maker
    columns = (
        (buckets[starts] * interval_us).tolist(),
        trades.prices[starts].tolist(),
        np.maximum.reduceat(trades.prices, starts).tolist(),
        np.minimum.reduceat(trades.prices, starts).tolist(),
        trades.prices[last].tolist(),
        _exact_sums(trades.quantities, np.ones_like(trades.quantities), starts),
        _exact_sums(trades.prices, trades.quantities, starts),
        np.add.reduceat(trades.last_trade_ids - trades.first_trade_ids + 1, starts).tolist(),
        _exact_sums(trades.quantities, is_taker_buy.astype(np.int64), starts),
        _exact_sums(trades.prices, trades.quantities * is_taker_buy, starts),
    )
    return [Kline(*row) for row in zip(*columns, strict=True)]


def with_empty_bars(klines: list[Kline], interval_us: int, end_us: int) -> list[Kline]:
    """Return the bars with those of no trade filled in as the exchange does: flat at the last price, up to `end_us`."""
    result: list[Kline] = []
    for kline in klines:
        result.extend(_flat_bars(result, interval_us, kline.open_us))
        result.append(kline)
    result.extend(_flat_bars(result, interval_us, end_us))
    return result


def _flat_bars(before: list[Kline], interval_us: int, end_us: int) -> list[Kline]:
    if not before:
        return []
    price, start = before[-1].close, before[-1].open_us + interval_us
    return [Kline(open_us, price, price, price, price, 0, 0, 0, 0, 0) for open_us in range(start, end_us, interval_us)]


def _exact_sums(left: NDArray[np.int64], right: NDArray[np.int64], starts: NDArray[np.intp]) -> list[int]:
    """Return the sums of products group by group, exact: in 64 bits where they fit, else in Python's integers."""
    left_step, right_step = (max(1, int(np.gcd.reduce(column))) for column in (left, right))
    left, right = left // left_step, right // right_step
    bound = float(np.abs(left).max()) * float(np.abs(right).max()) * len(left)
    if math.isfinite(bound) and bound < 2**62:
        sums = np.add.reduceat(left * right, starts).tolist()
    else:
        sums = np.add.reduceat(left.astype(object) * right.astype(object), starts).tolist()
    return [int(total) * left_step * right_step for total in sums]


def _json(value: bool) -> str:
    return "true" if value else "false"
