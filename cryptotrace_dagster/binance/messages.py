"""The exchange's stream messages and their addresses. Pure: bytes in, records out.

Only the fields that the feed decides on are decoded; everything else travels on as the exchange's own bytes.
"""

from collections.abc import Iterable
from urllib.parse import quote

import msgspec

MAX_STREAMS_PER_CONNECTION = 1024
SERVER_SHUTDOWN_STREAM = "!serverShutdown"


class AggTrade(msgspec.Struct, tag_field="e", tag="aggTrade", gc=False):
    """What the feed needs of an aggregate trade."""

    symbol: str = msgspec.field(name="s")
    trade_id: int = msgspec.field(name="a")
    trade_time: int = msgspec.field(name="T")  # since the epoch, in ms or in µs; domain/exchange_times.py tells


class Envelope(msgspec.Struct, gc=False):
    """A frame of a combined stream: which stream, and its message untouched."""

    stream: str
    data: msgspec.Raw


class RestTradeId(msgspec.Struct, gc=False):
    """The id and time of a row of `/api/v3/aggTrades`, which names neither its event nor its symbol."""

    trade_id: int = msgspec.field(name="a")
    trade_time: int = msgspec.field(name="T")


class _Event(msgspec.Struct, gc=False):
    event: str = msgspec.field(name="e", default="")


decode_agg_trade = msgspec.json.Decoder(AggTrade).decode
decode_envelope = msgspec.json.Decoder(Envelope).decode
decode_rest_trade = msgspec.json.Decoder(RestTradeId).decode
decode_raw_rows = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_event = msgspec.json.Decoder(_Event).decode


def stream_name(symbol: str) -> str:
    """Return the name of a symbol's aggTrade stream."""
    return f"{symbol.lower()}@aggTrade"


def frame_prefix(symbol: str) -> bytes:
    """Return the bytes that come before the trade itself in every frame of the symbol's stream."""
    return b'{"stream":%s,"data":' % msgspec.json.encode(stream_name(symbol))


def stream_url(host: str, symbols: Iterable[str]) -> str:
    """Return the address of a combined stream; the streams stand in it, so nothing has to be subscribed afterwards."""
    streams = "/".join(quote(stream_name(symbol), safe="@") for symbol in symbols)
    return f"{host.rstrip('/')}/stream?streams={streams}&timeUnit=MICROSECOND"


def is_server_shutdown(envelope: Envelope) -> bool:
    """Return whether the server announces that it will close this connection."""
    if envelope.stream == SERVER_SHUTDOWN_STREAM:
        return True
    try:
        return _decode_event(envelope.data).event == "serverShutdown"
    except msgspec.DecodeError:
        return False


def agg_trade_from_rest(symbol: str, row: bytes | msgspec.Raw) -> bytes:
    """Return a REST row as the stream would have sent it: the same bytes, with event and symbol put in front."""
    return b'{"e":"aggTrade","s":%s,' % msgspec.json.encode(symbol) + bytes(row)[1:]
