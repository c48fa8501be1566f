"""The past, by day and symbol: choose days and symbols in Dagster's UI and start a backfill."""

from datetime import datetime
from typing import Any

import dagster as dg

from cryptotrace_dagster.assets.common import (
    DAYS,
    FIRST_DAY,
    RUN_LIMIT_TAGS,
    as_timestamp,
    writing_asset,
)
from cryptotrace_dagster.assets.market import binance_trades
from cryptotrace_dagster.pipeline.history import backfill_day
from cryptotrace_dagster.resources.exchange import ExchangeResource
from cryptotrace_dagster.resources.warehouse import WarehouseResource
from cryptotrace_dagster.settings import load_settings

SYMBOLS = dg.StaticPartitionsDefinition(list(load_settings().symbols))
DAYS_AND_SYMBOLS = dg.MultiPartitionsDefinition({"day": DAYS, "symbol": SYMBOLS})


@writing_asset(
    deps=[binance_trades],
    partitions_def=DAYS_AND_SYMBOLS,
    group_name="market",
    kinds={"rest", "duckdb"},
    op_tags=RUN_LIMIT_TAGS,
    description=f"The missing trades of one symbol and past UTC day (from {FIRST_DAY} on), with their bars: from the "
    "exchange's public dump (sha256 verified), or by REST where there is none yet. Doing it twice changes nothing. "
    "What follows from the new trades is made by the next scheduled run, which finds the day among the stale ones.",
)
def trade_history(
    context: dg.AssetExecutionContext, warehouse: WarehouseResource, exchange: ExchangeResource
) -> dg.MaterializeResult[None]:
    keys = context.partition_key.keys_by_dimension
    day = datetime.strptime(keys["day"], "%Y-%m-%d").date()
    with exchange.rest() as rest:
        report = backfill_day(
            warehouse.open(),
            keys["symbol"],
            day,
            rest,
            dump_url=exchange.dump_url,
            progress=lambda done: context.log.debug("history.progress %d", done),
        )
    metadata: dict[str, Any] = {
        "source": report.source,
        "stored": report.stored,
        "repeated": report.repeated,
        "unreadable": report.unreadable,
        "bars": report.bars,
    }
    if report.windows:
        metadata |= {
            "window_start": as_timestamp(report.windows[0].start),
            "window_end": as_timestamp(report.windows[-1].end),
        }
    return dg.MaterializeResult(metadata=metadata)
