"""Features and anomaly scores of a day."""

import dagster as dg

from cryptotrace_dagster.assets.common import (
    DAYS,
    partition_window,
    report_metadata,
    table_metadata,
    writing_asset,
)
from cryptotrace_dagster.assets.market import ohlc_bars
from cryptotrace_dagster.pipeline.detection import Detection
from cryptotrace_dagster.pipeline.dirty import market_watermark
from cryptotrace_dagster.pipeline.report import StageReport
from cryptotrace_dagster.resources.warehouse import WarehouseResource
from cryptotrace_dagster.tables import ANOMALY_SCORES, DETECTOR_MODELS, FEATURES


@writing_asset(
    deps=[ohlc_bars],
    partitions_def=DAYS,
    group_name="detection",
    kinds={"duckdb", "polars"},
    metadata=table_metadata(FEATURES),
    description=FEATURES.description,
)
def features(context: dg.AssetExecutionContext, warehouse: WarehouseResource) -> dg.MaterializeResult[None]:
    report = Detection(warehouse.open()).refresh_features(partition_window(context))
    return dg.MaterializeResult(metadata=report_metadata(report))


@writing_asset(
    deps=[features],
    partitions_def=DAYS,
    group_name="detection",
    kinds={"duckdb", "scikitlearn"},
    metadata=table_metadata(ANOMALY_SCORES),
    description=ANOMALY_SCORES.description,
)
def anomaly_scores(context: dg.AssetExecutionContext, warehouse: WarehouseResource) -> dg.MaterializeResult[None]:
    store, window = warehouse.open(), partition_window(context)
    watermark = market_watermark(store)
    if watermark is None:
        return dg.MaterializeResult(metadata=report_metadata(StageReport(ANOMALY_SCORES.name, window, 0)))
    return dg.MaterializeResult(metadata=report_metadata(Detection(store).refresh_scores(window, watermark)))


@writing_asset(
    deps=[features],
    partitions_def=DAYS,
    group_name="detection",
    kinds={"duckdb", "scikitlearn"},
    metadata=table_metadata(DETECTOR_MODELS),
    description=DETECTOR_MODELS.description + " A partition holds the models that score its day, fitted on the days "
    "before it alone; the day's scores are made anew by the next scheduled run.",
)
def detector_models(context: dg.AssetExecutionContext, warehouse: WarehouseResource) -> dg.MaterializeResult[None]:
    report = Detection(warehouse.open()).refresh_models(partition_window(context).start)
    return dg.MaterializeResult(metadata=report_metadata(report))
