"""The WebSocket side of the simulated exchange: combined and raw streams in Binance's protocol.

Owns subscriptions, framing, and everything a socket can suffer. Frames are written in one piece per socket and time
slice, past the library's own send, because one write per message would cost most of a processor at 2,000 trades a
second. Which trades exist is decided by source.py, what they look like by wire.py.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import socket
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from time import monotonic
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec
import structlog
from websockets import http11
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.protocol import State

from cryptotrace_dagster.exchange.faults import ActiveFault, FaultBoard, FaultKind, TickDistortion, garbage_frames
from cryptotrace_dagster.exchange.wire import MICROSECOND, MILLISECOND, Tick, agg_trade_message, trade_messages
from cryptotrace_dagster.loopback import reset_connection

logger = structlog.get_logger(__name__)

MAX_STREAMS = 1_024
MAX_URL_BYTES = 64 * 1024
MAX_MESSAGES_PER_SECOND = 5
CONNECTION_ATTEMPTS = 300
CONNECTION_ATTEMPTS_SECONDS = 300.0
PING_SECONDS = 20.0
PONG_SECONDS = 60.0
CLOSE_NORMAL = 1_000
CLOSE_GOING_AWAY = 1_001
CLOSE_POLICY = 1_008
_TEXT_FRAME = 0x81
_BINARY_FRAME = 0x82


@dataclass(eq=False)
class Subscriber:
    """One open socket and what it asked for."""

    connection: ServerConnection
    is_combined: bool
    unit: int
    opened_at: float
    streams: dict[str, None] = field(default_factory=dict)  # in the order of subscription
    muted_until: float = 0.0
    is_broken: bool = False
    trickle: bytearray = field(default_factory=bytearray)  # what slow frames still owe

    def write(self, data: bytes) -> None:
        """Write raw frames, unless the socket is on its way out."""
        if self.connection.protocol.state is State.OPEN and not self.is_broken:
            self.connection.transport.write(data)

    @property
    def buffered_bytes(self) -> int:
        """Return what the reader has not taken yet."""
        return self.connection.transport.get_write_buffer_size() + len(self.trickle)


@dataclass
class StreamCounters:
    """What the sockets went through, for `/_control/sent`."""

    connections_opened: int = 0
    frames_sent: int = 0
    frames_silenced: int = 0
    slow_consumers_dropped: int = 0
    garbage_frames: int = 0


class StreamServer:
    """Serves the streams on one socket; `deliver` sends a batch of ticks to everyone who asked for them."""

    def __init__(
        self,
        board: FaultBoard,
        distortion: TickDistortion,
        *,
        now_us: Callable[[], int],
        seed: int,
        connection_lifetime_seconds: float,
        buffer_bytes: int,
    ) -> None:
        self.counters = StreamCounters()
        self.subscribers: dict[Subscriber, None] = {}
        self._board = board
        self._distortion = distortion
        self._now_us = now_us
        self._draw = random.Random(seed)
        self._lifetime = connection_lifetime_seconds
        self._buffer_bytes = buffer_bytes
        self._attempts: deque[float] = deque()
        self._server: Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._last_delivery = 0.0

    async def start(self, listener: socket.socket) -> None:
        """Begin to accept sockets."""
        # The library's 8 KiB would refuse the URL of 1,024 streams, which the exchange takes.
        http11.MAX_LINE_LENGTH = max(http11.MAX_LINE_LENGTH, MAX_URL_BYTES)
        self._server = await serve(
            self._handle,
            sock=listener,
            process_request=self._admit,
            compression=None,
            ping_interval=PING_SECONDS,
            ping_timeout=PONG_SECONDS,
            close_timeout=1,
            server_header=None,
            logger=_library_log(),
        )

    async def stop(self) -> None:
        """Close every socket and stop to accept."""
        for task in self._tasks:
            task.cancel()
        if self._server is not None:
            for subscriber in list(self.subscribers):
                if subscriber.is_broken:
                    reset_connection(subscriber.connection.transport)
            self._server.close()
            await self._server.wait_closed()

    def subscribed(self) -> set[str]:
        """Return the streams that at least one socket asked for."""
        return {stream for subscriber in self.subscribers for stream in subscriber.streams}

    def backlog_bytes(self) -> int:
        """Return what the reader that is furthest behind has not taken yet."""
        return max((subscriber.buffered_bytes for subscriber in self.subscribers), default=0)

    # --- sending

    def deliver(self, ticks: list[Tick]) -> None:
        """Send a batch in order of time, as the faults under way allow; call it also without ticks, every slice."""
        now = monotonic()
        self._enforce_lifetime(now)
        sent = self._distortion.apply(ticks, now)
        garbage = self._garbage(now)
        self._last_delivery = now
        if not sent and not garbage and not any(subscriber.trickle for subscriber in self.subscribers):
            return
        by_form: dict[tuple[bool, int], list[tuple[str, bytes]]] = {}
        for subscriber in list(self.subscribers):
            form = (subscriber.is_combined, subscriber.unit)
            if form not in by_form:
                by_form[form] = self._frames(sent, *form)
            wanted = [frame for stream, frame in by_form[form] if stream in subscriber.streams]
            if subscriber.muted_until > now:
                self.counters.frames_silenced += len(wanted)
            else:
                self._send(subscriber, [*wanted, *garbage] if subscriber.streams else wanted, now)

    def _frames(self, ticks: Iterable[Tick], is_combined: bool, unit: int) -> list[tuple[str, bytes]]:
        event_us = self._now_us()
        wanted = {stream.rpartition("@")[2] for stream in self.subscribed()}
        frames = []
        for tick in ticks:
            event = max(event_us, tick.time_us)
            name = tick.symbol.lower()
            if "aggTrade" in wanted:
                stream = f"{name}@aggTrade"
                frames.append((stream, _message(stream, agg_trade_message(tick, event, unit), is_combined)))
            if "trade" in wanted:
                stream = f"{name}@trade"
                frames.extend(
                    (stream, _message(stream, text, is_combined)) for text in trade_messages(tick, event, unit)
                )
        return frames

    def _send(self, subscriber: Subscriber, frames: list[bytes], now: float) -> None:
        half = self._board.first(FaultKind.HALF_FRAMES, now)
        if half is not None and frames:
            self._break_in_mid_frame(subscriber, frames)
            return
        data = b"".join(frames)
        slow = self._board.first(FaultKind.SLOW_FRAMES, now)
        if slow is not None or subscriber.trickle:
            subscriber.trickle += data
            share = len(subscriber.trickle) if slow is None else math.ceil(slow.fault.bytes_per_second * 0.025)
            data = bytes(subscriber.trickle[:share])
            del subscriber.trickle[:share]
        if data:
            subscriber.write(data)
        self.counters.frames_sent += len(frames)
        if subscriber.buffered_bytes > self._buffer_bytes:
            self.counters.slow_consumers_dropped += 1
            logger.info("exchange.slow_consumer_dropped", buffered_bytes=subscriber.buffered_bytes)
            self._break(subscriber)

    def _garbage(self, now: float) -> list[bytes]:
        frames: list[bytes] = []
        for active in self._board.active(FaultKind.GARBAGE, now):
            elapsed = min(1.0, now - max(self._last_delivery, active.started_at))
            expected = active.fault.per_second * elapsed
            count = min(active.count_left, int(expected) + (self._draw.random() < expected % 1))
            for payload in garbage_frames(self._draw, int(count)):
                active.take()
                frames.append(frame(payload))
        self.counters.garbage_frames += len(frames)
        return frames

    # --- breaking

    def begin(self, active: ActiveFault) -> None:
        """Do at once what a fault does to the sockets that are open now."""
        concerned = list(self.subscribers)
        if active.fault.connections == "oldest":
            concerned = sorted(concerned, key=lambda subscriber: subscriber.opened_at)[:1]
        match active.fault.kind:
            case FaultKind.ABORT:
                for subscriber in concerned:
                    self._break(subscriber)
            case FaultKind.SILENCE:
                for subscriber in concerned:
                    subscriber.muted_until = active.ends_at
            case FaultKind.HALF_FRAMES if active.fault.seconds is None:
                for subscriber in concerned:
                    self._break_in_mid_frame(subscriber, [frame(b'{"stream":"btcusdt@aggTrade","data":{"e":"aggTr"}}')])
            case FaultKind.SERVER_SHUTDOWN:
                self._spawn(self._shut_down(concerned, active.fault.delay_seconds))
            case _:
                pass

    def _break(self, subscriber: Subscriber) -> None:
        subscriber.is_broken = True
        self.subscribers.pop(subscriber, None)
        reset_connection(subscriber.connection.transport)

    def _break_in_mid_frame(self, subscriber: Subscriber, frames: list[bytes]) -> None:
        *whole, last = frames
        subscriber.write(b"".join([*whole, last[: len(last) // 2]]))
        subscriber.is_broken = True
        self.subscribers.pop(subscriber, None)
        # The half frame has to leave the socket's buffer first: a reset throws away what is still in it.
        asyncio.get_running_loop().call_later(0.05, reset_connection, subscriber.connection.transport)

    async def _shut_down(self, subscribers: list[Subscriber], delay_seconds: float) -> None:
        event = f'{{"e":"serverShutdown","E":{self._now_us() // MILLISECOND}}}'
        for subscriber in subscribers:
            subscriber.write(_message("!serverShutdown", event, subscriber.is_combined))
        await asyncio.sleep(delay_seconds)
        for subscriber in subscribers:
            await self._close(subscriber, CLOSE_GOING_AWAY, "server shutdown")

    def _enforce_lifetime(self, now: float) -> None:
        rollover = self._board.first(FaultKind.ROLLOVER, now)
        lifetime = self._lifetime if rollover is None else min(self._lifetime, rollover.fault.lifetime_seconds)
        for subscriber in list(self.subscribers):
            if now - subscriber.opened_at > lifetime:
                self.subscribers.pop(subscriber)
                self._spawn(self._close(subscriber, CLOSE_NORMAL, "connection lifetime is over"))

    async def _close(self, subscriber: Subscriber, code: int, reason: str) -> None:
        self.subscribers.pop(subscriber, None)
        await subscriber.connection.close(code, reason)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- sockets

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Return None to upgrade, or the refusal."""
        now = monotonic()
        refuse = self._board.first(FaultKind.REFUSE, now)
        if refuse is not None:
            refuse.take()
            return _refusal(connection, refuse.fault.status, "the exchange does not take connections now")
        if any(active.fault.seconds for active in self._board.active(FaultKind.ABORT, now)):
            reset_connection(connection.transport)
            return None
        while self._attempts and now - self._attempts[0] > CONNECTION_ATTEMPTS_SECONDS:
            self._attempts.popleft()
        self._attempts.append(now)
        if len(self._attempts) > CONNECTION_ATTEMPTS:
            return _refusal(connection, HTTPStatus.TOO_MANY_REQUESTS, "more than 300 connection attempts in 5 minutes")
        path = urlsplit(request.path)
        if not _is_stream_path(path.path):
            return _refusal(connection, HTTPStatus.NOT_FOUND, "no such path: use /stream?streams=... or /ws/...")
        if len(_streams_in(request.path)) > MAX_STREAMS:
            return _refusal(connection, HTTPStatus.BAD_REQUEST, f"more than {MAX_STREAMS} streams on one connection")
        return None

    async def _handle(self, connection: ServerConnection) -> None:
        assert connection.request is not None  # noqa: S101 - a handler runs after the handshake
        target = urlsplit(connection.request.path)
        unit = parse_qs(target.query).get("timeUnit", ["MILLISECOND"])[0].upper()
        subscriber = Subscriber(
            connection,
            is_combined=target.path.rstrip("/") == "/stream",
            unit=MICROSECOND if unit == "MICROSECOND" else MILLISECOND,
            opened_at=monotonic(),
            streams=dict.fromkeys(_streams_in(connection.request.path)),
        )
        if self._board.active(FaultKind.SILENCE_FROM_START, subscriber.opened_at):
            subscriber.muted_until = math.inf
        self.counters.connections_opened += 1
        self.subscribers[subscriber] = None
        try:
            await self._answer_requests(subscriber)
        except ConnectionClosed:
            pass  # an ordinary end; the reader sees the code
        finally:
            self.subscribers.pop(subscriber, None)

    async def _answer_requests(self, subscriber: Subscriber) -> None:
        recent: deque[float] = deque(maxlen=MAX_MESSAGES_PER_SECOND)
        async for message in subscriber.connection:
            now = monotonic()
            if len(recent) == MAX_MESSAGES_PER_SECOND and now - recent[0] < 1:
                await self._close(subscriber, CLOSE_POLICY, "Too many requests")
                return
            recent.append(now)
            answer = _answer(subscriber, message)
            if len(subscriber.streams) > MAX_STREAMS:
                await self._close(subscriber, CLOSE_POLICY, f"more than {MAX_STREAMS} streams")
                return
            subscriber.write(frame(answer))


