"""The rows of the whole system: start and idle cost, and from a trade to an alert under load."""

import statistics
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from cryptotrace_dagster.bench.dagster_floor import empty_dagster, empty_run_seconds, wait_until
from cryptotrace_dagster.bench.rows import Pair, Row, Target, require, row_of_pairs
from cryptotrace_dagster.bench.running import (
    DRAIN_SECONDS,
    LOAD_SYMBOLS,
    Outside,
    RunningSystem,
    check_trades,
    outside_parties,
    running_market,
    running_system,
    wait_for_the_present,
    wait_until_stored,
)
from cryptotrace_dagster.bench.sizes import SEED, Sizes
from cryptotrace_dagster.dagster_client import DagsterClient
from cryptotrace_dagster.domain.windows import utc_now
from cryptotrace_dagster.exchange.simulated import DEFAULT_SYMBOLS
from cryptotrace_dagster.settings import Settings
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.tables import FINAL_OUTCOMES

START_TARGET = Target(1.5)
IDLE_CPU_TARGET = Target(15.0, of_value=True)
IDLE_MEMORY_TARGET = Target(1500.0, of_value=True)
P50_TARGET, P95_TARGET = Target(0.4), Target(0.75)
P95_SECONDS_TARGET = Target(3.0, of_value=True)
MONTH_TARGET = Target(1000.0, of_value=True)
FEWEST_ALERTS = 100
LOAD_TRADES_PER_SECOND = 1_000
_IDLE_TRADES_PER_SECOND = 0.01
_EVENT_SECONDS = 5.0
_SETTLE_SECONDS = 20.0
_EVENT = {"accumulation_seconds": 3.0, "rise_seconds": 10.0, "fade_seconds": 20.0, "gain": 0.15, "intensity": 8.0}


def measure_start_and_idle(sizes: Sizes) -> list[Row]:
    """Return the rows `start`, `idle_cpu` and `idle_memory`."""
    pairs = []
    idle: tuple[float, float] | None = None
    for number in range(sizes.starts):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            with empty_dagster() as (_, floor_seconds):
                pass
            with (
                outside_parties(folder, DEFAULT_SYMBOLS, _IDLE_TRADES_PER_SECOND, SEED) as outside,
                running_system(folder, outside) as system,
            ):
                pairs.append(Pair(system.start_seconds, floor_seconds))
                if number == sizes.starts - 1:
                    idle = _idle_cost(system, outside, sizes.idle_seconds)
    assert idle is not None  # noqa: S101 - there is at least one start
    return [
        row_of_pairs(
            "start",
            "`cryptotrace up` until all services are healthy",
            "s",
            pairs,
            "dagster dev with an empty project",
            START_TARGET,
        ),
        Row("idle_cpu", "`up` without trades, all processes", idle[0], "% of a core", target=IDLE_CPU_TARGET),
        Row("idle_memory", "the same, memory (shared pages once)", idle[1], "MB", target=IDLE_MEMORY_TARGET),
    ]


def _idle_cost(system: RunningSystem, outside: Outside, seconds: float) -> tuple[float, float]:
    outside.control("stop", {})
    time.sleep(_SETTLE_SECONDS)
    before, began = system.cpu_seconds(), time.perf_counter()
    time.sleep(seconds)
    share = (system.cpu_seconds() - before) / (time.perf_counter() - began)
    return share * 100, system.memory_mb()


def measure_fast_path(sizes: Sizes) -> Iterator[Row]:
    """Yield the rows of what running leaves on the disk, and of the alerts' latency; nobody else reads meanwhile."""
    with empty_dagster() as (url, _):
        floor_seconds = empty_run_seconds(url, sizes.floor_runs)
    with (
        tempfile.TemporaryDirectory() as name,
        running_market(Path(name), LOAD_TRADES_PER_SECOND, sizes.history) as market,
    ):
        outside, system = market
        wait_for_the_present(system)
        began, size_before = time.monotonic(), _common_bytes(system)
        started_at = utc_now()
        _let_events_happen(outside, sizes.events)
        a_minute = (_common_bytes(system) - size_before) / (time.monotonic() - began) * 60
        outside.control("stop", {})
        _wait_until_delivered(system, outside)
        live_run, asset_job = _bytes_of_runs(system)
        latencies = _latencies(system, outside, started_at)
        check_trades(system, outside)
    yield _month_row(a_minute, live_run, asset_job)
    yield from _latency_rows(latencies, floor_seconds, sizes)  # last: with too few alerts, only these have no figure


def _let_events_happen(outside: Outside, count: int) -> None:
    for number in range(count):
        kind = "pump" if number % 3 else "crash"
        gain = _EVENT["gain"] if kind == "pump" else _EVENT["gain"] * 0.8
        outside.control("event", {"kind": kind, "symbol": outside.symbols[number], **_EVENT, "gain": gain})
        time.sleep(_EVENT_SECONDS)
    time.sleep(_SETTLE_SECONDS)


def _wait_until_delivered(system: RunningSystem, outside: Outside) -> None:
    wait_until_stored(system, outside)

    def is_done() -> bool:
        open_alerts = _warehouse(system).read(
            "SELECT count(*) FROM alerts WHERE alert_id NOT IN "
            f"(SELECT alert_id FROM alert_deliveries WHERE outcome IN {FINAL_OUTCOMES})"
        )
        return bool(open_alerts.item() == 0)

    wait_until(is_done, DRAIN_SECONDS, "not all alerts are delivered")


