"""The contract of the one door to stored data, on both stores."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import BinaryIO

import duckdb
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from cryptotrace_dagster import connections, schema, shared_opening, storage
from cryptotrace_dagster.connections import without_secrets
from cryptotrace_dagster.domain.windows import Window, utc_now
from cryptotrace_dagster.schema import FoundSchema, Migration
from cryptotrace_dagster.storage import (
    ContractError,
    StorageError,
    StorageFullError,
    Warehouse,
    WarehouseBusyError,
    WarehouseMissingError,
)
from cryptotrace_dagster.tables import (
    ALL_TABLES,
    DEAD_LETTERS,
    RAW_TICKS,
    SCHEMA_VERSION,
    SCHEMA_VERSIONS,
    ColumnType,
)
from tests.builders import NOON, ticks
from tests.postgres_server import PostgresServer
from tests.stores import NewStore, of_a_file

HOUR = Window(NOON, NOON + timedelta(hours=1))
HOLD = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "reading")
print("open", flush=True)
sys.stdin.read()
"""


def test_every_type_comes_back_as_it_went_in(store: Warehouse) -> None:
    frame = ticks(
        {"price": Decimal("0.00000001"), "quantity": Decimal("999999999999.99999999")},
        {"symbol": "1000SATSUSDT", "is_buyer_maker": True, "trade_time": NOON + timedelta(microseconds=1)},
    ).sort("symbol")
    letter = pl.DataFrame([("ticks", 0, 7, b"\x00\xff{", "why", NOON)], schema=DEAD_LETTERS.polars_schema, orient="row")
    with store.transaction() as transaction:
        transaction.append(RAW_TICKS, frame)
        transaction.append(DEAD_LETTERS, letter)
    assert_frame_equal(store.read_window(RAW_TICKS, HOUR), frame)
    assert_frame_equal(store.read(f"SELECT * FROM {DEAD_LETTERS.name}"), letter)


def test_a_block_that_raises_leaves_no_row(store: Warehouse) -> None:
    with pytest.raises(RuntimeError, match="stop"), store.transaction() as transaction:
        transaction.append(RAW_TICKS, ticks({}))
        raise RuntimeError("stop")
    assert store.read(f"SELECT count(*) FROM {RAW_TICKS.name}").item() == 0


def test_a_warehouse_that_is_held_open_commits_each_transaction_and_rolls_back_the_one_that_raises(
    store: Warehouse,
) -> None:
    """A live run makes four stages in one opening; one that fails must not take the others with it."""
    with pytest.raises(ZeroDivisionError), store.held():
        with store.transaction() as transaction:
            transaction.append(RAW_TICKS, ticks({"trade_id": 1}))
        with store.held(), store.reading() as connection:  # a stage that would hold it by itself shares this opening
            assert connection.execute("SELECT count(*) FROM raw_ticks").fetchone() == (1,)
        with store.transaction() as transaction:
            transaction.append(RAW_TICKS, ticks({"trade_id": 2}))
            _ = 1 / 0
    assert store.read("SELECT trade_id FROM raw_ticks")["trade_id"].to_list() == [1]
    with store.transaction() as transaction:  # it is open to everyone again
        transaction.append(RAW_TICKS, ticks({"trade_id": 3}))


def test_a_held_warehouse_is_let_go_while_something_is_computed_and_shows_afterwards_what_others_wrote(
    store: Warehouse,
) -> None:
    """The detectors compute for seconds; readers and other writers must not wait for them."""
    other = Warehouse(store.url, data_path=store.address.data_path, lock_wait_seconds=2.0)
    with store.held():
        with store.transaction() as transaction:
            transaction.append(RAW_TICKS, ticks({"trade_id": 1}))
        with store.released():
            assert other.read("SELECT trade_id FROM raw_ticks")["trade_id"].to_list() == [1]
            with other.transaction() as transaction:
                transaction.append(RAW_TICKS, ticks({"trade_id": 2}))
        with store.reading() as connection:
            assert connection.execute("SELECT count(*) FROM raw_ticks").fetchone() == (2,)
    with store.released(), other.transaction() as transaction:  # held by nobody, it is free anyway
        transaction.append(RAW_TICKS, ticks({"trade_id": 3}))


