"""Open-high-low-close-volume bars: the definition of a bar, as SQL over ticks and over smaller bars.

Owns the intervals and how a bar follows from trades. Bars of one second are made from ticks; every longer bar is the sum
of the next shorter ones, so a whole day costs little more than its seconds. SQL, because DuckDB then never has to
hand ten million ticks to Python (ADR 0002); the same statements run on the warehouse and on frames in memory.
Stays out: which window is refreshed, and when.
"""

from datetime import timedelta

import duckdb
import polars as pl

from cryptotrace_dagster.domain.windows import Window
from cryptotrace_dagster.tables import OHLC_BARS, RAW_TICKS

BAR_INTERVALS: dict[str, timedelta] = {
    "1s": timedelta(seconds=1),
    "1m": timedelta(minutes=1),
    "5m": timedelta(minutes=5),
    "15m": timedelta(minutes=15),
    "1h": timedelta(hours=1),
    "1d": timedelta(days=1),
}

_COLUMNS = ", ".join(OHLC_BARS.column_names)

_FROM_TICKS = f"""
    INSERT INTO {OHLC_BARS.name} ({_COLUMNS})
    SELECT symbol, '1s', time_bucket(INTERVAL '1 second', trade_time) AS starts,
           starts + INTERVAL '1 second',
           arg_min(price, trade_id), max(price), min(price), arg_max(price, trade_id),
           sum(quantity), sum(price * quantity), sum(last_trade_id - first_trade_id + 1),
           coalesce(sum(quantity) FILTER (NOT is_buyer_maker), 0),
           coalesce(sum(price * quantity) FILTER (NOT is_buyer_maker), 0),
           count(*), min(trade_id), max(trade_id), max(trade_time)
    FROM {RAW_TICKS.name}
    WHERE trade_time >= $start AND trade_time < $end
    GROUP BY symbol, starts
"""


def _from_shorter_bars(interval: str, shorter: str) -> str:
    seconds = int(BAR_INTERVALS[interval].total_seconds())
    return f"""
    INSERT INTO {OHLC_BARS.name} ({_COLUMNS})
    SELECT symbol, '{interval}', time_bucket(INTERVAL '{seconds} seconds', bar_start) AS starts,
           starts + INTERVAL '{seconds} seconds',
           arg_min(open, first_tick_id), max(high), min(low), arg_max(close, last_tick_id),
           sum(volume), sum(quote_volume), sum(trade_count), sum(taker_buy_volume), sum(taker_buy_quote_volume),
           sum(tick_count), min(first_tick_id), max(last_tick_id), max(last_trade_time)
    FROM {OHLC_BARS.name}
    WHERE bar_interval = '{shorter}' AND bar_start >= $start AND bar_start < $end
    GROUP BY symbol, starts
    """


def bar_statements() -> dict[str, str]:
    """Return, in the order in which they must run, the INSERT that makes the bars of each interval in [$start, $end).

    The window must consist of whole intervals (`Window.widened_to`), and its rows must have been deleted before.
    """
    names = list(BAR_INTERVALS)
    longer = {name: _from_shorter_bars(name, names[index]) for index, name in enumerate(names[1:])}
    return {"1s": _FROM_TICKS} | longer


def bars_of(ticks: pl.DataFrame) -> pl.DataFrame:
    """Return the bars of all intervals for a frame of `raw_ticks`, in any order, in key order."""
    if ticks.is_empty():
        return OHLC_BARS.empty()
    first, last = ticks["trade_time"].min(), ticks["trade_time"].max()
    window = Window(first, last + timedelta(microseconds=1))  # type: ignore[arg-type, operator]
    with duckdb.connect() as memory:
        memory.execute("SET TimeZone = 'UTC'")
        memory.execute(OHLC_BARS.ddl)
        memory.register(RAW_TICKS.name, ticks)
        for interval, statement in bar_statements().items():
            whole = window.widened_to(BAR_INTERVALS[interval])
            memory.execute(statement, {"start": whole.start, "end": whole.end})
        order = ", ".join(OHLC_BARS.key)
        return memory.execute(f"SELECT * FROM {OHLC_BARS.name} ORDER BY {order}").pl().cast(OHLC_BARS.polars_schema)
