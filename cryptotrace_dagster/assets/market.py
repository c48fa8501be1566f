"""From the exchange to bars: the upstream that we do not make, the ticks, and the bars."""

import dagster as dg

from cryptotrace_dagster.assets.common import (
    DAYS,
    OWNERS,
    partition_window,
    report_metadata,
    table_metadata,
    writing_asset,
)
from cryptotrace_dagster.assets.handover import is_followed
from cryptotrace_dagster.domain.windows import Window
from cryptotrace_dagster.pipeline.bars import refresh_bars
from cryptotrace_dagster.pipeline.completeness import completeness_table
from cryptotrace_dagster.pipeline.ingest import StoreReport, has_been_ingested, ingest_available
from cryptotrace_dagster.pipeline.report import StageReport
from cryptotrace_dagster.resources.kafka import KafkaResource
from cryptotrace_dagster.resources.warehouse import WarehouseResource
from cryptotrace_dagster.tables import OHLC_BARS, RAW_TICKS

LIVE_RUN_PATIENCE_SECONDS = 15.0  # without any progress

binance_trades = dg.AssetSpec(
    "binance_trades",
    description="Binance's aggregate trades: the WebSocket stream, and REST for what the stream did not bring.",
    group_name="upstream",
    kinds={"websocket"},
    owners=OWNERS,
)
kafka_ticks = dg.AssetSpec(
    "kafka_ticks",
    deps=[binance_trades],
    description="Kafka topic `ticks`, written by the feed: each trade as the exchange's own JSON, keyed by symbol.",
    group_name="upstream",
    kinds={"kafka"},
    owners=OWNERS,
)


@writing_asset(
    deps=[kafka_ticks],
    group_name="market",
    kinds={"kafka", "duckdb"},
    metadata=table_metadata(RAW_TICKS),
    description=RAW_TICKS.description + " Drains Kafka from the stored offsets to the topic's end; ticks and offsets "
    "are committed together.",
)
def raw_ticks(
    context: dg.AssetExecutionContext, warehouse: WarehouseResource, kafka: KafkaResource
) -> dg.MaterializeResult[None]:
    total = StoreReport()
    store = warehouse.open()
    with kafka.ticks() as stream:
        # A live run tells of what it stores itself, within a second; from us its bars would only come minutes later.
        if not (is_followed(context.instance) and has_been_ingested(store, stream, LIVE_RUN_PATIENCE_SECONDS)):
            for report in ingest_available(store, stream):
                total += report
    window = Window(total.windows[0].start, total.windows[-1].end) if total.windows else None
    details: dict[str, int | float | str] = {"repeated": total.repeated, "dead_letters": total.dead_letters}
    count = store.read(f"SELECT count(*) FROM {RAW_TICKS.name}").item()
    metadata = report_metadata(StageReport(RAW_TICKS.name, window, total.stored, details))
    if table := completeness_table(store):
        metadata["completeness"] = dg.MetadataValue.md(table)
    return dg.MaterializeResult(metadata=metadata | {"dagster/row_count": count})


@writing_asset(
    # trade_history makes bars of past days, too. As an upstream it would make Dagster's UI warn whoever materialises
    # bars by hand that the history may be missing; on most days nobody ever needs it.
    deps=[raw_ticks],
    partitions_def=DAYS,
    group_name="market",
    kinds={"duckdb"},
    metadata=table_metadata(OHLC_BARS)
    | {
        "dagster/column_lineage": dg.TableColumnLineage(
            {
                column: [dg.TableColumnDep(dg.AssetKey("raw_ticks"), source) for source in sources]
                for column, sources in {
                    "open": ["price", "trade_id"],
                    "high": ["price"],
                    "low": ["price"],
                    "close": ["price", "trade_id"],
                    "volume": ["quantity"],
                    "quote_volume": ["price", "quantity"],
                    "trade_count": ["first_trade_id", "last_trade_id"],
                    "taker_buy_volume": ["quantity", "is_buyer_maker"],
                    "taker_buy_quote_volume": ["price", "quantity", "is_buyer_maker"],
                }.items()
            }
        )
    },
    description=OHLC_BARS.description + " Intervals 1s, 1m, 5m, 15m, 1h, 1d; longer bars are the sum of shorter ones.",
)
def ohlc_bars(context: dg.AssetExecutionContext, warehouse: WarehouseResource) -> dg.MaterializeResult[None]:
    return dg.MaterializeResult(metadata=report_metadata(refresh_bars(warehouse.open(), partition_window(context))))
