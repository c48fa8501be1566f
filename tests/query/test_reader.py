"""A question reaches the store only when its answer may have changed."""

import threading
from pathlib import Path

import polars as pl
import pytest

from cryptotrace_dagster.queries import Reader, data_version
from cryptotrace_dagster.storage import Warehouse, WarehouseBusyError
from cryptotrace_dagster.tables import RAW_TICKS
from tests.builders import ticks

COUNT = "SELECT count(*) AS trades FROM raw_ticks"


class CountingWarehouse(Warehouse):
    """A warehouse that counts how often it is really read, and can be told to be busy."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.reads = 0
        self.is_busy = False

    def read(self, sql: str, parameters=()) -> pl.DataFrame:  # type: ignore[no-untyped-def]
        if self.is_busy:
            raise WarehouseBusyError("somebody writes for long")
        self.reads += 1
        return super().read(sql, parameters)


@pytest.fixture
def counted(tmp_path: Path) -> CountingWarehouse:
    store = CountingWarehouse(str(tmp_path / "cryptotrace.duckdb"))
    store.create()
    return store


def add_a_tick(store: Warehouse, trade_id: int) -> None:
    with store.transaction() as transaction:
        transaction.append(RAW_TICKS, ticks({"trade_id": trade_id}))


def test_an_answer_is_repeated_while_nothing_was_committed(counted: CountingWarehouse) -> None:
    reader = Reader(counted, fresh_for=0.0)
    assert [reader.read(COUNT).item() for _ in range(5)] == [0] * 5
    assert counted.reads == 1


def test_a_commit_makes_the_next_question_reach_the_store(counted: CountingWarehouse) -> None:
    reader = Reader(counted, fresh_for=0.0)
    for trade_id in range(1, 4):
        add_a_tick(counted, trade_id)
        assert reader.read(COUNT).item() == trade_id
    assert counted.reads == 3


def test_commits_in_quick_succession_do_not_each_cost_a_read(counted: CountingWarehouse) -> None:
    reader = Reader(counted, fresh_for=60.0)
    reader.read(COUNT)
    for trade_id in range(1, 4):
        add_a_tick(counted, trade_id)
        reader.read(COUNT)
    assert counted.reads == 1
    reader.forget()
    assert reader.read(COUNT).item() == 3


def test_the_data_version_changes_with_every_commit_and_only_then(counted: CountingWarehouse) -> None:
    seen = [data_version(counted)]
    for trade_id in range(1, 6):
        add_a_tick(counted, trade_id)
        counted.read(COUNT)
        seen += [data_version(counted)]
        assert data_version(counted) == seen[-1]
    assert len(set(seen)) == len(seen)


def test_parameters_are_part_of_the_question(counted: CountingWarehouse) -> None:
    add_a_tick(counted, 1)
    reader = Reader(counted)
    question = "SELECT count(*) FROM raw_ticks WHERE symbol = ?"
    assert (reader.read(question, ["BTCUSDT"]).item(), reader.read(question, ["ETHUSDT"]).item()) == (1, 0)


def test_many_who_ask_the_same_at_once_cost_one_read(counted: CountingWarehouse) -> None:
    reader = Reader(counted)
    threads = [threading.Thread(target=reader.read, args=(COUNT,)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted.reads == 1


def test_while_the_store_is_busy_the_last_answer_is_better_than_none(counted: CountingWarehouse) -> None:
    patient, strict = Reader(counted, fresh_for=0.0, stale_for=60.0), Reader(counted, fresh_for=0.0)
    for reader in (patient, strict):
        reader.read(COUNT)
    add_a_tick(counted, 1)
    counted.is_busy = True
    assert patient.read(COUNT).item() == 0
    with pytest.raises(WarehouseBusyError):
        strict.read(COUNT)
    with pytest.raises(WarehouseBusyError):
        patient.read("SELECT 1")  # never answered before
    counted.is_busy = False
    assert patient.read(COUNT).item() == 1


def test_a_reader_leaves_the_store_free_for_the_writer(counted: CountingWarehouse) -> None:
    """A connection that stayed open would make this wait for the lock until it gives up."""
    reader = Reader(counted)
    reader.read(COUNT)
    quick = Warehouse(counted.url, lock_wait_seconds=0.5)
    with quick.transaction() as transaction:
        transaction.append(RAW_TICKS, ticks({"trade_id": 9}))
