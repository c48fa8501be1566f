"""The exchange's patience with REST: what its headers tell, and what is done about it."""

import httpx
import pytest

from cryptotrace_dagster.binance.messages import agg_trade_from_rest, stream_url
from cryptotrace_dagster.binance.rest import RateLimitedError, WeightBudget, parse_trades


def budget(now: list[float]) -> WeightBudget:
    """Return a budget on a clock that the test moves."""
    return WeightBudget(monotonic=lambda: now[0])


def used(weight: int) -> httpx.Headers:
    """Return the header that tells the weight used."""
    return httpx.Headers({"x-mbx-used-weight-1m": str(weight)})


def test_a_share_of_the_weight_is_left_to_others_and_the_next_minute_is_waited_for() -> None:
    now = [0.0]
    subject = budget(now)
    subject.learn(200, used(4_796))
    assert subject.wait_seconds(4) == 0.0
    now[0] = 20.0
    subject.learn(200, used(4_800))
    assert subject.wait_seconds(4) == 40.0
    now[0] = 60.0
    assert subject.wait_seconds(4) == 0.0


def test_a_weight_that_falls_shows_that_a_new_minute_has_begun() -> None:
    now = [0.0]
    subject = budget(now)
    subject.learn(200, used(4_000))
    now[0] = 30.0
    subject.learn(200, used(4))
    subject.learn(200, used(4_800))
    assert subject.wait_seconds(4) == 60.0


@pytest.mark.parametrize(
    ("status", "header", "seconds"), [(429, "7", 7.0), (418, "300", 300.0), (429, None, 10.0), (418, "soon", 120.0)]
)
def test_429_and_418_are_obeyed_for_as_long_as_they_ask(status: int, header: str | None, seconds: float) -> None:
    now = [100.0]
    subject = budget(now)
    headers = httpx.Headers({} if header is None else {"Retry-After": header})
    with pytest.raises(RateLimitedError) as raised:
        subject.learn(status, headers)
    assert raised.value.retry_after_seconds == seconds
    assert subject.wait_seconds(1) == seconds
    now[0] += seconds
    assert subject.wait_seconds(1) == 0.0


def test_a_row_of_rest_becomes_a_message_of_the_stream_with_its_own_bytes() -> None:
    row = b'{"a":7,"p":"0.10000000","q":"1.00","f":7,"l":8,"T":1767614400000001,"m":true,"M":true}'
    page = parse_trades(b"[" + row + b"]")
    assert (page.trade_ids, page.trade_times) == ([7], [1767614400000001])
    assert agg_trade_from_rest("BTCUSDT", page.rows[0]) == b'{"e":"aggTrade","s":"BTCUSDT",' + row[1:]


def test_the_streams_stand_in_the_address_in_lower_case() -> None:
    assert stream_url("wss://host/", ["BTCUSDT", "ÄUSDT"]) == (
        "wss://host/stream?streams=btcusdt@aggTrade/%C3%A4usdt@aggTrade&timeUnit=MICROSECOND"
    )
