"""Reads while the system works: how long they take, beside bare DuckDB on the file at rest, and what they cost ingest."""

import asyncio
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import duckdb
import httpx
import polars as pl

from cryptotrace_dagster.answering import Parameters
from cryptotrace_dagster.api.app import create_app
from cryptotrace_dagster.bench.load import API_REQUESTS_PER_SECOND, VIEWERS, Load, api_paths, look
from cryptotrace_dagster.bench.rows import Row, Target, require
from cryptotrace_dagster.bench.running import (
    RunningSystem,
    check_trades,
    running_market,
    wait_for_the_present,
    wait_until_stored,
)
from cryptotrace_dagster.bench.sizes import Sizes
from cryptotrace_dagster.dashboard.source import chart_rows, spark_lines
from cryptotrace_dagster.domain.windows import utc_now
from cryptotrace_dagster.queries import Reader, market_now, open_for_reading, watch_list
from cryptotrace_dagster.settings import Settings
from cryptotrace_dagster.storage import StorageError, Warehouse
from cryptotrace_dagster.tables import NEWEST_TRADE_TIME

TRADES_PER_SECOND = 2_000
READS_TARGET = Target(3.0)
API_TARGET = Target(300.0, of_value=True)
INTERACTION_TARGET = Target(1500.0, of_value=True)
LAG_TARGET = Target(1.5)
ALLOWANCE_MS = 50.0
FEWEST_READS = 200  # of each question: ten of them lie beyond the 95th percentile
_WARM_UP_SECONDS = 15.0
_PAUSE_SECONDS = 0.15
_SAMPLE_SECONDS = 0.5
_BARE_REPEATS = 30
_LONGEST_EXTRA_SECONDS = 900.0

Questions = dict[str, Callable[[Reader], object]]
Query = tuple[str, Parameters]


def measure_reads(sizes: Sizes) -> list[Row]:
    """Return the rows of reads under load, and of the ingest's lag with readers against that without."""
    with tempfile.TemporaryDirectory() as name:
        with running_market(Path(name), TRADES_PER_SECOND, sizes.history) as (outside, system):
            wait_for_the_present(system)
            alone = _lags(system, lambda began: time.monotonic() - began < sizes.lag_seconds)
            lookers = Lookers(system, outside.symbols)
            with lookers.looking():
                beside = _lags(system, lambda _began: not lookers.have_seen_enough())
            outside.control("stop", {})
            wait_until_stored(system, outside)
            check_trades(system, outside)
        # The system has stopped: the bare queries want the file for themselves.
        return [*read_rows(lookers, system.warehouse_path, outside.symbols[0]), _lag_row(alone, beside)]


def dashboard_questions(symbol: str) -> Questions:
    """Return what the dashboard's pages ask at each refresh."""
    return {
        "watch list": watch_list,
        "spark lines": spark_lines,
        "chart 1m": lambda reader: chart_rows(reader, symbol, "1m", market_now(reader)),
        "chart 1s": lambda reader: chart_rows(reader, symbol, "1s", market_now(reader)),
    }


class Lookers:
    """The load, and beside it one who asks the dashboard's questions through a reader like the dashboard's."""

    def __init__(self, system: RunningSystem, symbols: tuple[str, ...]) -> None:
        self.load = Load()
        self.dashboard_ms: defaultdict[str, list[float]] = defaultdict(list)
        self._system = system
        self._symbols = symbols
        settings = Settings(warehouse_url=str(system.warehouse_path))
        # As dashboard/source.py has it.
        warehouse = open_for_reading(settings, patience_seconds=4.0, shares_opening=True)
        self._reader = Reader(warehouse, fresh_for=1.0, stale_for=60.0)
        self._stop = threading.Event()
        self._began = time.monotonic()

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Look while the block lasts, and since a while before: the first answers wait for what servers import for them."""
        threads = [threading.Thread(target=each) for each in (self._put_load_on, self._ask_as_dashboard)]
        for thread in threads:
            thread.start()
        try:
            time.sleep(_WARM_UP_SECONDS)
            for answers in (*self.load.api_ms.values(), *self.dashboard_ms.values(), self.load.interaction_ms):
                answers.clear()
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def have_seen_enough(self) -> bool:
        """Return whether every question has been answered often enough for a percentile, or something failed."""
        require(time.monotonic() - self._began < _LONGEST_EXTRA_SECONDS, "too few answers within a quarter of an hour")
        answers = [self.load.api_ms[name] for name in api_paths("")]
        answers += [self.dashboard_ms[name] for name in dashboard_questions("")] + [self.load.interaction_ms]
        return bool(self.load.failures) or min(map(len, answers)) >= FEWEST_READS

    def _put_load_on(self) -> None:
        async def until_stopped() -> None:
            stop = asyncio.Event()
            load = asyncio.create_task(
                look(self._system.api_url, self._system.dashboard_url, self._symbols, stop, self.load)
            )
            await asyncio.to_thread(self._stop.wait)
            stop.set()
            await load

        asyncio.run(until_stopped())

    def _ask_as_dashboard(self) -> None:
        while not self._stop.is_set():
            for name, ask in dashboard_questions(self._symbols[0]).items():
                began = time.perf_counter()
                try:
                    ask(self._reader)
                except StorageError as error:
                    self.load.failures.append(f"{name}: {error}")
                    return
                self.dashboard_ms[name].append((time.perf_counter() - began) * 1e3)
                self._stop.wait(_PAUSE_SECONDS)


def read_rows(lookers: Lookers, path: Path, symbol: str) -> list[Row]:
    """Return the rows about the answers' times; the system must be at rest."""
    load = lookers.load
    require(not load.failures, f"{len(load.failures)} reads failed, the first: {load.failures[:1]}")
    bare_api = {name: _bare_ms(path, _queries_of_api(path, url)) for name, url in api_paths(symbol).items()}
    bare_dashboard = {name: _bare_ms(path, _queries_of(path, ask)) for name, ask in dashboard_questions(symbol).items()}
    beside = f"{TRADES_PER_SECOND:,} trades/s, {VIEWERS} viewers and {API_REQUESTS_PER_SECOND} API requests/s"
    return [
        _row("api_reads", "API under load, p95", load.api_ms, bare_api),
        _row("dashboard_reads", "dashboard's reads under load, p95", lookers.dashboard_ms, bare_dashboard),
        _percentile_row(
            "api_latency", f"API, p95 at {beside}", [ms for each in load.api_ms.values() for ms in each], API_TARGET
        ),
        _percentile_row(
            "interaction",
            f"dashboard, from a viewer's click to the whole page, p95 at {beside}",
            load.interaction_ms,
            INTERACTION_TARGET,
        ),
    ]


