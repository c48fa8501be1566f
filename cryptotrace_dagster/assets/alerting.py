"""Alerts of a day, and their deliveries: the outbox."""

import dagster as dg

from cryptotrace_dagster.assets.common import (
    DAYS,
    MARKET_JOB,
    bars_began_at,
    partition_window,
    report_metadata,
    table_metadata,
    writing_asset,
)
from cryptotrace_dagster.assets.detection import anomaly_scores
from cryptotrace_dagster.assets.handover import is_followed
from cryptotrace_dagster.domain.windows import Window, utc_now
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
    began = bars_began_at(context.instance, context.run.run_id)
    if began is not None and _remakes_the_day(context):
        with store.transaction() as transaction:
            closed = Window(window.start, max(window.start, min(window.end, closed_until(watermark))))
            clear_dirty(transaction, [Remade(closed, began)])
    return dg.MaterializeResult(metadata=report_metadata(report))


@writing_asset(
    deps=[alerts],
    group_name="alerting",
    kinds={"discord", "duckdb"},
    metadata=table_metadata(ALERT_DELIVERIES),
    description=ALERT_DELIVERIES.description + " While a live run is under way, it alone sends.",
)
def alert_deliveries(
    context: dg.AssetExecutionContext, warehouse: WarehouseResource, discord: Discord, alert_rules: AlertRules
) -> dg.MaterializeResult[None]:
    if is_followed(context.instance):  # and what rings next must not wait for what we are at
        return dg.MaterializeResult(metadata={"sent_by": "the live run that is under way"})
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
