"""Fetches missing trades from the exchange and publishes them, gap after gap, while the stream goes on.

Owns the order, the pace and the retries of this work. What is missing stands in the lanes' `OpenGaps`; what was
published is kept for a while as `Fill`s, so that the repair does not ask again for what is only on its way.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from cryptotrace_dagster.binance.messages import agg_trade_from_rest
from cryptotrace_dagster.binance.rest import PAGE_LIMIT, AsyncBinanceRest, ExchangeError, RateLimitedError, TradesPage
from cryptotrace_dagster.feed.ids import Gap
from cryptotrace_dagster.feed.intake import Lane
from cryptotrace_dagster.feed.publisher import Publisher

_LOG = structlog.get_logger(__name__)
_IDLE_SECONDS = 0.2
_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS = 1.0, 300.0
_FILLS_KEPT_SECONDS = 1800.0


@dataclass(frozen=True)
class Fill:
    """Ids [first, last] that were published out of turn at `published_at` (monotonic), when `head` was the newest id.

    Whatever the broker delivers after `head` comes after these, for a symbol's messages keep their order.
    """

    first: int
    last: int
    head: int
    published_at: float


class Filler:
    """Works through the gaps of all lanes."""

    def __init__(self, lanes: Sequence[Lane], rest: AsyncBinanceRest, publisher: Publisher) -> None:
        self._lanes = lanes
        self._rest = rest
        self._publisher = publisher
        self._fills: dict[str, list[Fill]] = {lane.symbol: [] for lane in lanes}
        self.failed_requests = 0

    async def run(self) -> None:
        """Fetch what is due until cancelled."""
        while True:
            due = self._next_due()
            if due is None or due[1].due_at > time.monotonic():
                await asyncio.sleep(_IDLE_SECONDS)
                continue
            await self._attempt(*due)

    def fills_of(self, symbol: str) -> list[Fill]:
        """Return what was lately published out of turn."""
        oldest = time.monotonic() - _FILLS_KEPT_SECONDS
        self._fills[symbol] = [fill for fill in self._fills[symbol] if fill.published_at >= oldest]
        return self._fills[symbol]

    def _next_due(self) -> tuple[Lane, Gap] | None:
        candidates = [(lane, gap) for lane in self._lanes if (gap := lane.ids.gaps.next_due()) is not None]
        return min(candidates, key=lambda pair: pair[1].due_at, default=None)

    async def _attempt(self, lane: Lane, gap: Gap) -> None:
        await asyncio.sleep(self._rest.wait())
        try:
            page = await self._rest.agg_trades(lane.symbol, gap.first)
        except RateLimitedError as error:
            _LOG.warning("feed.fill_must_wait", symbol=lane.symbol, wait_seconds=error.retry_after_seconds)
            return
        except ExchangeError as error:
            self.failed_requests += 1
            self._postpone(lane, gap, gap.last, str(error))
            return
        await self._publish(lane, page)
        # A full page tells nothing of what comes after it; any other one shows all that there is.
        told_until = min(gap.last, page.trade_ids[-1]) if len(page.rows) == PAGE_LIMIT else gap.last
        if lane.ids.gaps.missing_between(gap.first, told_until):
            self._postpone(lane, gap, told_until, "the exchange does not have these trades (yet)")

    async def _publish(self, lane: Lane, page: TradesPage) -> None:
        """Publish whatever is missing of a page: it may touch more gaps than the one it was asked for."""
        published = 0
        for trade_id, row in zip(page.trade_ids, page.rows, strict=True):
            if trade_id in lane.ids.gaps:
                await self._publish_one(lane, agg_trade_from_rest(lane.symbol, row))
                lane.filled += lane.ids.gaps.remove(trade_id, trade_id)
                published += 1
        if published:
            first, last, head = page.trade_ids[0], page.trade_ids[-1], lane.ids.next_id - 1
            self._fills[lane.symbol].append(Fill(first, min(last, head), head, time.monotonic()))
            _LOG.info("feed.filled", symbol=lane.symbol, first_id=first, last_id=min(last, head), trades=published)

    async def _publish_one(self, lane: Lane, value: bytes) -> None:
        while True:
            try:
                self._publisher.produce(self._publisher.topic, value, lane.key)
            except BufferError:
                await self._publisher.wait_for_room()
                continue
            return

    def _postpone(self, lane: Lane, gap: Gap, last: int, reason: str) -> None:
        longest = min(_LAST_RETRY_SECONDS, _FIRST_RETRY_SECONDS * 2.0 ** min(gap.attempts, 16))
        wait = random.uniform(longest / 2, longest)
        lane.ids.gaps.postpone(gap.first, last, time.monotonic() + wait)
        _LOG.warning(
            "feed.fill_postponed",
            symbol=lane.symbol,
            first_missing_id=gap.first,
            last_missing_id=last,
            attempts=gap.attempts + 1,
            wait_seconds=round(wait, 1),
            reason=reason,
        )
