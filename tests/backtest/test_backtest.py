"""Backtest: a file of trades in, alerts and their worth out, by the code of live operation."""

import json
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from cryptotrace_dagster.cli.backtest import register
from cryptotrace_dagster.domain.windows import Window
from cryptotrace_dagster.errors import UserError
from cryptotrace_dagster.pipeline.backtest import PUMPS_ONLY, backtest_stored
from cryptotrace_dagster.storage import Warehouse
from tests.detection.history import START, stored, trades

HOURS = 30
PUMP_AT = START + timedelta(hours=26)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a file of trades in the form of the issue, and one of labels."""
    folder = Path(tmp_path_factory.mktemp("files"))
    trades("VIA/BTC", hours=HOURS, pump_at=PUMP_AT).select(
        "symbol",
        pl.col("trade_time").dt.epoch("ms").alias("timestamp"),
        pl.when("is_buyer_maker").then(pl.lit("sell")).otherwise(pl.lit("buy")).alias("side"),
        pl.col("price").cast(pl.Float64),
        pl.col("quantity").cast(pl.Float64).alias("amount"),
    ).write_csv(folder / "trades.csv")
    (folder / "labels.csv").write_text(f"symbol,timestamp\nVIA,{PUMP_AT.isoformat()}Z\n")
    return folder / "trades.csv", folder / "labels.csv"


def run(*arguments: object) -> str:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    result = CliRunner().invoke(app, ["backtest", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_a_pump_in_a_trade_file_rings_once_and_within_ten_seconds(files: tuple[Path, Path]) -> None:
    report = json.loads(run("--trades", files[0], "--labels", files[1], "--json").splitlines()[-1])
    (alert,) = report["alerts"]
    assert {"symbol", "rule", "detector", "severity", "score", "event_time", "available_at"} <= set(alert)
    assert "pump" in alert["detector"]
    available_at = datetime.fromisoformat(alert["available_at"]).replace(tzinfo=None)
    assert PUMP_AT < available_at <= PUMP_AT + timedelta(seconds=10.5)
    verdict = report["rules"]["pump"]
    assert (verdict["hits"], verdict["events"], verdict["false_alarms"]) == (1, 1, 0)
    assert verdict["f1"]["value"] == 1.0


def test_the_stored_history_and_the_file_ring_alike(warehouse: Warehouse) -> None:
    """Guards against a second implementation: the warehouse replays through the same stages."""
    stored(warehouse, trades("VIABTC", hours=HOURS, pump_at=PUMP_AT), HOURS)
    period = Window(START + timedelta(hours=25), START + timedelta(hours=HOURS))
    report = backtest_stored(warehouse, PUMPS_ONLY, period)
    assert report.alerts["available_at"].to_list() == [PUMP_AT + timedelta(seconds=5.5)]
    assert report.verdicts["pump"].alerts == 1


def test_a_period_without_trades_says_how_to_get_some(warehouse: Warehouse) -> None:
    with pytest.raises(UserError, match="cryptotrace import"):
        backtest_stored(warehouse, PUMPS_ONLY, Window(START, START + timedelta(days=1)))


def test_the_store_that_has_no_trades_is_named_without_its_password(lake: Warehouse) -> None:
    source = Warehouse(f"{lake.url} password=t0psecret", data_path=lake.address.data_path)
    with pytest.raises(UserError, match=r"no trades .* in ducklake:.* password=\*\*\*") as refusal:
        backtest_stored(source, PUMPS_ONLY, Window(START, START + timedelta(days=1)))
    assert "t0psecret" not in str(refusal.value)