def _latencies(system: RunningSystem, outside: Outside, started_at: datetime) -> pl.DataFrame:
    """Return the seconds from the trade that an alert rests on to its arrival at the receiver.

    Messages that an event is over rest on five minutes without one, not on a trade, and are left out.
    """
    alerts = _warehouse(system).read(
        "SELECT alert_id, message_id, event_time, raised_at, phase FROM alerts JOIN alert_deliveries USING (alert_id) "
        "WHERE outcome = 'delivered' AND phase <> 'end' AND raised_at >= ?",
        [started_at],
    )
    arrived = pl.DataFrame(
        [(message["id"], _naive_utc(message["arrived_at"])) for message in outside.messages()],
        schema={"message_id": pl.String(), "arrived_at": pl.Datetime("us")},
        orient="row",
    )
    both = alerts.join(arrived, on="message_id", how="left")
    require(both["arrived_at"].null_count() == 0, "an alert counts as delivered that the receiver does not have")
    require(both["alert_id"].is_unique().all(), "an alert was delivered twice")
    seconds = (pl.col("arrived_at") - pl.col("event_time")).dt.total_microseconds() / 1e6
    return both.with_columns(
        seconds=seconds, decided=(pl.col("raised_at") - pl.col("event_time")).dt.total_microseconds() / 1e6
    )


def _latency_rows(alerts: pl.DataFrame, floor_seconds: float, sizes: Sizes) -> list[Row]:
    wanted = min(FEWEST_ALERTS, sizes.events)
    require(alerts.height >= wanted, f"only {alerts.height} alerts were delivered, {wanted} are needed")
    cuts = statistics.quantiles(alerts["seconds"].to_list(), n=20)
    decided = statistics.quantiles(alerts["decided"].to_list(), n=20)
    name = "Dagster: from a sensor's request to the end of a run of one empty asset, p50"
    load = f"{LOAD_TRADES_PER_SECOND:,} trades/s over {LOAD_SYMBOLS} symbols"
    details: dict[str, float | int | str] = {
        "alerts": alerts.height,
        "decided_p50_s": round(decided[9], 3),
        "decided_p95_s": round(decided[18], 3),
    }
    rows = []
    for row_name, percentile, seconds, target in (
        ("fast_path_p50", "p50", cuts[9], P50_TARGET),
        ("fast_path_p95", "p95", cuts[18], P95_TARGET),
    ):
        what = f"trade to arrival of its alert, {percentile}, {load}"
        ratio = seconds / floor_seconds
        rows.append(Row(row_name, what, seconds, "s", floor_seconds, name, ratio, target=target, details=details))
    in_seconds = f"the same p95, in seconds on an idle machine, over {alerts.height} alerts"
    return [*rows, Row("fast_path_seconds", in_seconds, cuts[18], "s", target=P95_SECONDS_TARGET)]


def _bookkeeping_bytes(system: RunningSystem) -> int:
    """Return the size of Dagster's home and of the logs."""
    folders = (system.data_dir / "dagster_home", system.data_dir / "logs")
    return sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())


def _runs_folder(system: RunningSystem) -> Path:
    return system.data_dir / "dagster_home" / "history" / "runs"


def _common_bytes(system: RunningSystem) -> int:
    """Return the size of the logs and of Dagster's home without the files that belong to one run each."""
    return _bookkeeping_bytes(system) - sum(path.stat().st_size for path in _runs_folder(system).glob("*-*.db*"))


def _bytes_of_runs(system: RunningSystem) -> tuple[int, int]:
    """Return what the live run's own file takes, and what a run of the quarter-hourly job leaves everywhere."""
    client = DagsterClient(system.dagster_url)
    wait_until(lambda: not client.unfinished_runs(), DRAIN_SECONDS, "the live run has not ended")
    live_run = max(path.stat().st_size for path in _runs_folder(system).glob("*-*.db"))
    before = _bookkeeping_bytes(system)
    run_id = client.launch("market_job", utc_now().date().isoformat())
    wait_until(lambda: not client.unfinished_runs(), DRAIN_SECONDS, "the asset job has not ended")
    status = next(run.status for run in client.runs() if run.run_id == run_id)
    require(status == "SUCCESS", f"the asset job ended with {status}")
    return live_run, _bookkeeping_bytes(system) - before


def _month_row(bytes_a_minute: float, live_run: int, asset_job: int) -> Row:
    a_day = bytes_a_minute * 1440 + (live_run + asset_job) * 96
    kept_days = Settings().run_retention_days
    return Row(
        name="cost_of_a_day",
        what=f"event log and log files at this load: what is there after a month, of which {kept_days} days are kept",
        value=a_day * kept_days / 1e6,
        unit="MB",
        target=MONTH_TARGET,
        details={
            "mb_a_day": round(a_day / 1e6, 2),
            "kb_a_minute_of_running": round(bytes_a_minute / 1e3, 1),
            "kb_a_live_run": round(live_run / 1e3, 1),
            "kb_a_run_of_the_asset_job": round(asset_job / 1e3, 1),
        },
    )


def _warehouse(system: RunningSystem) -> Warehouse:
    return Warehouse(str(system.warehouse_path))


def _naive_utc(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC).replace(tzinfo=None)
