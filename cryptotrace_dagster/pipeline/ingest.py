"""The stage that copies Kafka into `raw_ticks`, exactly once.

New ticks, the ranges of their ids, the gaps these show, unreadable messages and the new offsets are committed in one
transaction: a killed run leaves all of it or none. Repeats are told from new trades by id alone, so replaying a topic,
another cluster or a dump never doubles a trade.
Stays out: how Kafka is read (stream.py) and what follows from the ticks (the other stages).
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import polars as pl
import structlog

from cryptotrace_dagster.domain import trade_ids
from cryptotrace_dagster.domain.offsets import OffsetPlan, plan_offsets
from cryptotrace_dagster.domain.windows import Window, merged, utc_now
from cryptotrace_dagster.pipeline.dirty import Remade, clear_dirty, record_dirty
from cryptotrace_dagster.storage import Transaction, Warehouse
from cryptotrace_dagster.stream import TickBatch, TickStream, TopicIdentity
from cryptotrace_dagster.tables import (
    DEAD_LETTERS,
    INGESTED_OFFSETS,
    RAW_TICKS,
    TRADE_ID_GAPS,
    TRADE_ID_RANGES,
)

DIRTY_STEP = timedelta(minutes=1)
BATCH_MESSAGES = 200_000  # about 35 MB of JSON; bounds the memory of a backlog of any length
_LOOKS_AGAIN_AFTER = 0.5

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class StoreReport:
    """What one batch did to the warehouse."""

    stored: int = 0
    repeated: int = 0
    dead_letters: int = 0
    windows: list[Window] = field(default_factory=list)

    def __add__(self, other: "StoreReport") -> "StoreReport":
        return StoreReport(
            self.stored + other.stored,
            self.repeated + other.repeated,
            self.dead_letters + other.dead_letters,
            merged([*self.windows, *other.windows]),
        )


def store_ticks(warehouse: Warehouse, ticks: pl.DataFrame, now: datetime) -> StoreReport:
    """Store those of the `raw_ticks` rows whose ids are not stored yet, in one transaction."""
    with warehouse.transaction() as transaction:
        return _store(transaction, ticks, now)


def store_batch(warehouse: Warehouse, batch: TickBatch, now: datetime, remade: Sequence[Remade] = ()) -> StoreReport:
    """Store a batch from Kafka together with the offsets after it, in one transaction.

    `remade` names what the caller has made anew since the last batch: forgetting it here as stale saves the live run a
    commit of its own.
    """
    with warehouse.transaction() as transaction:
        clear_dirty(transaction, remade)
        report = _store(transaction, batch.ticks, now)
        transaction.append(INGESTED_OFFSETS, _offset_rows(batch.identity, batch.next_offsets, now))
        transaction.merge(DEAD_LETTERS, batch.dead_letters)  # who else reads the topic may have set them aside, too
    if batch.dead_letters.height:
        log.warning("ingest.dead_letters", count=batch.dead_letters.height, reason=batch.dead_letters["reason"][0])
    return StoreReport(report.stored, report.repeated, batch.dead_letters.height, report.windows)


def ingest_available(
    warehouse: Warehouse, stream: TickStream, *, batch_messages: int = BATCH_MESSAGES
) -> Iterator[StoreReport]:
    """Drain the topic up to its present end, yielding a report after each committed batch."""
    plan = plan_from(warehouse, stream)
    for batch in stream.read(plan, batch_messages):
        yield store_batch(warehouse, batch, utc_now())


def plan_from(warehouse: Warehouse, stream: TickStream) -> OffsetPlan:
    """Return what is still to be read: from the stored offsets of this very topic to its present end."""
    stored = _stored_offsets(warehouse, stream.identity())
    low_watermarks, high_watermarks = stream.watermarks()
    plan = plan_offsets(stored, low_watermarks, high_watermarks)
    if plan.evicted or plan.restarted:
        log.warning("ingest.log_changed", evicted=dict(plan.evicted), restarted=list(plan.restarted))
    return plan


def has_been_ingested(warehouse: Warehouse, stream: TickStream, patience_seconds: float) -> bool:
    """Wait while somebody else ingests what the topic holds now; return false when nothing comes for so long."""
    identity = stream.identity()
    low_watermarks, high_watermarks = stream.watermarks()
    fewest: int | None = None
    deadline = 0.0
    while True:
        stored = _stored_offsets(warehouse, identity)
        left = sum(max(0, high - stored.get(each, low_watermarks[each])) for each, high in high_watermarks.items())
        if left == 0:
            return True
        if fewest is None or left < fewest:
            fewest, deadline = left, time.monotonic() + patience_seconds
        elif time.monotonic() > deadline:
            return False
        time.sleep(_LOOKS_AGAIN_AFTER)


def _stored_offsets(warehouse: Warehouse, identity: TopicIdentity) -> dict[int, int]:
    """Return the next offset of each topic partition of which something is stored."""
    # The latest row counts, not the largest offset: a log that was made anew under the same ids begins again at 0.
    rows = warehouse.read(
        f"SELECT DISTINCT ON (topic_partition) topic_partition, next_offset FROM {INGESTED_OFFSETS.name} "
        "WHERE cluster_id = ? AND topic = ? AND topic_id = ? "
        "ORDER BY topic_partition, recorded_at DESC, next_offset DESC",
        [identity.cluster_id, identity.topic, identity.topic_id],
    )
    return dict(rows.iter_rows())


def dirty_windows(ticks: pl.DataFrame) -> list[Window]:
    """Return the time ranges that hold these ticks: one a stretch of activity, never spanning an idle hour."""
    if ticks.is_empty():
        return []
    spans = (
        ticks.group_by(pl.col("trade_time").dt.truncate("1m").alias("minute"))
        .agg(first=pl.col("trade_time").min(), last=pl.col("trade_time").max())
        .sort("minute")
    )
    minutes = merged(Window(minute, minute + DIRTY_STEP) for minute in spans["minute"])
    result = []
    for stretch in minutes:
        inside = spans.filter((pl.col("minute") >= stretch.start) & (pl.col("minute") < stretch.end))
        result.append(Window(inside["first"][0], inside["last"][-1] + timedelta(microseconds=1)))
    return result


def _store(transaction: Transaction, ticks: pl.DataFrame, now: datetime) -> StoreReport:
    if ticks.is_empty():
        return StoreReport()
    symbols = ticks["symbol"].unique().sort().to_list()
    marks = ", ".join("?" * len(symbols))
    stored = transaction.query(f"SELECT * FROM {TRADE_ID_RANGES.name} WHERE symbol IN ({marks})", symbols)
    fresh = trade_ids.unseen(ticks, stored)
    if fresh.height:
        transaction.append(RAW_TICKS, fresh)
        ranges = trade_ids.union(stored, trade_ids.ranges_of(fresh))
        transaction.execute(f"DELETE FROM {TRADE_ID_RANGES.name} WHERE symbol IN ({marks})", symbols)
        transaction.append(TRADE_ID_RANGES, ranges)
        _record_gaps(transaction, symbols, trade_ids.gaps_in(ranges), now)
    windows = dirty_windows(fresh)
    record_dirty(transaction, windows)
    return StoreReport(fresh.height, ticks.height - fresh.height, 0, windows)


def _record_gaps(transaction: Transaction, symbols: list[str], gaps: pl.DataFrame, now: datetime) -> None:
    """Close the recorded gaps that are no longer there, and open those that are new."""
    marks = ", ".join("?" * len(symbols))
    recorded = transaction.query(
        f"SELECT * FROM {TRADE_ID_GAPS.name} WHERE closed_at IS NULL AND symbol IN ({marks})", symbols
    )
    same = ["symbol", "first_missing_id", "last_missing_id"]
    closed = recorded.join(gaps, on=same, how="anti").with_columns(closed_at=pl.lit(now, pl.Datetime("us")))
    opened = gaps.join(recorded, on=same, how="anti").with_columns(
        noticed_at=pl.lit(now, pl.Datetime("us")), closed_at=pl.lit(None, pl.Datetime("us"))
    )
    transaction.merge(TRADE_ID_GAPS, closed)
    transaction.append(TRADE_ID_GAPS, opened)


def _offset_rows(identity: TopicIdentity, next_offsets: dict[int, int], now: datetime) -> pl.DataFrame:
    rows = [
        (identity.cluster_id, identity.topic, identity.topic_id, partition, offset, now)
        for partition, offset in sorted(next_offsets.items())
    ]
    return pl.DataFrame(rows, schema=INGESTED_OFFSETS.polars_schema, orient="row")
