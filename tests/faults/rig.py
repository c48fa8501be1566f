"""Exchange, feed, broker and an ingesting process, each a process of its own that can be killed, and the comparison.

Owns starting, breaking and comparing; which faults are injected and how often is the matrix's.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import httpx
import polars as pl

from cryptotrace_dagster.storage import Warehouse
from tests import kafka_server
from tests.broker import create_topic
from tests.faults.ingest_loop import kill, start_ingest
from tests.ports import free_port

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
TOPIC = "ticks"
START_SECONDS = 120.0
WHOLE_SECONDS = 180.0  # after which a case counts as never whole; the promise is 30


class NeverWholeError(Exception):
    """The warehouse did not become whole again in time."""


@dataclass(frozen=True)
class Comparison:
    """What the exchange made and the warehouse holds, id by id."""

    trades: int
    missing: int
    doubled: int


class Rig:
    """The line under test. Use `running_rig`."""

    def __init__(self, folder: Path, broker: str, seed: int, trades_per_second: int, stack: ExitStack) -> None:
        self.folder = folder
        self.broker_kind = broker
        self.warehouse = Warehouse(str(folder / "data" / "cryptotrace.duckdb"))
        self.warehouse.create()
        self._stack = stack
        self._logs = folder / "logs"
        self._logs.mkdir()
        self._broker_port, self._feed_port = free_port(), free_port()
        self._control = httpx.Client(timeout=20)
        self._stack.callback(self._control.close)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._stack.callback(self._stop)
        self._broker = self._start_broker(is_new=True)
        exchange = ["exchange", "--port", "0", "--rest-port", "0", "--seed", str(seed), "--symbols", ",".join(SYMBOLS)]
        self._exchange, ready = self._command([*exchange, "--trades-per-second", str(trades_per_second)])
        self._urls = ready
        self._feed, _ = self._start_feed()
        self._ingest = self._start_ingest()
        self._stack.callback(lambda: kill(self._ingest))
        _until(lambda: len(self._ranges()) == len(SYMBOLS), START_SECONDS)
        self._first_ids = {symbol: first for symbol, first, _, _ in self._ranges()}

    # --- what can be broken

    def exchange_fault(self, **fields: object) -> None:
        """Begin a fault at the exchange."""
        self._control.post(f"{self._urls['rest_url']}/_control/fault", json=fields).raise_for_status()

    def kill_ingest(self) -> None:
        """Kill the ingesting process the hard way and start the next one."""
        kill(self._ingest)
        self._ingest = self._start_ingest()

    def kill_feed(self, away_seconds: float) -> None:
        """Kill the feed the hard way and start it again after a while."""
        _kill(self._feed)
        time.sleep(away_seconds)
        self._feed, _ = self._start_feed()

    def kill_broker(self, away_seconds: float) -> None:
        """Kill the broker the hard way and start it again, on the same port, after a while."""
        _kill(self._broker)
        time.sleep(away_seconds)
        self._broker = self._start_broker(is_new=False)

    def lock_warehouse(self, seconds: float) -> None:
        """Hold the warehouse's file for longer than the ingesting process has patience."""
        code = "import duckdb, sys, time; duckdb.connect(sys.argv[1]); print('held', flush=True); time.sleep(60)"
        while True:
            holder = subprocess.Popen(
                [sys.executable, "-c", code, self.warehouse.url], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            assert holder.stdout is not None
            if holder.stdout.readline():
                break
            holder.wait()  # somebody was writing just then
        time.sleep(seconds)
        _kill(holder)

    def fill_disk(self, seconds: float) -> None:
        """Let the ingesting process find its disk full for a while."""
        kill(self._ingest)
        self._ingest = self._start_ingest(largest_file=Path(self.warehouse.url).stat().st_size)
        time.sleep(seconds)
        self.kill_ingest()

    # --- what must hold

    def sent(self) -> dict[str, int]:
        """Return the last trade id that the exchange has made, by symbol."""
        answer = self._control.get(f"{self._urls['rest_url']}/_control/sent").raise_for_status().json()
        return {symbol: row["last_id"] for symbol, row in answer["symbols"].items()}

    def seconds_until_whole(self, sent: dict[str, int]) -> float:
        """Wait until every trade up to these ids is stored without a gap, and return how long that took."""
        began = time.monotonic()

        def is_whole() -> bool:
            reached = {symbol: last for symbol, first, last, _ in self._ranges() if first == self._first_ids[symbol]}
            return all(reached.get(symbol, 0) >= last for symbol, last in sent.items())

        _until(is_whole, WHOLE_SECONDS)
        return time.monotonic() - began

    def gaps_noticed(self) -> int:
        """Return how many gaps were ever seen by ingest."""
        count: int = self.warehouse.read("SELECT count(*) FROM trade_id_gaps").item()
        return count

    def compared(self, sent: dict[str, int]) -> Comparison:
        """Compare the ids up to these with those that the exchange made."""
        trades = missing = doubled = 0
        for symbol, last in sent.items():
            first = self._first_ids[symbol]
            ids, distinct = self.warehouse.read(
                "SELECT count(*), count(DISTINCT trade_id) FROM raw_ticks WHERE symbol = ? AND trade_id BETWEEN ? AND ?",
                [symbol, first, last],
            ).row(0)
            trades += last - first + 1
            missing += last - first + 1 - distinct
            doubled += ids - distinct
        return Comparison(trades, missing, doubled)

    def differing(self, sent: dict[str, int]) -> int:
        """Return how many of the stored trades differ from the exchange's own record in price, quantity or time."""
        wrong = 0
        for symbol, last in sent.items():
            next_id = self._first_ids[symbol]
            while next_id <= last:
                query = {"symbol": symbol, "from_id": next_id, "limit": min(20_000, last - next_id + 1)}
                rows = self._control.get(f"{self._urls['rest_url']}/_control/trades", params=query).json()
                theirs = pl.DataFrame(
                    [(row["a"], row["p"], row["q"], row["T"]) for row in rows],
                    schema={"trade_id": pl.Int64, "price": pl.String, "quantity": pl.String, "time_us": pl.Int64},
                    orient="row",
                )
                ours = self.warehouse.read(
                    "SELECT trade_id, price, quantity, epoch_us(trade_time) AS time_us FROM raw_ticks "
                    "WHERE symbol = ? AND trade_id BETWEEN ? AND ?",
                    [symbol, next_id, rows[-1]["a"]],
                )
                exact = theirs.with_columns(pl.col("price", "quantity").cast(pl.Decimal(20, 8)))
                exact = exact.with_columns(pl.col("time_us") // 1000)  # the stream tells milliseconds
                ours = ours.with_columns(pl.col("time_us") // 1000)
                wrong += exact.join(ours, on=exact.columns, how="anti").height
                next_id = rows[-1]["a"] + 1
        return wrong

    # --- processes

    def _ranges(self) -> list[tuple[Any, ...]]:
        return self.warehouse.read(
            "SELECT symbol, first_id, last_id, first_trade_time FROM trade_id_ranges "
            "QUALIFY row_number() OVER (PARTITION BY symbol ORDER BY first_id) = 1"
        ).rows()

    def _start_broker(self, *, is_new: bool) -> "subprocess.Popen[bytes]":
        address = f"127.0.0.1:{self._broker_port}"
        if self.broker_kind == "embedded":
            return self._command(["broker", "--port", str(self._broker_port)])[0]
        folder = self.folder / "kafka"
        if is_new:
            folder.mkdir()
            kafka_server.format_storage(folder, self._broker_port)
        server = kafka_server.start_server(folder, self._broker_port)
        self._processes.append(server)
        if is_new:
            create_topic(address, TOPIC, partitions=3)
        return server

    def _start_feed(self) -> tuple["subprocess.Popen[bytes]", dict[str, Any]]:
        environment = {
            "SYMBOLS": ",".join(SYMBOLS),
            "DATA_DIR": str(self.folder / "data"),
            "WAREHOUSE_URL": self.warehouse.url,
            "KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{self._broker_port}",
            "TICKS_TOPIC": TOPIC,
            "DEAD_LETTER_TOPIC": f"{TOPIC}.dead_letter",
            "BINANCE_STREAM_URL": self._urls["stream_url"],
            "BINANCE_REST_URL": self._urls["rest_url"],
            "FEED_PORT": str(self._feed_port),
            "FEED_SILENCE_SECONDS": "2",
        }
        return self._command(["feed"], environment)

    def _start_ingest(self, largest_file: int | None = None) -> BaseProcess:
        address = f"127.0.0.1:{self._broker_port}"
        log_path = str(self._logs / "ingest.log")
        return start_ingest(self.warehouse, address, TOPIC, 2000, largest_file=largest_file, log_path=log_path)

    def _command(
        self, arguments: list[str], environment: dict[str, str] | None = None
    ) -> tuple["subprocess.Popen[bytes]", dict[str, Any]]:
        """Start one of our own commands, and return it with the line of JSON that it prints when it is ready."""
        with (self._logs / f"{arguments[0]}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "cryptotrace_dagster.cli.main", *arguments],
                env=os.environ | (environment or {}),
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self._processes.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            log_text = (self._logs / f"{arguments[0]}.log").read_text()[-2000:]
            raise RuntimeError(f"`cryptotrace {arguments[0]}` did not start: {log_text}")
        return process, json.loads(line)

    def _stop(self) -> None:
        for process in reversed(self._processes):
            _kill(process)


@contextmanager
def running_rig(folder: Path, broker: str, seed: int, trades_per_second: int) -> Iterator[Rig]:
    """Run the line while the block lasts; `broker` is `embedded` or `kafka`."""
    with ExitStack() as stack:
        yield Rig(folder, broker, seed, trades_per_second, stack)


def now_text() -> str:
    """Return the time of day for a line of progress."""
    return datetime.now(UTC).strftime("%H:%M:%S")


def _kill(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _until(is_so: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise NeverWholeError(f"not so within {seconds:.0f} s")
        time.sleep(0.1)