def frame(payload: bytes) -> bytes:
    """Return a whole WebSocket frame from the server: text, or binary where the bytes are no text (RFC 6455, 5.2)."""
    try:
        payload.decode()
        opcode = _TEXT_FRAME
    except UnicodeDecodeError:
        opcode = _BINARY_FRAME
    length = len(payload)
    if length < 126:
        return bytes((opcode, length)) + payload
    if length < 65_536:
        return bytes((opcode, 126)) + length.to_bytes(2, "big") + payload
    return bytes((opcode, 127)) + length.to_bytes(8, "big") + payload


def _library_log() -> logging.Logger:
    """Return a logger that says nothing: handshakes that a fault breaks on purpose are no news."""
    silent = logging.getLogger("cryptotrace.exchange.websockets")
    silent.addHandler(logging.NullHandler())
    silent.propagate = False
    return silent


def _message(stream: str, data: str, is_combined: bool) -> bytes:
    return frame((f'{{"stream":"{stream}","data":{data}}}' if is_combined else data).encode())


def _answer(subscriber: Subscriber, message: str | bytes) -> bytes:
    """Carry out a request of the reader and return the answer."""
    try:
        request = msgspec.json.decode(message, type=dict)
    except msgspec.MsgspecError as error:
        return msgspec.json.encode({"error": {"code": 3, "msg": f"Invalid JSON: {error}"}, "id": None})
    identity, method, parameters = request.get("id"), request.get("method"), request.get("params", [])
    result: object = None
    match method, parameters:
        case "SUBSCRIBE", [*names] if all(isinstance(name, str) for name in names):
            subscriber.streams.update(dict.fromkeys(names))
        case "UNSUBSCRIBE", [*names]:
            for name in names:
                subscriber.streams.pop(name, None)
        case "LIST_SUBSCRIPTIONS", _:
            result = list(subscriber.streams)
        case "SET_PROPERTY", ["combined", bool(is_combined)]:
            subscriber.is_combined = is_combined
        case "GET_PROPERTY", ["combined"]:
            result = subscriber.is_combined
        case _:
            problem = f"Invalid request: method {method!r} with such params is unknown"
            return msgspec.json.encode({"error": {"code": 2, "msg": problem}, "id": identity})
    return msgspec.json.encode({"result": result, "id": identity})


def _is_stream_path(path: str) -> bool:
    return path.rstrip("/") in {"/stream", "/ws"} or path.startswith("/ws/")


def _streams_in(target: str) -> list[str]:
    parts = urlsplit(target)
    if parts.path.startswith("/ws"):
        text = unquote(parts.path).removeprefix("/ws")
    else:
        query: Mapping[str, list[str]] = parse_qs(parts.query)
        text = query.get("streams", [""])[0]
    return [name for name in text.split("/") if name]


def _refusal(connection: ServerConnection, status: int, reason: str) -> Response:
    return connection.respond(HTTPStatus(status), f"{reason}\n")
