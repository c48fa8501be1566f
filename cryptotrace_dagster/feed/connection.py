"""One stream address, kept open: connects, reconnects, watches for silence, overlaps two sockets when it replaces one.

Owns sockets and their lifetimes. It never looks into a frame; what a frame means is the business of `on_frame`, which
may raise BufferError when there is no room: then the socket is not read until there is.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from cryptotrace_dagster.feed.attempts import AttemptBudget, backoff_seconds
from cryptotrace_dagster.feed.watch import SilenceWatch

_LOG = structlog.get_logger(__name__)
_TICK_SECONDS = 0.2
_OPEN_TIMEOUT_SECONDS = 10.0
_OVERLAP_SECONDS = 2.0  # both sockets run at least this long, so that the new one stands before the old one goes
_LONGEST_OVERLAP_SECONDS = 15.0
_YOUNGEST_REPLACED_SECONDS = 1.0  # a server that announces its end at once must not be run into again and again
_STABLE_SECONDS = 10.0
_MOST_SOCKETS = 3  # one that is being replaced, its replacement, and the next where that one is told to go as well
_HEAD_START_TURNS, _HEAD_START_TURN_SECONDS = 5, 0.05  # what has come on the old socket is read before the new one's
_QUEUED_FRAMES = 1024
_CLOSE_TIMEOUT_SECONDS = 1.0


class OnFrame(Protocol):
    """Takes one frame; raises BufferError when there is no room for what is in it."""

    def __call__(self, frame: bytes, /) -> None:
        """Take the frame."""


@dataclass
class _Socket:
    websocket: ClientConnection
    opened_at: float
    frames: int = 0
    frames_at_overlap: int = 0
    is_paused: bool = False
    end_reason: str = ""
    reader: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def is_open(self) -> bool:
        return not self.end_reason


class StreamConnection:
    """Keeps a stream address open until it is cancelled."""

    def __init__(
        self,
        name: str,
        url: str,
        on_frame: OnFrame,
        wait_for_room: Callable[[], Awaitable[None]],
        budget: AttemptBudget,
        *,
        silence_seconds: float,
        rollover_seconds: float,
    ) -> None:
        self.name = name
        self.reconnects: Counter[str] = Counter()
        self.pauses = 0
        self.opened = asyncio.Event()
        self._url = url
        self._on_frame = on_frame
        self._wait_for_room = wait_for_room
        self._budget = budget
        self._rollover_seconds = rollover_seconds
        self._watch = SilenceWatch(time.monotonic(), silence_seconds)
        self._sockets: list[_Socket] = []  # oldest first; more than one only while they overlap
        self._frames_of_closed = 0
        self._failures = 0
        self._not_before = 0.0
        self._replacement_reason = ""

    @property
    def is_open(self) -> bool:
        """Return whether a socket stands."""
        return any(socket.is_open for socket in self._sockets)

    @property
    def frames(self) -> int:
        """Return how many frames have come over all sockets so far."""
        return self._frames_of_closed + sum(socket.frames for socket in self._sockets)

    def replace(self, reason: str) -> None:
        """Ask for a new socket; the present ones are read until the new one has taken over."""
        if self._sockets and not self._replacement_reason:
            self._replacement_reason = reason

    async def run(self) -> None:
        """Keep the address open until cancelled, then close every socket."""
        try:
            while True:
                self._drop_ended()
                self._look_for_reasons_to_replace()
                if self._wants_socket() and time.monotonic() >= self._not_before:
                    await self._open()
                await self._retire_replaced()
                await asyncio.sleep(_TICK_SECONDS)
        finally:
            await asyncio.gather(*(self._close(socket) for socket in self._sockets))

    def _wants_socket(self) -> bool:
        if not self._sockets:
            return True
        old_enough = time.monotonic() - self._sockets[-1].opened_at >= _YOUNGEST_REPLACED_SECONDS
        return bool(self._replacement_reason) and len(self._sockets) < _MOST_SOCKETS and old_enough

    def _look_for_reasons_to_replace(self) -> None:
        if len(self._sockets) != 1:
            return
        now, current = time.monotonic(), self._sockets[0]
        if current.is_paused:
            self._watch.forgive(now)
            return
        self._watch.look(now, self.frames)
        if self._watch.is_silent(now):
            self.replace("silence")
        elif now - current.opened_at > self._rollover_seconds:
            self.replace("rollover")

    async def _open(self) -> None:
        wait = self._budget.wait_seconds()
        if wait > 0:
            _LOG.warning("feed.attempts_spent", connection=self.name, wait_seconds=round(wait, 1))
            self._not_before = time.monotonic() + wait
            return
        self._budget.spend()
        try:
            websocket = await connect(
                self._url,
                compression=None,
                open_timeout=_OPEN_TIMEOUT_SECONDS,
                close_timeout=_CLOSE_TIMEOUT_SECONDS,
                max_queue=_QUEUED_FRAMES,
            )
        except (OSError, InvalidHandshake, InvalidURI, ConnectionClosed, EOFError, TimeoutError) as error:
            self._count_failure(type(error).__name__)
            return
        self._adopt(websocket)

    def _adopt(self, websocket: ClientConnection) -> None:
        now = time.monotonic()
        socket = _Socket(websocket, opened_at=now)
        reading = self._read_with_head_start(socket) if self._sockets else self._read(socket)
        socket.reader = asyncio.create_task(reading, name=f"{self.name} reader")
        if self._replacement_reason:
            self.reconnects[self._replacement_reason] += 1
            self._replacement_reason = ""
        for old in self._sockets:
            old.frames_at_overlap = old.frames
        self._sockets.append(socket)
        self._watch.forgive(now)  # armed from here: a socket that never speaks is as silent as one that stopped
        self.opened.set()
        _LOG.info("feed.connected", connection=self.name, sockets=len(self._sockets))

    async def _read_with_head_start(self, socket: _Socket) -> None:
        """Read a socket that begins in mid-stream once what the older ones had delivered by then has been read.

        Its first trade would else overtake the ones before it, which are on their way, and look like a loss.
        """
        for _ in range(_HEAD_START_TURNS):  # in turns: after a stall of this process one long sleep is over at once
            await asyncio.sleep(_HEAD_START_TURN_SECONDS)
        await self._read(socket)

    async def _read(self, socket: _Socket) -> None:
        receive, on_frame = socket.websocket.recv, self._on_frame
        try:
            while True:
                frame = await receive(decode=False)
                socket.frames += 1
                try:
                    on_frame(frame)
                except BufferError:
                    await self._take_when_there_is_room(socket, frame)
        except ConnectionClosed as error:
            socket.end_reason = f"closed {error.rcvd.code if error.rcvd else 'abnormally'}"

    async def _take_when_there_is_room(self, socket: _Socket, frame: bytes) -> None:
        self.pauses += 1
        socket.is_paused = True
        _LOG.warning("feed.paused", connection=self.name, reason="the broker takes no more")
        try:
            while True:
                await self._wait_for_room()
                try:
                    self._on_frame(frame)
                except BufferError:
                    continue
                return
        finally:
            socket.is_paused = False

    def _drop_ended(self) -> None:
        for socket in [socket for socket in self._sockets if socket.reader and socket.reader.done()]:
            self._sockets.remove(socket)
            self._frames_of_closed += socket.frames
            if socket.reader:
                socket.reader.result()  # anything but an end of the socket is our own fault, and fatal
            if not self._sockets:
                self.reconnects["closed"] += 1
                if time.monotonic() - socket.opened_at >= _STABLE_SECONDS:
                    self._failures = 0
                self._count_failure(socket.end_reason)

    def _count_failure(self, reason: str) -> None:
        wait = backoff_seconds(self._failures)
        self._failures += 1
        self._not_before = time.monotonic() + wait
        _LOG.warning("feed.connection_failed", connection=self.name, reason=reason, wait_seconds=round(wait, 2))

    async def _retire_replaced(self) -> None:
        if len(self._sockets) < 2:
            return
        old, new = self._sockets[0], self._sockets[-1]
        overlap = time.monotonic() - new.opened_at
        if new.frames and overlap >= _OVERLAP_SECONDS:
            retired = old
        elif overlap >= _LONGEST_OVERLAP_SECONDS:
            # Neither speaks: the market may be quiet, and the new one will do. Only the old one speaks: keep that.
            retired = new if old.frames > old.frames_at_overlap else old
        else:
            return
        self._sockets.remove(retired)
        await self._close(retired)

    async def _close(self, socket: _Socket) -> None:
        # Closing first lets the reader take what has already arrived.
        await socket.websocket.close()
        if socket.reader:
            done, _ = await asyncio.wait([socket.reader], timeout=_CLOSE_TIMEOUT_SECONDS)
            if not done:
                socket.reader.cancel()
        self._frames_of_closed += socket.frames
