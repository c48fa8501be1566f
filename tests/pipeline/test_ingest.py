"""Exactly once into the warehouse, on both stores, whatever happens to the log or to who reads it."""

import subprocess
import sys
import threading
from datetime import timedelta

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryptotrace_dagster.domain.windows import Window, utc_now
from cryptotrace_dagster.pipeline.dirty import Remade, clear_dirty, closed_until, pending_dirty, record_dirty
from cryptotrace_dagster.pipeline.ingest import StoreReport, dirty_windows, ingest_available, plan_from, store_ticks
from cryptotrace_dagster.storage import Warehouse, WarehouseBusyError
from cryptotrace_dagster.stream import TickStream
from tests.broker import Topic, create_topic, delete_topic, mock_cluster, real_kafka, trade
from tests.builders import NOON, ticks


def ingest(store: Warehouse, topic: Topic, batch_messages: int = 1000) -> StoreReport:
    total = StoreReport()
    with TickStream(topic.bootstrap_servers, topic.name) as stream:
        for report in ingest_available(store, stream, batch_messages=batch_messages):
            total += report
    return total


def stored_ids(store: Warehouse, symbol: str = "BTCUSDT") -> list[int]:
    rows = store.read("SELECT trade_id FROM raw_ticks WHERE symbol = ? ORDER BY trade_id", [symbol])
    return rows["trade_id"].to_list()


def open_gaps(store: Warehouse) -> list[tuple[int, int]]:
    columns = "first_missing_id, last_missing_id"
    return store.read(f"SELECT {columns} FROM trade_id_gaps WHERE closed_at IS NULL ORDER BY ALL").rows()


def test_a_topic_is_stored_once_however_often_it_is_ingested(store: Warehouse, cluster: str) -> None:
    topic = Topic(cluster)
    topic.send_ids(range(1, 101))
    topic.send_ids(range(50, 151))  # repeats
    assert ingest(store, topic).stored == 150
    assert ingest(store, topic) == StoreReport()
    topic.send_ids(range(151, 161))
    assert ingest(store, topic).stored == 10
    assert stored_ids(store) == list(range(1, 161))
    assert store.read("SELECT first_id, last_id FROM trade_id_ranges").rows() == [(1, 160)]


def test_a_gap_is_named_and_closed_when_its_trades_arrive(store: Warehouse, cluster: str) -> None:
    topic = Topic(cluster)
    topic.send_ids([1, 2, 3, 7, 8])
    ingest(store, topic)
    assert open_gaps(store) == [(4, 6)]
    topic.send_ids([5])
    ingest(store, topic)
    assert open_gaps(store) == [(4, 4), (6, 6)]
    topic.send_ids([6, 4])
    ingest(store, topic)
    assert open_gaps(store) == []
    assert (
        store.read("SELECT count(*) FROM trade_id_gaps WHERE closed_at IS NULL OR closed_at < noticed_at").item() == 0
    )


def test_what_cannot_be_read_is_set_aside_whole_and_does_not_stop_the_rest(store: Warehouse, cluster: str) -> None:
    topic = Topic(cluster)
    topic.send(trade(1), b"\x00poison", trade(2), trade(3, p="dear"), trade(4))
    report = ingest(store, topic)
    assert (report.stored, report.dead_letters) == (3, 2)
    letters = store.read("SELECT topic, message_offset, payload, reason FROM dead_letters ORDER BY message_offset")
    assert letters["payload"].to_list() == [b"\x00poison", trade(3, p="dear")]
    assert letters["message_offset"].to_list() == [1, 3]
    assert ingest(store, topic).dead_letters == 0  # read once, set aside once


def test_another_cluster_begins_afresh_and_ids_keep_trades_single(store: Warehouse) -> None:
    """The embedded broker starts empty after a restart; what the feed sends again must not be doubled or skipped."""
    for first, last in ((1, 100), (90, 150)):
        with mock_cluster() as address:
            topic = Topic(address, "ticks")
            topic.send_ids(range(first, last + 1))
            ingest(store, topic)
    assert stored_ids(store) == list(range(1, 151))
    clusters = store.read("SELECT count(DISTINCT cluster_id) FROM ingested_offsets").item()
    assert clusters == 2


