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


async def trade_on(exchange: SimulatedExchange, symbol: str = "BTCUSDT", count: int = 50) -> None:
    """Return once so many more trades of the symbol have happened."""
    book = exchange.book(symbol)
    assert book is not None
    wanted = book.count + count
    await until(lambda: book.count >= wanted)


async def take_the_rest(socket: ClientConnection, exchange: SimulatedExchange) -> list[dict[str, Any]]:
    """Stop trading and return all payloads that are still to come, held-back ones too."""
    exchange.stop_trading()
    payloads: list[dict[str, Any]] = []
    while more := await take_for(socket, 1.0):
        payloads += more
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


async def raw_socket(port: int, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a WebSocket by hand, for what a library would hide: bytes on the wire, or never reading at all."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1_024)
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n".encode()
        + b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer
