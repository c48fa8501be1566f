"""The REST side of the simulated exchange: Binance's public market data endpoints over the trades that were made.

Owns parameters, limits, weights, error bodies and what REST faults do. Formats are wire.py's; the control API is
control.py's and the public dumps are dumps.py's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from time import monotonic

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cryptotrace_dagster.exchange import wire
from cryptotrace_dagster.exchange.faults import FaultBoard, FaultKind
from cryptotrace_dagster.exchange.market import SymbolProfile
from cryptotrace_dagster.exchange.trades import TradeBook, Trades
from cryptotrace_dagster.loopback import reset_connection, transport_of

WEIGHT_A_MINUTE = 6_000
MAX_ROWS = 1_000
DEFAULT_ROWS = 500
REQUESTS_UNTIL_BAN = 20  # this many more after the first 429 of a minute earn a 418
BAN_SECONDS = 120


@dataclass(frozen=True)
class RestError(Exception):
    """A refusal in the exchange's form."""

    code: int
    message: str
    status: int = 400
    headers: tuple[tuple[str, str], ...] = ()


@dataclass
class ExchangeView:
    """What the REST side may look at."""

    books: Mapping[str, TradeBook]
    profiles: Mapping[str, SymbolProfile]
    now_us: Callable[[], int]


class WeightBudget:
    """The request weight used in the present minute; all clients of the simulated exchange share one address."""

    def __init__(self, limit: int = WEIGHT_A_MINUTE) -> None:
        self._limit = limit
        self._minute = -1
        self._refused = 0
        self._banned_until = 0.0
        self.used = 0

    def spend(self, weight: int, now: float) -> None:
        """Count a request.

        Raises:
            RestError: 429 over the limit, 418 for going on after that.
        """
        if now < self._banned_until:
            raise _too_many(418, self._banned_until - now)
        minute = int(now // 60)
        if minute != self._minute:
            self._minute, self.used, self._refused = minute, 0, 0
        self.used += weight
        if self.used <= self._limit:
            return
        self._refused += 1
        if self._refused > REQUESTS_UNTIL_BAN:
            self._banned_until = now + BAN_SECONDS
            raise _too_many(418, BAN_SECONDS)
        raise _too_many(429, 60 - now % 60)


def _too_many(status: int, seconds: float) -> RestError:
    text = "Too many requests; current limit is 6000 request weight per 1 MINUTE."
    return RestError(-1003, text, status, (("Retry-After", str(max(1, int(seconds + 0.999)))),))


class RestApi:
    """Answers `/api/v3/...`."""

    def __init__(self, view: ExchangeView, board: FaultBoard, weight_limit: int = WEIGHT_A_MINUTE) -> None:
        self._view = view
        self._board = board
        self._budget = WeightBudget(weight_limit)
        self.requests = 0

    def routes(self) -> list[Route]:
        """Return the endpoints."""
        endpoints: tuple[tuple[str, int, Callable[[Request, int], str]], ...] = (
            ("ping", 1, self._ping),
            ("time", 1, self._time),
            ("exchangeInfo", 20, self._exchange_info),
            ("aggTrades", 4, self._agg_trades),
            ("klines", 2, self._klines),
        )
        return [Route(f"/api/v3/{name}", self._guarded(weight, answer)) for name, weight, answer in endpoints]

    def _guarded(self, weight: int, answer: Callable[[Request, int], str]) -> Callable[[Request], Awaitable[Response]]:
        async def respond(request: Request) -> Response:
            self.requests += 1
            try:
                await self._suffer(request)
                self._budget.spend(weight, monotonic())
                body = answer(request, _unit(request))
            except RestError as error:
                body = msgspec.json.encode({"code": error.code, "msg": error.message}).decode()
                return self._response(body, error.status, error.headers)
            return self._response(body, 200, ())

        return respond

    def _response(self, body: str, status: int, headers: tuple[tuple[str, str], ...]) -> Response:
        used = str(self._budget.used)
        weight = {"X-MBX-USED-WEIGHT": used, "X-MBX-USED-WEIGHT-1M": used}
        return Response(body, status, {**weight, **dict(headers)}, media_type="application/json;charset=UTF-8")

    async def _suffer(self, request: Request) -> None:
        """Let the faults under way happen to this request."""
        now = monotonic()
        stall = self._board.first(FaultKind.REST_STALL, now)
        if stall is not None:
            stall.take()
            await asyncio.sleep(stall.fault.delay_seconds)
        reset = self._board.first(FaultKind.REST_RESET, now)
        if reset is not None:
            reset.take()
            reset_connection(transport_of(request))
        failure = self._board.first(FaultKind.REST_ERROR, now)
        if failure is not None:
            failure.take()
            after = failure.fault.retry_after
            headers = () if after is None else (("Retry-After", str(after)),)
            code = -1003 if failure.fault.status in {418, 429} else -1000
            raise RestError(code, "This request failed because a fault was asked for.", failure.fault.status, headers)

    def _ping(self, request: Request, unit: int) -> str:
        return "{}"

    def _time(self, request: Request, unit: int) -> str:
        return f'{{"serverTime":{self._view.now_us() // unit}}}'

    def _exchange_info(self, request: Request, unit: int) -> str:
        wanted = self._wanted_symbols(request)
        info = {
            "timezone": "UTC",
            "serverTime": self._view.now_us() // unit,
            "rateLimits": [
                {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": WEIGHT_A_MINUTE}
            ],
            "exchangeFilters": [],
            "symbols": [_symbol_info(self._view.profiles[symbol]) for symbol in wanted],
        }
        return msgspec.json.encode(info).decode()

    def _wanted_symbols(self, request: Request) -> list[str]:
        one, several = request.query_params.get("symbol"), request.query_params.get("symbols")
        if one is None and several is None:
            return list(self._view.profiles)
        try:
            names = [one] if several is None else msgspec.json.decode(several, type=list[str])
        except msgspec.MsgspecError:
            raise RestError(-1100, "Illegal characters found in parameter 'symbols'.") from None
        if any(name not in self._view.profiles for name in names):
            raise RestError(-1121, "Invalid symbol.")
        return [str(name) for name in names]

    def _agg_trades(self, request: Request, unit: int) -> str:
        book = self._book(request)
        from_id, start, end = (_integer(request, name) for name in ("fromId", "startTime", "endTime"))
        limit = _limit(request)
        if from_id is not None and (start is not None or end is not None):
            raise RestError(-1128, "Combination of optional parameters invalid.")
        if from_id is not None:
            return wire.agg_trade_rows(book.symbol, book.from_id(from_id, limit), unit)
        if start is None and end is None:
            return wire.agg_trade_rows(book.symbol, book.latest(limit), unit)
        trades = book.between(_start_us(start), _end_us(end))
        rows = trades.rows(0, limit) if start is not None else trades.rows(max(0, len(trades) - limit), len(trades))
        return wire.agg_trade_rows(book.symbol, rows, unit)

    def _klines(self, request: Request, unit: int) -> str:
        book = self._book(request)
        interval = request.query_params.get("interval", "")
        if interval not in wire.KLINE_INTERVALS_US:
            raise RestError(-1120, "Invalid interval.")
        start, end = _start_us(_integer(request, "startTime")), _end_us(_integer(request, "endTime"))
        width = wire.KLINE_INTERVALS_US[interval]
        klines = kline_range(book, width, start, end, limit=_limit(request), now_us=self._view.now_us())
        return f"[{','.join(wire.kline_row(kline, width, unit) for kline in klines)}]"

    def _book(self, request: Request) -> TradeBook:
        symbol = request.query_params.get("symbol", "")
        if not symbol:
            raise RestError(-1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.")
        if symbol not in self._view.books:
            raise RestError(-1121, "Invalid symbol.")
        return self._view.books[symbol]


def kline_range(
    book: TradeBook, interval_us: int, start_us: int | None, end_us: int | None, *, limit: int, now_us: int
) -> list[wire.Kline]:
    """Return the bars that open in [start, end): the first `limit` of them when a start is given, else the last."""
    stop = min(now_us + 1, now_us + 1 if end_us is None else end_us)
    everything = book.all()
    if not len(everything):
        return []
    first_open = int(everything.times_us[0]) // interval_us * interval_us
    if start_us is not None:
        begin = max(first_open, -(-start_us // interval_us) * interval_us)
        stop = min(stop, begin + limit * interval_us)
    else:
        begin = max(first_open, (-(-stop // interval_us) - limit) * interval_us)
    last_close = -(-stop // interval_us) * interval_us
    # One trade before the range gives the price at which empty bars lie flat.
    before = book.between(None, begin)
    head = before.rows(max(0, len(before) - 1), len(before))
    trades = Trades.joined([head, book.between(begin, last_close)])
    bars = wire.with_empty_bars(wire.klines_of(trades, interval_us), interval_us, stop)
    return [bar for bar in bars if begin <= bar.open_us < stop][-limit:]


def _unit(request: Request) -> int:
    wanted = request.headers.get("X-MBX-TIME-UNIT", "MILLISECOND").upper()
    return wire.MICROSECOND if wanted == "MICROSECOND" else wire.MILLISECOND


def _integer(request: Request, name: str) -> int | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit():
        raise RestError(-1100, f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'.")
    return int(text)


def _limit(request: Request) -> int:
    limit = _integer(request, "limit")
    if limit is None:
        return DEFAULT_ROWS
    if limit < 1:
        raise RestError(-1130, "Data sent for parameter 'limit' is not valid.")
    return min(limit, MAX_ROWS)


def _is_microseconds(time: int) -> bool:
    return time >= 10**14


def _start_us(time: int | None) -> int | None:
    return None if time is None else time if _is_microseconds(time) else time * wire.MILLISECOND


def _end_us(time: int | None) -> int | None:
    """Return the exclusive end: the exchange's own ends are inclusive in the unit given."""
    return None if time is None else time + 1 if _is_microseconds(time) else (time + 1) * wire.MILLISECOND


def _symbol_info(profile: SymbolProfile) -> dict[str, object]:
    quote = next((name for name in ("USDT", "USDC", "FDUSD", "BTC", "ETH") if profile.symbol.endswith(name)), "USDT")
    tick, step = wire.decimal_text(profile.tick_units), wire.decimal_text(profile.step_units)
    return {
        "symbol": profile.symbol,
        "status": "TRADING",
        "baseAsset": profile.symbol.removesuffix(quote),
        "baseAssetPrecision": 8,
        "quoteAsset": quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "orderTypes": ["LIMIT", "MARKET"],
        "isSpotTradingAllowed": True,
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": "1000000.00000000", "tickSize": tick},
            {"filterType": "LOT_SIZE", "minQty": step, "maxQty": "9000000000.00000000", "stepSize": step},
        ],
        "permissions": ["SPOT"],
    }
