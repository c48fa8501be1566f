"""`cryptotrace bars` and `cryptotrace sql`: what they print, and what they refuse."""

import io
import json
import time
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from cryptotrace_dagster.cli.query import QueryError, register, run_query
from cryptotrace_dagster.storage import StorageError, Warehouse
from cryptotrace_dagster.tables import OHLC_BARS
from tests.market import fill


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data")
    store = Warehouse(str(path / "cryptotrace.duckdb"))
    store.create()
    fill(store, minutes=60)
    store.publish(path / "published" / "cryptotrace.duckdb")
    return path


def run(folder: Path, *arguments: str):
    app = typer.Typer()
    register(app)
    return CliRunner().invoke(app, [*arguments, "--data-dir", str(folder)])


def test_bars_as_json_are_rows_with_plain_decimals_and_utc_times(folder: Path) -> None:
    shown = run(folder, "bars", "btcusdt", "--interval", "5m", "--format", "json")
    rows = json.loads(shown.stdout)
    stored = Warehouse(str(folder / "cryptotrace.duckdb")).read(
        "SELECT * FROM ohlc_bars WHERE symbol = 'BTCUSDT' AND bar_interval = '5m' ORDER BY bar_start"
    )
    assert [tuple(row) for row in rows] == [OHLC_BARS.column_names] * 12
    assert [Decimal(row["quote_volume"]) for row in rows] == stored["quote_volume"].to_list()
    assert rows[0]["bar_start"] == "2026-01-05T11:00:00Z"
    assert all(len(row["close"].split(".")[1]) == 8 for row in rows)


def test_the_last_half_hour_ends_at_the_newest_trade(folder: Path) -> None:
    rows = json.loads(run(folder, "bars", "BTCUSDT", "--last", "30m", "--format", "json").stdout)
    assert rows[-1]["bar_start"] == "2026-01-05T11:59:00Z"
    assert 30 <= len(rows) <= 31


def test_from_and_to_are_half_open(folder: Path) -> None:
    shown = run(folder, "bars", "BTCUSDT", "--from", "2026-01-05T11:10:00Z", "--to", "1767611700", "--format", "csv")
    starts = pl.read_csv(shown.stdout.encode())["bar_start"].to_list()
    assert starts == [f"2026-01-05T11:{minute}:00Z" for minute in range(10, 15)]


def test_parquet_and_arrow_come_back_as_they_were(folder: Path) -> None:
    for output, read in (("parquet", pl.read_parquet), ("arrow", pl.read_ipc_stream)):
        shown = run(folder, "bars", "ETHUSDT", "--interval", "1h", "--format", output)
        frame = read(io.BytesIO(shown.stdout_bytes))
        assert frame["close"].dtype == pl.Decimal(20, 8)
        assert frame.height == 1


def test_a_table_has_a_line_for_each_bar_where_no_terminal_folds_it(folder: Path) -> None:
    header, first, *others = run(folder, "bars", "BTCUSDT", "--interval", "5m").stdout.splitlines()
    assert header.split() == ["bar_start", "open", "high", "low", "close", "volume", "trade_count"]
    assert first.startswith("2026-01-05T11:00:00Z")
    assert len(first.split()) == 7
    assert len(others) == 11


def test_a_chart_shows_candles_and_the_last_price(folder: Path) -> None:
    shown = run(folder, "bars", "SOLUSDT", "--chart").stdout
    assert "SOLUSDT" in shown
    assert shown.count("▯") > 10
    assert shown.count("▮") > 10
    assert "2026-01-05 11:59 UTC" in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("bars", "NOSUCH"), "Stored: BTCUSDT, ETHUSDT, SOLUSDT"),
        (("bars", "'; DROP TABLE raw_ticks"), "Nothing is stored"),
        (("bars", "BTCUSDT", "--interval", "7m"), "none of 1s, 1m"),
        (("bars", "BTCUSDT", "--last", "soon"), "write 90m, 6h or 1d"),
        (("bars", "BTCUSDT", "--from", "soon"), "is not a time"),
        (("bars", "BTCUSDT", "--from", "2026-01-06", "--to", "2026-01-05"), "later than --to"),
        (("bars", "BTCUSDT", "--from", "2026-01-06", "--last", "1d"), "exclude each other"),
        (("bars", "BTCUSDT", "--from", "2026-02-01"), "choose another range"),
        (("sql", "SELEC 1"), "could not be run"),
        (("sql", "DELETE FROM raw_ticks"), "read-only"),
        (("sql", "SELECT * FROM nothing"), "SHOW TABLES"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_a_reason(folder: Path, arguments: tuple[str, ...], words: str) -> None:
    outcome = run(folder, *arguments)
    assert isinstance(outcome.exception, QueryError)
    assert words in str(outcome.exception)


def test_an_empty_folder_is_a_sentence(tmp_path: Path) -> None:
    outcome = run(tmp_path, "bars", "BTCUSDT")
    assert isinstance(outcome.exception, StorageError)
    assert "cryptotrace up" in str(outcome.exception)


@pytest.mark.parametrize("source", [(), ("--published",)])
def test_sql_answers_from_the_live_store_and_from_the_copy(folder: Path, source: tuple[str, ...]) -> None:
    query = "SELECT symbol, count(*) AS trades, max(price) AS top FROM raw_ticks GROUP BY symbol ORDER BY symbol"
    rows = json.loads(run(folder, "sql", query, "--format", "json", *source).stdout)
    assert [row["symbol"] for row in rows] == ["BTCUSDT", "ETHUSDT", "SOLUSDT"]
    assert rows[1]["trades"] == 2380
    assert "BTCUSDT" in run(folder, "sql", query, *source).stdout


@pytest.mark.parametrize("value", ["max(trade_time) - min(trade_time)", "[INTERVAL 1 DAY]", "union_value(a := 1)"])
def test_sql_answers_in_types_that_a_frame_does_not_know(folder: Path, value: str) -> None:
    answer = run(folder, "sql", f"SELECT count(*) AS n, {value} AS odd, 1 AS n FROM raw_ticks", "--format", "csv")
    assert answer.exit_code == 0, answer.output
    assert answer.stdout.splitlines()[0].split(",")[:2] == ["n", "odd"]


def test_a_query_that_takes_too_long_is_cancelled(folder: Path) -> None:
    """A forgotten cross join must not stop ingestion."""
    started = time.monotonic()
    with pytest.raises(QueryError, match="--published"):
        run_query(
            Warehouse(str(folder / "cryptotrace.duckdb")),
            "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.range + b.range = 7",
            0.3,
        )
    assert time.monotonic() - started < 5