def test_what_raises_while_a_held_warehouse_is_let_go_leaves_it_free(store: Warehouse) -> None:
    with pytest.raises(ZeroDivisionError), store.held(), store.released():
        _ = 1 / 0
    with store.transaction() as transaction:
        transaction.append(RAW_TICKS, ticks({}))


def test_replacing_a_window_touches_nothing_beside_it(store: Warehouse) -> None:
    rows = ticks({"trade_time": NOON}, {"trade_time": HOUR.end}, {"symbol": "ETHUSDT", "trade_time": NOON})
    with store.transaction() as transaction:
        transaction.append(RAW_TICKS, rows)
    fresh = ticks({"trade_id": 9, "trade_time": NOON + timedelta(minutes=1)})
    with store.transaction() as transaction:
        assert transaction.replace_window(RAW_TICKS, HOUR, fresh, symbol="BTCUSDT") == 1
    kept = store.read(f"SELECT symbol, trade_id FROM {RAW_TICKS.name} ORDER BY ALL")
    assert kept.rows() == [("BTCUSDT", 2), ("BTCUSDT", 9), ("ETHUSDT", 3)]


def test_rows_outside_the_replaced_window_are_refused(store: Warehouse) -> None:
    """They would be doubled by the next replacement of their own window."""
    for stray in (ticks({"trade_time": HOUR.end}), ticks({"symbol": "ETHUSDT"})):
        with pytest.raises(ContractError, match="lie outside"), store.transaction() as transaction:
            transaction.replace_window(RAW_TICKS, HOUR, stray, symbol="BTCUSDT")


def test_merging_puts_rows_in_the_place_of_their_key(store: Warehouse) -> None:
    with store.transaction() as transaction:
        transaction.append(RAW_TICKS, ticks({"price": Decimal(1)}, {"price": Decimal(2)}))
    with store.transaction() as transaction:
        transaction.merge(RAW_TICKS, ticks({"trade_id": 2, "price": Decimal(3)}, {"trade_id": 5, "price": Decimal(4)}))
    found = store.read(f"SELECT trade_id, price::DOUBLE AS price FROM {RAW_TICKS.name} ORDER BY trade_id")
    assert found.rows() == [(1, 1.0), (2, 3.0), (5, 4.0)]


def test_a_frame_that_breaks_the_contract_is_refused(store: Warehouse) -> None:
    cases = {
        "missing columns": ticks({}).drop("price"),
        "unexpected columns": ticks({}).with_columns(extra=1),
        "null in price": ticks({}).with_columns(price=pl.lit(None, pl.Decimal(20, 8))),
        "does not fit": ticks({}).with_columns(price=pl.lit("dear")),
    }
    for complaint, frame in cases.items():
        with pytest.raises(ContractError, match=complaint), store.transaction() as transaction:
            transaction.append(RAW_TICKS, frame)


def test_reading_cannot_write(store: Warehouse) -> None:
    with pytest.raises(duckdb.Error), store.reading() as connection:
        connection.execute(f"DELETE FROM {RAW_TICKS.name}")


def test_a_wrong_query_is_reported_as_what_it_is(store: Warehouse) -> None:
    with pytest.raises(duckdb.BinderException, match="no_such_column"):
        store.read(f"SELECT no_such_column FROM {RAW_TICKS.name}")


def test_a_store_that_is_not_there_yet_says_how_to_get_one(new_store: NewStore) -> None:
    with pytest.raises(WarehouseMissingError, match="Start"):
        new_store().read("SELECT 1")


def test_making_the_tables_again_writes_nothing(store: Warehouse) -> None:
    """Every asset, sensor and schedule asks for it; a write each time would queue them behind each other."""
    before = store.read(f"SELECT * FROM {SCHEMA_VERSIONS.name}")
    impatient = Warehouse(store.url, data_path=store.address.data_path, lock_wait_seconds=0.2)
    with store.reading() if not store.is_lake else store.transaction():  # what keeps a writer out of either store
        impatient.create()
    assert_frame_equal(store.read(f"SELECT * FROM {SCHEMA_VERSIONS.name}"), before)


def test_a_table_and_a_column_that_a_release_added_are_made_on_opening(store: Warehouse) -> None:
    with store.transaction() as transaction:
        transaction.append(RAW_TICKS, ticks({}))
        transaction.connection.execute("DROP TABLE dirty_windows")
        transaction.connection.execute("ALTER TABLE alerts DROP COLUMN retracted_at")
    store.create()
    assert store.read("SELECT count(*) FROM dirty_windows").item() == 0
    assert "retracted_at" in store.read("SELECT * FROM alerts").columns
    assert store.read(f"SELECT count(*) FROM {RAW_TICKS.name}").item() == 1


