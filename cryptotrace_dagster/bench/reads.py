"""Reads while the system works, against the same queries in bare DuckDB on the file at rest."""

import asyncio
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import httpx
import polars as pl

from cryptotrace_dagster.api.app import create_app
from cryptotrace_dagster.bench.dagster_floor import wait_until
from cryptotrace_dagster.bench.rows import Row, Target, require
from cryptotrace_dagster.dashboard.source import chart_rows, spark_lines
from cryptotrace_dagster.queries import Reader, market_now, open_for_reading, watch_list
from cryptotrace_dagster.settings import Settings
from cryptotrace_dagster.storage import StorageError, Warehouse

READS_TARGET = Target(3.0)
ALLOWANCE_MS = 50.0
_PAUSE_SECONDS = 0.15
_BARE_REPEATS = 30
FEWEST_READS = 200  # of each question: ten of them lie beyond the 95th percentile
_LONGEST_EXTRA_SECONDS = 900.0

Questions = dict[str, Callable[[Reader], object]]
Query = tuple[str, Sequence[object] | Mapping[str, object]]


def api_paths(symbol: str) -> tuple[str, ...]:
    """Return the requests that a client makes again and again."""
    return ("/symbols", f"/bars?symbol={symbol}&interval=1m", f"/ticks?symbol={symbol}&limit=500", "/alerts")


def dashboard_questions(symbol: str) -> Questions:
    """Return what the dashboard's pages ask at each refresh."""
    return {
        "watch list": watch_list,
        "spark lines": spark_lines,
        "chart 1m": lambda reader: chart_rows(reader, symbol, "1m", market_now(reader)),
        "chart 1s": lambda reader: chart_rows(reader, symbol, "1s", market_now(reader)),
    }


class Readers:
    """Two readers in the background, one of the API and one with the dashboard's reader, and how long they waited."""

    def __init__(self, api_url: str, warehouse_path: Path, symbol: str) -> None:
        self.api_ms: defaultdict[str, list[float]] = defaultdict(list)
        self.dashboard_ms: defaultdict[str, list[float]] = defaultdict(list)
        self.failures: list[str] = []
        self._api_url = api_url
        self._symbol = symbol
        settings = Settings(warehouse_url=str(warehouse_path))
        # As dashboard/source.py has it.
        self._reader = Reader(open_for_reading(settings, patience_seconds=4.0), fresh_for=1.0, stale_for=60.0)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=each) for each in (self._ask_api, self._ask_as_dashboard)]

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read while the block lasts."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()

    def wait_for_enough(self) -> None:
        """Go on reading, under the same load, until every question has been asked often enough for a percentile."""
        wait_until(
            lambda: bool(self.failures) or self.fewest_reads() >= FEWEST_READS,
            _LONGEST_EXTRA_SECONDS,
            f"a question has not been asked {FEWEST_READS} times",
        )

    def fewest_reads(self) -> int:
        """Return how often the question has been answered that was answered least often."""
        asked = (*api_paths(self._symbol), *dashboard_questions(self._symbol))
        return min(len(self.api_ms.get(question) or self.dashboard_ms.get(question) or ()) for question in asked)

    def _ask_api(self) -> None:
        with httpx.Client(base_url=self._api_url, timeout=30, trust_env=False) as client:
            while not self._stop.is_set():
                for path in api_paths(self._symbol):
                    began = time.perf_counter()
                    try:
                        status = client.get(path).status_code
                    except httpx.HTTPError as error:
                        self.failures.append(f"{path}: {error!r}")
                        return
                    self.api_ms[path].append((time.perf_counter() - began) * 1e3)
                    if status != 200:
                        self.failures.append(f"{path}: {status}")
                    self._stop.wait(_PAUSE_SECONDS)

    def _ask_as_dashboard(self) -> None:
        while not self._stop.is_set():
            for name, ask in dashboard_questions(self._symbol).items():
                began = time.perf_counter()
                try:
                    ask(self._reader)
                except StorageError as error:
                    self.failures.append(f"{name}: {error}")
                    return
                self.dashboard_ms[name].append((time.perf_counter() - began) * 1e3)
                self._stop.wait(_PAUSE_SECONDS)


def read_rows(readers: Readers, path: Path, symbol: str) -> list[Row]:
    """Return the rows `api_reads` and `dashboard_reads`; the system must have stopped."""
    require(not readers.failures, f"{len(readers.failures)} reads failed, the first: {readers.failures[:1]}")
    bare_api = {name: _bare_ms(path, _queries_of_api(path, name)) for name in api_paths(symbol)}
    bare_dashboard = {name: _bare_ms(path, _queries_of(path, ask)) for name, ask in dashboard_questions(symbol).items()}
    return [
        _row("api_reads", "API under load, p95", readers.api_ms, bare_api),
        _row("dashboard_reads", "dashboard's reads under load, p95", readers.dashboard_ms, bare_dashboard),
    ]


def _row(name: str, what: str, measured: Mapping[str, list[float]], bare: Mapping[str, float]) -> Row:
    """Return the row of the question that fares worst."""
    require(min(map(len, measured.values())) >= FEWEST_READS, f"{name}: too few reads for a 95th percentile")
    p95 = {question: statistics.quantiles(values, n=20)[-1] for question, values in measured.items()}
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

    def read(self, sql: str, parameters: Sequence[object] | Mapping[str, object] = ()) -> pl.DataFrame:
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
