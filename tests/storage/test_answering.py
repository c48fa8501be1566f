"""Whoever has a DuckDB file for writing answers the questions of the others meanwhile."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from cryptotrace_dagster import answering, connections
from cryptotrace_dagster.storage import StorageError, Warehouse, WarehouseBusyError
from cryptotrace_dagster.tables import RAW_TICKS
from tests.builders import NOON, ticks

COUNT = f"SELECT count(*) FROM {RAW_TICKS.name}"
SLOW = "SELECT sum(hash(number)) AS total FROM range({}) AS numbers(number)"
HOLD_AND_BE_KILLED = """
import sys
from cryptotrace_dagster.storage import Warehouse
with Warehouse(sys.argv[1]).held():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def file(tmp_path: Path) -> Warehouse:
    """A warehouse in a file, so far from the root that its socket needs more than the system's hundred bytes."""
    warehouse = Warehouse(str(tmp_path / ("deep" * 30) / "cryptotrace.duckdb"))
    warehouse.create()
    return warehouse


@pytest.fixture
def server(file: Warehouse) -> Warehouse:
    """The same file as a server reads it."""
    return Warehouse(file.url, shares_opening=True, lock_wait_seconds=5.0)


def test_a_server_sees_what_is_committed_while_somebody_writes(file: Warehouse, server: Warehouse) -> None:
    with file.held():
        with file.transaction() as transaction:
            transaction.append(RAW_TICKS, ticks({"trade_id": 1}))
        with file.transaction() as transaction:
            transaction.append(RAW_TICKS, ticks({"trade_id": 2}))
            assert server.read(COUNT).item() == 1
        assert server.read(COUNT).item() == 2
    assert server.read(COUNT).item() == 2


def test_values_go_to_the_writer_and_come_back_to_the_last_digit(file: Warehouse, server: Warehouse) -> None:
    named = "SELECT * FROM raw_ticks WHERE price = $price AND trade_time >= $since AND list_contains($symbols, symbol)"
    tick = {"price": Decimal("0.00000001"), "trade_time": NOON + timedelta(microseconds=1)}
    by_name = {"price": tick["price"], "since": tick["trade_time"], "symbols": ["ETHUSDT", "BTCUSDT"]}
    by_place = "SELECT ? AS text, ? AS nothing, ? AS whole, ?::BIGINT[] AS numbers", ["a'b;--", None, 2**62, []]
    with file.transaction() as transaction:
        transaction.append(RAW_TICKS, ticks(tick, {"trade_id": 9}))
    expected, constants = server.read(named, by_name), server.read(*by_place)
    assert expected.height == 1
    with file.held():
        assert_frame_equal(server.read(named, by_name), expected)
        assert_frame_equal(server.read(*by_place), constants)


def test_many_ask_at_once(file: Warehouse, server: Warehouse) -> None:
    with file.held(), ThreadPoolExecutor(16) as threads:
        answers = threads.map(lambda number: server.read("SELECT ?", [number]).item(), range(100))
        assert list(answers) == list(range(100))


@pytest.mark.parametrize("change", ["DELETE FROM raw_ticks", "COMMIT; DELETE FROM raw_ticks", "DROP TABLE raw_ticks"])
def test_a_question_cannot_change_anything(file: Warehouse, server: Warehouse, change: str) -> None:
    with file.transaction() as transaction:
        transaction.append(RAW_TICKS, ticks({}))
    with file.held():
        with pytest.raises(answering.RefusedError):
            answering.asked(Path(file.url), change, (), wait_seconds=5.0)
        assert server.read(COUNT).item() == 1
    with pytest.raises((duckdb.Error, StorageError)):
        server.read(change)
    assert file.read(COUNT).item() == 1


def test_only_the_owner_can_ask(file: Warehouse) -> None:
    with file.held():
        assert Path(f"{file.url}.answers").stat().st_mode & 0o777 == 0o600
    assert not Path(f"{file.url}.answers").exists()


