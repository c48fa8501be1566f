"""Old rows go, what counts stays; a lake's files are merged without disturbing a reader."""

from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import polars as pl
from polars.testing import assert_frame_equal

from cryptotrace_dagster.bench.market import DAY, fill_day, stored_bytes
from cryptotrace_dagster.domain.windows import Window, day_window, utc_now
from cryptotrace_dagster.pipeline.bars import refresh_bars
from cryptotrace_dagster.pipeline.housekeeping import (
    Retention,
    forget_old_rows,
    last_closed_day,
    maintain_lake,
    pack_ticks,
)
from cryptotrace_dagster.pipeline.ingest import store_ticks
from cryptotrace_dagster.settings import Settings
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.tables import DEAD_LETTERS, DETECTOR_MODELS, INGESTED_OFFSETS, RAW_TICKS
from tests.builders import NOON, ticks
from tests.stores import of_a_file

DAYS = timedelta(days=1)
RETENTION = Retention(ticks=10 * DAYS, bars=30 * DAYS, fine_bars=2 * DAYS, events=20 * DAYS)


def trade_on(days_ago: int, trade_id: int, **fields: object) -> dict[str, object]:
    return {"trade_id": trade_id, "trade_time": NOON - days_ago * DAYS, **fields}


def with_history(store: Warehouse, *days_ago: int) -> None:
    """Store a trade on each of the days, oldest first, and make all their bars."""
    for number, age in enumerate(sorted(days_ago, reverse=True), start=1):
        store_ticks(store, ticks(trade_on(age, number)), NOON)
        refresh_bars(store, day_window((NOON - age * DAYS).date()))


def ages(store: Warehouse, sql: str) -> list[int]:
    return sorted({(NOON - time).days for (time,) in store.read(sql).iter_rows()})


def test_each_kind_of_row_is_kept_as_long_as_its_setting_says(store: Warehouse) -> None:
    with_history(store, 0, 1, 3, 9, 11, 29, 31)
    forgotten = forget_old_rows(store, RETENTION, NOON)
    assert ages(store, "SELECT trade_time FROM raw_ticks") == [0, 1, 3, 9]
    assert ages(store, "SELECT last_trade_time FROM ohlc_bars WHERE bar_interval = '1s'") == [0, 1]
    for interval in ("1m", "5m", "15m", "1h", "1d"):
        kept = ages(store, f"SELECT last_trade_time FROM ohlc_bars WHERE bar_interval = '{interval}'")
        assert kept == [0, 1, 3, 9, 11, 29]
    assert forgotten["raw_ticks"] == 3
    assert sum(forget_old_rows(store, RETENTION, NOON).values()) == 0


def test_a_forgotten_trade_does_not_come_back_as_a_new_one(store: Warehouse) -> None:
    """A replayed topic or dump would else ring its alarms again, over bars made of a part of their trades."""
    with_history(store, 0, 11)
    forget_old_rows(store, RETENTION, NOON)
    assert store_ticks(store, ticks(trade_on(11, 1)), NOON).stored == 0


def test_a_replayed_recording_is_not_old_at_once(store: Warehouse) -> None:
    with_history(store, 0, 1)
    assert sum(forget_old_rows(store, RETENTION, NOON + 3000 * DAYS).values()) == 0


def test_an_exchange_whose_clock_runs_ahead_does_not_make_everything_old(store: Warehouse) -> None:
    with_history(store, 0)
    store_ticks(store, ticks({"trade_id": 2, "trade_time": NOON + 300 * DAYS}), NOON)
    forget_old_rows(store, RETENTION, NOON)
    assert ages(store, "SELECT trade_time FROM raw_ticks WHERE trade_id = 1") == [0]


def test_an_empty_warehouse_has_nothing_old(store: Warehouse) -> None:
    assert forget_old_rows(store, RETENTION, NOON) == {}


