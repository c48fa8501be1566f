"""A reader as a client would write one, and small configurations of the exchange."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect

from cryptotrace_dagster.exchange.simulated import ExchangeConfig, SimulatedExchange

START = datetime(2026, 1, 5, 12)
BTC = ("BTCUSDT",)


def config(**changes: Any) -> ExchangeConfig:
    """Return a busy market of one symbol."""
    return ExchangeConfig(**({"symbols": BTC, "trades_per_second": 400.0, "seed": 7} | changes))


@asynccontextmanager
async def reading(exchange: SimulatedExchange, *symbols: str, extra: str = "") -> AsyncIterator[ClientConnection]:
    """Open a combined aggTrade stream."""
    names = "/".join(f"{symbol.lower()}@aggTrade" for symbol in symbols or exchange.config.symbols)
    async with opened(exchange, f"/stream?streams={names}{extra}") as socket:
        yield socket


def opened(exchange: SimulatedExchange, path: str) -> connect:
    """Open any path; a reader that is done does not wait for what is still under way."""
    return connect(f"{exchange.stream_url}{path}", close_timeout=0.1)


async def take(socket: ClientConnection, count: int) -> list[dict[str, Any]]:
    """Return the payloads of the next messages."""
    async with asyncio.timeout(20):
        return [json.loads(await socket.recv())["data"] for _ in range(count)]


async def take_for(socket: ClientConnection, seconds: float) -> list[dict[str, Any]]:
    """Return the payloads that come within so many seconds; unreadable frames are left out."""
    payloads = []
    try:
        async with asyncio.timeout(seconds):
            while True:
                frame = await socket.recv()
                try:
                    payloads.append(json.loads(frame)["data"])
                except (ValueError, TypeError, KeyError):
                    continue
    except TimeoutError:
        return payloads


def ids(payloads: list[dict[str, Any]]) -> list[int]:
    """Return the trade ids."""
    return [payload["a"] for payload in payloads]


@asynccontextmanager
async def rest(exchange: SimulatedExchange) -> AsyncIterator[httpx.AsyncClient]:
    """Open a REST client."""
    async with httpx.AsyncClient(base_url=exchange.rest_url, timeout=20) as client:
        yield client


async def until(is_reached: Callable[[], object], *, seconds: float = 10) -> None:
    """Return once the condition holds; fail when it does not within the time."""
    async with asyncio.timeout(seconds):
        while not is_reached():  # noqa: ASYNC110 - the exchange has no event for every figure that a test may wait for
            await asyncio.sleep(0.02)
