"""Seeded trades of a few symbols, with and without a pump, for tests of detection."""

from datetime import datetime, timedelta

import numpy as np
import polars as pl

from cryptotrace_dagster.domain.windows import Window
from cryptotrace_dagster.pipeline.bars import refresh_bars
from cryptotrace_dagster.pipeline.detection import Detection
from cryptotrace_dagster.pipeline.ingest import store_ticks
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.tables import RAW_TICKS

START = datetime(2026, 1, 5)


def trades(
    symbol: str = "THINBTC", *, hours: float, seed: int = 0, a_minute: float = 3.0, pump_at: datetime | None = None
) -> pl.DataFrame:
    """Return `raw_ticks` rows of a random walk in bursts; a pump is 40 s of crowded buying that lifts it by 30 %."""
    generator = np.random.default_rng(seed)
    bursts = generator.random(generator.poisson(hours * 60 * a_minute / 3)) * hours * 3_600_000
    times = np.repeat(bursts, generator.geometric(1 / 3, len(bursts)))
    times = times + generator.exponential(800, len(times)).round(-2)
    is_sell, quantities = generator.random(len(times)) < 0.5, generator.lognormal(0, 1, len(times))
    lift = np.zeros(len(times))
    if pump_at is not None:
        offset = (pump_at - START) / timedelta(milliseconds=1)
        crowd = offset + generator.random(1200) * 40_000
        times = np.concatenate([times, np.repeat(crowd, 2)])
        is_sell = np.concatenate([is_sell, np.zeros(2400, dtype=bool)])
        quantities = np.concatenate([quantities, generator.lognormal(1, 1, 2400)])
        lift = np.clip((times - offset) / 40_000, 0, 1) * 0.3
    order = np.argsort(times, kind="stable")
    times, is_sell, quantities = times[order], is_sell[order], quantities[order]
    lift = lift[order] if pump_at is not None else np.zeros(len(times))
    log_price = np.cumsum(generator.normal(0, 3e-4, len(times))) + lift + np.where(is_sell, -5e-4, 5e-4)
    kept = times < hours * 3_600_000
    times, is_sell, quantities, log_price = times[kept], is_sell[kept], quantities[kept], log_price[kept]
    ids = np.arange(1, len(times) + 1)
    instants = pl.Series(times.astype(np.int64)).cast(pl.Duration("ms")) + START
    return pl.DataFrame(
        {
            "symbol": [symbol] * len(times),
            "trade_id": ids,
            "price": np.round(np.exp(log_price) * 0.01, 8),
            "quantity": np.round(quantities, 4) + 1e-4,
            "first_trade_id": ids,
            "last_trade_id": ids,
            "trade_time": instants,
            "is_buyer_maker": is_sell,
            "received_at": instants,
        }
    ).cast(RAW_TICKS.polars_schema)


def stored(warehouse: Warehouse, ticks: pl.DataFrame, hours: float) -> Window:
    """Store the ticks and make their bars and features; return the window of it all."""
    window = Window(START, START + timedelta(hours=hours))
    store_ticks(warehouse, ticks, START)
    refresh_bars(warehouse, window)
    Detection(warehouse).refresh_features(window)
    return window
