"""The control API of the simulated exchange, under `/_control/`: what it did, and what it is to do next.

Owns the paths and bodies that tests and `cryptotrace up` rely on; the work is done by simulated.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cryptotrace_dagster.exchange import wire
from cryptotrace_dagster.exchange.events import MarketEvent
from cryptotrace_dagster.exchange.faults import Fault
from cryptotrace_dagster.exchange.trades import TradeBook

MAX_TRADES = 100_000
Wanted = TypeVar("Wanted")


class Controllable(Protocol):
    """What the control API drives."""

    def sent(self) -> dict[str, object]:
        """Return what happened at the exchange since its start."""
        ...

    def book(self, symbol: str) -> TradeBook | None:
        """Return a symbol's trades."""
        ...

    def start_event(self, event: MarketEvent) -> None:
        """Begin a market event."""
        ...

    def start_fault(self, fault: Fault) -> None:
        """Begin a fault."""
        ...

    def faults(self) -> list[dict[str, object]]:
        """Return the faults under way."""
        ...

    def clear_faults(self) -> None:
        """End all faults."""
        ...

    def stop_trading(self) -> None:
        """Make no more trades."""
        ...


def control_routes(exchange: Controllable) -> list[Route]:
    """Return the endpoints."""

    async def sent(request: Request) -> Response:
        return _json(exchange.sent())

    async def trades(request: Request) -> Response:
        book = exchange.book(request.query_params.get("symbol", ""))
        try:
            from_id = int(request.query_params.get("from_id", "0"))
            limit = min(MAX_TRADES, int(request.query_params.get("limit", "1000")))
        except ValueError:
            return _refusal("from_id and limit are whole numbers")
        if book is None:
            return _refusal("symbol is not traded here")
        body = wire.agg_trade_rows(book.symbol, book.from_id(from_id, limit), wire.MICROSECOND)
        return Response(body, media_type="application/json")

    async def event(request: Request) -> Response:
        return _carry_out(await request.body(), MarketEvent, exchange.start_event)

    async def fault(request: Request) -> Response:
        return _carry_out(await request.body(), Fault, exchange.start_fault)

    async def faults(request: Request) -> Response:
        if request.method == "DELETE":
            exchange.clear_faults()
        return _json(exchange.faults())

    async def stop(request: Request) -> Response:
        exchange.stop_trading()
        return _json(exchange.sent())

    return [
        Route("/_control/sent", sent),
        Route("/_control/trades", trades),
        Route("/_control/event", event, methods=["POST"]),
        Route("/_control/fault", fault, methods=["POST"]),
        Route("/_control/faults", faults, methods=["GET", "DELETE"]),
        Route("/_control/stop", stop, methods=["POST"]),
    ]


def _carry_out(body: bytes, wanted: type[Wanted], work: Callable[[Wanted], None]) -> Response:
    try:
        step = msgspec.json.decode(body, type=wanted)
        work(step)
    except (msgspec.MsgspecError, ValueError) as error:
        return _refusal(str(error))
    return _json({"started": msgspec.to_builtins(step)})


def _json(content: object) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")


def _refusal(problem: str) -> Response:
    return Response(msgspec.json.encode({"error": problem}), 400, media_type="application/json")
