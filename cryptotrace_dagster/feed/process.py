"""The feed as one process: puts connections, intake, filling, repair, watches and metrics together and runs them.

Owns the order of start and stop, and the judgement whether data flows. Whatever ends unexpectedly ends the process:
its supervisor starts it anew, and the hole is filled from the stored ids. Stays out: how each part works.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import structlog
from prometheus_client import CollectorRegistry

from cryptotrace_dagster.binance.messages import decode_agg_trade, stream_url
from cryptotrace_dagster.binance.rest import AsyncBinanceRest, ExchangeError
from cryptotrace_dagster.domain.exchange_times import seconds_of
from cryptotrace_dagster.errors import UserError
from cryptotrace_dagster.feed.attempts import AttemptBudget
from cryptotrace_dagster.feed.connection import StreamConnection
from cryptotrace_dagster.feed.filling import Filler
from cryptotrace_dagster.feed.intake import Intake, Lane
from cryptotrace_dagster.feed.metrics import FeedCollector, Figures, SymbolFigures, latency_histogram, web_app
from cryptotrace_dagster.feed.planning import shard_of, spread
from cryptotrace_dagster.feed.publisher import Publisher
from cryptotrace_dagster.feed.repair import Repair
from cryptotrace_dagster.feed.watch import SilenceWatch
from cryptotrace_dagster.loopback import bind, port_of, serving
from cryptotrace_dagster.settings import Settings
from cryptotrace_dagster.storage import StorageError, warehouse_of
from cryptotrace_dagster.tables import TRADE_ID_RANGES

_LOG = structlog.get_logger(__name__)
_BROKER_SECONDS = 10.0
_FLUSH_SECONDS = 10.0
_TICK_SECONDS = 0.1
_CLOCK_SECONDS = 60.0
_LOOK_AT_SYMBOLS_SECONDS = 0.5
_QUIET_SYMBOL_SECONDS, _QUIETEST_SYMBOL_SECONDS = 30.0, 600.0
_STUCK_BROKER_SECONDS = 10.0
_LOST_FETCH_SECONDS = 1.0


class FeedError(UserError):
    """The feed cannot go on; a restart fills what is missed meanwhile."""


class Feed:
    """One feed for one shard of the symbols."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.lanes = [Lane(symbol) for symbol in shard_of(settings.symbols, settings.feed_shard)]
        self._lanes_by_symbol = {lane.symbol: lane for lane in self.lanes}
        self._warehouse = warehouse_of(settings, lock_wait_seconds=5.0)
        self.publisher = Publisher(
            settings.kafka_bootstrap_servers, settings.ticks_topic, settings.dead_letter_topic, self._trade_refused
        )
        self.rest = AsyncBinanceRest(settings.binance_rest_url)
        self.filler = Filler(self.lanes, self.rest, self.publisher)
        reach = timedelta(minutes=settings.start_fill_minutes)
        self.repair = Repair(self._warehouse, self.lanes, self.filler, self.rest, self.publisher, reach=reach)
        self.connections: list[StreamConnection] = []
        self._intakes: list[Intake] = []
        self._started_at = time.monotonic()
        self._acknowledged = 0
        self._refused = 0
        self._acknowledged_at = self._started_at
        self._clock_skew_seconds = 0.0
        self.registry = CollectorRegistry()
        self._latency = latency_histogram(self.registry)
        self.registry.register(FeedCollector(self))
        self.metrics_port = 0

    @property
    def symbols(self) -> list[str]:
        """Return the symbols of this shard."""
        return [lane.symbol for lane in self.lanes]

    async def run(self, stop: asyncio.Event, ready: asyncio.Event) -> None:
        """Run until `stop` is set, then close the sockets and flush. Sets `ready` when every connection stands.

        Raises:
            UserError: the broker does not answer, the port is taken, or the data folder cannot be written.
        """
        async with AsyncExitStack() as stack:
            listener = bind(self._settings.bind_host, self._settings.feed_port)
            self.metrics_port = port_of(listener)
            await asyncio.to_thread(self.publisher.check, _BROKER_SECONDS)
            stack.push_async_callback(self._flush)
            stack.push_async_callback(self.rest.close)
            await self._plan_connections()
            await stack.enter_async_context(serving(web_app(self, self.registry), listener))
            await self._run_parts(stop, ready)

    async def _run_parts(self, stop: asyncio.Event, ready: asyncio.Event) -> None:
        parts = [connection.run() for connection in self.connections]
        if self.lanes:
            parts += [self.filler.run(), self.repair.run(), self._watch_symbols()]
        parts += [self._keep_house(), self._compare_clocks()]
        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(part) for part in parts]
        tasks.append(asyncio.create_task(stop.wait()))
        announcing = asyncio.create_task(self._announce(ready))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in [*tasks, announcing]:
                task.cancel()
            await asyncio.gather(*tasks, announcing, return_exceptions=True)

    async def _announce(self, ready: asyncio.Event) -> None:
        for connection in self.connections:
            await connection.opened.wait()
        ready.set()

    async def _flush(self) -> None:
        left = await self.publisher.flush(_FLUSH_SECONDS)
        _LOG.info("feed.stopped", unacknowledged=left)

    async def _plan_connections(self) -> None:
        settings = self._settings
        rates = await asyncio.to_thread(self._rates) if settings.feed_connections > 1 else {}
        budget = AttemptBudget(_attempts_file(settings), shards=int(settings.feed_shard.partition("/")[2]))
        plan = spread([lane.symbol for lane in self.lanes], rates, settings.feed_connections)
        for number, symbols in enumerate(plan, start=1):
            lanes = [self._lanes_by_symbol[symbol] for symbol in symbols]
            intake = Intake(lanes, self.publisher)
            connection = StreamConnection(
                f"stream {number} of {len(plan)}",
                stream_url(settings.binance_stream_url, symbols),
                intake.take,
                self.publisher.wait_for_room,
                budget,
                silence_seconds=settings.feed_silence_seconds,
                rollover_seconds=settings.feed_rollover_hours * 3600,
            )
            intake.on_shutdown = partial(connection.replace, "server_shutdown")
            self._intakes.append(intake)
            self.connections.append(connection)

    def _rates(self) -> dict[str, float]:
        """Return the trades a second of each symbol by what is stored; nothing when there is no warehouse yet."""
        try:
            ranges = self._warehouse.read(f"SELECT * FROM {TRADE_ID_RANGES.name}")
        except StorageError as error:
            _LOG.info("feed.rates_unknown", reason=str(error))
            return {}
        seconds = (pl.col("last_trade_time").max() - pl.col("first_trade_time").min()).dt.total_seconds()
        rates = ranges.group_by("symbol").agg((pl.col("last_id").max() - pl.col("first_id").min()) / (seconds + 1))
        return dict(rates.iter_rows())

    def _trade_refused(self, symbol: str, value: bytes) -> None:
        lane = self._lanes_by_symbol[symbol]
        trade_id = decode_agg_trade(value).trade_id
        self._refused += lane.ids.gaps.add(trade_id, trade_id, time.monotonic() + _LOST_FETCH_SECONDS)

    async def _keep_house(self) -> None:
        while True:
            self.publisher.poll()
            if self.publisher.is_fatal:
                raise FeedError(
                    f"The Kafka producer cannot go on ({self.publisher.broker_error}): start the feed anew."
                )
            for lane in self.lanes:
                if not lane.wants_sample:
                    latency = lane.received_at + self._clock_skew_seconds - seconds_of(lane.trade_time)
                    self._latency.observe(max(0.0, latency))
                    lane.wants_sample = True
            acknowledged = self._count_acknowledged()
            if acknowledged != self._acknowledged or not len(self.publisher):
                self._acknowledged, self._acknowledged_at = acknowledged, time.monotonic()
            await asyncio.sleep(_TICK_SECONDS)

    def _count_acknowledged(self) -> int:
        handed_over = sum(lane.received + lane.filled for lane in self.lanes)
        return max(self._acknowledged, handed_over - self._refused - len(self.publisher))

    async def _compare_clocks(self) -> None:
        """Measure the exchange's clock against ours: its answer was made about halfway between question and answer."""
        while True:
            asked_at = time.time()
            try:
                server_time = await self.rest.server_time()
            except ExchangeError as error:
                _LOG.info("feed.clock_unknown", reason=str(error))
            else:
                self._clock_skew_seconds = server_time - (asked_at + time.time()) / 2
            await asyncio.sleep(_CLOCK_SECONDS)

    async def _watch_symbols(self) -> None:
        """Ask the exchange about symbols that are silent against their habit; replace sockets that withhold trades."""
        now = time.monotonic()
        watches = {lane.symbol: SilenceWatch(now, _QUIET_SYMBOL_SECONDS) for lane in self.lanes}
        while True:
            await asyncio.sleep(_LOOK_AT_SYMBOLS_SECONDS)
            for intake, connection in zip(self._intakes, self.connections, strict=True):
                for lane in intake.lanes:
                    watch = watches[lane.symbol]
                    now = time.monotonic()
                    watch.look(now, lane.received + lane.repeated)
                    if watch.is_silent(now) and self.rest.wait() == 0:
                        await self._ask_about(lane, watch, connection)

    async def _ask_about(self, lane: Lane, watch: SilenceWatch, connection: StreamConnection) -> None:
        try:
            latest = await self.rest.latest_trade_id(lane.symbol)
        except ExchangeError as error:
            _LOG.info("feed.silence_unexplained", symbol=lane.symbol, reason=str(error))
            latest = None
        missed = 0 if latest is None else lane.ids.note_existing(latest, fetch_at=time.monotonic())
        lane.missed += missed
        if missed:
            _LOG.warning("feed.symbol_withheld", symbol=lane.symbol, trades=missed, connection=connection.name)
            connection.replace("symbol_silence")
            watch.forgive(time.monotonic())
        else:
            watch.trust(time.monotonic(), _QUIETEST_SYMBOL_SECONDS)

    def figures(self) -> Figures:
        """Return the counts of this moment, for metrics and `/healthz`."""
        return Figures(
            symbols=tuple(_figures_of(lane) for lane in self.lanes),
            published=self._count_acknowledged(),
            lag=len(self.publisher),
            dead_letters=dict(_total(intake.dead_letters for intake in self._intakes)),
            reconnects=dict(_total(connection.reconnects for connection in self.connections)),
            pauses=sum(connection.pauses for connection in self.connections),
            repaired=self.repair.repaired,
            failed_requests=self.filler.failed_requests,
            used_weight=self.rest.budget.used_weight,
            clock_skew_seconds=self._clock_skew_seconds,
            connections_open=sum(connection.is_open for connection in self.connections),
            connections=len(self.connections),
            problems=tuple(self._problems()),
        )

    def _problems(self) -> list[str]:
        problems = [f"{each.name} is not open" for each in self.connections if not each.is_open]
        if self.lanes:
            newest = max(lane.received_at for lane in self.lanes)
            silence = min(time.time() - newest, time.monotonic() - self._started_at)
            if silence > 2 * self._settings.feed_silence_seconds:
                problems.append(f"no trade for {silence:.0f} s")
        stuck = time.monotonic() - self._acknowledged_at
        if len(self.publisher) and stuck > _STUCK_BROKER_SECONDS:
            problems.append(f"the broker has acknowledged nothing for {stuck:.0f} s ({self.publisher.broker_error})")
        return problems


def _figures_of(lane: Lane) -> SymbolFigures:
    return SymbolFigures(
        symbol=lane.symbol,
        received=lane.received,
        repeated=lane.repeated,
        missed=lane.missed,
        filled=lane.filled,
        open_gaps=len(lane.ids.gaps),
        open_gap_trades=lane.ids.gaps.missing,
        last_trade_id=lane.ids.next_id - 1,
        seconds_since_trade=time.time() - lane.received_at if lane.received_at else float("inf"),
    )


def _total(counters: Iterable[Counter[str]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for counter in counters:
        total.update(counter)
    return total


def _attempts_file(settings: Settings) -> Path:
    shard = settings.feed_shard.replace("/", "-of-")
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FeedError(
            f"The folder {settings.data_dir} cannot be made ({error.strerror}): choose another DATA_DIR."
        ) from error
    return settings.data_dir / f"feed-attempts-{shard}.json"
