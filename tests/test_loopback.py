"""The small servers that simulated parties are made of."""

import asyncio
import socket

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from cryptotrace_dagster.loopback import PortTakenError, bind, port_of, reset_connection, serving, transport_of


async def _hello(request: Request) -> Response:
    return PlainTextResponse("hello")


async def _reset(request: Request) -> Response:
    reset_connection(transport_of(request))
    return PlainTextResponse("never seen")


APP = Starlette(routes=[Route("/", _hello), Route("/reset", _reset)])


async def test_an_app_is_served_until_the_block_ends() -> None:
    listener = bind("127.0.0.1", 0)
    url = f"http://127.0.0.1:{port_of(listener)}"
    async with serving(APP, listener), httpx.AsyncClient() as client:
        assert (await client.get(url)).text == "hello"
    with pytest.raises(OSError, match="Connect call failed"):
        await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))


async def test_a_reset_connection_gives_no_answer_and_the_next_one_works() -> None:
    listener = bind("127.0.0.1", 0)
    url = f"http://127.0.0.1:{port_of(listener)}"
    async with serving(APP, listener), httpx.AsyncClient() as client:
        with pytest.raises(httpx.ReadError):
            await client.get(f"{url}/reset")
        assert (await client.get(url)).text == "hello"


def test_answers_do_not_wait_for_acknowledgements() -> None:
    """Guards against 40 ms an answer: asyncio turns Nagle's algorithm off only on sockets that are named as TCP."""
    with bind("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_a_taken_port_is_one_clear_sentence() -> None:
    with bind("127.0.0.1", 0) as listener:
        listener.listen()
        with pytest.raises(PortTakenError, match=f"Port {port_of(listener)} on 127.0.0.1 could not be opened"):
            bind("127.0.0.1", port_of(listener))