def _percentile_row(name: str, what: str, times_ms: Sequence[float], target: Target) -> Row:
    require(len(times_ms) >= FEWEST_READS, f"{name}: too few answers for a 95th percentile")
    return Row(
        name=name,
        what=what,
        value=_p95(times_ms),
        unit="ms",
        repeats=len(times_ms),
        target=target,
        details={"p50": round(statistics.median(times_ms), 1), "most": round(max(times_ms), 1)},
    )


def _p95(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


def _lags(system: RunningSystem, goes_on: Callable[[float], bool]) -> list[float]:
    """Return, looked at again and again, how old in seconds the newest stored trade is."""
    warehouse = Warehouse(str(system.warehouse_path))
    began, lags = time.monotonic(), []
    while goes_on(began):
        newest = warehouse.read(f"SELECT {NEWEST_TRADE_TIME}").item()
        lags.append((utc_now() - newest) / timedelta(seconds=1))
        time.sleep(_SAMPLE_SECONDS)
    return lags


def _lag_row(alone: Sequence[float], beside: Sequence[float]) -> Row:
    lag, lag_alone = statistics.median(beside), statistics.median(alone)
    return Row(
        name="ingest_lag",
        what="ingest: age of the newest stored trade beside the readers, median",
        value=lag,
        unit="s",
        reference=lag_alone,
        reference_name="without readers",
        ratio=lag / lag_alone,
        repeats=len(beside),
        target=LAG_TARGET,
        details={"p95": round(_p95(beside), 2), "p95_without_readers": round(_p95(alone), 2)},
    )


def _row(name: str, what: str, measured: Mapping[str, list[float]], bare: Mapping[str, float]) -> Row:
    """Return the row of the question that fares worst."""
    require(min(map(len, measured.values())) >= FEWEST_READS, f"{name}: too few reads for a 95th percentile")
    p95 = {question: _p95(values) for question, values in measured.items()}
    ratios = {question: max(0.0, value - ALLOWANCE_MS) / bare[question] for question, value in p95.items()}
    worst = max(ratios, key=lambda question: ratios[question])
    details: dict[str, float | int | str] = {f"p95 {question}": round(value, 1) for question, value in p95.items()}
    details |= {f"bare {question}": round(value, 2) for question, value in bare.items()}
    return Row(
        name=name,
        what=f"{what}, worst of {len(p95)}: {worst} (ratio after taking off {ALLOWANCE_MS:.0f} ms)",
        value=p95[worst],
        unit="ms",
        reference=bare[worst],
        reference_name="median of the same queries in bare DuckDB, file at rest",
        ratio=ratios[worst],
        repeats=len(measured[worst]),
        target=READS_TARGET,
        details=details,
    )


class _RecordingWarehouse(Warehouse):
    """A warehouse that remembers what it was asked."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.queries: list[Query] = []

    def read(self, sql: str, parameters: Parameters = ()) -> pl.DataFrame:
        """Return the rows, and remember the query."""
        self.queries.append((sql, parameters))
        return super().read(sql, parameters)


def _queries_of(path: Path, ask: Callable[[Reader], object]) -> list[Query]:
    warehouse = _RecordingWarehouse(str(path))
    ask(Reader(warehouse, fresh_for=0.0))
    return warehouse.queries


def _queries_of_api(path: Path, request: str) -> list[Query]:
    warehouse = _RecordingWarehouse(str(path))
    app = create_app(Settings(), warehouse)

    async def ask() -> int:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return (await client.get(request)).status_code

    status = asyncio.run(ask())
    require(status == 200, f"{request}: {status}")
    return warehouse.queries


def _bare_ms(path: Path, queries: Sequence[Query]) -> float:
    """Return the median milliseconds of the queries, each on a connection of its own, as plain DuckDB answers them."""
    times = []
    for _ in range(_BARE_REPEATS):
        began = time.perf_counter()
        for sql, parameters in queries:
            with duckdb.connect(str(path), read_only=True) as connection:
                connection.execute("SET TimeZone = 'UTC'")
                connection.execute(sql, parameters).pl()
        times.append((time.perf_counter() - began) * 1e3)
    return statistics.median(times)
