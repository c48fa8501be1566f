"""Faults of the Discord double: each answers the next requests wrongly, in the order in which they were asked for.

Owns names, parameters and validation. What an answer looks like on the wire is app.py's.
"""

from __future__ import annotations

import math
from collections import deque
from enum import StrEnum
from time import monotonic
from typing import Annotated

import msgspec


class ReceiverFaultKind(StrEnum):
    """What goes wrong."""

    OK = "ok"  # nothing: lets so many requests pass between other faults
    RATE_LIMITED = "rate_limited"  # 429 as Discord sends it: headers, `Via`, JSON body
    RATE_LIMITED_BARE = "rate_limited_bare"  # 429 without any of the headers, JSON body alone
    RATE_LIMITED_BY_PROXY = "rate_limited_by_proxy"  # 429 with an HTML page, as the proxy in front sends it
    SERVER_ERROR = "server_error"  # `status`, with a body
    EMPTY = "empty"  # `status` with an empty body
    STALL = "stall"  # the answer comes after `delay_seconds`
    RESET = "reset"  # TCP reset instead of an answer
    NOT_FOUND = "not_found"  # 404: the webhook or channel is gone
    UNAUTHORIZED = "unauthorized"  # 401
    FORBIDDEN = "forbidden"  # 403


class ReceiverFault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One fault: for `count` requests, or for `seconds`; by default for one request."""

    kind: ReceiverFaultKind
    count: Annotated[int, msgspec.Meta(ge=1)] | None = None
    seconds: Annotated[float, msgspec.Meta(gt=0)] | None = None
    status: Annotated[int, msgspec.Meta(ge=200, le=599)] = 502
    retry_after: Annotated[float, msgspec.Meta(ge=0)] = 0.5
    delay_seconds: Annotated[float, msgspec.Meta(ge=0)] = 5.0
    is_stored: bool = False  # the message arrives all the same (stall, reset, empty, server_error)


class FaultQueue:
    """Faults one after the other; the first that is not used up yet applies."""

    def __init__(self) -> None:
        self._queue: deque[_Queued] = deque()

    def add(self, fault: ReceiverFault) -> None:
        """Append a fault."""
        self._queue.append(_Queued(fault))

    def clear(self) -> None:
        """Forget all faults."""
        self._queue.clear()

    def next(self) -> ReceiverFault | None:
        """Return the fault for the request at hand and use up one of its count."""
        now = monotonic()
        while self._queue:
            queued = self._queue[0]
            if queued.ends_at is None:
                queued.ends_at = math.inf if queued.fault.seconds is None else now + queued.fault.seconds
            if queued.left > 0 and now < queued.ends_at:
                queued.left -= 1
                return None if queued.fault.kind is ReceiverFaultKind.OK else queued.fault
            self._queue.popleft()
        return None


class _Queued:
    """A fault and what is left of it; its time begins when its turn comes."""

    def __init__(self, fault: ReceiverFault) -> None:
        self.fault = fault
        self.ends_at: float | None = None
        self.left = float(fault.count or (1 if fault.seconds is None else math.inf))
