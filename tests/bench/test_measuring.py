"""The benchmarks themselves, in miniature: right work gives figures, wrong work gives none."""

import dataclasses
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from cryptotrace_dagster.bench import day as day_bench
from cryptotrace_dagster.bench import feed as feed_bench
from cryptotrace_dagster.bench.day import measure_day
from cryptotrace_dagster.bench.feed import measure_feed
from cryptotrace_dagster.bench.follow import measure_follow
from cryptotrace_dagster.bench.ingest import measure_ingest
from cryptotrace_dagster.bench.market import DAY, DAY_START, fill_day, stream_frames, symbol_names, trade_messages
from cryptotrace_dagster.bench.rows import WrongWorkError
from cryptotrace_dagster.bench.sizes import QUICK
from cryptotrace_dagster.domain.windows import Window
from cryptotrace_dagster.pipeline.bars import refresh_bars
from cryptotrace_dagster.pipeline.report import StageReport
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.stream import decode_ticks

TINY = dataclasses.replace(
    QUICK,
    repeats=1,
    warm_ups=0,
    feed_trades=3_000,
    embedded_messages=5_000,
    kafka_messages=5_000,
    day_ticks=60_000,
    micro_batches=2,
    warm_history_minutes=1,
)


@pytest.fixture(autouse=True)
def _embedded_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAFKA_REAL_BOOTSTRAP_SERVERS", raising=False)


def test_the_feed_is_measured_against_a_bare_loop() -> None:
    rows = {row.name: row for row in measure_feed(TINY)}
    assert set(rows) == {"feed", "feed_check"}
    assert all(row.ratio is not None and row.ratio > 0 for row in rows.values())


def test_a_feed_that_loses_a_trade_gets_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = feed_bench.run_worker

    def losing(module: str, *arguments: str) -> dict[str, object]:
        result = measured(module, *arguments)
        return result | {"trades": result["trades"] - 1} if arguments[0] == "feed" else result

    monkeypatch.setattr(feed_bench, "run_worker", losing)
    with pytest.raises(WrongWorkError, match="of 3000 trades 2999 came"):
        measure_feed(TINY)


def test_ingest_is_measured_in_messages_a_second_and_in_memory() -> None:
    rows = {row.name: row for row in measure_ingest(TINY)}
    assert rows["ingest"].details == {"messages": 5_000, "broker": "embedded broker"}
    assert 10 < rows["ingest_memory"].value < 2_000


def test_a_day_is_measured_from_bars_to_alerts() -> None:
    rows = {row.name: row for row in measure_day(TINY)}
    assert set(rows) == {"bars", "detection", "detection_scaling", "tick_size"}


def test_bars_that_lack_a_minute_get_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    def sparing(warehouse: Warehouse, window: Window) -> StageReport:
        return refresh_bars(warehouse, Window(window.start, window.end - timedelta(hours=1)))

    monkeypatch.setattr(day_bench, "refresh_bars", sparing)
    with pytest.raises(WrongWorkError, match="of 60000 ticks"):
        measure_day(TINY)


def test_a_micro_batch_is_measured_against_the_bare_commit_of_its_rows() -> None:
    (row,) = measure_follow(TINY)
    assert row.repeats == 2
    assert row.ratio is not None


def test_the_same_seed_makes_the_same_trades() -> None:
    symbols = symbol_names(3)
    first, second = (list(trade_messages(500, symbols, DAY_START, 100.0)) for _ in range(2))
    assert first == second
    ticks, reasons = decode_ticks(first, [0] * 500)
    assert not reasons
    ids = ticks.group_by("symbol").agg(pl.col("trade_id").sort()).sort("symbol")
    assert ids["trade_id"].list.len().to_list() == [167, 167, 166]
    assert all(row.to_list() == list(range(1, len(row) + 1)) for row in ids["trade_id"])


def test_every_frame_is_long_enough_for_the_server_to_encode_it_in_one_way() -> None:
    assert all(126 <= len(frame) <= 65_535 for frame in stream_frames(2_000, symbol_names(10)))


def test_the_day_holds_as_many_ticks_as_were_asked_for_and_lies_within_its_day(tmp_path: Path) -> None:
    warehouse = Warehouse(str(tmp_path / "day.duckdb"))
    warehouse.create()
    day = fill_day(warehouse, 20_000)
    count, first, last = warehouse.read("SELECT count(*), min(trade_time), max(trade_time) FROM raw_ticks").row(0)
    assert count == day.ticks == 20_000
    assert DAY.start <= first < last < DAY.end
