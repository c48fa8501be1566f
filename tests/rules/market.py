"""Markets made second by second, and warehouses that hold them."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import duckdb
import polars as pl

from cryptotrace_dagster.domain.bars import bar_statements
from cryptotrace_dagster.domain.rules import RuleBook, parse_rules
from cryptotrace_dagster.domain.signals import Market, find_signals
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.tables import ANOMALY_SCORES, OHLC_BARS, TRADE_ID_GAPS
from tests.builders import NOON

SECOND = timedelta(seconds=1)


def book(*rules: str, more: str = "") -> RuleBook:
    """Return a rule book from the bodies of rules in TOML; names count up where none is given."""
    named = [
        body if "name =" in body else f"name = 'rule {index}'\n{body}" for index, body in enumerate(rules, start=1)
    ]
    text = more + "".join(f"\n[[rules]]\n{body}\n" for body in named)
    return parse_rules(text, "alerts.toml")


def seconds_of(
    prices: Sequence[float | None],
    symbol: str = "BTCUSDT",
    start: datetime = NOON,
    volumes: Sequence[float] | None = None,
) -> pl.DataFrame:
    """Return bars of one second, one price a second; no bar where the price is None."""
    rows = [
        {
            "symbol": symbol,
            "bar_interval": "1s",
            "bar_start": start + index * SECOND,
            "bar_end": start + (index + 1) * SECOND,
            "open": price,
            "high": price,
            "low": price,
            "close": price,
            "volume": 1,
            "quote_volume": 1000 if volumes is None else volumes[index],
            "trade_count": 1,
            "taker_buy_volume": 1,
            "taker_buy_quote_volume": 1,
            "tick_count": 1,
            "first_tick_id": index,
            "last_tick_id": index,
            "last_trade_time": start + (index + 0.5) * SECOND,
        }
        for index, price in enumerate(prices)
        if price is not None
    ]
    schema = {name: pl.Float64 if dtype.is_decimal() else dtype for name, dtype in OHLC_BARS.polars_schema.items()}
    return pl.DataFrame(rows, schema=schema).cast(OHLC_BARS.polars_schema)


def with_longer(seconds: pl.DataFrame) -> pl.DataFrame:
    """Return the bars of one second with all the longer ones that follow from them."""
    with duckdb.connect() as memory:
        memory.execute(OHLC_BARS.ddl)
        memory.execute("INSERT INTO ohlc_bars SELECT * FROM seconds")
        for interval, statement in bar_statements().items():
            if interval != "1s":
                memory.execute(statement, {"start": datetime(2000, 1, 1), "end": datetime(2100, 1, 1)})
        return memory.execute("SELECT * FROM ohlc_bars").pl().cast(OHLC_BARS.polars_schema)


def score(bar_start: datetime, times_a_day: float, **more: object) -> dict[str, object]:
    """Return a row of `anomaly_scores`."""
    return {
        "symbol": "BTCUSDT",
        "bar_interval": "5s",
        "bar_start": bar_start,
        "detector": "pump",
        "detector_version": 1,
        "raw_score": 1.0,
        "times_a_day": times_a_day,
        "score": -math.log10(times_a_day),
        "explanation": "{}",
    } | more


def market(bars: pl.DataFrame, scores: Sequence[Mapping[str, object]] = ()) -> Market:
    """Return what rules look at."""
    return Market(bars, pl.DataFrame(list(scores), schema=ANOMALY_SCORES.polars_schema), TRADE_ID_GAPS.empty())


def rings(rules: RuleBook, bars: pl.DataFrame, scores: Sequence[Mapping[str, object]] = ()) -> list[int]:
    """Return the seconds after noon at whose end some rule rings."""
    found = find_signals(rules, market(bars, scores)).filter("is_ringing")
    return [int((instant - NOON).total_seconds()) for instant in found["decided_at"]]


def store(warehouse: Warehouse, bars: pl.DataFrame, scores: Sequence[Mapping[str, object]] = ()) -> None:
    """Put bars and scores in the place of those with the same key."""
    with warehouse.transaction() as transaction:
        transaction.merge(OHLC_BARS, bars)
        transaction.merge(ANOMALY_SCORES, pl.DataFrame(list(scores), schema=ANOMALY_SCORES.polars_schema))


def told(warehouse: Warehouse) -> list[tuple[int, str, str, str]]:
    """Return (seconds after noon, rule, phase, severity) of the alerts that stand, in order."""
    rows = warehouse.read(
        "SELECT available_at - INTERVAL 500 MILLISECOND AS decided_at, rule, phase, severity FROM alerts "
        "WHERE retracted_at IS NULL ORDER BY available_at, alert_id"
    )
    return [(int((at - NOON).total_seconds()), *rest) for at, *rest in rows.iter_rows()]
