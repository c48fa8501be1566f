"""Faults that the simulated exchange can be told to have, and the ones that act on single trades.

Owns names, parameters, validation and life time of faults, and what gap, repeat and disorder do to a batch of ticks.
How a socket is silenced or broken is in stream_server.py, what REST answers is in rest.py.
"""

from __future__ import annotations

import math
import random
from enum import StrEnum
from typing import Annotated, Literal

import msgspec

from cryptotrace_dagster.exchange.wire import Tick

Seconds = Annotated[float, msgspec.Meta(ge=0)]
REPEATABLE_TICKS = 500  # the most recent ones, from which a repeat is drawn


class FaultKind(StrEnum):
    """What goes wrong."""

    ABORT = "abort"  # TCP reset of every socket; for `seconds`, new ones are reset too
    REFUSE = "refuse"  # for `seconds`, a new socket gets the HTTP `status` instead of an upgrade
    SILENCE = "silence"  # open sockets stay open, answer pings and send nothing: for `seconds`, without them for ever
    SILENCE_FROM_START = "silence_from_start"  # sockets opened during `seconds` never send anything
    ROLLOVER = "rollover"  # the 24 h limit, scaled: during `seconds`, sockets older than `lifetime_seconds` are closed
    SERVER_SHUTDOWN = "server_shutdown"  # announced by `serverShutdown`, carried out after `delay_seconds`
    GAP = "gap"  # trades happen, and REST has them, but no socket sends them
    REPEAT = "repeat"  # trades are sent again, at once or later
    DISORDER = "disorder"  # trades are sent in another order than they happened
    GARBAGE = "garbage"  # frames that are no JSON, no known event, or lack fields, among the right ones
    HALF_FRAMES = "half_frames"  # each socket once: half a frame, then a TCP reset
    SLOW_FRAMES = "slow_frames"  # bytes trickle at `bytes_per_second`
    REST_ERROR = "rest_error"  # REST answers `status` (429, 418, 5xx), with Retry-After where `retry_after` is given
    REST_STALL = "rest_stall"  # REST answers after `delay_seconds`
    REST_RESET = "rest_reset"  # REST connections are reset
    DUMP_HEADER = "dump_header"  # dump files begin with a header line
    DUMP_DUPLICATES = "dump_duplicates"  # dump files hold some rows twice
    DUMP_WRONG_CHECKSUM = "dump_wrong_checksum"  # the checksum belongs to other bytes
    CLOCK_SKEW = "clock_skew"  # the exchange's clock is ahead by `skew_ms`


