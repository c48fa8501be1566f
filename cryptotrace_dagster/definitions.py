"""Assembles the code location: assets, checks, jobs, schedule, sensors and resources. No logic.

Avoid putting implementations here. Addresses and secrets are environment variables, so the UI shows their names.
"""

import dagster as dg

from cryptotrace_dagster import schedules
from cryptotrace_dagster.assets import alerting, checks, detection, history, housekeeping, market
from cryptotrace_dagster.resources.discord import Discord
from cryptotrace_dagster.resources.exchange import ExchangeResource
from cryptotrace_dagster.resources.kafka import KafkaResource
from cryptotrace_dagster.resources.rules import AlertRules
from cryptotrace_dagster.resources.warehouse import WarehouseResource
from cryptotrace_dagster.sensors.run_failed import run_failed
from cryptotrace_dagster.sensors.ticks_arrived import ticks_arrived
from cryptotrace_dagster.settings import export_defaults


def build_definitions(**resource_overrides: object) -> dg.Definitions:
    """Return fresh definitions; tests swap single resources and keep the rest."""
    resources: dict[str, object] = {
        "warehouse": WarehouseResource(url=dg.EnvVar("WAREHOUSE_URL"), data_path=dg.EnvVar("WAREHOUSE_DATA_PATH")),
        "kafka": KafkaResource(
            bootstrap_servers=dg.EnvVar("KAFKA_BOOTSTRAP_SERVERS"), ticks_topic=dg.EnvVar("TICKS_TOPIC")
        ),
        "exchange": ExchangeResource(rest_url=dg.EnvVar("BINANCE_REST_URL"), dump_url=dg.EnvVar("BINANCE_DUMP_URL")),
        "discord": Discord(),
        "alert_rules": AlertRules(path=dg.EnvVar("ALERTS_FILE"), data_dir=dg.EnvVar("DATA_DIR")),
    }
    return dg.Definitions(
        assets=[
            market.binance_trades,
            market.kafka_ticks,
            market.raw_ticks,
            history.trade_history,
            market.ohlc_bars,
            detection.features,
            detection.anomaly_scores,
            detection.detector_models,
            detection.detector_report,
            alerting.alerts,
            alerting.alert_deliveries,
            housekeeping.published_copy,
        ],
        asset_checks=checks.ALL_CHECKS,
        jobs=[
            schedules.market_job,
            schedules.live_job,
            schedules.models_job,
            schedules.report_job,
            schedules.housekeeping,
            schedules.lake_maintenance,
        ],
        schedules=[
            schedules.every_15_minutes,
            schedules.after_midnight,
            schedules.every_week,
            schedules.every_night,
            schedules.every_10_minutes,
        ],
        sensors=[ticks_arrived, run_failed],
        resources=resources | resource_overrides,
        executor=dg.in_process_executor,
    )


export_defaults()
defs = build_definitions()