def test_a_log_made_anew_under_the_same_ids_is_read_from_its_start(store: Warehouse, cluster: str) -> None:
    """Offsets beyond its end are stored; once it has grown past them, what lies between must not be skipped."""
    topic = Topic(cluster)
    topic.send_ids(range(1, 11))
    ingest(store, topic)
    with store.transaction() as transaction:
        transaction.execute("DELETE FROM raw_ticks")
        transaction.execute("DELETE FROM trade_id_ranges")
        transaction.execute(
            "UPDATE ingested_offsets SET next_offset = 25, recorded_at = recorded_at - INTERVAL 1 SECOND"
        )
    ingest(store, topic)  # ten messages, twenty-five stored: it begins again
    assert stored_ids(store) == list(range(1, 11))
    topic.send_ids(range(11, 41))
    assert ingest(store, topic).repeated == 0
    assert stored_ids(store) == list(range(1, 41))


def test_messages_that_the_broker_evicted_are_named_as_a_gap(warehouse: Warehouse, cluster: str) -> None:
    """The embedded broker keeps a few megabytes a partition; what it threw away is named and can be filled by id."""
    topic = Topic(cluster)
    topic.send_ids(range(1, 1001))
    ingest(warehouse, topic)
    last_id = 1000
    evicted = 0
    while not evicted and last_id < 1_000_000:  # how many it keeps depends on how well they were compressed
        topic.send_ids(range(last_id + 1, last_id + 50_001))
        last_id += 50_000
        with TickStream(cluster, topic.name) as stream:
            evicted = sum(plan_from(warehouse, stream).evicted.values())
    assert evicted > 0
    ingest(warehouse, topic, 50_000)
    (gap,) = open_gaps(warehouse)
    assert gap[0] == 1001
    assert stored_ids(warehouse) == [*range(1, 1001), *range(gap[1] + 1, last_id + 1)]


@pytest.mark.kafka
def test_a_topic_made_anew_is_read_from_its_start(store: Warehouse) -> None:
    address = real_kafka()
    topic = Topic(address)
    for first, last in ((1, 50), (51, 200)):
        create_topic(address, topic.name, partitions=1)
        topic = Topic(address, topic.name)
        topic.send_ids(range(first, last + 1))
        ingest(store, topic)
        delete_topic(address, topic.name)
    assert stored_ids(store) == list(range(1, 201))


@pytest.mark.kafka
def test_messages_that_retention_deleted_are_named_as_a_gap(store: Warehouse) -> None:
    address = real_kafka()
    topic = Topic(address)
    create_topic(address, topic.name, partitions=1)
    topic.send_ids(range(1, 101))
    ingest(store, topic)
    topic.send_ids(range(101, 201))
    admin = AdminClient({"bootstrap.servers": address})
    deletions = admin.delete_records([TopicPartition(topic.name, 0, 150)])
    assert [deletion.result(20).low_watermark for deletion in deletions.values()] == [150]
    topic.send_ids([201])
    ingest(store, topic)
    assert open_gaps(store) == [(101, 150)]
    topic.send_ids(range(101, 151))
    ingest(store, topic)
    assert (open_gaps(store), stored_ids(store)) == ([], list(range(1, 202)))


def test_a_busy_warehouse_leaves_the_batch_for_the_next_run(warehouse: Warehouse, cluster: str) -> None:
    topic = Topic(cluster)
    topic.send_ids(range(1, 6))
    impatient = Warehouse(warehouse.url, lock_wait_seconds=0.2)
    with TickStream(topic.bootstrap_servers, topic.name) as stream:
        plan = plan_from(warehouse, stream)
        (batch,) = list(stream.read(plan, 100))
        with warehouse.transaction(), pytest.raises(WarehouseBusyError):
            store_ticks(impatient, batch.ticks, utc_now())
    assert ingest(warehouse, topic).stored == 5


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from cryptotrace_dagster.pipeline.ingest import ingest_available
from cryptotrace_dagster.storage import StorageFullError, Warehouse
from cryptotrace_dagster.stream import TickStream
url, address, topic = sys.argv[1:]
limit = Path(url).stat().st_size + 150_000
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
with TickStream(address, topic) as stream:
    try:
        for report in ingest_available(Warehouse(url), stream, batch_messages=2_000):
            print(report.stored, flush=True)
    except StorageFullError as error:
        print(error)
