"""The exchange's REST interface: what to ask, how to read the answer, and how much of its patience is left.

Owns the weight budget, the reading of 429 and 418, and two thin clients (asyncio for the feed, plain for stages and
commands) over the same requests. No client ever sleeps or retries: `wait_seconds` tells the caller how long to wait.
"""

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

import httpx
import msgspec

from cryptotrace_dagster.binance.messages import decode_raw_rows, decode_rest_trade
from cryptotrace_dagster.domain.exchange_times import seconds_of
from cryptotrace_dagster.domain.windows import EPOCH
from cryptotrace_dagster.errors import UserError

Answer = TypeVar("Answer")
PAGE_LIMIT = 1000
WEIGHT_A_MINUTE = 6000
_SHARE_OF_WEIGHT = 0.8  # other programs behind the same address want to live too
_AGG_TRADES_WEIGHT, _KLINES_WEIGHT, _TIME_WEIGHT = 4, 2, 1
_TIMEOUT = httpx.Timeout(10.0, connect=5.0)
_HEADERS = {"X-MBX-TIME-UNIT": "MICROSECOND"}


class ExchangeError(UserError):
    """The exchange did not answer as it should; worth another try later."""


class RateLimitedError(ExchangeError):
    """The exchange asked for quiet (429) or shut us out (418); `retry_after_seconds` says for how long."""

    def __init__(self, message: str, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class WeightBudget:
    """How much request weight is left in the running minute, as the exchange's own headers tell it."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._now = monotonic
        self._minute_started = monotonic()
        self._blocked_until = 0.0
        self.used_weight = 0

    def wait_seconds(self, weight: int) -> float:
        """Return how long to wait before a request of this weight."""
        now = self._now()
        if now < self._blocked_until:
            return self._blocked_until - now
        if now - self._minute_started >= 60:
            self._minute_started, self.used_weight = now, 0
        if self.used_weight + weight <= WEIGHT_A_MINUTE * _SHARE_OF_WEIGHT:
            return 0.0
        return self._minute_started + 60 - now

    def learn(self, status: int, headers: httpx.Headers) -> None:
        """Take in an answer's headers.

        Raises:
            RateLimitedError: the answer is 429 or 418; `wait_seconds` is above zero from now on.
        """
        used = headers.get("X-MBX-USED-WEIGHT-1M", "")
        if used.isdigit():
            if int(used) < self.used_weight:
                self._minute_started = self._now()
            self.used_weight = int(used)
        if status in (418, 429):
            seconds = _retry_after(headers, 120.0 if status == 418 else 10.0)
            self._blocked_until = self._now() + seconds
            raise RateLimitedError(
                f"The exchange answered {status}: too many requests. Quiet for {seconds:g} s.", seconds
            )


class TradesPage(msgspec.Struct, frozen=True):
    """Some rows of `/api/v3/aggTrades`, ids ascending, each with the exchange's own bytes."""

    trade_ids: list[int]
    trade_times: list[int]
    rows: list[msgspec.Raw]


Kline = list[Any]
"""A row of `/api/v3/klines` as the exchange sends it: open time, open, high, low, close, volume, close time, ..."""


class _Request(msgspec.Struct, frozen=True):
    path: str
    parameters: dict[str, str | int]
    weight: int


def agg_trades_request(symbol: str, from_id: int, limit: int) -> _Request:
    """Return the request for trades from an id on."""
    return _Request(
        "/api/v3/aggTrades", {"symbol": symbol, "fromId": from_id, "limit": min(limit, PAGE_LIMIT)}, _AGG_TRADES_WEIGHT
    )


def agg_trades_since_request(symbol: str, start: datetime, limit: int) -> _Request:
    """Return the request for trades from an instant on."""
    return _Request(
        "/api/v3/aggTrades",
        {"symbol": symbol, "startTime": _microseconds(start) // 1000, "limit": limit},
        _AGG_TRADES_WEIGHT,
    )


def latest_agg_trade_request(symbol: str) -> _Request:
    """Return the request for the newest trade."""
    return _Request("/api/v3/aggTrades", {"symbol": symbol, "limit": 1}, _AGG_TRADES_WEIGHT)


def klines_request(symbol: str, interval: str, start: datetime, end: datetime) -> _Request:
    """Return the request for the klines that open in [start, end)."""
    return _Request(
        "/api/v3/klines",
        {
            "symbol": symbol,
            "interval": interval,
            "startTime": _microseconds(start) // 1000,
            "endTime": _microseconds(end) // 1000 - 1,
            "limit": PAGE_LIMIT,
        },
        _KLINES_WEIGHT,
    )


TIME_REQUEST = _Request("/api/v3/time", {}, _TIME_WEIGHT)


def parse_trades(body: bytes) -> TradesPage:
    """Return the rows of an aggTrades answer."""
    rows = decode_raw_rows(body)
    heads = [decode_rest_trade(row) for row in rows]
    return TradesPage([head.trade_id for head in heads], [head.trade_time for head in heads], rows)


class BinanceRest:
    """The blocking client, for stages and commands."""

    def __init__(self, base_url: str, budget: WeightBudget | None = None) -> None:
        self.base_url = base_url.rstrip("/")
        self.budget = budget or WeightBudget()
        self._client = httpx.Client(timeout=_TIMEOUT, headers=_HEADERS)

    def __enter__(self) -> "BinanceRest":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def agg_trades(self, symbol: str, from_id: int, limit: int = PAGE_LIMIT) -> TradesPage:
        """Return up to 1000 trades from an id on."""
        return _read(parse_trades, self._get(agg_trades_request(symbol, from_id, limit)))

    def agg_trades_since(self, symbol: str, start: datetime, limit: int = PAGE_LIMIT) -> TradesPage:
        """Return up to 1000 trades from an instant on."""
        return _read(parse_trades, self._get(agg_trades_since_request(symbol, start, limit)))

    def klines(self, symbol: str, interval: str, start: datetime, end: datetime) -> list[Kline]:
        """Return the klines that open in [start, end), at most 1000."""
        return _read(_decode_klines, self._get(klines_request(symbol, interval, start, end)))

    def wait(self, weight: int = _AGG_TRADES_WEIGHT) -> float:
        """Return how many seconds to wait before the next request."""
        return self.budget.wait_seconds(weight)

    def _get(self, request: _Request) -> bytes:
        try:
            answer = self._client.get(self.base_url + request.path, params=request.parameters)
        except httpx.HTTPError as error:
            raise _unreachable(self.base_url, request, error) from error
        return _body(self.budget, request, answer)


class AsyncBinanceRest:
    """The asyncio client, for the feed."""

    def __init__(self, base_url: str, budget: WeightBudget | None = None) -> None:
        self.base_url = base_url.rstrip("/")
        self.budget = budget or WeightBudget()
        self._client = httpx.AsyncClient(timeout=_TIMEOUT, headers=_HEADERS)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def agg_trades(self, symbol: str, from_id: int, limit: int = PAGE_LIMIT) -> TradesPage:
        """Return up to 1000 trades from an id on."""
        return _read(parse_trades, await self._get(agg_trades_request(symbol, from_id, limit)))

    async def first_trade_id_since(self, symbol: str, start: datetime) -> int | None:
        """Return the id of the first trade at or after an instant, or None when there is none yet."""
        page = _read(parse_trades, await self._get(agg_trades_since_request(symbol, start, 1)))
        return page.trade_ids[0] if page.trade_ids else None

    async def latest_trade_id(self, symbol: str) -> int | None:
        """Return the id of the newest trade, or None for a symbol that never traded."""
        page = _read(parse_trades, await self._get(latest_agg_trade_request(symbol)))
        return page.trade_ids[-1] if page.trade_ids else None

    async def server_time(self) -> float:
        """Return the exchange's clock as seconds since the epoch."""
        return seconds_of(_read(_decode_time, await self._get(TIME_REQUEST)))

    def wait(self, weight: int = _AGG_TRADES_WEIGHT) -> float:
        """Return how many seconds to wait before the next request."""
        return self.budget.wait_seconds(weight)

    async def _get(self, request: _Request) -> bytes:
        try:
            answer = await self._client.get(self.base_url + request.path, params=request.parameters)
        except httpx.HTTPError as error:
            raise _unreachable(self.base_url, request, error) from error
        return _body(self.budget, request, answer)


class _ServerTime(msgspec.Struct):
    serverTime: int


_decode_klines = msgspec.json.Decoder(list[Kline]).decode


def _decode_time(body: bytes) -> int:
    return msgspec.json.decode(body, type=_ServerTime).serverTime


def _read(parse: Callable[[bytes], Answer], body: bytes) -> Answer:
    try:
        return parse(body)
    except msgspec.DecodeError as error:
        raise ExchangeError(f"The exchange's answer could not be read ({error}); it is worth another try.") from error


def _body(budget: WeightBudget, request: _Request, answer: httpx.Response) -> bytes:
    budget.learn(answer.status_code, answer.headers)
    if answer.status_code != httpx.codes.OK:
        raise ExchangeError(
            f"The exchange answered {answer.status_code} to {request.path} {request.parameters}: {answer.text[:200]}"
        )
    return answer.content


def _unreachable(base_url: str, request: _Request, error: httpx.HTTPError) -> ExchangeError:
    return ExchangeError(
        f"{base_url}{request.path} could not be reached ({type(error).__name__}): check the network and BINANCE_REST_URL."
    )


def _retry_after(headers: httpx.Headers, default: float) -> float:
    try:
        return max(1.0, float(headers.get("Retry-After", default)))
    except ValueError:
        return default


def _microseconds(instant: datetime) -> int:
    delta = instant - EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
