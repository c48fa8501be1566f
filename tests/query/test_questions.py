"""The questions that API, dashboard and command line share."""

from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

from cryptotrace_dagster.domain.windows import Window, utc_now
from cryptotrace_dagster.pipeline.bars import refresh_bars
from cryptotrace_dagster.pipeline.detection import Detection
from cryptotrace_dagster.pipeline.ingest import store_ticks
from cryptotrace_dagster.queries import Reader, data_health, watch_list
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.tables import ALERT_DELIVERIES, ALERTS
from tests.builders import NOON, ticks
from tests.market import MARKET_END, alert, fill


def test_of_several_alerts_of_late_the_gravest_that_still_stands_is_named(tmp_path: Path) -> None:
    warehouse = Warehouse(str(tmp_path / "store.duckdb"))
    warehouse.create()
    fill(warehouse)
    at = MARKET_END - timedelta(minutes=2)
    told = [
        alert("1", at, symbol="BTCUSDT", severity="info"),
        alert("2", at, symbol="BTCUSDT", severity="warning"),
        alert("3", at, symbol="BTCUSDT", severity="critical", retracted_at=MARKET_END),
    ]
    with warehouse.transaction() as transaction:
        transaction.append(ALERTS, pl.DataFrame(told, schema=ALERTS.polars_schema))
    rows = watch_list(Reader(warehouse))
    assert dict(rows.select("symbol", "alert_severity").iter_rows())["BTCUSDT"] == "warning"


def test_an_alert_is_overdue_a_minute_after_it_could_have_been_sent(tmp_path: Path) -> None:
    warehouse = Warehouse(str(tmp_path / "store.duckdb"))
    warehouse.create()
    raised_at = utc_now() - timedelta(hours=2)
    held_until = {"in the morning": utc_now() + timedelta(hours=5), "an hour ago": utc_now() - timedelta(hours=1)}
    told = [alert(each, MARKET_END, raised_at=raised_at) for each in ("never tried", "delivered", *held_until)]
    rows = [delivery(each, "held", until) for each, until in held_until.items()] + [delivery("delivered", "delivered")]
    with warehouse.transaction() as transaction:
        transaction.append(ALERTS, pl.DataFrame(told, schema=ALERTS.polars_schema))
        transaction.append(ALERT_DELIVERIES, pl.DataFrame(rows, schema=ALERT_DELIVERIES.polars_schema))
    health = data_health(Reader(warehouse))
    assert (health.undelivered_alerts, health.overdue_alerts) == (3, 2)


def test_a_stage_that_has_made_nothing_of_the_last_hour_is_an_hour_behind(tmp_path: Path) -> None:
    warehouse = Warehouse(str(tmp_path / "store.duckdb"))
    warehouse.create()
    assert data_health(Reader(warehouse)).stage_lags() == {}
    store_ticks(warehouse, ticks({}), utc_now())
    hour = timedelta(hours=1)
    assert data_health(Reader(warehouse)).stage_lags() == {"ohlc_bars": hour, "features": hour}


def test_a_calm_market_in_which_nothing_is_scored_is_not_behind(tmp_path: Path) -> None:
    warehouse = Warehouse(str(tmp_path / "store.duckdb"))
    warehouse.create()
    minutes = Window(NOON, NOON + timedelta(minutes=5))
    rows = [{"trade_id": number, "trade_time": NOON + number * timedelta(seconds=30)} for number in range(10)]
    store_ticks(warehouse, ticks(*rows), utc_now())
    refresh_bars(warehouse, minutes)
    Detection(warehouse).refresh_features(minutes)
    nothing = timedelta(0)
    assert data_health(Reader(warehouse)).stage_lags() == {"ohlc_bars": nothing, "features": nothing}


def delivery(alert_id: str, outcome: str, retry_at: datetime | None = None) -> dict[str, object]:
    return {
        "alert_id": alert_id,
        "route": "default",
        "attempt": 0,
        "outcome": outcome,
        "attempted_at": utc_now(),
        "retry_at": retry_at,
    }
