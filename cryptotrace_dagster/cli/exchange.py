"""The commands `exchange` and `receiver`: the two outside parties, simulated on this machine."""

import asyncio
import json
import signal
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("exchange")(exchange)


def exchange(
    port: Annotated[int, typer.Option(help="Port of the WebSocket streams; 0 picks a free one.")] = 9443,
    rest_port: Annotated[int, typer.Option(help="Port of REST, dumps and control; 0 picks a free one.")] = 9444,
    seed: Annotated[int, typer.Option(help="The same seed makes the same market.")] = 1,
    symbols: Annotated[str, typer.Option(help="What trades, by commas.")] = "BTCUSDT,ETHUSDT,SOLUSDT,BNBUSDT,XRPUSDT",
    trades_per_second: Annotated[float, typer.Option(min=0.01, max=5_000, help="Average over all symbols.")] = 100.0,
    script: Annotated[str, typer.Option(help="Events and faults: a TOML or JSON file, or `demo`.")] = "",
    history: Annotated[str, typer.Option(help="Trades made before the start, for REST and dumps: 30m, 6h.")] = "0s",
) -> None:
    """Simulate the exchange on loopback: streams, REST, dumps, events and faults, from a seed or a recording."""
    from cryptotrace_dagster.exchange.simulated import ExchangeConfig, SimulatedExchange

    config = ExchangeConfig(
        symbols=tuple(name.strip().upper() for name in symbols.split(",") if name.strip()),
        trades_per_second=trades_per_second,
        seed=seed,
        script=script,
        stream_port=port,
        rest_port=rest_port,
        history_seconds=_seconds(history),
    )

    async def serve() -> None:
        async with SimulatedExchange(config) as running:
            ready = {"event": "exchange_ready", "stream_url": running.stream_url, "rest_url": running.rest_url}
            _say(ready | {"dump_url": running.dump_url})
            await _stop_signal()

    asyncio.run(serve())


def _seconds(text: str) -> float:
    """Return the seconds of a duration such as 90, 90s, 30m or 6h."""
    factors = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
    number, unit = (text[:-1], text[-1]) if text[-1:] in factors else (text, "s")
    try:
        seconds = float(number) * factors[unit]
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no duration: write 30m or 6h") from None
    if not 0 <= seconds <= 86_400 * 31:
        raise typer.BadParameter(f"{text!r} is out of range: from 0 to 31d")
    return seconds


async def _stop_signal() -> None:
    """Return when the process is asked to end."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()


def _say(event: dict[str, Any]) -> None:
    """Print one line that another program can wait for."""
    print(json.dumps(event, separators=(",", ":")), flush=True)