TICK_FAULTS = frozenset({FaultKind.GAP, FaultKind.REPEAT, FaultKind.DISORDER})  # can be had by one symbol alone


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One fault; `seconds` limits how long it lasts, `count` how many trades or requests it takes."""

    kind: FaultKind
    symbol: str | None = None  # TICK_FAULTS: only this symbol
    seconds: Seconds | None = None
    count: Annotated[int, msgspec.Meta(ge=1)] | None = None
    connections: Literal["all", "oldest"] = "all"
    status: Annotated[int, msgspec.Meta(ge=400, le=599)] = 503
    retry_after: Annotated[int, msgspec.Meta(ge=0)] | None = None
    delay_seconds: Seconds = 2.0
    lifetime_seconds: Seconds = 10.0
    skew_ms: Annotated[int, msgspec.Meta(ge=0, le=86_400_000)] = 5_000
    bytes_per_second: Annotated[int, msgspec.Meta(ge=1)] = 2_000
    per_second: Annotated[float, msgspec.Meta(gt=0, le=1_000)] = 20.0  # garbage frames
    share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.2  # repeat, disorder: share of the trades

    @property
    def default_seconds(self) -> float:
        """Return how long it lasts when neither `seconds` nor `count` was given."""
        if self.kind in {FaultKind.ABORT, FaultKind.SERVER_SHUTDOWN, FaultKind.HALF_FRAMES}:
            return 0.0
        return math.inf if self.kind is FaultKind.SILENCE else 5.0


class ActiveFault:
    """A fault under way."""

    def __init__(self, fault: Fault, now: float) -> None:
        self.fault = fault
        self.started_at = now
        if fault.seconds is not None:
            self.ends_at = now + fault.seconds
        else:
            self.ends_at = math.inf if fault.count is not None else now + fault.default_seconds
        self.count_left = math.inf if fault.count is None else float(fault.count)

    def is_over(self, now: float) -> bool:
        """Return whether its time or its count is used up."""
        return now >= self.ends_at or self.count_left <= 0

    def take(self) -> None:
        """Use up one of its count."""
        self.count_left -= 1


class FaultBoard:
    """The faults under way; the servers ask it at every turn."""

    def __init__(self) -> None:
        self._active: list[ActiveFault] = []
        self.started = 0

    def start(self, fault: Fault, now: float) -> ActiveFault:
        """Begin a fault."""
        active = ActiveFault(fault, now)
        self._active.append(active)
        self.started += 1
        return active

    def clear(self) -> None:
        """End every fault; sockets that were silenced for ever stay so."""
        self._active.clear()

    def active(self, kind: FaultKind, now: float) -> list[ActiveFault]:
        """Return the faults of a kind that are under way."""
        if not self._active:
            return []
        self._active = [active for active in self._active if not active.is_over(now)]
        return [active for active in self._active if active.fault.kind is kind]

    def first(self, kind: FaultKind, now: float) -> ActiveFault | None:
        """Return the oldest fault of a kind that is under way."""
        return next(iter(self.active(kind, now)), None)

    def summary(self, now: float) -> list[dict[str, object]]:
        """Return the faults under way for a reader."""
        return [
            msgspec.to_builtins(active.fault) | {"seconds_left": None if math.isinf(left) else round(left, 3)}
            for active in self._active
            if not active.is_over(now)
            for left in [active.ends_at - now]
        ]


class TickDistortion:
    """What gap, repeat and disorder make of the ticks on their way out."""

    def __init__(self, board: FaultBoard, seed: int) -> None:
        self._board = board
        self._draw = random.Random(seed)
        self._recent: list[Tick] = []
        self._held_back: list[tuple[float, Tick]] = []
        self.withheld = 0
        self.repeated = 0

    def apply(self, ticks: list[Tick], now: float) -> list[Tick]:
        """Return what is sent instead of these ticks."""
        sent = self._without_gaps(ticks, now)
        sent = self._in_disorder(sent, now)
        sent = self._with_repeats(sent, now)
        self._recent = (self._recent + ticks)[-REPEATABLE_TICKS:]
        return sent

    def _without_gaps(self, ticks: list[Tick], now: float) -> list[Tick]:
        for active in self._board.active(FaultKind.GAP, now):
            kept = []
            for tick in ticks:
                if _concerns(active.fault, tick) and active.count_left > 0:
                    active.take()
                    self.withheld += 1
                else:
                    kept.append(tick)
            ticks = kept
        return ticks

    def _in_disorder(self, ticks: list[Tick], now: float) -> list[Tick]:
        faults = self._board.active(FaultKind.DISORDER, now)
        for active in faults:
            kept = []
            for tick in ticks:
                if _concerns(active.fault, tick) and active.count_left > 0 and self._happens(active.fault):
                    active.take()
                    self._held_back.append((now + self._draw.uniform(0.05, 1.5), tick))
                else:
                    kept.append(tick)
            self._draw.shuffle(kept)
            ticks = kept
        if not self._held_back:
            return ticks
        due = [tick for release_at, tick in self._held_back if release_at <= now]
        self._held_back = [held for held in self._held_back if held[0] > now]
        return ticks + due

    def _with_repeats(self, ticks: list[Tick], now: float) -> list[Tick]:
        for active in self._board.active(FaultKind.REPEAT, now):
            repeated = []
            for tick in ticks:
                repeated.append(tick)
                if not _concerns(active.fault, tick) or active.count_left <= 0 or not self._happens(active.fault):
                    continue
                active.take()
                self.repeated += 1
                earlier = [old for old in self._recent if old.symbol == tick.symbol]
                repeated.append(self._draw.choice(earlier) if earlier and self._draw.random() < 0.5 else tick)
            ticks = repeated
        return ticks

    def _happens(self, fault: Fault) -> bool:
        return self._draw.random() < fault.share


def _concerns(fault: Fault, tick: Tick) -> bool:
    return fault.symbol is None or fault.symbol == tick.symbol


def garbage_frames(draw: random.Random, count: int) -> list[bytes]:
    """Return payloads that no reader can use."""
    return [draw.choice(_GARBAGE) for _ in range(count)]


_GARBAGE = (
    b"",
    b"garbage",
    b"\xff\xfe\x00\x01 not UTF-8",
    b"null",
    b"[]",
    b"42",
    b"{}",
    b'{"stream":"btcusdt@aggTrade"}',
    b'{"stream":"btcusdt@aggTrade","data":null}',
    b'{"stream":"btcusdt@aggTrade","data":{"e":"aggTrade","E":1,"s":"BTCUSDT","a":1,"p":"1',
    b'{"stream":"btcusdt@aggTrade","data":{"e":"aggTrade","E":1,"s":"BTCUSDT"}}',
    b'{"stream":"btcusdt@aggTrade","data":{"e":"aggTrade","E":1,"s":"BTCUSDT","a":"x","p":"NaN","q":"-1","f":1,"l":0,'
    b'"T":"yesterday","m":"perhaps","M":true}}',
    b'{"stream":"btcusdt@mystery","data":{"e":"mystery","E":1}}',
    b'{"e":"anotherMystery"}',
)
