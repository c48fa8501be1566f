"""The commands `exchange` and `receiver`: the two outside parties, simulated on this machine."""

import asyncio
import json
import math
import signal
from pathlib import Path
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("exchange")(exchange)
    app.command("receiver")(receiver)
    app.command("labelled")(labelled)


def exchange(
    *,
    port: Annotated[int, typer.Option(help="Port of the WebSocket streams; 0 picks a free one.")] = 9443,
    rest_port: Annotated[int, typer.Option(help="Port of REST, dumps and control; 0 picks a free one.")] = 9444,
    seed: Annotated[int, typer.Option(help="The same seed makes the same market.")] = 1,
    symbols: Annotated[str, typer.Option(help="What trades, by commas.")] = "BTCUSDT,ETHUSDT,SOLUSDT,BNBUSDT,XRPUSDT",
    trades_per_second: Annotated[float, typer.Option(min=0.01, max=5_000, help="Average over all symbols.")] = 100.0,
    script: Annotated[str, typer.Option(help="Events and faults: a TOML or JSON file, `demo`, or `storm`.")] = "",
    script_waits: Annotated[
        bool, typer.Option("--script-waits", help="Begin it when all symbols are subscribed.")
    ] = False,
    history: Annotated[str, typer.Option(help="Trades made before the start, for REST and dumps: 30m, 6h.")] = "0s",
    kept_trades: Annotated[int, typer.Option(min=1_000, help="Per symbol, for REST; 50 bytes each.")] = 1_000_000,
    replay: Annotated[list[Path] | None, typer.Option(help="Play recorded messages or aggTrade dumps.")] = None,
    speed: Annotated[str, typer.Option(help="Of a replay: 1, 10, or `max` (as fast as the reader takes it).")] = "1",
    host: Annotated[
        str, typer.Option(help="Address to listen on; another than loopback only inside containers.")
    ] = "127.0.0.1",
) -> None:
    """Simulate the exchange on loopback: streams, REST, dumps, events and faults, from a seed or a recording.

    Example: cryptotrace exchange --symbols BTCUSDT,ETHUSDT --trades-per-second 50
    """
    from cryptotrace_dagster.exchange.simulated import ExchangeConfig, SimulatedExchange

    config = ExchangeConfig(
        host=host,
        symbols=tuple(name.strip().upper() for name in symbols.split(",") if name.strip()),
        trades_per_second=trades_per_second,
        seed=seed,
        script=script,
        script_waits_for_reader=script_waits,
        stream_port=port,
        rest_port=rest_port,
        history_seconds=_seconds(history),
        kept_trades_per_symbol=kept_trades,
        replay=tuple(replay or ()),
        speed=_speed(speed),
    )

    async def serve() -> None:
        async with SimulatedExchange(config) as running:
            ready = {"event": "exchange_ready", "stream_url": running.stream_url, "rest_url": running.rest_url}
            _say(ready | {"dump_url": running.dump_url})
            assert running.work is not None  # noqa: S101 - it runs inside the block
            await asyncio.wait({asyncio.create_task(_stop_signal()), running.work}, return_when=asyncio.FIRST_COMPLETED)

    asyncio.run(serve())


def receiver(
    *,
    port: Annotated[int, typer.Option(help="Port to listen on; 0 picks a free one.")] = 9445,
    data_dir: Annotated[Path, typer.Option(help="Messages go to DATA_DIR/receiver/messages.jsonl.")] = Path("data"),
    rate_limits: Annotated[bool, typer.Option(help="Limit senders as Discord does.")] = True,
    host: Annotated[
        str, typer.Option(help="Address to listen on; another than loopback only inside containers.")
    ] = "127.0.0.1",
) -> None:
    """Stand in for Discord on loopback: webhooks and the bot's messages, kept as lines of JSON.

    Example: cryptotrace receiver --port 9445
    """
    from cryptotrace_dagster.receiver.limits import RateLimits
    from cryptotrace_dagster.receiver.server import DiscordReceiver, ReceiverConfig

    config = ReceiverConfig(host=host, port=port, data_dir=data_dir, limits=RateLimits() if rate_limits else None)

    async def serve() -> None:
        async with DiscordReceiver(config) as running:
            _say({"event": "receiver_ready", "webhook_url": running.webhook_url})
            await _stop_signal()

    asyncio.run(serve())


def labelled(
    folder: Annotated[
        Path, typer.Argument(help="Gets trades/SYMBOL.parquet, labels.csv (pumps) and events.csv (all).")
    ],
    *,
    pumps: Annotated[int, typer.Option(min=0, help="Pumps, one a symbol.")] = 200,
    symbol_days: Annotated[int, typer.Option(min=0, help="Symbol-days without a pump.")] = 2_000,
    days: Annotated[int, typer.Option(min=1, max=60, help="Days in each symbol's record.")] = 4,
    seed: Annotated[int, typer.Option(help="The same seed makes the same set.")] = 1,
    symbol_class: Annotated[str | None, typer.Option(help="Only thin, middling or large symbols.")] = None,
    natural_events: Annotated[bool, typer.Option(help="News, swept books, rallies, market moves, halts.")] = True,
) -> None:
    """Make labelled days of trading for detection research: thin to large symbols, pumps, and what only looks like one.

    Example: cryptotrace labelled labelled-days --days 3 --seed 7
    """
    from rich.progress import track

    from cryptotrace_dagster.exchange.labelled import LabelledPlan, write_labelled

    plan = LabelledPlan(
        pumps=pumps,
        calm_symbol_days=symbol_days,
        days=days,
        seed=seed,
        symbol_class=symbol_class,
        has_natural_events=natural_events,
    )
    trades = 0
    for case in track(write_labelled(plan, folder), "Drawing symbols", total=plan.symbols):
        trades += case.trades.height
    calm_days = plan.symbols * days - pumps
    _say(
        {
            "event": "labelled_written",
            "symbols": plan.symbols,
            "pumps": pumps,
            "calm_symbol_days": calm_days,
            "trades": trades,
        }
    )


def _speed(text: str) -> float:
    """Return the factor; infinity for `max`."""
    try:
        speed = math.inf if text == "max" else float(text)
    except ValueError:
        speed = math.nan
    if not speed > 0:
        raise typer.BadParameter(f"{text!r} is no speed: write a number above 0, or max")
    return speed


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
