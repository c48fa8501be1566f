"""What happens to one frame: decoded, its trade id checked, published or set aside. The hot path of the feed.

Owns the order of these steps: a trade is published before its id is noted, so a full queue (BufferError) leaves
everything as it was and the same frame can be taken again. Stays out: sockets, REST, and the broker's settings.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec
import structlog

from cryptotrace_dagster.binance.messages import (
    AggTrade,
    Envelope,
    decode_agg_trade,
    decode_envelope,
    frame_prefix,
    is_server_shutdown,
)
from cryptotrace_dagster.feed.ids import NOTHING_SEEN, Arrival, TradeIds
from cryptotrace_dagster.feed.publisher import Publisher

_DATA = b'"data":'
_DATA_LENGTH = len(_DATA)
_CLOSING_BRACE = ord("}")
_DISORDER_SECONDS = 0.5  # a jump may only be disorder, or the other socket's head start; only then it is fetched
_LOG = structlog.get_logger(__name__)


class Lane:
    """One symbol on its way through the feed: its ids and what the metrics need. Counts grow for ever.

    `wants_sample` asks the intake to note time and receipt of the next trade: a clock read for every trade would cost
    more than the check of its id.
    """

    __slots__ = (
        "filled",
        "ids",
        "key",
        "late",
        "missed",
        "received_at",
        "repeated",
        "symbol",
        "trade_time",
        "wants_sample",
    )

    def __init__(self, symbol: str) -> None:
        self.symbol = symbol
        self.key = symbol.encode()
        self.ids = TradeIds()
        self.repeated = 0
        self.missed = 0
        self.late = 0
        self.filled = 0
        self.wants_sample = True
        self.trade_time = 0  # of the last sample, in the exchange's own unit
        self.received_at = 0.0  # of the last sample

    @property
    def received(self) -> int:
        """Return how many trades came over the stream, repeats not counted."""
        if self.ids.next_id == NOTHING_SEEN:
            return 0
        return self.ids.next_id - self.ids.first_id - self.missed + self.late

    def sample(self, trade: AggTrade) -> None:
        """Note when a trade happened and when it came."""
        self.wants_sample = False
        self.trade_time = trade.trade_time
        self.received_at = time.time()


def _ignore() -> None:
    """Do nothing: nobody has asked to hear of a shutdown."""


class Intake:
    """Takes the frames of one connection. `on_shutdown` is called when the server announces that it will close it."""

    def __init__(self, lanes: Sequence[Lane], publisher: Publisher) -> None:
        self.lanes = lanes
        self._lanes = {frame_prefix(lane.symbol): lane for lane in lanes}
        self._lanes_by_symbol = {lane.symbol: lane for lane in lanes}
        self._publisher = publisher
        self._produce = publisher.produce
        self._topic = publisher.topic
        self.on_shutdown: Callable[[], None] = _ignore
        self.dead_letters: Counter[str] = Counter()
        self.shutdowns = 0

    def take(self, frame: bytes, /) -> None:
        """Publish the trade in a frame, unless it is a repeat; set aside what is not a trade.

        Raises:
            BufferError: the broker's queue is full, nothing was changed, and the frame must be taken again.
        """
        cut = frame.find(_DATA) + _DATA_LENGTH
        lane = self._lanes.get(frame[:cut])
        if lane is None or frame[-1] != _CLOSING_BRACE:
            return self._take_unusual(frame)
        value = frame[cut:-1]
        try:
            trade = decode_agg_trade(value)
        except msgspec.DecodeError:
            return self._take_unusual(frame)
        ids = lane.ids
        if trade.trade_id != ids.next_id or trade.symbol != lane.symbol:
            return self._take_out_of_turn(lane, trade, value)
        self._produce(self._topic, value, lane.key)  # the producer stamps it with this moment
        ids.next_id += 1
        if lane.wants_sample:
            lane.sample(trade)
        return None

    def _take_out_of_turn(self, lane: Lane, trade: AggTrade, value: bytes) -> None:
        if trade.symbol != lane.symbol:
            return self._set_aside(value, f"a trade of {trade.symbol} on the stream of {lane.symbol}", lane.symbol)
        arrival = lane.ids.classify(trade.trade_id)
        if arrival is Arrival.IMPLAUSIBLE:
            return self._set_aside(value, f"trade id {trade.trade_id} where {lane.ids.next_id} was due", lane.symbol)
        if arrival is Arrival.REPEAT:
            lane.repeated += 1
            return None
        self._produce(self._topic, value, lane.key)
        missed = lane.ids.record(trade.trade_id, fetch_at=time.monotonic() + _DISORDER_SECONDS)
        lane.missed += missed
        if arrival is Arrival.LATE:
            lane.late += 1
        elif lane.wants_sample:
            lane.sample(trade)
        if missed:
            last = trade.trade_id - 1
            _LOG.warning("feed.gap", symbol=lane.symbol, first_missing_id=last - missed + 1, last_missing_id=last)
        return None

    def _take_unusual(self, frame: bytes) -> None:
        try:
            envelope = decode_envelope(frame)
        except msgspec.DecodeError as error:
            return self._set_aside(frame, f"not a frame of a combined stream: {error}", "")
        if is_server_shutdown(envelope):
            self.shutdowns += 1
            return self.on_shutdown()
        return self._take_enveloped(frame, envelope)

    def _take_enveloped(self, frame: bytes, envelope: Envelope) -> None:
        try:
            trade = decode_agg_trade(envelope.data)
        except msgspec.DecodeError as error:
            return self._set_aside(frame, f"not an aggTrade: {error}", envelope.stream)
        lane = self._lanes_by_symbol.get(trade.symbol)
        if lane is None:
            return self._set_aside(frame, f"a trade of {trade.symbol}, which was not asked for", envelope.stream)
        return self._take_out_of_turn(lane, trade, bytes(envelope.data))

    def _set_aside(self, payload: bytes, reason: str, source: str) -> None:
        self._publisher.dead_letter(payload, reason, source)
        self.dead_letters[reason.partition(":")[0] if ":" in reason else "unexpected trade"] += 1
