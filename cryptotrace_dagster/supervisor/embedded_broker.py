"""A Kafka broker for one machine without Docker: librdkafka's own in-process cluster behind a fixed port.

Owns the hosting of that cluster and the forwarder that gives it a port which survives a restart. The cluster lives in
memory, keeps about 5 MiB a topic partition and starts empty: after its restart the trade ids show what is missing and
the feed fills it. Stays out: topics, messages, and any real Kafka.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from confluent_kafka import Producer

from cryptotrace_dagster.errors import UserError

_START_TIMEOUT_SECONDS = 10
_CHUNK_BYTES = 65536


class BrokerError(UserError):
    """The broker could not be started; the message says what to do."""


@contextlib.asynccontextmanager
async def embedded_broker(port: int, host: str = "127.0.0.1") -> AsyncIterator[str]:
    """Run a Kafka broker while the block lasts, and lend its bootstrap address.

    The cluster itself listens on a port of its own choosing, another at every start, and tells clients that address.
    Clients come in through the fixed port, so they find the cluster again after a restart.

    Raises:
        BrokerError: the port is taken.
    """
    # A producer hosts the cluster for as long as it lives.
    cluster = Producer({"bootstrap.servers": "replaced-by-the-cluster", "test.mock.num.brokers": 1, "log_level": 4})
    broker = next(iter(cluster.list_topics(timeout=_START_TIMEOUT_SECONDS).brokers.values()))

    async def forward(client_reader: asyncio.StreamReader, client_writer: asyncio.StreamWriter) -> None:
        try:
            cluster_reader, cluster_writer = await asyncio.open_connection(broker.host, broker.port)
        except OSError:
            client_writer.close()  # the client sees a closed connection and tries again, as with any broker
            return
        await asyncio.gather(_copy(client_reader, cluster_writer), _copy(cluster_reader, client_writer))

    try:
        server = await asyncio.start_server(forward, host, port)
    except OSError as error:
        raise BrokerError(
            f"The broker cannot listen on {host}:{port} ({error.strerror}): stop what uses the port, "
            "or choose another with --port."
        ) from None
    async with server:
        yield f"{host}:{server.sockets[0].getsockname()[1]}"
    del cluster


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    # A connection that breaks is the client's to notice and to open again, as with any broker.
    with contextlib.suppress(ConnectionError):
        while chunk := await reader.read(_CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
    writer.close()
