"""A WebSocket server that sends the same frames to everyone as fast as they are taken. A worker.

The frames are encoded before anyone connects, so that the server costs the measured reader nothing.
"""

import asyncio
import json
import sys

from websockets.asyncio.server import ServerConnection, serve

from cryptotrace_dagster.bench.market import stream_frames, symbol_names

_CHUNK_FRAMES = 256
_TEXT_FRAME, _LENGTH_IN_TWO_BYTES = 0x81, 126


def encoded(frame: bytes) -> bytes:
    """Return a server's text frame (RFC 6455) of 126 to 65,535 bytes."""
    return bytes((_TEXT_FRAME, _LENGTH_IN_TWO_BYTES)) + len(frame).to_bytes(2, "big") + frame


async def main(count: int, symbols: int) -> None:
    """Serve until killed; the port is told on the first line."""
    frames = [encoded(frame) for frame in stream_frames(count, symbol_names(symbols))]
    chunks = [b"".join(frames[start : start + _CHUNK_FRAMES]) for start in range(0, count, _CHUNK_FRAMES)]

    async def send_all(connection: ServerConnection) -> None:
        for chunk in chunks:
            connection.transport.write(chunk)
            await connection.drain()
        await connection.wait_closed()

    async with serve(send_all, "127.0.0.1", 0, compression=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        print(json.dumps({"event": "frames_ready", "url": f"ws://127.0.0.1:{port}"}), flush=True)  # noqa: T201
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
