"""A small market on disk for the faces' tests: trades, their bars, and a few scores, alerts and deliveries."""

import gzip
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl

from cryptotrace_dagster.domain.bars import bars_of
from cryptotrace_dagster.domain.windows import floor
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.tables import (
    ALERT_DELIVERIES,
    ALERTS,
    ANOMALY_SCORES,
    DEAD_LETTERS,
    INGESTED_OFFSETS,
    OHLC_BARS,
    RAW_TICKS,
    TRADE_ID_GAPS,
    TRADE_ID_RANGES,
)

MARKET_END = datetime(2026, 1, 5, 12)
PRICES = {"BTCUSDT": 61_250.0, "ETHUSDT": 2_640.0, "SOLUSDT": 148.0}
PUMPED = "SOLUSDT"
MINUTE = timedelta(minutes=1)


def random_ticks(symbol: str, end: datetime, minutes: int, *, seed: int = 7, trades_a_minute: int = 40) -> pl.DataFrame:
    """Return a seeded random walk of trades that ends just before `end`; SOLUSDT is pumped in the sixth minute before.

    In one whole minute: cut by the end of a minute it would be half as strange in each.
    """
    generator = np.random.default_rng([seed, sum(symbol.encode())])
    count = minutes * trades_a_minute
    seconds = np.sort(generator.uniform(0, minutes * 60 - 0.001, count))
    size = np.exp(generator.normal(-2, 1.2, count))
    steps = generator.standard_t(4, count) * 0.00025
    if symbol == PUMPED:
        pumped_from = minutes * 60 - (end - floor(end, MINUTE)).total_seconds() - 6 * 60
        pump = (seconds > pumped_from) & (seconds < pumped_from + 60)
        steps[pump] += 0.045 / max(int(pump.sum()), 1)
        size[pump] *= 14
    price = PRICES.get(symbol, 100.0) * np.exp(np.cumsum(steps))
    start = end - timedelta(minutes=minutes)
    times = [start + timedelta(microseconds=int(value * 1e3) * 1000) for value in seconds]
    ids = np.arange(1_000_001, 1_000_001 + count)
    return pl.DataFrame(
        {
            "symbol": [symbol] * count,
            "trade_id": ids,
            "price": [Decimal(f"{value:.2f}") for value in price],
            "quantity": [Decimal(f"{value:.5f}") + Decimal("0.00001") for value in size],
            "first_trade_id": ids,
            "last_trade_id": ids,
            "trade_time": times,
            "is_buyer_maker": generator.random(count) < 0.5,
            "received_at": [value + timedelta(milliseconds=85) for value in times],
        },
        schema=RAW_TICKS.polars_schema,
    )


def recorded_ticks(path: Path) -> pl.DataFrame:
    """Return the trades of a recording (`<receive time in ns> <json>` lines of `trade` messages)."""
    rows = []
    with gzip.open(path, "rt") as lines:
        for line in lines:
            received, text = line.split(" ", 1)
            message = json.loads(text)
            trade = message.get("data", message)
            rows.append(
                {
                    "symbol": trade["s"],
                    "trade_id": trade["t"],
                    "price": Decimal(trade["p"]),
                    "quantity": Decimal(trade["q"]),
                    "first_trade_id": trade["t"],
                    "last_trade_id": trade["t"],
                    "trade_time": datetime.fromtimestamp(trade["T"] / 1000, UTC).replace(tzinfo=None),
                    "is_buyer_maker": trade["m"],
                    "received_at": datetime.fromtimestamp(int(received) / 1e9, UTC).replace(tzinfo=None),
                }
            )
    return pl.DataFrame(rows, schema=RAW_TICKS.polars_schema)


def scores_of(bars: pl.DataFrame) -> pl.DataFrame:
    """Return a score per 1-minute bar: its move against the symbol's usual move, good enough to look at."""
    minutes = bars.filter(pl.col("bar_interval") == "1m").sort("symbol", "bar_start")
    move = (pl.col("close").cast(pl.Float64) / pl.col("open").cast(pl.Float64) - 1).abs()
    return (
        minutes.with_columns(raw_score=move / move.median().over("symbol"))
        .with_columns(score=pl.col("raw_score").clip(0.05) * 0.25 - 2)
        .select(
            "symbol",
            "bar_interval",
            "bar_start",
            detector=pl.lit("combined"),
            detector_version=pl.lit(1, pl.Int64),
            raw_score="raw_score",
            times_a_day=pl.lit(10.0) ** -pl.col("score"),
            score="score",
            explanation=pl.concat_str(
                pl.lit('{"move_over_median": '), pl.col("raw_score").round(2).cast(pl.String), pl.lit("}")
            ),
        )
        .cast(ANOMALY_SCORES.polars_schema)
    )