def test_only_the_latest_offset_of_a_partition_is_kept(store: Warehouse) -> None:
    with_history(store, 0)
    rows = [("one", "ticks", "", 0, 10 + n, NOON + timedelta(seconds=n)) for n in range(5)]
    rows += [("one", "ticks", "", 0, 3, NOON + timedelta(seconds=9)), ("two", "ticks", "", 1, 7, NOON)]
    with store.transaction() as transaction:
        transaction.append(INGESTED_OFFSETS, pl.DataFrame(rows, schema=INGESTED_OFFSETS.polars_schema, orient="row"))
    assert forget_old_rows(store, RETENTION, NOON)["ingested_offsets"] == 5
    kept = store.read("SELECT cluster_id, next_offset FROM ingested_offsets ORDER BY ALL").rows()
    assert kept == [("one", 3), ("two", 7)]


def test_unreadable_messages_and_closed_gaps_go_open_gaps_stay(store: Warehouse) -> None:
    old = NOON - 21 * DAYS
    store_ticks(store, ticks(trade_on(22, 1), trade_on(21, 3), trade_on(21, 5), trade_on(0, 6)), old)
    store_ticks(store, ticks(trade_on(21, 4)), old)
    letter = pl.DataFrame([("ticks", 0, 1, b"x", "why", old)], schema=DEAD_LETTERS.polars_schema, orient="row")
    with store.transaction() as transaction:
        transaction.append(DEAD_LETTERS, letter)
    forgotten = forget_old_rows(store, RETENTION, NOON)
    assert (forgotten["dead_letters"], forgotten["trade_id_gaps"]) == (1, 1)
    assert store.read("SELECT first_missing_id, closed_at FROM trade_id_gaps").rows() == [(2, None)]


def test_models_are_kept_for_a_year_and_a_detectors_newest_for_ever(store: Warehouse) -> None:
    with_history(store, 0)
    models = [("isolation_forest", 400), ("isolation_forest", 300), ("pump_classifier", 500), ("pump_classifier", 400)]
    rows = [
        {**dict.fromkeys(DETECTOR_MODELS.column_names), "detector": detector, "detector_version": 1}
        | {"valid_from": NOON - age * DAYS, "trained_from": NOON, "minutes": 1}
        | {"parameters": "{}", "validation": "{}", "sample": b""}
        for detector, age in models
    ]
    with store.transaction() as transaction:
        transaction.append(DETECTOR_MODELS, pl.DataFrame(rows, schema=DETECTOR_MODELS.polars_schema))
    assert forget_old_rows(store, RETENTION, NOON)["detector_models"] == 2
    assert ages(store, "SELECT valid_from FROM detector_models") == [300, 400]


def test_bars_whose_ticks_are_gone_survive_being_made_again(store: Warehouse) -> None:
    """Someone re-materialises an old day in Dagster's UI: without its ticks there is nothing to make bars of."""
    with_history(store, 0, 11)
    forget_old_rows(store, RETENTION, NOON)
    before = store.read("SELECT * FROM ohlc_bars ORDER BY ALL")
    report = refresh_bars(store, day_window((NOON - 11 * DAYS).date()))
    assert report.details == {"kept": 5}
    assert_frame_equal(store.read("SELECT * FROM ohlc_bars ORDER BY ALL"), before)


def test_a_late_trade_on_a_day_without_one_second_bars_makes_the_whole_day_again(store: Warehouse) -> None:
    """Its minute would else be made of the one second that is there."""
    day = day_window((NOON - 5 * DAYS).date())
    store_ticks(store, ticks(trade_on(5, 1), trade_on(5, 2, trade_time=NOON - 5 * DAYS + timedelta(seconds=3))), NOON)
    store_ticks(store, ticks(trade_on(0, 4)), NOON)
    refresh_bars(store, day)
    forget_old_rows(store, RETENTION, NOON)
    assert (
        store.read("SELECT count(*) FROM ohlc_bars WHERE bar_interval = '1s' AND bar_start < ?", [day.end]).item() == 0
    )
    late = trade_on(5, 3, trade_time=NOON - 5 * DAYS + timedelta(seconds=7), quantity=Decimal(5))
    (window,) = store_ticks(store, ticks(late), NOON).windows
    refresh_bars(store, window)
    minute = store.read(
        "SELECT volume, tick_count FROM ohlc_bars WHERE bar_interval = '1m' AND bar_start < ?", [day.end]
    )
    assert minute.rows() == [(Decimal(7), 3)]


