"""Readers of a stream, each in a process of its own, that tell what CPU time a trade costs them. A worker.

`bare` is what no reader can do without: the websockets package and json. `feed` is the product's own connection, intake
and publisher. `check` takes frames that are in memory already: decode and id check alone.
"""

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from websockets.asyncio.client import connect

from cryptotrace_dagster.bench.market import stream_frames, symbol_names
from cryptotrace_dagster.feed.attempts import AttemptBudget
from cryptotrace_dagster.feed.connection import StreamConnection
from cryptotrace_dagster.feed.intake import Intake, Lane
from cryptotrace_dagster.feed.publisher import Publisher

_HOUSEKEEPING_SECONDS = 0.1
_FLUSH_SECONDS = 30.0


class _NoBroker:
    """Takes what the intake publishes, and does nothing with it."""

    topic = "ticks"

    @staticmethod
    def produce(_topic: str, _value: bytes, _key: bytes) -> None:
        """Take a trade."""


async def read_bare(url: str, count: int) -> dict[str, Any]:
    """Receive and decode, and nothing else."""
    began = time.process_time()
    id_sum = 0
    async with connect(url, compression=None) as websocket:
        for _ in range(count):
            id_sum += json.loads(await websocket.recv())["data"]["a"]
        seconds = time.process_time() - began
    return {"cpu_seconds": seconds, "trades": count, "id_sum": id_sum}


async def read_as_feed(url: str, count: int, symbols: list[str], bootstrap_servers: str, topic: str) -> dict[str, Any]:
    """Receive, decode, check ids and publish, with the parts that the feed is made of."""
    began = time.process_time()
    lanes = [Lane(symbol) for symbol in symbols]
    lost: list[str] = []
    publisher = Publisher(bootstrap_servers, topic, f"{topic}.dead_letter", lambda symbol, _value: lost.append(symbol))
    intake = Intake(lanes, publisher)
    connection = StreamConnection(
        "bench",
        url,
        intake.take,
        publisher.wait_for_room,
        AttemptBudget(Path(tempfile.mkdtemp()) / "attempts.json"),
        silence_seconds=60.0,
        rollover_seconds=3600.0,
    )
    running = asyncio.create_task(connection.run())
    while sum(lane.received for lane in lanes) < count:
        publisher.poll()
        await asyncio.sleep(_HOUSEKEEPING_SECONDS)
    unsent = await publisher.flush(_FLUSH_SECONDS)
    seconds = time.process_time() - began
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return {
        "cpu_seconds": seconds,
        "trades": sum(lane.received for lane in lanes),
        "wrong": unsent + len(lost) + sum(lane.missed + lane.repeated for lane in lanes),
        "id_sum": sum(lane.ids.next_id * (lane.ids.next_id - 1) // 2 for lane in lanes),
    }


def check_ids(count: int, symbols: list[str]) -> dict[str, Any]:
    """Decode and check ids."""
    frames = stream_frames(count, symbols)
    lanes = [Lane(symbol) for symbol in symbols]
    take = Intake(lanes, _NoBroker()).take  # type: ignore[arg-type]
    began = time.process_time()
    for frame in frames:
        take(frame)
    seconds = time.process_time() - began
    return {
        "cpu_seconds": seconds,
        "trades": sum(lane.received for lane in lanes),
        "wrong": sum(lane.missed + lane.repeated for lane in lanes),
        "id_sum": sum(lane.ids.next_id * (lane.ids.next_id - 1) // 2 for lane in lanes),
    }


def main(mode: str, count: int, symbol_count: int, url: str = "", bootstrap_servers: str = "", topic: str = "") -> None:
    """Read in one of the three ways, and print what it cost."""
    symbols = symbol_names(symbol_count)
    if mode == "bare":
        result = asyncio.run(read_bare(url, count))
    elif mode == "feed":
        result = asyncio.run(read_as_feed(url, count, symbols, bootstrap_servers, topic))
    else:
        result = check_ids(count, symbols)
    print(json.dumps(result))  # noqa: T201 - a worker's answer


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
