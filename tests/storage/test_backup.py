"""Backup, wipe, restore: complete to the last committed trade, on and between both stores."""

import json
import threading
from datetime import timedelta
from pathlib import Path

import duckdb
import pytest
import typer
from polars.testing import assert_frame_equal
from typer.testing import CliRunner

from cryptotrace_dagster.cli import storage as commands
from cryptotrace_dagster.domain.windows import Window, utc_now
from cryptotrace_dagster.pipeline.backup import back_up, inventory, restore
from cryptotrace_dagster.pipeline.bars import refresh_bars
from cryptotrace_dagster.pipeline.ingest import store_ticks
from cryptotrace_dagster.storage import StorageError, Warehouse
from cryptotrace_dagster.tables import ALL_TABLES
from tests.builders import NOON, ticks
from tests.stores import NewStore

HOUR = Window(NOON, NOON + timedelta(hours=1))


def fill(store: Warehouse) -> None:
    rows = [
        {"symbol": symbol, "trade_id": n} for symbol in ("BTCUSDT", "ETHUSDT") for n in (*range(1, 80), *range(90, 99))
    ]
    store_ticks(store, ticks(*(row | {"trade_time": NOON + timedelta(seconds=i)} for i, row in enumerate(rows))), NOON)
    refresh_bars(store, HOUR)


def contents(store: Warehouse) -> list[object]:
    return [store.read(f"SELECT {', '.join(t.column_names)} FROM {t.name} ORDER BY ALL") for t in ALL_TABLES]


def test_a_restore_on_an_empty_host_is_complete_to_the_last_committed_trade(
    store: Warehouse, new_store: NewStore, tmp_path: Path
) -> None:
    fill(store)
    path, held = back_up(store, tmp_path, NOON)
    assert path.name == "cryptotrace-20260105T120000Z.duckdb"
    fresh = new_store()
    assert restore(path, fresh) == held == inventory(store)
    assert held.rows["raw_ticks"] == 176
    assert held.trade_ids == {"BTCUSDT": (1, 98, 2), "ETHUSDT": (1, 98, 2)}
    for before, after in zip(contents(store), contents(fresh), strict=True):
        assert_frame_equal(before, after)  # type: ignore[arg-type]
    assert store_ticks(fresh, ticks({"trade_id": 98}, {"trade_id": 99}), NOON).stored == 1


def test_a_backup_moves_a_warehouse_from_a_file_into_a_lake_and_back(
    warehouse: Warehouse, lake: Warehouse, tmp_path: Path
) -> None:
    fill(warehouse)
    restore(back_up(warehouse, tmp_path / "one", NOON)[0], lake)
    again = Warehouse(str(tmp_path / "again" / "store.duckdb"))
    restore(back_up(lake, tmp_path / "two", NOON)[0], again)
    for before, after in zip(contents(warehouse), contents(again), strict=True):
        assert_frame_equal(before, after)  # type: ignore[arg-type]


def test_a_backup_under_way_holds_whole_commits_only(store: Warehouse, tmp_path: Path) -> None:
    over = threading.Event()

    def trade() -> None:
        number = 0
        while not over.is_set():
            store_ticks(store, ticks(*({"trade_id": number * 10 + n} for n in range(10))), NOON)
            number += 1

    writer = threading.Thread(target=trade)
    writer.start()
    try:
        for number in range(3):
            path, held = back_up(store, tmp_path / f"backup{number}", NOON)
            assert held.rows["raw_ticks"] % 10 == 0
            ids = Warehouse(str(path)).read("SELECT count(*), max(trade_id) + 1 FROM raw_ticks").row(0)
            assert ids in {(held.rows["raw_ticks"], held.rows["raw_ticks"]), (0, None)}
    finally:
        over.set()
        writer.join()


def test_trades_are_not_given_up_unless_asked_for(store: Warehouse, tmp_path: Path) -> None:
    fill(store)
    path, held = back_up(store, tmp_path / "backup", NOON)
    store_ticks(store, ticks({"symbol": "NEWUSDT"}), NOON)
    with pytest.raises(StorageError, match="holds 177 trades"):
        restore(path, store)
    assert restore(path, store, overwrite=True) == held


def test_what_is_no_backup_is_refused_and_changes_nothing(store: Warehouse, tmp_path: Path) -> None:
    other = tmp_path / "other.duckdb"
    with duckdb.connect(str(other)) as connection:
        connection.execute("CREATE TABLE unrelated (a INTEGER)")
    (tmp_path / "garbage.duckdb").write_text("garbage " * 1000)
    for path in (other, tmp_path / "garbage.duckdb", tmp_path / "none.duckdb"):
        with pytest.raises(StorageError):
            restore(path, store)
    assert inventory(store).rows["raw_ticks"] == 0


def test_a_backup_of_a_newer_release_is_refused(warehouse: Warehouse, tmp_path: Path) -> None:
    path, _ = back_up(warehouse, tmp_path / "backup", NOON)
    with Warehouse(str(path)).transaction() as transaction:
        transaction.execute("INSERT INTO schema_versions VALUES (99, TIMESTAMP '2026-01-01')")
    with pytest.raises(StorageError, match="schema version 99"):
        restore(path, Warehouse(str(tmp_path / "fresh" / "store.duckdb")))
    assert list((tmp_path / "fresh").iterdir()) == []


def test_a_file_is_never_overwritten_by_a_backup(warehouse: Warehouse, tmp_path: Path) -> None:
    (tmp_path / "backup").write_text("precious")
    with pytest.raises(StorageError, match="exists already"):
        back_up(warehouse, tmp_path / "backup", NOON)


def test_the_commands_back_up_restore_and_maintain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WAREHOUSE_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    commands.register(app)
    store = Warehouse(str(tmp_path / "old" / "cryptotrace.duckdb"))
    store.create()
    fill(store)

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    made = json.loads(run("backup", "backup.duckdb", "--json", "--data-dir", "old"))
    restored = json.loads(run("restore", "backup.duckdb", "--json", "--data-dir", "new"))
    assert made["rows"] == restored["rows"]
    assert made["trade_ids"] == restored["trade_ids"]
    assert "BTCUSDT: trades 1 to 98, with 1 gaps" in run("backup", "again.duckdb", "--data-dir", "new")
    assert json.loads(run("maintain", "--json", "--data-dir", "new"))["raw_ticks"] == 0
    assert utc_now() > NOON
