"""The simulated exchange as a whole: one object that owns trades, streams, REST, control API, events and faults.

Owns configuration, start, the loop that lets trades happen, and stop. How a trade is drawn, sent, served or distorted
belongs to the other modules of this room.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Self

import structlog
from starlette.applications import Starlette

from cryptotrace_dagster.domain.windows import EPOCH, utc_now
from cryptotrace_dagster.errors import UserError
from cryptotrace_dagster.exchange.control import control_routes
from cryptotrace_dagster.exchange.dumps import DumpSite
from cryptotrace_dagster.exchange.events import MarketEvent
from cryptotrace_dagster.exchange.faults import Fault, FaultBoard, FaultKind, TickDistortion
from cryptotrace_dagster.exchange.market import SymbolProfile, profile_of
from cryptotrace_dagster.exchange.replay import ReplaySource, load_recordings
from cryptotrace_dagster.exchange.rest import WEIGHT_A_MINUTE, ExchangeView, RestApi
from cryptotrace_dagster.exchange.script import Schedule, load_script
from cryptotrace_dagster.exchange.source import SimulatedSource, TradeSource
from cryptotrace_dagster.exchange.stream_server import StreamServer
from cryptotrace_dagster.exchange.trades import TradeBook, Trades
from cryptotrace_dagster.exchange.wire import Tick, ticks_of
from cryptotrace_dagster.loopback import bind, port_of, serving

logger = structlog.get_logger(__name__)

DEFAULT_SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "BNBUSDT", "XRPUSDT")
READER_GRACE_SECONDS = 5.0
UNPACED_SLICE_SECONDS = 0.001
UNPACED_BACKLOG_BYTES = 256 * 1024
SLICE_SECONDS = 0.025  # trades leave in bundles of this length; shorter costs more processor than it shows


class ExchangeError(UserError):
    """The simulated exchange was asked for something that it cannot do."""


@dataclass(frozen=True)
class ExchangeConfig:
    """What kind of exchange to simulate; the defaults are a small market on free ports."""

    symbols: tuple[str, ...] = DEFAULT_SYMBOLS
    trades_per_second: float = 100.0
    seed: int = 1
    script: str = ""  # a file, or one of script.py's names
    script_waits_for_reader: bool = False  # its seconds count from when all symbols are subscribed, not from the start
    host: str = "127.0.0.1"
    stream_port: int = 0
    rest_port: int = 0
    start: datetime | None = None  # naive UTC; by default now
    history_seconds: float = 0.0  # trades made before the start, for REST and dumps
    connection_lifetime_seconds: float = 86_400.0
    subscriber_buffer_bytes: int = 16 * 1024 * 1024  # a reader further behind than this is dropped
    kept_trades_per_symbol: int = 1_000_000  # about 50 bytes each; older ones are gone from REST and control
    weight_per_minute: int = WEIGHT_A_MINUTE
    replay: tuple[Path, ...] = ()  # recordings to play in place of the simulated market
    speed: float = 1.0  # of a replay; infinity: as fast as the reader takes it
    waits_for_reader: bool = True  # a replay starts when all its symbols are subscribed


class SimulatedExchange:
    """A running exchange: `async with SimulatedExchange(config) as exchange`."""

    def __init__(self, config: ExchangeConfig | None = None) -> None:
        """Prepare; nothing is bound or made before the `async with`.

        Raises:
            UserError: the script, a symbol or a recording is wrong.
        """
        self.config = config or ExchangeConfig()
        self._made_at = monotonic()  # the moment of `start` when that is now
        self._source, profiles = _source_of(self.config)
        steps = load_script(self.config.script, [profile.symbol for profile in profiles], self.config.seed)
        if self.config.replay and any(_needs_a_market(step.step) for step in steps):
            raise ExchangeError(
                f"The script {self.config.script} has market events or clock skew, which a recording cannot have: "
                "give a script of other faults, or none."
            )
        self._schedule = Schedule(steps)
        self._books = {
            profile.symbol: TradeBook(profile.symbol, self.config.kept_trades_per_symbol) for profile in profiles
        }
        self._board = FaultBoard()
        self._distortion = TickDistortion(self._board, self.config.seed)
        self._streams = StreamServer(
            self._board,
            self._distortion,
            now_us=self.now_us,
            seed=self.config.seed,
            connection_lifetime_seconds=self.config.connection_lifetime_seconds,
            buffer_bytes=self.config.subscriber_buffer_bytes,
        )
        self._rest = RestApi(
            ExchangeView(self._books, _by_symbol(profiles), self.now_us), self._board, self.config.weight_per_minute
        )
        self._first_live: dict[str, int] = {}
        self._first_heard: dict[str, int] = {}
        self._started_at: float | None = None
        self._first_reader_at: float | None = None
        self._script_began_at: float | None = None
        self._is_trading = True
        self._is_closing = False
        self.work: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Bind the ports, make the history, start to trade."""
        stream_listener = bind(self.config.host, self.config.stream_port)
        try:
            rest_listener = bind(self.config.host, self.config.rest_port)
        except UserError:
            stream_listener.close()
            raise
        self.stream_url = f"ws://{self.config.host}:{port_of(stream_listener)}"
        self.rest_url = f"http://{self.config.host}:{port_of(rest_listener)}"
        self.dump_url = f"{self.rest_url}/dumps"
        self._make_history()
        if not (isinstance(self._source, ReplaySource) and self.config.waits_for_reader):
            self._started_at = self._made_at if self.config.start is None else monotonic()
        dumps = DumpSite(self._books, self.now_us, self._board)
        routes = [*self._rest.routes(), *dumps.routes(), *control_routes(self)]
        self._web = serving(Starlette(routes=routes), rest_listener)
        await self._web.__aenter__()
        await self._streams.start(stream_listener)
        self.work = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop trading, close every connection."""
        self._is_closing = True
        if self.work is not None:
            await self.work
        await self._streams.stop()
        await self._web.__aexit__(None, None, None)

    # --- what tests and the control API ask and tell

    @property
    def elapsed(self) -> float:
        """Return the seconds since trading began."""
        return 0.0 if self._started_at is None else monotonic() - self._started_at

    def now_us(self) -> int:
        """Return the exchange's clock in microseconds since the epoch."""
        return self._source.now_us(self.elapsed)

    def book(self, symbol: str) -> TradeBook | None:
        """Return a symbol's trades."""
        return self._books.get(symbol)

    def start_event(self, event: MarketEvent) -> None:
        """Begin a market event on one symbol or all.

        Raises:
            ValueError: the symbol is not traded, or the exchange plays a recording.
        """
        self._check_symbol(event.symbol)
        if not isinstance(self._source, SimulatedSource):
            raise ValueError("a recording is played as it is: events need a simulated market")
        self._source.start_event(event)
        logger.info("exchange.event_started", kind=event.kind.value, symbol=event.symbol)

    def start_fault(self, fault: Fault) -> None:
        """Begin a fault.

        Raises:
            ValueError: the symbol is not traded, or the clock is that of a recording.
        """
        self._check_symbol(fault.symbol)
        if _needs_a_market(fault) and not isinstance(self._source, SimulatedSource):
            raise ValueError("a recording keeps its own times: clock skew needs a simulated market")
        active = self._board.start(fault, monotonic())
        self._streams.begin(active)
        logger.info("exchange.fault_started", kind=fault.kind.value, symbol=fault.symbol, seconds=fault.seconds)

    def faults(self) -> list[dict[str, object]]:
        """Return the faults under way."""
        return self._board.summary(monotonic())

    def clear_faults(self) -> None:
        """End all faults."""
        self._board.clear()

    def stop_trading(self) -> None:
        """Make no more trades; sockets stay open and REST goes on answering."""
        self._is_trading = False

    def sent(self) -> dict[str, object]:
        """Return the trades that happened since the start, also those that a fault kept from the sockets.

        `first_heard_id` is the first trade that happened while someone was subscribed to its symbol.
        """
        symbols = {}
        for symbol, book in self._books.items():
            if symbol in self._first_live:
                first = self._first_live[symbol]
                symbols[symbol] = {
                    "first_id": first,
                    "first_heard_id": self._first_heard.get(symbol),
                    "last_id": book.last_id,
                    "count": book.count - self._history_counts[symbol],
                    "last_trade_time_ms": (book.last_time_us or 0) // 1_000,
                }
        counters = self._streams.counters
        return {
            "trades_sent": sum(int(row["count"] or 0) for row in symbols.values()),
            "symbols": symbols,
            "is_trading": self._is_trading and not self._source.is_finished,
            "trades_withheld": self._distortion.withheld,
            "trades_repeated": self._distortion.repeated,
            "garbage_frames": counters.garbage_frames,
            "frames_sent": counters.frames_sent,
            "frames_silenced": counters.frames_silenced,
            "connections_opened": counters.connections_opened,
            "connections_open": len(self._streams.subscribers),
            "slow_consumers_dropped": counters.slow_consumers_dropped,
            "rest_requests": self._rest.requests,
            "faults_started": self._board.started,
        }

    def _check_symbol(self, symbol: str | None) -> None:
        if symbol is not None and symbol not in self._books:
            raise ValueError(f"{symbol} is not traded here; there are {', '.join(self._books)}")

    # --- the loop

    def _make_history(self) -> None:
        if isinstance(self._source, SimulatedSource):
            for symbol, trades in self._source.history():
                self._books[symbol].append(trades)
        self._history_counts = {symbol: book.count for symbol, book in self._books.items()}

    async def _run(self) -> None:
        """Let things happen until the end; faults and held-back frames go on after trading was stopped."""
        while not self._is_closing:
            if self._started_at is None and self._has_readers():
                self._started_at = monotonic()
            is_running = self._started_at is not None
            if is_running:
                for step in self._schedule.due(self._script_seconds()):
                    self.start_event(step) if isinstance(step, MarketEvent) else self.start_fault(step)
                self._apply_clock_skew()
            is_due = is_running and self._is_trading and not self._is_held_up()
            self._streams.deliver(self._happen(self._source.due(self.elapsed)) if is_due else [])
            await asyncio.sleep(UNPACED_SLICE_SECONDS if self._is_unpaced else SLICE_SECONDS)

    def _script_seconds(self) -> float:
        """Return the script's clock; below zero before it began."""
        if not self.config.script_waits_for_reader:
            return self.elapsed
        if self._script_began_at is None and self._has_readers():
            self._script_began_at = monotonic()
        return -1.0 if self._script_began_at is None else monotonic() - self._script_began_at

    @property
    def _is_unpaced(self) -> bool:
        return isinstance(self._source, ReplaySource) and self._source.is_unpaced and not self._source.is_finished

    def _is_held_up(self) -> bool:
        """Return whether an unpaced replay has to let its readers catch up."""
        return self._is_unpaced and self._streams.backlog_bytes() > UNPACED_BACKLOG_BYTES

    def _has_readers(self) -> bool:
        """Return whether someone listens to every symbol, or to some and has had time to add the others."""
        streams = self._streams.subscribed()
        heard = {stream.partition("@")[0].upper() for stream in streams}
        if streams and self._first_reader_at is None:
            self._first_reader_at = monotonic()
        is_late = self._first_reader_at is not None and monotonic() - self._first_reader_at > READER_GRACE_SECONDS
        return heard >= set(self._books) or (is_late and bool(streams))

    def _apply_clock_skew(self) -> None:
        if isinstance(self._source, SimulatedSource):
            skew = self._board.first(FaultKind.CLOCK_SKEW, monotonic())
            self._source.set_clock_skew(0 if skew is None else skew.fault.skew_ms * 1_000)

    def _happen(self, parts: Iterable[tuple[str, Trades]]) -> list[Tick]:
        """Write the trades into the books and return them as ticks in the order of their time."""
        ticks: list[Tick] = []
        heard = {stream.partition("@")[0].upper() for stream in self._streams.subscribed()}
        for symbol, trades in parts:
            if len(trades):
                self._books[symbol].append(trades)
                self._first_live.setdefault(symbol, int(trades.trade_ids[0]))
                if symbol in heard:
                    self._first_heard.setdefault(symbol, int(trades.trade_ids[0]))
                ticks.extend(ticks_of(symbol, trades))
        ticks.sort(key=lambda tick: tick.time_us)  # stable: ids of one symbol keep their order
        return ticks


def _source_of(config: ExchangeConfig) -> tuple[TradeSource, list[SymbolProfile]]:
    if config.replay:
        if config.speed <= 0:
            raise ExchangeError(f"A replay at speed {config.speed:g} never ends: give a speed above 0, or `max`.")
        replay = ReplaySource(load_recordings(config.replay), speed=config.speed)
        return replay, replay.profiles()
    profiles = [profile_of(symbol) for symbol in config.symbols]
    if not profiles or config.trades_per_second <= 0:
        raise ExchangeError("The exchange needs at least one symbol and a rate above 0 trades a second.")
    source = SimulatedSource(
        profiles,
        trades_per_second=config.trades_per_second,
        seed=config.seed,
        start_us=((config.start or utc_now()) - EPOCH) // EPOCH.resolution,
        history_seconds=config.history_seconds,
    )
    return source, profiles


def _needs_a_market(step: MarketEvent | Fault) -> bool:
    """Return whether a step makes sense only where trades are made, not where a recording is played."""
    return isinstance(step, MarketEvent) or step.kind is FaultKind.CLOCK_SKEW


def _by_symbol(profiles: Iterable[SymbolProfile]) -> dict[str, SymbolProfile]:
    return {profile.symbol: profile for profile in profiles}
