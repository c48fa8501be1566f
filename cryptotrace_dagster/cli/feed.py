"""`cryptotrace feed`: the process that brings the exchange's trades into Kafka."""

import asyncio
import json
import signal

import typer

from cryptotrace_dagster.settings import Settings, load_settings


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def feed() -> None:
        """Bring the exchange's trades into Kafka, none lost, none doubled; runs until SIGTERM or Ctrl-C.

        Settings come from the environment (SYMBOLS, KAFKA_BOOTSTRAP_SERVERS, BINANCE_STREAM_URL, FEED_PORT, ...).
        When every connection stands, one line of JSON says so.

        Example: cryptotrace feed
        """
        asyncio.run(_run(load_settings()))


async def _run(settings: Settings) -> None:
    from cryptotrace_dagster.feed.process import Feed

    stop, ready = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    feed = Feed(settings)
    announcing = asyncio.create_task(_announce(feed.symbols, settings, ready))
    try:
        await feed.run(stop, ready)
    finally:
        announcing.cancel()


async def _announce(symbols: list[str], settings: Settings, ready: asyncio.Event) -> None:
    await ready.wait()
    address = f"http://{settings.bind_host}:{settings.feed_port}"
    print(json.dumps({"event": "feed_ready", "symbols": symbols, "metrics_url": f"{address}/metrics"}), flush=True)