def alert(alert_id: str, at: datetime, **values: object) -> dict[str, object]:
    """Return one `alerts` row; name only what matters."""
    return {
        "alert_id": alert_id,
        "rule": "sudden-move",
        "symbol": PUMPED,
        "severity": "critical",
        "phase": "opening",
        "conversation_id": alert_id,
        "bar_interval": "1m",
        "bar_start": floor(at, MINUTE),
        "detector": "combined",
        "score": 2.4,
        "event_time": at,
        "available_at": at + timedelta(seconds=1),
        "raised_at": at + timedelta(seconds=2),
        "price": Decimal("151.2"),
        "title": "SOLUSDT rose 4.6 % in one minute",
        "message": "SOLUSDT rose 4.6 % in one minute on 14 times its usual volume. A move like this comes about once "
        "in 250 days of this symbol's history.",
        "evidence": '{"move_pct": 4.6, "volume_multiple": 14.2, "taker_buy_share": 0.91}',
        "retracted_at": None,
    } | values


def fill(warehouse: Warehouse, end: datetime = MARKET_END, minutes: int = 180, trades_a_minute: int = 40) -> None:
    """Store a few hours of three symbols that end at `end`, with one pump, two alerts, one gap and one dead letter."""
    ticks = pl.concat(random_ticks(symbol, end, minutes, trades_a_minute=trades_a_minute) for symbol in PRICES)
    gap = (pl.col("symbol") == "ETHUSDT") & pl.col("trade_id").is_between(1_000_101, 1_000_120)
    ticks = ticks.filter(~gap)
    bars = bars_of(ticks)
    start = end - timedelta(minutes=minutes)
    before, after = (
        ticks.filter(pl.col("symbol") == "ETHUSDT", pl.col("trade_id") == trade_id)["trade_time"].item()
        for trade_id in (1_000_100, 1_000_121)
    )
    with warehouse.transaction() as transaction:
        transaction.append(RAW_TICKS, ticks)
        transaction.append(OHLC_BARS, bars)
        transaction.append(ANOMALY_SCORES, scores_of(bars))
        transaction.append(TRADE_ID_RANGES, _ranges(ticks))
        transaction.append(
            TRADE_ID_GAPS,
            pl.DataFrame(
                [("ETHUSDT", 1_000_101, 1_000_120, before, after, after + timedelta(seconds=1), None)],
                schema=TRADE_ID_GAPS.polars_schema,
                orient="row",
            ),
        )
        transaction.append(
            INGESTED_OFFSETS,
            pl.DataFrame(
                [("cluster", "ticks", "", 0, ticks.height, end)], schema=INGESTED_OFFSETS.polars_schema, orient="row"
            ),
        )
        transaction.append(
            DEAD_LETTERS,
            pl.DataFrame(
                [("ticks", 0, 17, b'{"e":"aggTrade","s":', "not JSON: truncated", start + timedelta(minutes=5))],
                schema=DEAD_LETTERS.polars_schema,
                orient="row",
            ),
        )
        transaction.append(ALERTS, pl.DataFrame(_alerts(end), schema=ALERTS.polars_schema))
        transaction.append(
            ALERT_DELIVERIES, pl.DataFrame(_deliveries(end), schema=ALERT_DELIVERIES.polars_schema, orient="row")
        )


def _ranges(ticks: pl.DataFrame) -> pl.DataFrame:
    run = (pl.col("trade_id").diff().fill_null(1) != 1).cum_sum().over("symbol")
    return (
        ticks.sort("symbol", "trade_id")
        .group_by("symbol", run.alias("run"), maintain_order=True)
        .agg(
            first_id=pl.col("trade_id").min(),
            last_id=pl.col("trade_id").max(),
            first_trade_time=pl.col("trade_time").min(),
            last_trade_time=pl.col("trade_time").max(),
        )
        .drop("run")
    )


def _alerts(end: datetime) -> list[dict[str, object]]:
    pump = floor(end, MINUTE) - timedelta(minutes=5, seconds=20)
    return [
        alert("a1b2c3d4", pump),
        alert(
            "b2c3d4e5",
            end - timedelta(minutes=50),
            symbol="BTCUSDT",
            rule="bitcoin-below-62000",
            severity="warning",
            detector=None,
            score=None,
            price=Decimal("61250.5"),
            title="BTCUSDT fell below 62,000",
            message="BTCUSDT traded at 61,250.50, below the 62,000 that you asked for.",
            evidence='{"price": "61250.5", "threshold": "62000"}',
        ),
    ]


def _deliveries(end: datetime) -> list[tuple[object, ...]]:
    pump = floor(end, MINUTE) - timedelta(minutes=5, seconds=18)
    return [
        ("a1b2c3d4", "default", 1, "retry", pump, pump + timedelta(seconds=1), 429, "rate limited for 1 s", None),
        ("a1b2c3d4", "default", 2, "delivered", pump + timedelta(seconds=1), None, 200, None, "1290000000000000001"),
    ]
