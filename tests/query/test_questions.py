"""The questions that API, dashboard and command line share."""

from datetime import timedelta
from pathlib import Path

import polars as pl

from cryptotrace_dagster.queries import Reader, watch_list
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.tables import ALERTS
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
