"""A whole system that runs to be measured: `cryptotrace up` between a simulated exchange and the Discord double.

The two outside parties are processes of their own and not counted as the system's. Owns starting, asking and stopping
them. Stays out: what is measured.
"""

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil

from cryptotrace_dagster.bench.dagster_floor import wait_until
from cryptotrace_dagster.bench.rows import require
from cryptotrace_dagster.bench.sizes import SEED
from cryptotrace_dagster.bench.workers import background, end
from cryptotrace_dagster.domain.windows import utc_now
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.supervisor.readiness import port_answers

COMMAND = (sys.executable, "-m", "cryptotrace_dagster.cli.main")
_PORTS = (3000, 8000, 8501, 9101, 9092)
_UP = "CryptoTrace is up"
_START_SECONDS = 240.0
LOAD_SYMBOLS = 50
DRAIN_SECONDS = 180.0
_STOP_SECONDS = 45.0
_SECRETS = ("DISCORD_WEBHOOK_URL", "DISCORD_BOT_TOKEN", "DISCORD_CHANNEL_ID")


@dataclass(frozen=True)
class Outside:
    """The exchange and the receiver."""

    symbols: tuple[str, ...]
    stream_url: str
    rest_url: str
    dump_url: str
    webhook_url: str

    @property
    def receiver_url(self) -> str:
        """Return the receiver's address."""
        return self.webhook_url.partition("/api/")[0]

    def control(self, action: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask the exchange for something beyond its protocol."""
        url = f"{self.rest_url}/_control/{action}"
        answer = (
            httpx.get(url, timeout=30, trust_env=False)
            if body is None
            else httpx.post(url, json=body, timeout=30, trust_env=False)
        )
        result: dict[str, Any] = answer.raise_for_status().json()
        return result

    def messages(self) -> list[dict[str, Any]]:
        """Return what has arrived at the receiver."""
        answer = httpx.get(f"{self.receiver_url}/_control/messages", timeout=30, trust_env=False)
        result: list[dict[str, Any]] = answer.raise_for_status().json()
        return result


@contextmanager
def outside_parties(
    folder: Path, symbols: tuple[str, ...], trades_per_second: float, seed: int, history: str = "0s"
) -> Iterator[Outside]:
    """Run the exchange and the receiver while the block lasts."""
    exchange = [*COMMAND, "exchange", "--port", "0", "--rest-port", "0", "--seed", str(seed), "--history", history]
    exchange += ["--symbols", ",".join(symbols), "--trades-per-second", str(trades_per_second)]
    receiver = [*COMMAND, "receiver", "--port", "0", "--data-dir", str(folder / "outside")]
    with background(exchange) as (_, market), background(receiver) as (_, discord):
        yield Outside(symbols, market["stream_url"], market["rest_url"], market["dump_url"], discord["webhook_url"])


@dataclass(frozen=True)
class RunningSystem:
    """A `cryptotrace up` whose services are all ready."""

    process: "subprocess.Popen[str]"
    data_dir: Path
    offset: int
    start_seconds: float

    @property
    def dagster_url(self) -> str:
        """Return the address of Dagster's UI."""
        return f"http://127.0.0.1:{3000 + self.offset}"

    @property
    def api_url(self) -> str:
        """Return the address of the API."""
        return f"http://127.0.0.1:{8000 + self.offset}"

    @property
    def dashboard_url(self) -> str:
        """Return the address of the dashboard."""
        return f"http://127.0.0.1:{8501 + self.offset}"

    @property
    def warehouse_path(self) -> Path:
        """Return the warehouse's file."""
        return self.data_dir / "cryptotrace.duckdb"

    def processes(self) -> list[psutil.Process]:
        """Return the supervisor and everything under it."""
        supervisor = psutil.Process(self.process.pid)
        return [supervisor, *supervisor.children(recursive=True)]

    def cpu_seconds(self) -> float:
        """Return the CPU time of all processes so far, those that have ended included."""
        return sum(_cpu_seconds(process) for process in self.processes())

    def memory_mb(self) -> float:
        """Return the memory of all processes, what they share counted once (Linux's proportional set size)."""
        return sum(_memory_bytes(process) for process in self.processes()) / 1e6


@contextmanager
def running_system(folder: Path, outside: Outside) -> Iterator[RunningSystem]:
    """Run `cryptotrace up` with default settings while the block lasts; lend it once everything is healthy."""
    data_dir = folder / "data"
    log_path = folder / "up.log"
    offset = _free_offset()
    began = time.perf_counter()
    with log_path.open("w") as log:
        process = subprocess.Popen(  # noqa: S603 - our own command
            [*COMMAND, "up", "--no-browser", "--data-dir", str(data_dir), "--port-offset", str(offset)],
            env=_environment(outside),
            cwd=folder,  # no .env and no alerts.toml here: default settings, built-in rules
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            text=True,
        )
    try:
        wait_until(lambda: _is_up(process, log_path), _START_SECONDS, "`cryptotrace up` is not up")
        yield RunningSystem(process, data_dir, offset, time.perf_counter() - began)
    finally:
        end(process, _STOP_SECONDS)


@contextmanager
def running_market(folder: Path, trades_per_second: float, history: str) -> Iterator[tuple[Outside, RunningSystem]]:
    """Run a market of `LOAD_SYMBOLS` symbols and the system that watches it, its history stored, while the block lasts."""
    symbols = tuple(f"SYM{number:02}USDT" for number in range(LOAD_SYMBOLS))
    today = utc_now()
    days = ((today - timedelta(minutes=20)).date().isoformat(), today.date().isoformat())
    with outside_parties(folder, symbols, trades_per_second, SEED, history) as outside:
        backfill(folder, outside, days)
        with running_system(folder, outside) as system:
            yield outside, system


def wait_for_the_present(system: RunningSystem) -> None:
    """Wait until the live run has made up for the start: what is stored is a few seconds old."""
    warehouse = Warehouse(str(system.warehouse_path))

    def is_present() -> bool:
        latest = warehouse.read("SELECT max(bar_end) AS latest FROM ohlc_bars WHERE bar_interval = '1s'").item()
        return latest is not None and utc_now() - latest < timedelta(seconds=5)

    wait_until(is_present, DRAIN_SECONDS, "the live run has not reached the present")


def wait_until_stored(system: RunningSystem, outside: Outside) -> None:
    """Wait until the last trade of each symbol is stored; the market must have stopped."""
    warehouse = Warehouse(str(system.warehouse_path))
    last_ids = {symbol: row["last_id"] for symbol, row in outside.control("sent")["symbols"].items()}

    def is_done() -> bool:
        rows = warehouse.read("SELECT symbol, max(last_id) FROM trade_id_ranges GROUP BY symbol")
        return dict(rows.iter_rows()) == last_ids

    wait_until(is_done, DRAIN_SECONDS, "the last trades are not stored")


def check_trades(system: RunningSystem, outside: Outside) -> None:
    """Hold every trade that the feed could hear against the warehouse.

    Raises:
        WrongWorkError: one is missing or doubled.
    """
    warehouse = Warehouse(str(system.warehouse_path))
    for symbol, sent in outside.control("sent")["symbols"].items():
        row = warehouse.read(
            "SELECT count(*), count(DISTINCT trade_id) FROM raw_ticks WHERE symbol = ? AND trade_id BETWEEN ? AND ?",
            [symbol, sent["first_heard_id"], sent["last_id"]],
        )
        wanted = sent["last_id"] - sent["first_heard_id"] + 1
        require(row.row(0) == (wanted, wanted), f"{symbol}: {row.row(0)} of {wanted} trades are stored")


def backfill(folder: Path, outside: Outside, days: tuple[str, str]) -> None:
    """Bring what the exchange traded before into the warehouse of a system that does not run yet."""
    done = subprocess.run(  # noqa: S603 - our own command
        [
            *COMMAND,
            "backfill",
            *outside.symbols,
            "--from",
            days[0],
            "--to",
            days[1],
            "--data-dir",
            str(folder / "data"),
        ],
        env=_environment(outside),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    require(done.returncode == 0, f"the backfill failed: {done.stderr[-500:]}")


def _environment(outside: Outside) -> dict[str, str]:
    inherited = {
        name: value for name, value in os.environ.items() if name not in (*_SECRETS, "KAFKA_BOOTSTRAP_SERVERS")
    }
    return {
        **inherited,
        "SYMBOLS": ",".join(outside.symbols),
        "BINANCE_STREAM_URL": outside.stream_url,
        "BINANCE_REST_URL": outside.rest_url,
        "BINANCE_DUMP_URL": outside.dump_url,
        "DISCORD_WEBHOOK_URL": outside.webhook_url,
    }


def _is_up(process: "subprocess.Popen[str]", log_path: Path) -> bool:
    said = log_path.read_text(encoding="utf-8", errors="replace")
    require(process.poll() is None, f"`cryptotrace up` ended: {said[-500:]}")
    return _UP in said


def _free_offset() -> int:
    for _ in range(100):
        offset = random.randrange(20_000, 50_000)
        if not any(port_answers(port + offset) for port in _PORTS):
            return offset
    raise RuntimeError("no free ports were found")


def _cpu_seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:  # it has just ended; its parent counts its time from now on
        return 0.0
    return float(times.user + times.system + getattr(times, "children_user", 0) + getattr(times, "children_system", 0))


def _memory_bytes(process: psutil.Process) -> int:
    try:
        memory = process.memory_full_info()
    except psutil.Error:  # it has just ended
        return 0
    return int(getattr(memory, "pss", memory.rss))
