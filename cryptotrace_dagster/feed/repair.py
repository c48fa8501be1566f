"""Compares what is stored with what was published, and finds what never arrived.

The stored trade ids are the only proof that a trade has arrived: a hole there, or between the last trade stored before
this start and the first one seen, is fetched again, whoever lost it (us, the broker's memory, the exchange). Owns that
judgement, a pure function, and the loop that applies it. Stays out: fetching (filling.py) and storing.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl
import structlog

from cryptotrace_dagster.binance.rest import AsyncBinanceRest, ExchangeError
from cryptotrace_dagster.domain.trade_ids import gaps_in
from cryptotrace_dagster.domain.windows import utc_now
from cryptotrace_dagster.feed.filling import Fill, Filler
from cryptotrace_dagster.feed.ids import NOTHING_SEEN, subtract
from cryptotrace_dagster.feed.intake import Lane
from cryptotrace_dagster.feed.publisher import BrokerUnreachableError, Publisher
from cryptotrace_dagster.storage import StorageError, Warehouse
from cryptotrace_dagster.tables import TRADE_ID_RANGES

LOOK_SECONDS = 4.0
_BROKER_SECONDS = 2.0
_IN_FLIGHT_SECONDS = 20.0  # a fill that did not arrive by then, though nothing newer did either, is sent again ...
_LONGEST_IN_FLIGHT_SECONDS = 600.0  # ... and again, after twice the time each
_LOG = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Hole:
    """Ids [first, last] that are not stored; `opens_at` is the time of the last trade before them, None if unknown."""

    first: int
    last: int
    opens_at: datetime | None


@dataclass(frozen=True)
class StoredIds:
    """What the warehouse holds of one symbol."""

    last_id: int
    holes: tuple[Hole, ...]
    last_trade_time: datetime


def stored_ids(ranges: pl.DataFrame, oldest: datetime) -> dict[str, StoredIds]:
    """Return, by symbol, what a `trade_id_ranges` frame says, with only those holes that close after `oldest`."""
    holes: dict[str, list[Hole]] = {}
    for gap in gaps_in(ranges).filter(pl.col("gap_end") >= oldest).iter_rows(named=True):
        hole = Hole(gap["first_missing_id"], gap["last_missing_id"], gap["gap_start"])
        holes.setdefault(gap["symbol"], []).append(hole)
    newest = ranges.sort("last_id").group_by("symbol", maintain_order=True).last()
    return {
        row["symbol"]: StoredIds(row["last_id"], tuple(holes.get(row["symbol"], [])), row["last_trade_time"])
        for row in newest.iter_rows(named=True)
    }


def hole_before(trade_id: int, stored: StoredIds) -> tuple[Hole, ...]:
    """Return the hole between the last trade stored and this id, if there is one."""
    if trade_id == NOTHING_SEEN or stored.last_id >= trade_id - 1:
        return ()
    return (Hole(stored.last_id + 1, trade_id - 1, stored.last_trade_time),)


def lost(holes: Sequence[Hole], fills: Sequence[Fill], stored_last_id: int, now: float) -> list[Hole]:
    """Return the parts of the holes that are not merely on their way. Times are monotonic seconds.

    A fill is on its way until something newer than it has arrived, for a symbol's messages keep their order; where
    nothing newer comes, until a time that doubles with each fill of the same ids.
    """
    travelling: list[tuple[int, int]] = []
    for index, fill in enumerate(fills):
        earlier = sum(1 for other in fills[:index] if other.first <= fill.last and other.last >= fill.first)
        patience = min(_LONGEST_IN_FLIGHT_SECONDS, _IN_FLIGHT_SECONDS * 2.0**earlier)
        if stored_last_id <= fill.head and now - fill.published_at < patience:
            travelling.append((fill.first, fill.last))
    return [
        Hole(first, last, hole.opens_at if first == hole.first else None)
        for hole in holes
        for first, last in subtract((hole.first, hole.last), travelling)
    ]


def seen_twice(holes: Sequence[Hole], earlier: Sequence[Hole]) -> list[Hole]:
    """Return the parts of the holes that were there at the look before, too; disorder heals between two looks."""
    result = []
    for hole in holes:
        for other in earlier:
            first, last = max(hole.first, other.first), min(hole.last, other.last)
            if first <= last:
                result.append(Hole(first, last, hole.opens_at if first == hole.first else None))
    return result


class Repair:
    """Looks at the warehouse every few seconds and hands what was lost to the lanes' gaps."""

    def __init__(
        self,
        warehouse: Warehouse,
        lanes: Sequence[Lane],
        filler: Filler,
        rest: AsyncBinanceRest,
        publisher: Publisher,
        *,
        reach: timedelta,
    ) -> None:
        self._warehouse = warehouse
        self._lanes = lanes
        self._filler = filler
        self._rest = rest
        self._publisher = publisher
        self._reach = reach
        self._cluster_id = ""
        # What was published before these ids must be stored, or be fetched again: this feed was not there, or the
        # broker that took them is no more.
        self._settled: dict[str, int] = {}
        self._out_of_reach: set[tuple[str, int]] = set()
        self._before: dict[str, list[Hole]] = {}
        self.repaired = 0

    async def run(self) -> None:
        """Look until cancelled. A warehouse that cannot be read now is looked at again later."""
        while True:
            try:
                await self.look()
            except StorageError as error:
                _LOG.info("feed.warehouse_not_readable", reason=str(error))
            except (ExchangeError, BrokerUnreachableError) as error:
                _LOG.warning("feed.repair_must_wait", reason=str(error))
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Compare once."""
        await self._look_at_broker()
        oldest = utc_now() - self._reach
        stored = await asyncio.to_thread(self._stored, oldest)
        for lane in self._lanes:
            if lane.symbol in stored:
                await self._look_at(lane, stored[lane.symbol], oldest)

    async def _look_at_broker(self) -> None:
        cluster_id = await asyncio.to_thread(self._publisher.check, _BROKER_SECONDS)
        if self._cluster_id and cluster_id != self._cluster_id:
            _LOG.warning("feed.broker_replaced", cluster_id=cluster_id)
            self._settled = {lane.symbol: lane.ids.next_id for lane in self._lanes}
        self._cluster_id = cluster_id

    async def _look_at(self, lane: Lane, stored: StoredIds, oldest: datetime) -> None:
        settled = self._settled.get(lane.symbol, lane.ids.first_id)
        missing = [*stored.holes, *hole_before(settled, stored)]
        found = lost(missing, self._filler.fills_of(lane.symbol), stored.last_id, time.monotonic())
        confirmed = seen_twice(found, self._before.get(lane.symbol, []))
        self._before[lane.symbol] = found
        for hole in confirmed:
            if lane.ids.gaps.missing_between(hole.first, hole.last) == hole.last - hole.first + 1:
                continue  # it is being fetched already
            first = await self._first_within_reach(lane.symbol, hole, oldest)
            fresh = lane.ids.gaps.add(first, hole.last, time.monotonic()) if first <= hole.last else 0
            if fresh:
                self.repaired += fresh
                _LOG.warning("feed.repair", symbol=lane.symbol, first_missing_id=first, last_missing_id=hole.last)

    async def _first_within_reach(self, symbol: str, hole: Hole, oldest: datetime) -> int:
        """Return the first id that is young enough to be fetched here; what is older is for `cryptotrace backfill`."""
        if hole.opens_at is not None and hole.opens_at >= oldest:
            return hole.first
        if (symbol, hole.last) not in self._out_of_reach:
            await asyncio.sleep(self._rest.wait())
            youngest = await self._rest.first_trade_id_since(symbol, oldest)
            if youngest is not None and youngest <= hole.last:
                return max(hole.first, youngest)
            self._out_of_reach.add((symbol, hole.last))
            _LOG.warning(
                "feed.hole_for_backfill", symbol=symbol, first_missing_id=hole.first, last_missing_id=hole.last
            )
        return hole.last + 1

    def _stored(self, oldest: datetime) -> dict[str, StoredIds]:
        marks = ", ".join("?" * len(self._lanes))
        symbols = [lane.symbol for lane in self._lanes]
        ranges = self._warehouse.read(f"SELECT * FROM {TRADE_ID_RANGES.name} WHERE symbol IN ({marks})", symbols)
        return stored_ids(ranges, oldest)
