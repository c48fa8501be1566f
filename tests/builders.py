"""The smallest valid frames, built from what a test cares about; everything else has a plain default."""

from datetime import datetime, timedelta
from decimal import Decimal

import polars as pl

from cryptotrace_dagster.tables import RAW_TICKS

NOON = datetime(2026, 1, 5, 12)


def ticks(*rows: dict[str, object]) -> pl.DataFrame:
    """Return a `raw_ticks` frame; a row names only what matters, ids count up from 1 and seconds from noon."""
    complete = []
    for index, row in enumerate(rows):
        trade_id = row.get("trade_id", index + 1)
        trade_time = row.get("trade_time", NOON + timedelta(seconds=index))
        complete.append(
            {
                "symbol": "BTCUSDT",
                "trade_id": trade_id,
                "price": Decimal("100"),
                "quantity": Decimal("1"),
                "first_trade_id": trade_id,
                "last_trade_id": trade_id,
                "trade_time": trade_time,
                "is_buyer_maker": False,
                "received_at": trade_time,
            }
            | row
        )
    return pl.DataFrame(complete, schema=RAW_TICKS.polars_schema)
