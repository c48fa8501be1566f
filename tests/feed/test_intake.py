"""One frame at a time: what is published, what is dropped, what is set aside."""

from collections.abc import Callable

import pytest

from cryptotrace_dagster.feed.intake import Intake, Lane


class KeptMessages:
    """Stands in for the broker's queue: takes up to `room` messages, then has no room."""

    def __init__(self, room: int = 1_000) -> None:
        self.topic = "ticks"
        self.room = room
        self.messages: list[tuple[bytes, bytes]] = []
        self.dead: list[tuple[bytes, str]] = []

    def produce(self, topic: str, value: bytes, key: bytes) -> None:
        if len(self.messages) >= self.room:
            raise BufferError
        self.messages.append((value, key))

    def dead_letter(self, payload: bytes, reason: str, source: str) -> None:
        self.dead.append((payload, reason))


def intake(publisher: KeptMessages, *symbols: str) -> Intake:
    """Return an intake for the symbols, BTCUSDT by default."""
    return Intake([Lane(symbol) for symbol in symbols or ("BTCUSDT",)], publisher)  # type: ignore[arg-type]


def trade(trade_id: int, symbol: str = "BTCUSDT") -> bytes:
    """Return a trade as the exchange sends it."""
    return (
        b'{"e":"aggTrade","E":1767614400000123,"s":"%s","a":%d,"p":"90000.01000000","q":"0.00100000",'
        b'"f":%d,"l":%d,"T":1767614400000001,"m":true,"M":true}'
    ) % (symbol.encode(), trade_id, trade_id, trade_id)


def frame(trade_id: int, symbol: str = "BTCUSDT") -> bytes:
    """Return the frame of a combined stream around it."""
    return b'{"stream":"%s@aggTrade","data":%s}' % (symbol.lower().encode(), trade(trade_id, symbol))


def test_a_trade_is_published_as_the_exchanges_own_bytes_keyed_by_symbol() -> None:
    kept = KeptMessages()
    intake(kept).take(frame(7))
    assert kept.messages == [(trade(7), b"BTCUSDT")]


@pytest.mark.parametrize(
    "spelling",
    [
        lambda value: b'{"data":%s,"stream":"btcusdt@aggTrade"}' % value,
        lambda value: b'{ "stream" : "btcusdt@aggTrade", "data" : %s }' % value,
        lambda value: b'{"stream":"btcusdt@aggTrade","data":%s}\n' % value,
        lambda value: b'{"stream":"btcusdt@aggTrade","data":%s,"more":1}' % value,
    ],
)
def test_another_spelling_of_the_same_json_is_the_same_trade(spelling: Callable[[bytes], bytes]) -> None:
    kept = KeptMessages()
    intake(kept).take(spelling(trade(7)))
    assert [value for value, _ in kept.messages] == [trade(7)]
    assert kept.dead == []


def test_a_full_queue_changes_nothing_and_the_frame_can_be_taken_again() -> None:
    kept = KeptMessages(room=1)
    subject = intake(kept)
    subject.take(frame(1))
    for trade_id in (2, 5):  # the next one, and one after a jump
        with pytest.raises(BufferError):
            subject.take(frame(trade_id))
    lane = subject.lanes[0]
    assert (lane.ids.next_id, lane.received, lane.ids.gaps.missing) == (2, 1, 0)
    kept.room = 10
    subject.take(frame(2))
    assert [value for value, _ in kept.messages] == [trade(1), trade(2)]


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"{}",
        b"null",
        b"\xff\xfe",
        frame(7)[:-1],
        frame(7)[:-40],
        b'{"stream":"btcusdt@aggTrade","data":',
        b'{"stream":"btcusdt@aggTrade","data":}',
        b'{"stream":"btcusdt@aggTrade","data":{}}',
        b'{"stream":"btcusdt@kline_1s","data":{"e":"kline"}}',
        frame(7, "DOGEUSDT"),
        b'{"stream":"btcusdt@aggTrade","data":%s}' % trade(7, "ETHUSDT"),
        frame(7).replace(b'"a":7', b'"a":"seven"'),
        frame(7).replace(b'"e":"aggTrade"', b'"e":"trade"'),
        b'{"result":null,"id":1}',
        b'{"stream":"x","data":%s}}' % trade(7),
        b'{"error":{"code":2,"msg":"Invalid request"}}',
    ],
)
def test_what_is_no_trade_is_set_aside_whole_or_as_its_data(garbage: bytes) -> None:
    kept = KeptMessages()
    subject = intake(kept, "BTCUSDT", "ETHUSDT")
    subject.take(garbage)
    assert kept.messages == []
    assert len(kept.dead) == 1
    assert kept.dead[0][0] in garbage
    assert sum(subject.dead_letters.values()) == 1
    subject.take(frame(8))
    assert [value for value, _ in kept.messages] == [trade(8)]


@pytest.mark.parametrize(
    "event",
    [
        b'{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770123456789}}',
        b'{"stream":"other","data":{"e":"serverShutdown","E":1770123456789}}',
    ],
)
def test_an_announced_shutdown_is_passed_on(event: bytes) -> None:
    kept, heard = KeptMessages(), []
    subject = intake(kept)
    subject.on_shutdown = lambda: heard.append("shutdown")
    subject.take(event)
    assert (heard, kept.dead, subject.shutdowns) == (["shutdown"], [], 1)


def test_symbols_keep_their_ids_apart() -> None:
    kept = KeptMessages()
    subject = intake(kept, "BTCUSDT", "ETHUSDT")
    for trade_id in (1, 2):
        subject.take(frame(trade_id))
        subject.take(frame(trade_id + 100, "ETHUSDT"))
    assert [lane.ids.next_id for lane in subject.lanes] == [3, 103]
    assert [lane.missed for lane in subject.lanes] == [0, 0]
