"""HTTP servers for the simulated exchange and the Discord double, inside the running event loop.

Owns binding, start, stop and the means to reset a connection. What is served belongs to exchange/ and receiver/.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from threading import Thread
from typing import TypeVar

import uvicorn
from starlette.requests import Request
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from cryptotrace_dagster.errors import UserError

Server = TypeVar("Server")


class PortTakenError(UserError):
    """The port asked for cannot be bound."""


def bind(host: str, port: int) -> socket.socket:
    """Return a bound socket; port 0 picks a free one.

    Raises:
        PortTakenError: another program holds the port, or the address is not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named as TCP, asyncio turns Nagle's algorithm off; unnamed, each answer would wait 40 ms for the other's ACK.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise PortTakenError(
            f"Port {port} on {host} could not be opened ({error.strerror}): end what uses it, or choose another port."
        ) from error
    return listener


def port_of(listener: socket.socket) -> int:
    """Return the port that a bound socket got."""
    return int(listener.getsockname()[1])


@asynccontextmanager
async def serving(app: ASGIApp, listener: socket.socket) -> AsyncIterator[None]:
    """Serve the app on the bound socket until the block ends."""
    config = uvicorn.Config(
        app,
        http=_ConnectionInStateProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    server = _QuietServer(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started:
            if task.done():
                task.result()
                raise RuntimeError("The HTTP server ended before it had started.")
            await asyncio.sleep(0.005)
        yield
    finally:
        server.should_exit = True
        with suppress(asyncio.CancelledError):
            await task
        listener.close()


def reset_connection(transport: asyncio.BaseTransport) -> None:
    """Close a connection so that the peer sees a TCP reset instead of an orderly end."""
    peer = transport.get_extra_info("socket")
    if peer is not None:
        with suppress(OSError):  # already closed by the peer
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if isinstance(transport, asyncio.WriteTransport):
        transport.abort()


def transport_of(request: Request) -> asyncio.Transport:
    """Return the connection that a request of one of our servers came in on."""
    transport: asyncio.Transport = request.state.transport
    return transport


class _QuietServer(uvicorn.Server):
    """Leaves signals to the process that hosts the server."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _ConnectionInStateProtocol(H11Protocol):
    """Hands the transport to the application, so that a fault can break the connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}


@contextmanager
def running_in_thread(server: AbstractAsyncContextManager[Server]) -> Iterator[Server]:
    """Run a server in the event loop of a thread of its own until the block ends; its errors reach the caller."""
    ready: Future[tuple[Server, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def live() -> None:
        stop = asyncio.Event()
        async with server as running:
            ready.set_result((running, asyncio.get_running_loop(), stop))
            await stop.wait()

    def work() -> None:
        try:
            asyncio.run(live())
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    thread = Thread(target=work, name="loopback", daemon=True)
    thread.start()
    running, loop, stop = ready.result()
    try:
        yield running
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
