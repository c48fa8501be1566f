"""`cryptotrace broker`: a Kafka broker in memory, for one machine without Docker."""

import asyncio
import json
import signal

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""

    @app.command()
    def broker(
        port: int = typer.Option(9092, min=0, max=65535, help="Port to listen on; 0 takes a free one."),
    ) -> None:
        """Run a small Kafka broker in memory, until stopped. `cryptotrace up` starts it by itself.

        Example: cryptotrace broker --port 9092
        """
        asyncio.run(_serve(port))


async def _serve(port: int) -> None:
    from cryptotrace_dagster.supervisor.embedded_broker import embedded_broker

    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with embedded_broker(port) as bootstrap_servers:
        print(json.dumps({"event": "broker_ready", "bootstrap_servers": bootstrap_servers}), flush=True)
        await stopped.wait()