def test_a_wrong_question_fails_with_its_reason_when_the_writer_has_gone(file: Warehouse, server: Warehouse) -> None:
    with held_for(file, seconds=0.3), pytest.raises(duckdb.BinderException, match="colour"):
        server.read("SELECT colour FROM raw_ticks")


def test_a_value_that_cannot_be_sent_is_refused_by_the_file_with_its_reason(file: Warehouse, server: Warehouse) -> None:
    with held_for(file, seconds=0.3), pytest.raises(duckdb.InvalidInputException):
        server.read("SELECT ?", [10**40])  # beyond every integer of Arrow and of DuckDB


def test_a_writer_does_not_wait_for_a_long_question_which_is_answered_all_the_same(
    file: Warehouse, server: Warehouse
) -> None:
    """It is put to the file once more when the writer has gone."""
    began = time.monotonic()
    expected = server.read(SLOW.format(10**7)).item()
    numbers = int(10**7 * 3 / (time.monotonic() - began))  # some three seconds
    with ThreadPoolExecutor(1) as asker:
        with file.held():
            total = asker.submit(server.read, SLOW.format(numbers))
            assert server.read(SLOW.format(10**7)).item() == expected
            end = time.monotonic()
        assert time.monotonic() - end < 1.5
        assert not total.done()
        assert total.result().item() > expected


def test_questions_are_answered_until_the_log_is_folded_into_the_file(
    file: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing the file is then a matter of a millisecond."""
    log = Path(f"{file.url}.wal")
    was_there = []

    @contextmanager
    def noting(*arguments: Any) -> Iterator[None]:
        with answering.answering(*arguments):
            yield
            was_there.append(log.exists())

    monkeypatch.setattr(connections, "answering", noting)
    with file.transaction() as transaction:
        transaction.append(RAW_TICKS, ticks({}))
    assert was_there == [False]
    assert file.read(COUNT).item() == 1


def test_a_writer_that_was_killed_leaves_nothing_that_disturbs(file: Warehouse, server: Warehouse) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", HOLD_AND_BE_KILLED, file.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "held\n"
    assert server.read(COUNT).item() == 0
    writer.kill()
    writer.communicate()
    assert server.read(COUNT).item() == 0
    with file.held():
        assert server.read(COUNT).item() == 0


def test_where_no_socket_can_be_made_a_server_waits_for_its_turn(file: Warehouse, server: Warehouse) -> None:
    Path(f"{file.url}.answers").mkdir()
    with held_for(file, seconds=0.3):
        assert server.read(COUNT).item() == 0
    impatient = Warehouse(file.url, shares_opening=True, lock_wait_seconds=0.2)
    with file.held(), pytest.raises(WarehouseBusyError, match=r"was in use for 0\.2 s: try again"):
        impatient.read(COUNT)


def test_an_answer_that_breaks_off_is_none(file: Warehouse, server: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a stream would be read as fewer rows: a writer that is killed while it answers sends such a thing."""
    whole = answering._everything_from
    rows = pl.DataFrame({"number": range(5_000)})
    with file.held():
        monkeypatch.setattr(answering, "_everything_from", lambda peer: whole(peer)[:-8])
        assert answering.asked(Path(file.url), "FROM range(5000)", (), wait_seconds=5.0) is None
        monkeypatch.undo()
        assert_frame_equal(server.read("SELECT range AS number FROM range(5000)"), rows)


@contextmanager
def held_for(warehouse: Warehouse, seconds: float) -> Iterator[None]:
    """Hold it in another thread for so long, and in any case not for less than the block needs to begin."""
    is_held = threading.Event()

    def hold() -> None:
        with warehouse.held():
            is_held.set()
            time.sleep(seconds)

    thread = threading.Thread(target=hold)
    thread.start()
    is_held.wait()
    yield
    thread.join()
