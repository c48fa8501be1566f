"""`read` gives frames and a connection to the published copy, and never touches the live file."""

from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from cryptotrace_dagster import read
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.tables import ALERTS, OHLC_BARS, RAW_TICKS
from tests.market import fill


@pytest.fixture
def live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    """Return the live store beside a published copy of its first hour."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("WAREHOUSE_URL", "")
    store = Warehouse(str(tmp_path / "cryptotrace.duckdb"))
    store.create()
    fill(store, minutes=60)
    store.publish(tmp_path / "published" / "cryptotrace.duckdb")
    return store


def test_one_line_gives_the_stored_rows(live: Warehouse) -> None:
    expected = live.read(
        "SELECT * FROM ohlc_bars WHERE symbol = 'BTCUSDT' AND bar_interval = '5m' ORDER BY symbol, bar_interval, bar_start"
    )
    assert_frame_equal(read.bars("btcusdt", "5m"), expected)
    assert read.bars("BTCUSDT", "5m").schema == OHLC_BARS.polars_schema
    assert read.ticks("ETHUSDT", last="10m").schema == RAW_TICKS.polars_schema
    assert read.alerts().schema == ALERTS.polars_schema
    assert read.symbols() == ["BTCUSDT", "ETHUSDT", "SOLUSDT"]
    assert read.features("BTCUSDT").is_empty()


def test_a_length_of_time_counts_back_from_the_newest_trade(live: Warehouse) -> None:
    assert read.anomaly_scores("BTCUSDT", last="15m").height == 15
    assert read.bars("BTCUSDT", start="2026-01-05T11:10:00Z", end="2026-01-05T11:15:00Z").height == 5


def test_an_open_connection_never_keeps_a_writer_waiting(live: Warehouse) -> None:
    """The reason for the copy: a notebook stays open for hours."""
    with read.connect() as connection:
        rows = connection.execute("SELECT count(*) FROM raw_ticks").fetchone()
        with live.transaction() as transaction:
            transaction.execute("DELETE FROM raw_ticks WHERE symbol = 'BTCUSDT'")
        assert connection.execute("SELECT count(*) FROM raw_ticks").fetchone() == rows


def test_the_copy_cannot_be_written(live: Warehouse) -> None:
    with read.connect() as connection, pytest.raises(Exception, match="read-only"):
        connection.execute("DELETE FROM raw_ticks")


def test_a_query_with_parameters_gives_a_frame(live: Warehouse) -> None:
    frame = read.sql("SELECT count(*) AS trades FROM raw_ticks WHERE symbol = ?", ["ETHUSDT"])
    assert_frame_equal(frame, pl.DataFrame({"trades": [2380]}))


def test_without_a_copy_the_error_says_when_it_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "empty"))
    with pytest.raises(read.NotPublishedError, match="scheduled run"):
        read.bars("BTCUSDT")


def test_an_unknown_interval_is_refused(live: Warehouse) -> None:
    with pytest.raises(ValueError, match="one of 1s, 1m"):
        read.bars("BTCUSDT", "7m")
