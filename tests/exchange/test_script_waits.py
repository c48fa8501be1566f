"""A script can wait for its audience."""

import asyncio
from pathlib import Path

from websockets.asyncio.client import connect

from cryptotrace_dagster.exchange.simulated import ExchangeConfig, SimulatedExchange
from tests.exchange.reader import until


async def test_a_script_that_waits_begins_with_the_first_subscription(tmp_path: Path) -> None:
    """Guards a demo whose pump is over before a slow machine's feed is up."""
    script = tmp_path / "script.toml"
    script.write_text('[[fault]]\nat = 0.0\nkind = "clock_skew"\nseconds = 60.0\nskew_ms = 1\n')
    config = ExchangeConfig(symbols=("BTCUSDT",), script=str(script), script_waits_for_reader=True)
    async with SimulatedExchange(config) as exchange:
        await asyncio.sleep(0.3)
        assert exchange.sent()["faults_started"] == 0
        async with connect(f"{exchange.stream_url}/stream?streams=btcusdt@aggTrade"):
            await until(lambda: exchange.sent()["faults_started"] == 1)
