"""Those who look at a running system: clients of its API, and viewers of its dashboard.

Owns the load and how long each answer took. A viewer speaks the dashboard's own protocol (Streamlit's messages over a
WebSocket), as a browser does that asks for one view after the other. Stays out: what is made of the times (reads.py).
"""

import asyncio
import itertools
import time
from collections import defaultdict
from dataclasses import dataclass, field
from urllib.parse import urlencode

import httpx
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

API_REQUESTS_PER_SECOND = 20
VIEWERS = 5
_THINKING_SECONDS = 2.0  # of a viewer, from one view to the next
_ANSWER_SECONDS = 60.0
_LARGEST_MESSAGE = 64 * 2**20
_VIEWS = ("1m", "1s", "5m")
_ENDS = (ForwardMsg.FINISHED_SUCCESSFULLY, ForwardMsg.FINISHED_WITH_COMPILE_ERROR)


@dataclass
class Load:
    """What the load has met: milliseconds by question, and what failed."""

    api_ms: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    interaction_ms: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def api_paths(symbol: str) -> dict[str, str]:
    """Return the questions that a client asks again and again, by name, about one symbol."""
    return {
        "symbols": "/symbols",
        "bars": f"/bars?symbol={symbol}&interval=1m",
        "ticks": f"/ticks?symbol={symbol}&limit=500",
        "alerts": "/alerts",
    }


async def look(api_url: str, dashboard_url: str, symbols: tuple[str, ...], stop: asyncio.Event, load: Load) -> None:
    """Put the load on until told to stop: so many API requests a second, however long answers take, and so many viewers."""
    viewers = [_view(dashboard_url, symbols[number:] + symbols[:number], stop, load) for number in range(VIEWERS)]
    await asyncio.gather(_ask(api_url, symbols, stop, load), *viewers)


async def _ask(api_url: str, symbols: tuple[str, ...], stop: asyncio.Event, load: Load) -> None:
    # Idle connections are left before the server closes them, for a request on the way then would count as failed.
    limits = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=2)
    async with (
        httpx.AsyncClient(base_url=api_url, timeout=_ANSWER_SECONDS, trust_env=False, limits=limits) as client,
        asyncio.TaskGroup() as requests,
    ):
        began = time.monotonic()
        questions = (question for symbol in itertools.cycle(symbols) for question in api_paths(symbol).items())
        for number, (name, path) in enumerate(questions):
            await asyncio.sleep(max(0.0, began + number / API_REQUESTS_PER_SECOND - time.monotonic()))
            if stop.is_set():
                return
            requests.create_task(_request(client, name, path, load))


async def _request(client: httpx.AsyncClient, name: str, path: str, load: Load) -> None:
    began = time.perf_counter()
    try:
        status = (await client.get(path)).status_code
    except httpx.HTTPError as error:
        load.failures.append(f"{path}: {error!r}")
        return
    load.api_ms[name].append((time.perf_counter() - began) * 1e3)
    if status != 200:
        load.failures.append(f"{path}: {status}")


async def _view(dashboard_url: str, symbols: tuple[str, ...], stop: asyncio.Event, load: Load) -> None:
    url = f"{dashboard_url.replace('http', 'ws', 1)}/_stcore/stream"
    # Without pings of our own: how long an answer may take is `_ANSWER_SECONDS`' to say.
    async with connect(
        url,
        subprotocols=[Subprotocol("streamlit")],
        max_size=_LARGEST_MESSAGE,
        open_timeout=_ANSWER_SECONDS,
        ping_interval=None,
        proxy=None,
    ) as socket:
        await _interact(socket, "")  # the first view of a session also loads the page's modules
        for symbol, interval in ((symbol, interval) for symbol in itertools.cycle(symbols) for interval in _VIEWS):
            if stop.is_set():
                return
            began = time.perf_counter()
            if (failure := await _interact(socket, urlencode({"symbol": symbol, "interval": interval}))) is not None:
                load.failures.append(f"the view of {symbol}: {failure}")
                return
            load.interaction_ms.append((time.perf_counter() - began) * 1e3)
            await asyncio.sleep(_THINKING_SECONDS)


async def _interact(socket: ClientConnection, query: str) -> str | None:
    """Ask for a view, take all of it, and return what went wrong, if anything did."""
    request = BackMsg()
    request.rerun_script.query_string = query
    await socket.send(request.SerializeToString())
    failure = None
    async with asyncio.timeout(_ANSWER_SECONDS):
        while True:
            message = ForwardMsg.FromString(await socket.recv(decode=False))
            kind = message.WhichOneof("type")
            if kind == "delta" and message.delta.new_element.HasField("exception"):
                failure = message.delta.new_element.exception.message
            if kind == "script_finished" and message.script_finished in _ENDS:
                return failure
