"""Features and anomaly scores of a day."""

from typing import Any

import dagster as dg

from cryptotrace_dagster.assets.common import (
    DAYS,
    OWNERS,
    RETRIES,
    RUN_LIMIT_TAGS,
    as_timestamp,
    partition_window,
    report_metadata,
    table_metadata,
    writing_asset,
)
from cryptotrace_dagster.assets.market import ohlc_bars
from cryptotrace_dagster.notify.plots import as_markdown_image, calibration_plot
from cryptotrace_dagster.pipeline.detection import Detection
from cryptotrace_dagster.pipeline.detector_report import report_on_detectors
from cryptotrace_dagster.pipeline.dirty import market_watermark, until_newest_trade
from cryptotrace_dagster.pipeline.report import StageReport
from cryptotrace_dagster.pipeline.score_chart import strangest_of
from cryptotrace_dagster.resources.rules import AlertRules
from cryptotrace_dagster.resources.warehouse import WarehouseResource
from cryptotrace_dagster.settings import load_settings
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
    store = warehouse.open()
    report = Detection(store).refresh_features(until_newest_trade(store, partition_window(context)))
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
    metadata = report_metadata(Detection(store).refresh_scores(window, watermark))
    if chart := strangest_of(store, window):
        picture = as_markdown_image(chart.png, "The day's strangest symbol")
        metadata["strangest"] = dg.MetadataValue.md(f"{picture}\n\n{chart.caption}")
    return dg.MaterializeResult(metadata=metadata)


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


@dg.asset(
    deps=[anomaly_scores],
    group_name="detection",
    kinds={"duckdb", "scikitlearn"},
    owners=OWNERS,
    retry_policy=RETRIES,
    op_tags=RUN_LIMIT_TAGS,  # no pool: it replays in a store of its own and only reads this one, a day at a time
    description="How the rules and each detector did over the last days (REPORT_DAYS, REPORT_TICKS): the backtest's replay, "
    "held against `event_labels`, and whether scores come as often as they promise. The report is in the metadata.",
)
def detector_report(warehouse: WarehouseResource, alert_rules: AlertRules) -> dg.MaterializeResult[None]:
    settings = load_settings()
    book = alert_rules.source().current()
    report = report_on_detectors(warehouse.open(), book, settings.report_days, settings.report_ticks)
    if report is None:
        words = "No whole day is stored that REPORT_TICKS lets be replayed."
        return dg.MaterializeResult(metadata={"report": dg.MetadataValue.md(words)})
    metadata: dict[str, Any] = {
        "report": dg.MetadataValue.md(report.markdown),
        "ticks": report.ticks,
        "labelled_events": report.events,
        "window_start": as_timestamp(report.period.start),
        "window_end": as_timestamp(report.period.end),
    }
    if report.calibration.height:
        picture = as_markdown_image(calibration_plot(report.calibration), "Promised against observed times a day")
        metadata["calibration"] = dg.MetadataValue.md(
            f"{picture}\n\nHours a day and symbol: promised to the right, observed upwards; on the line a detector keeps its "
            "word. A hollow point was never observed."
        )
    return dg.MaterializeResult(metadata=metadata)