def test_the_settings_name_every_age() -> None:
    settings = Settings(
        tick_retention_days=1, fine_bar_retention_days=2, bar_retention_days=3, event_retention_days=4, _env_file=None
    )
    assert Retention.from_settings(settings) == Retention(DAYS, 3 * DAYS, 2 * DAYS, 4 * DAYS)


def test_a_lakes_small_files_become_few_and_hold_the_same_rows(lake: Warehouse) -> None:
    for batch in range(6):
        rows = [{"trade_id": batch * 20 + n, "trade_time": NOON + timedelta(seconds=batch)} for n in range(20)]
        with lake.transaction() as transaction:
            transaction.append(RAW_TICKS, ticks(*rows))
    window = Window(NOON, NOON + DAYS)
    before, files = lake.read_window(RAW_TICKS, window), _files(lake)
    maintain_lake(lake, utc_now(), keep=timedelta(hours=1))
    assert _files(lake) > files  # the merged one is there, those it replaces are kept for who reads them
    done = maintain_lake(lake, utc_now() + timedelta(seconds=1), keep=timedelta(0))
    assert done["files_removed"] == 6
    assert _files(lake) == 1
    assert_frame_equal(lake.read_window(RAW_TICKS, window), before)


@of_a_file
def test_a_file_needs_no_maintenance(warehouse: Warehouse) -> None:
    assert maintain_lake(warehouse, utc_now()) == {}


def _files(lake: Warehouse) -> int:
    assert lake.address.data_path is not None
    return len(list(Path(lake.address.data_path).glob("**/raw_ticks/**/*.parquet")))


@of_a_file
def test_packing_a_day_changes_no_trade_and_stores_each_symbol_together(warehouse: Warehouse) -> None:
    mixed = [
        {"symbol": symbol, "trade_id": number, "trade_time": NOON + number * timedelta(seconds=1)}
        for number in range(1, 200)
        for symbol in ("BTCUSDT", "ETHUSDT")
    ]
    midnight = day_window(NOON.date()).end
    edges = [
        {"symbol": "BTCUSDT", "trade_id": 900, "trade_time": midnight - timedelta(microseconds=1)},
        {"symbol": "BTCUSDT", "trade_id": 901, "trade_time": midnight},
    ]
    store_ticks(warehouse, ticks(*mixed[::-1], *edges), NOON)
    everything = f"SELECT * FROM {RAW_TICKS.name} ORDER BY symbol, trade_id"
    before = warehouse.read(everything)
    day = last_closed_day(warehouse, midnight + DAYS)
    assert day == day_window(NOON.date())
    assert pack_ticks(warehouse, day) == len(mixed) + 1
    assert_frame_equal(warehouse.read(everything), before)
    as_stored = warehouse.read(f"SELECT symbol, trade_id FROM {RAW_TICKS.name} WHERE trade_id < 900 ORDER BY rowid")
    assert as_stored["symbol"].rle_id().max() == 1


@of_a_file
def test_packed_ticks_take_little_more_than_half_the_room(warehouse: Warehouse) -> None:
    loose = fill_day(warehouse, 500_000).bytes_per_tick
    pack_ticks(warehouse, DAY)
    assert stored_bytes(warehouse) / 500_000 < 0.75 * loose


def test_an_empty_warehouse_has_no_day_to_pack(warehouse: Warehouse) -> None:
    assert last_closed_day(warehouse, NOON) is None