def test_a_newer_schema_is_refused_with_a_sentence(store: Warehouse) -> None:
    row = {"version": [SCHEMA_VERSION + 1], "migrated_at": [utc_now()]}
    with store.transaction() as transaction:
        transaction.append(SCHEMA_VERSIONS, pl.DataFrame(row, schema=SCHEMA_VERSIONS.polars_schema))
    with pytest.raises(StorageError, match=r"schema version \d+, this release knows \d+: install the newer"):
        store.create()


def test_an_older_store_is_migrated_forward_step_by_step(store: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = (
        Migration(3, ("UPDATE raw_ticks SET price = price * 10",)),
        Migration(2, ("UPDATE raw_ticks SET price = price + 1",)),
    )
    with store.transaction() as transaction:
        transaction.append(RAW_TICKS, ticks({"price": Decimal(1)}))
    monkeypatch.setattr(schema.migration_statements, "__kwdefaults__", {"version": 3, "migrations": steps})
    monkeypatch.setattr("cryptotrace_dagster.storage.SCHEMA_VERSION", 3)
    for _ in range(2):  # the second time there is nothing left to do
        store.create()
        assert store.read("SELECT price FROM raw_ticks").item() == Decimal(20)
    assert store.read("SELECT version FROM schema_versions ORDER BY version")["version"].to_list() == [1, 3]


def test_a_missing_column_that_may_not_be_null_needs_a_migration() -> None:
    columns = {table.name: frozenset(table.column_names) for table in ALL_TABLES}
    columns["raw_ticks"] -= {"is_buyer_maker"}
    with pytest.raises(StorageError, match="has no column is_buyer_maker: another release"):
        schema.additions(FoundSchema(SCHEMA_VERSION, columns))


def test_two_threads_write_one_after_the_other(store: Warehouse) -> None:
    """Two transactions that both read 'not stored yet' would both store it."""

    def add_one() -> None:
        with store.transaction() as transaction:
            (count,) = transaction.query(f"SELECT count(*) FROM {RAW_TICKS.name}").row(0)
            transaction.append(RAW_TICKS, ticks({"trade_id": count + 1}))

    threads = [threading.Thread(target=add_one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = store.read(f"SELECT trade_id FROM {RAW_TICKS.name} ORDER BY trade_id")
    assert found["trade_id"].to_list() == [1, 2, 3, 4, 5, 6]


def test_work_that_is_claimed_is_nobody_elses_until_it_is_done(store: Warehouse) -> None:
    other = Warehouse(store.url, data_path=store.address.data_path)
    with store.claimed("delivery") as is_ours:
        assert is_ours
        with other.claimed("delivery") as is_theirs:
            assert not is_theirs
        with other.transaction() as transaction:  # the store itself is open to everybody
            transaction.append(RAW_TICKS, ticks({}))
    with other.claimed("delivery") as is_theirs:
        assert is_theirs


def test_a_writer_is_waited_for_only_so_long(store: Warehouse) -> None:
    impatient = Warehouse(store.url, data_path=store.address.data_path, lock_wait_seconds=0.3)
    with store.transaction(), pytest.raises(WarehouseBusyError, match=r"0\.3 s"), impatient.transaction():
        pytest.fail("two writers at once")


@of_a_file
@pytest.mark.parametrize("mode", ["reading", "writing"])
def test_a_file_that_another_process_holds_is_waited_for(warehouse: Warehouse, mode: str) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, warehouse.url, mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdin is not None and holder.stdout is not None
    assert holder.stdout.readline() == "open\n"
    try:
        impatient = Warehouse(warehouse.url, lock_wait_seconds=0.3)
        with pytest.raises(WarehouseBusyError, match=f"by process {holder.pid}"), impatient.transaction():
            pytest.fail("the file was not locked")
        threading.Timer(0.3, holder.stdin.close).start()
        with warehouse.transaction() as transaction:
            transaction.append(RAW_TICKS, ticks({}))
    finally:
        holder.kill()
        holder.wait()
    assert warehouse.read(f"SELECT count(*) FROM {RAW_TICKS.name}").item() == 1


@of_a_file
def test_this_process_reading_keeps_its_own_writer_waiting_not_failing(warehouse: Warehouse) -> None:
    impatient = Warehouse(warehouse.url, lock_wait_seconds=0.2)
    with warehouse.reading(), pytest.raises(WarehouseBusyError, match="this process itself"), impatient.transaction():
        pytest.fail("the file was not locked")


READ_WITHOUT_END = """
import sys, threading, time
from cryptotrace_dagster.storage import Warehouse
shared = Warehouse(sys.argv[1], shares_opening=True)
def read():
    while True:
        with shared.reading() if sys.argv[2] == "shared" else Warehouse(sys.argv[1]).reading():
            time.sleep(0.05)
for _ in range(4):
    threading.Thread(target=read, daemon=True).start()
time.sleep(0.5)
print("reading", flush=True)
sys.stdin.read()
"""


@of_a_file
@pytest.mark.parametrize("opening", ["shared", "each its own"])
def test_a_writer_has_its_turn_although_somebody_is_always_reading(warehouse: Warehouse, opening: str) -> None:
    """Guards against a lock without turns: four readers who overlap would keep the file taken for good."""
    readers = subprocess.Popen(
        [sys.executable, "-c", READ_WITHOUT_END, warehouse.url, opening],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert readers.stdout is not None
        assert readers.stdout.readline() == "reading\n"
        patient = Warehouse(warehouse.url, lock_wait_seconds=5)
        for trade_id in range(5):
            with patient.transaction() as transaction:
                transaction.append(RAW_TICKS, ticks({"trade_id": trade_id}))
        assert readers.poll() is None, "the readers have their turn, too"
    finally:
        readers.kill()
        readers.wait()
    assert warehouse.read(f"SELECT count(*) FROM {RAW_TICKS.name}").item() == 5


@of_a_file
def test_questions_that_follow_each_other_share_one_opening_and_see_what_was_written_between(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    openings, attach = [], connections._attached_file

    def opened(path: Path, *, read_only: bool, threads: int | None) -> duckdb.DuckDBPyConnection:
        openings.append(read_only)
        return attach(path, read_only=read_only, threads=threads)

    monkeypatch.setattr(shared_opening, "_STAYS_OPEN", 60.0)
    monkeypatch.setattr(connections, "_attached_file", opened)
    reader = Warehouse(warehouse.url, shares_opening=True)
    count = partial(reader.read, f"SELECT count(*) FROM {RAW_TICKS.name}")

    with ThreadPoolExecutor() as threads:
        assert [each.item() for each in threads.map(lambda _: count(), range(20))] == [0] * 20
    with warehouse.transaction() as transaction:  # in this process, which has the file open for reading
        transaction.append(RAW_TICKS, ticks({}))
    assert count().item() == 1
    assert openings.count(True) == 2


@of_a_file
def test_an_opening_that_nobody_uses_any_more_is_closed(warehouse: Warehouse) -> None:
    Warehouse(warehouse.url, shares_opening=True).read("SELECT 1")
    time.sleep(0.5)
    duckdb.connect(warehouse.url).close()  # as a shell would: it waits for nobody


ASK_AND_END = """
import sys, time
from cryptotrace_dagster.storage import Warehouse
Warehouse(sys.argv[1], shares_opening=True).read("SELECT 1")
time.sleep(float(sys.argv[2]))
"""


@of_a_file
def test_a_program_may_end_at_any_moment_after_its_last_question(warehouse: Warehouse) -> None:
    """Guards against a daemon thread inside DuckDB when the interpreter ends (SIGABRT); it closes after 0.1 s."""
    commands = [[sys.executable, "-c", ASK_AND_END, warehouse.url, str(0.096 + part / 500)] for part in range(12)]
    assert [subprocess.run(command, check=False, timeout=60).returncode for command in commands] == [0] * 12


def test_a_file_that_is_no_warehouse_is_named(tmp_path: Path) -> None:
    path = tmp_path / "notes.duckdb"
    path.write_text("not a database " * 1000)
    with pytest.raises(StorageError, match="not a valid DuckDB database"):
        Warehouse(str(path)).create()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(StorageError, match="choose another DATA_DIR"):
        Warehouse(str(tmp_path / "taken" / "store.duckdb")).create()


FULL_DISK = """
import resource, signal, sys
from cryptotrace_dagster.storage import StorageFullError, Warehouse
from cryptotrace_dagster.tables import RAW_TICKS
from tests.builders import ticks
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
try:
    with Warehouse(sys.argv[1]).transaction() as transaction:
        transaction.append(RAW_TICKS, ticks(*({"symbol": f"S{i}USDT"} for i in range(40_000))))
except StorageFullError as error:
    print(error)
"""


@of_a_file
def test_a_full_disk_is_named_and_what_was_committed_stays(warehouse: Warehouse) -> None:
    with warehouse.transaction() as transaction:
        transaction.append(RAW_TICKS, ticks({}))
    limit = Path(warehouse.url).stat().st_size + 20_000
    run = subprocess.run(
        [sys.executable, "-c", FULL_DISK, warehouse.url, str(limit)], capture_output=True, text=True, check=False
    )
    assert "is full, nothing of this transaction was kept: make room" in run.stdout, run.stderr
    assert warehouse.read(f"SELECT symbol FROM {RAW_TICKS.name}")["symbol"].to_list() == ["BTCUSDT"]
    with warehouse.transaction() as transaction:
        transaction.append(RAW_TICKS, ticks({"trade_id": 2}))
    assert issubclass(StorageFullError, StorageError)


def test_nobody_can_write_while_a_file_and_its_log_are_copied(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing any descriptor of a file drops the process's locks on it: the file itself has to be copied last."""
    if warehouse.is_lake:
        pytest.skip("a lake is copied by queries, not as a file")
    killed = f"""
import duckdb, os
connection = duckdb.connect({warehouse.url!r})
connection.execute("INSERT INTO schema_versions VALUES (0, now()::TIMESTAMP)")
os._exit(9)  # the row is in the write-ahead log only
"""
    subprocess.run([sys.executable, "-c", killed], check=False)
    assert Path(f"{warehouse.url}.wal").exists()
    intruder = f"import duckdb; duckdb.connect({warehouse.url!r})"
    intruders: list[int] = []
    steps = {"copyfile": storage.shutil.copyfile, "_make_equal": storage._make_equal}

    def watched(name: str, *arguments: object) -> None:
        intruders.append(subprocess.run([sys.executable, "-c", intruder], check=False, capture_output=True).returncode)
        steps[name](*arguments)

    monkeypatch.setattr(storage.shutil, "copyfile", partial(watched, "copyfile"))
    monkeypatch.setattr(storage, "_make_equal", partial(watched, "_make_equal"))
    warehouse.publish(tmp_path / "copy.duckdb")
    assert len(intruders) == 2 and all(intruders), "each part is copied under the lock"
    found = Warehouse(str(tmp_path / "copy.duckdb")).read("SELECT count(*) FROM schema_versions WHERE version = 0")
    assert found.item() == 1


@pytest.mark.parametrize("before", [[], list(range(3, 40_000))])
def test_what_is_written_while_the_file_is_copied_is_in_the_copy_as_a_whole(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: list[int]
) -> None:
    """Most bytes are copied without the lock: blocks that a writer changes, frees or cuts off must not stay as they were."""
    if warehouse.is_lake:
        pytest.skip("a lake is copied by queries, not as a file")

    def store(ids: list[int]) -> None:
        with warehouse.transaction() as transaction:
            transaction.execute(f"DELETE FROM {RAW_TICKS.name}")
            transaction.append(RAW_TICKS, ticks(*({"trade_id": trade_id} for trade_id in ids)))

    store([1, 2, *before])
    copy = storage.shutil.copyfileobj
    sizes = []

    def disturbed(source: BinaryIO, target: BinaryIO, length: int) -> None:
        copy(source, target, length)
        sizes.append(Path(warehouse.url).stat().st_size)
        store([2, *range(500_000, 530_000)] if not before else [2])
        sizes.append(Path(warehouse.url).stat().st_size)

    monkeypatch.setattr(storage.shutil, "copyfileobj", disturbed)
    warehouse.publish(tmp_path / "copy.duckdb")
    assert sizes[0] != sizes[1], "the file grew or shrank under the copy"
    assert (tmp_path / "copy.duckdb").read_bytes() == Path(warehouse.url).read_bytes()
    found = Warehouse(str(tmp_path / "copy.duckdb")).read_window(RAW_TICKS, HOUR)
    assert_frame_equal(found, warehouse.read_window(RAW_TICKS, HOUR))


def test_a_published_copy_holds_the_same_rows_and_replaces_the_one_before(store: Warehouse, tmp_path: Path) -> None:
    copy = tmp_path / "published" / "cryptotrace.duckdb"
    for trade_id in (1, 2):
        with store.transaction() as transaction:
            transaction.append(RAW_TICKS, ticks({"trade_id": trade_id}))
        store.publish(copy)
        assert_frame_equal(Warehouse(str(copy)).read_window(RAW_TICKS, HOUR), store.read_window(RAW_TICKS, HOUR))
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]
    Warehouse(str(copy)).create()


def test_a_copy_that_cannot_be_written_leaves_the_one_before(warehouse: Warehouse, tmp_path: Path) -> None:
    target = tmp_path / "published"
    target.mkdir()
    (target / "keep").write_text("")
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(StorageError, match="could not be written"):
        warehouse.publish(target)  # a folder stands where the file shall be
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_password_never_shows(postgres: PostgresServer) -> None:
    url = f"ducklake:postgres:dbname=none host=127.0.0.1 port={postgres.port} user=postgres password='a b' "
    store = Warehouse(url, data_path="/nowhere/")
    with pytest.raises(StorageError) as failure:
        store.read("SELECT 1")
    assert "a b" not in f"{failure.value} {store!r}"
    assert "password=***" in repr(store)
    assert without_secrets("postgresql://me:hunter2@host/db") == "postgresql://me:***@host/db"


def test_a_lake_whose_catalog_is_not_postgresql_is_refused() -> None:
    with pytest.raises(StorageError, match="not PostgreSQL"):
        Warehouse("ducklake:sqlite:metadata.sqlite", data_path="/tmp/lake/")


def test_a_new_lake_asks_for_the_place_of_its_files(postgres: PostgresServer) -> None:
    with pytest.raises(StorageError, match="set WAREHOUSE_DATA_PATH"):
        Warehouse(postgres.create_database("homeless")).create()


def test_a_catalog_that_dies_in_a_transaction_is_an_error_and_not_the_end_of_the_process(
    lake: Warehouse, postgres: PostgresServer
) -> None:
    with pytest.raises(StorageError), lake.transaction() as transaction:
        transaction.append(RAW_TICKS, ticks({}))
        postgres.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE 'lake%'")
    assert lake.read(f"SELECT count(*) FROM {RAW_TICKS.name}").item() == 0
    with lake.transaction() as transaction:
        transaction.append(RAW_TICKS, ticks({}))
    assert lake.read(f"SELECT count(*) FROM {RAW_TICKS.name}").item() == 1


def test_the_lake_keeps_each_day_in_files_of_its_own(lake: Warehouse) -> None:
    days = [{"symbol": f"S{i}", "trade_time": NOON + timedelta(days=i % 2)} for i in range(40)]
    with lake.transaction() as transaction:
        transaction.append(RAW_TICKS, ticks(*days))
    assert lake.address.data_path is not None
    folders = {path.parent.name for path in Path(lake.address.data_path).glob("**/*.parquet")}
    assert folders == {"day=5", "day=6"}


def test_every_column_type_is_covered_by_the_round_trip() -> None:
    """The round trip above is only as good as the types it sends through."""
    sent = {column.type for table in (RAW_TICKS, DEAD_LETTERS) for column in table.columns}
    derived = {ColumnType.DOUBLE, ColumnType.VOLUME, ColumnType.QUOTE_VOLUME}
    assert sent | derived == set(ColumnType)


def test_an_object_store_is_reached_with_the_usual_variables_and_keeps_its_secret(
    lake: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No request is made: the lake remembers another place, and says so before anything is read there."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "quite'secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9/")
    elsewhere = Warehouse(lake.url, data_path="s3://bucket/lake/")
    with pytest.raises(StorageError, match="is not where the warehouse"):
        elsewhere.read("SELECT 1")
    with lake.reading() as connection:
        (secret,) = connection.execute("SELECT secret_string FROM duckdb_secrets() WHERE type = 's3'").fetchall()
    assert "endpoint=127.0.0.1:9" in secret[0]
    assert "url_style=path" in secret[0]
    assert "use_ssl=false" in secret[0]
    assert "quite" not in secret[0]
