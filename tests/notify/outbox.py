"""Alerts to be sent, and what a Discord double received of them."""

import json
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any

import polars as pl

from cryptotrace_dagster.notify.messenger import Messenger
from cryptotrace_dagster.receiver.limits import RateLimits
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.tables import ALERTS
from tests.builders import NOON

GENEROUS = RateLimits(burst=100_000, sustained=100_000)


def alert(number: int, **more: object) -> dict[str, object]:
    """Return a row of `alerts`; they ring one second after another."""
    at = NOON + timedelta(seconds=number)
    return {
        "alert_id": f"{number:016x}",
        "rule": "fast move",
        "symbol": "BTCUSDT",
        "severity": "warning",
        "phase": "opening",
        "conversation_id": f"{number:016x}",
        "bar_interval": "1s",
        "bar_start": at,
        "detector": None,
        "score": 3.2,
        "event_time": at,
        "available_at": at,
        "raised_at": at,
        "price": Decimal("103.2"),
        "title": "BTCUSDT rose 3.2 % within 60 s",
        "message": "BTCUSDT rose 3.2 % within 60 s. Price 103.2, before 100.",
        "evidence": json.dumps({"price_before": 100.0, "times_a_day": 0.025, "quote_volume_60s": 1234.5}),
        "retracted_at": None,
    } | more


def put(warehouse: Warehouse, *alerts: Mapping[str, object]) -> None:
    """Store alerts."""
    with warehouse.transaction() as transaction:
        transaction.merge(ALERTS, pl.DataFrame(list(alerts), schema=ALERTS.polars_schema))


def messenger(url: str | None, **secrets: str) -> Messenger:
    """Return a messenger whose default route is this webhook."""
    known = {"DISCORD_WEBHOOK_URL": url, **secrets}
    return Messenger(known.get, dashboard_url="http://dashboard")


def outcomes(warehouse: Warehouse, route: str = "default") -> list[tuple[str, int, str]]:
    """Return (alert, attempt, outcome) of every attempt, in order."""
    rows = warehouse.read(
        "SELECT alert_id, attempt, outcome FROM alert_deliveries WHERE route = ? ORDER BY alert_id, attempt", [route]
    )
    return [(str(int(alert_id, 16)), attempt, outcome) for alert_id, attempt, outcome in rows.iter_rows()]


def ids_of(message: Mapping[str, Any]) -> list[int]:
    """Return the numbers of the alerts that a received message tells of, in order."""
    return [int(embed["footer"]["text"].rsplit(" ", 1)[1], 16) for embed in message["embeds"]]