"""


def test_a_full_disk_keeps_every_committed_batch_and_ingest_goes_on_afterwards(
    warehouse: Warehouse, cluster: str
) -> None:
    topic = Topic(cluster)
    topic.send_ids(range(1, 20_001))
    run = subprocess.run(
        [sys.executable, "-c", FULL_DISK, warehouse.url, cluster, topic.name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "is full, nothing of this transaction was kept" in run.stdout, run.stderr
    kept = stored_ids(warehouse)
    assert kept == list(range(1, len(kept) + 1))
    assert len(kept) % 2_000 == 0
    ingest(warehouse, topic)
    assert stored_ids(warehouse) == list(range(1, 20_001))


def test_two_who_store_the_same_trades_at_once_store_them_once(store: Warehouse) -> None:
    """An import or a repair may run beside the live run; on a lake even on another machine."""
    frame = ticks(*({} for _ in range(500)))
    threads = [threading.Thread(target=store_ticks, args=(store, frame, utc_now())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stored_ids(store) == list(range(1, 501))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.integers(1, 30), max_size=12), max_size=6))
def test_any_order_of_arrival_ends_in_the_same_rows(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[int]]
) -> None:
    store = Warehouse(str(tmp_path_factory.mktemp("any_order") / "store.duckdb"))
    store.create()
    for batch in batches:
        store_ticks(store, ticks(*({"trade_id": i, "trade_time": NOON + timedelta(seconds=i)} for i in batch)), NOON)
    expected = sorted({trade_id for batch in batches for trade_id in batch})
    assert stored_ids(store) == expected
    between = set(range(min(expected, default=0), max(expected, default=-1) + 1)) - set(expected)
    named = {missing for first, last in open_gaps(store) for missing in range(first, last + 1)}
    assert named == between


def test_stored_ticks_leave_their_window_stale_until_it_is_made_anew(store: Warehouse) -> None:
    store_ticks(store, ticks({"trade_time": NOON}, {"trade_time": NOON + timedelta(seconds=30)}), NOON)
    (window,) = pending_dirty(store)
    assert (window.start, window.end) == (NOON, NOON + timedelta(seconds=30, microseconds=1))
    before = utc_now() - timedelta(minutes=1)
    with store.transaction() as transaction:
        assert clear_dirty(transaction, [Remade(window, before)]) == 0  # what was recorded later is still stale
        assert clear_dirty(transaction, [Remade(Window(window.start, NOON), utc_now())]) == 0
        assert clear_dirty(transaction, [Remade(window, utc_now())]) == 1
    assert pending_dirty(store) == []


def test_a_window_is_closed_once_the_watermark_has_passed_its_last_minute() -> None:
    remade = Remade(Window(NOON, NOON + timedelta(seconds=30)), NOON)
    assert not remade.is_closed_by(NOON + timedelta(seconds=59))
    assert remade.is_closed_by(NOON + timedelta(seconds=60))
    assert closed_until(NOON + timedelta(seconds=59)) == NOON


def test_a_stale_window_over_midnight_belongs_to_both_days(warehouse: Warehouse) -> None:
    midnight = NOON + timedelta(hours=12)
    with warehouse.transaction() as transaction:
        record_dirty(transaction, [Window(midnight - timedelta(seconds=1), midnight + timedelta(seconds=1))])
    assert warehouse.read("SELECT window_end FROM dirty_windows ORDER BY window_start")["window_end"][0] == midnight


def test_an_idle_hour_between_two_ticks_is_not_stale() -> None:
    frame = ticks({"trade_time": NOON}, {"trade_time": NOON + timedelta(hours=1)})
    assert [window.start for window in dirty_windows(frame)] == [NOON, NOON + timedelta(hours=1)]
    assert dirty_windows(frame.clear()) == []


def test_the_batches_of_a_backlog_are_bounded(warehouse: Warehouse, cluster: str) -> None:
    topic = Topic(cluster)
    topic.send_ids(range(1, 5001))
    with TickStream(topic.bootstrap_servers, topic.name) as stream:
        sizes = [report.stored for report in ingest_available(warehouse, stream, batch_messages=1000)]
    assert sizes == [1000] * 5
