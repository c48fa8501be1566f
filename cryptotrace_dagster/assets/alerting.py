"""Alerts of a day, and their deliveries: the outbox."""

from datetime import datetime, timedelta

import dagster as dg

from cryptotrace_dagster.assets.common import (
    DAYS,
    MARKET_JOB,
    partition_window,
    report_metadata,
    table_metadata,
    writing_asset,
)
from cryptotrace_dagster.assets.detection import anomaly_scores
from cryptotrace_dagster.domain.windows import EPOCH, Window, utc_now
from cryptotrace_dagster.pipeline.alerts import refresh_alerts
from cryptotrace_dagster.pipeline.delivery import deliver_alerts
from cryptotrace_dagster.pipeline.dirty import Remade, clear_dirty, closed_until, market_watermark
from cryptotrace_dagster.pipeline.report import StageReport
from cryptotrace_dagster.resources.discord import Discord
from cryptotrace_dagster.resources.rules import AlertRules
from cryptotrace_dagster.resources.warehouse import WarehouseResource
from cryptotrace_dagster.tables import ALERT_DELIVERIES, ALERTS

SEND_SECONDS = 20.0  # of a backlog; the live run goes on with the rest


@writing_asset(
    deps=[anomaly_scores],
    partitions_def=DAYS,
    group_name="alerting",
    kinds={"duckdb"},
    metadata=table_metadata(ALERTS),
    description=ALERTS.description,
)
def alerts(
    context: dg.AssetExecutionContext, warehouse: WarehouseResource, alert_rules: AlertRules
) -> dg.MaterializeResult[None]:
    store, window = warehouse.open(), partition_window(context)
    watermark = market_watermark(store)
    if watermark is None:
        return dg.MaterializeResult(metadata=report_metadata(StageReport(ALERTS.name, window, 0)))
    report = refresh_alerts(store, alert_rules.source().current(), window, watermark, utc_now())
    if _remakes_the_day(context):
        with store.transaction() as transaction:
            closed = Window(window.start, max(window.start, min(window.end, closed_until(watermark))))
            clear_dirty(transaction, [Remade(closed, _bars_began_at(context))])
    return dg.MaterializeResult(metadata=report_metadata(report))


@writing_asset(
    deps=[alerts],
    group_name="alerting",
    kinds={"discord", "duckdb"},
    metadata=table_metadata(ALERT_DELIVERIES),
    description=ALERT_DELIVERIES.description,
)
def alert_deliveries(
    warehouse: WarehouseResource, discord: Discord, alert_rules: AlertRules
) -> dg.MaterializeResult[None]:
    rules = alert_rules.source().current()
    delivery = deliver_alerts(warehouse.open(), discord.messenger(), utc_now(), rules, seconds=SEND_SECONDS)
    return dg.MaterializeResult(metadata=report_metadata(delivery.as_stage_report()))


def _remakes_the_day(context: dg.AssetExecutionContext) -> bool:
    """Return whether this run makes every stage of its day, so that nothing of it is stale afterwards.

    A hand-made materialisation of alerts alone must not say so: its bars may be stale still.
    """
    selection = context.run.asset_selection
    if not selection:
        return context.run.job_name == MARKET_JOB
    return {"ohlc_bars", "features", "anomaly_scores"} <= {key.to_user_string() for key in selection}


def _bars_began_at(context: dg.AssetExecutionContext) -> datetime:
    """Return when this run began to read ticks for its bars; what was stored later may not be in them."""
    (bars,) = context.instance.get_run_step_stats(context.run.run_id, ["ohlc_bars"])
    return EPOCH + timedelta(seconds=bars.start_time or 0.0)
