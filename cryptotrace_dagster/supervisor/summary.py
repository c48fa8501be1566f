"""What a bounded run of the system did, counted at the places that know, and whether every promise was kept.

Owns the quiet ending (no more trades, then wait until all of them have gone the whole way) and the counts: what was
sent from the exchange, what is stored from the warehouse, what arrived from the receiver, what failed from Dagster's
event log. Stays out: starting and stopping.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import httpx
import polars as pl
import structlog

from cryptotrace_dagster.dagster_client import DagsterClient
from cryptotrace_dagster.storage import WarehouseBusyError, warehouse_of
from cryptotrace_dagster.supervisor.services import Plan

log = structlog.get_logger(__name__)

MARKET_JOB = "market_job"
_DRAIN_SECONDS = 90.0
_RUN_SECONDS = 180.0
_FAILED_RUN = "FAILURE"
_FAILED_CHECKS = ("FAILED", "EXECUTION_FAILED")
_TIMEOUT_SECONDS = 10.0

Watch = Callable[[Callable[[], bool], float], bool]  # `System.watch`: keeps the system alive while we wait


@dataclass(frozen=True)
class Summary:
    """The figures of one bounded run. `trades_sent` is null against the live exchange, which tells nobody."""

    trades_sent: int | None
    ticks_stored: int
    ticks_missing: int
    ticks_doubled: int
    bars: int
    features: int
    anomaly_scores: int
    alerts: int
    alerts_delivered: int
    alert_latency_p50_s: float | None
    alert_latency_p95_s: float | None
    runs_failed: int
    checks_failed: int
    alerts_skipped: int = 0  # with a reason: no channel is set, history, retracted before they left; not in the JSON

    @property
    def is_clean(self) -> bool:
        """Return whether nothing is missing, doubled, failed or undelivered."""
        broken = self.ticks_missing or self.ticks_doubled or self.runs_failed or self.checks_failed
        return not broken and self.alerts_delivered + self.alerts_skipped == self.alerts

    def as_dict(self) -> dict[str, int | float | None]:
        """Return the figures by name."""
        return {name: value for name, value in asdict(self).items() if name != "alerts_skipped"}


@dataclass(frozen=True)
class _SentRange:
    """The consecutive trade ids of one symbol that should be stored, both ends included."""

    first_id: int
    last_id: int

    @property
    def count(self) -> int:
        return self.last_id - self.first_id + 1


class Accountant:
    """Brings a running system to rest and counts what it did."""

    def __init__(self, plan: Plan, started_at: datetime) -> None:
        self._plan = plan
        self._started_at = started_at
        self._warehouse = warehouse_of(plan.settings)
        self._dagster = DagsterClient(f"http://127.0.0.1:{plan.settings.dagster_port}")

    def bring_to_rest(self, watch: Watch, stop_feed: Callable[[], None]) -> None:
        """Stop the trades, wait until all have gone the whole way, and let the asset job check the days they touched.

        The simulated exchange stops trading, so that the feed can still fill what it missed. The live one trades on;
        there the feed is stopped, and flushes. Every wait is bounded: what has not arrived by then is counted as
        missing, undelivered or failed.
        """
        if self._plan.options.is_demo:
            httpx.post(f"{self._plan.exchange_control_url}/stop", timeout=_TIMEOUT_SECONDS, trust_env=False)
        else:
            stop_feed()
        if not watch(self._is_drained, _DRAIN_SECONDS):
            log.warning("not_drained", seconds=_DRAIN_SECONDS)
        for day in self._days():
            self._dagster.launch(MARKET_JOB, day)
            if not watch(self._is_idle, _RUN_SECONDS):
                log.warning("run_not_finished", job=MARKET_JOB, day=day, seconds=_RUN_SECONDS)

    def count(self) -> Summary:
        """Count everything."""
        sent = self._sent_ranges()
        ticks = self._count_ticks(sent)
        latencies = self._alert_latencies()
        started = self._started_at.replace(tzinfo=UTC).timestamp()
        checks = [found for found in self._dagster.check_executions() if found.started_at >= started]
        alerts = self._alerts()
        delivered, skipped = self._delivered_ids(), self._skipped_ids()
        return Summary(
            trades_sent=sum(found.count for found in sent.values()) if self._plan.options.is_demo else None,
            ticks_stored=ticks["stored"],
            ticks_missing=ticks["missing"],
            ticks_doubled=ticks["doubled"],
            bars=self._count_rows("ohlc_bars"),
            features=self._count_rows("features"),
            anomaly_scores=self._count_rows("anomaly_scores"),
            alerts=alerts.height,
            alerts_delivered=alerts.filter(pl.col("alert_id").is_in(delivered.implode())).height,
            alerts_skipped=alerts.filter(pl.col("alert_id").is_in(skipped.implode())).height,
            alert_latency_p50_s=_quantile(latencies, 0.5),
            alert_latency_p95_s=_quantile(latencies, 0.95),
            runs_failed=sum(run.status == _FAILED_RUN for run in self._dagster.runs(created_after=started)),
            checks_failed=sum(check.status in _FAILED_CHECKS for check in checks),
        )

    def _is_drained(self) -> bool:
        try:
            ticks = self._count_ticks(self._sent_ranges())
            settled = pl.concat([self._delivered_ids(), self._skipped_ids()])
            undelivered = self._alerts().filter(~pl.col("alert_id").is_in(settled.implode()))
        except WarehouseBusyError:  # the live run writes; ask again in a moment
            return False
        return ticks["missing"] == 0 and undelivered.is_empty() and self._is_idle()

    def _is_idle(self) -> bool:
        return not self._dagster.unfinished_runs()

    def _days(self) -> list[str]:
        """Return the UTC days of the trades that were stored since the start, oldest first."""
        days = self._warehouse.read(
            "SELECT DISTINCT trade_time::DATE::VARCHAR AS day FROM raw_ticks WHERE received_at >= ? ORDER BY day",
            [self._started_at],
        )
        return days["day"].to_list()

    def _sent_ranges(self) -> dict[str, "_SentRange"]:
        """Return the first and last id of each symbol that the feed should have brought.

        The simulated exchange says what it sent since the feed listened. The live one tells nobody; there the ids
        between the first and the last that came are held against each other.
        """
        if self._plan.options.is_demo:
            url = f"{self._plan.exchange_control_url}/sent"
            symbols = httpx.get(url, timeout=_TIMEOUT_SECONDS, trust_env=False).raise_for_status().json()["symbols"]
            return {
                symbol: _SentRange(found["first_heard_id"], found["last_id"])
                for symbol, found in symbols.items()
                if found["first_heard_id"] is not None
            }
        stored = self._warehouse.read(
            "SELECT symbol, min(trade_id), max(trade_id) FROM raw_ticks WHERE received_at >= ? GROUP BY symbol",
            [self._started_at],
        )
        return {symbol: _SentRange(first, last) for symbol, first, last in stored.iter_rows()}

    def _count_ticks(self, ranges: Mapping[str, "_SentRange"]) -> dict[str, int]:
        """Hold every id that the exchange gave out against the warehouse."""
        totals = {"stored": 0, "missing": 0, "doubled": 0}
        for symbol, sent in ranges.items():
            row = self._warehouse.read(
                "SELECT count(*) AS stored, count(DISTINCT trade_id) AS distinct_ids "
                "FROM raw_ticks WHERE symbol = ? AND trade_id BETWEEN ? AND ?",
                [symbol, sent.first_id, sent.last_id],
            ).row(0, named=True)
            totals["stored"] += row["stored"]
            totals["missing"] += sent.count - row["distinct_ids"]
            totals["doubled"] += row["stored"] - row["distinct_ids"]
        return totals

    def _count_rows(self, table: str) -> int:
        return int(self._warehouse.read(f"SELECT count(*) AS n FROM {table}").item())

    def _alerts(self) -> pl.DataFrame:
        """Return id, phase and event time of the alerts that were raised since the start and still stand."""
        return self._warehouse.read(
            "SELECT alert_id, phase, event_time FROM alerts WHERE raised_at >= ? AND retracted_at IS NULL",
            [self._started_at],
        )

    def _deliveries(self) -> pl.DataFrame:
        return self._warehouse.read(
            "SELECT alert_id, message_id FROM alert_deliveries WHERE outcome = 'delivered' AND attempted_at >= ?",
            [self._started_at],
        )

    def _delivered_ids(self) -> pl.Series:
        """Return the alerts that arrived: by the receiver's own account, or by Discord's answers without one."""
        if not self._plan.has_receiver:
            return self._deliveries()["alert_id"]
        return self._arrivals()["alert_id"]

    def _skipped_ids(self) -> pl.Series:
        sql = "SELECT alert_id FROM alert_deliveries WHERE outcome = 'skipped' AND attempted_at >= ?"
        return self._warehouse.read(sql, [self._started_at])["alert_id"]

    def _arrivals(self) -> pl.DataFrame:
        """Return which alert arrived at the receiver when."""
        url = f"{self._plan.receiver_url}/_control/messages"
        messages = httpx.get(url, timeout=_TIMEOUT_SECONDS, trust_env=False).raise_for_status().json()
        arrived = pl.DataFrame(
            {
                "message_id": [message["id"] for message in messages],
                "arrived_at": [_naive_utc(message["arrived_at"]) for message in messages],
            },
            schema={"message_id": pl.String(), "arrived_at": pl.Datetime("us")},
        )
        return self._deliveries().join(arrived, on="message_id").group_by("alert_id").agg(pl.col("arrived_at").min())

    def _alert_latencies(self) -> pl.Series:
        """Return the seconds from each alert's trade to its arrival.

        Messages that an event is over rest on minutes without a trade that would prolong it, and are left out. A replayed trade happened long ago; it counts from the moment at which the exchange played it to the feed.
        """
        if not self._plan.has_receiver:
            return pl.Series("seconds", [], dtype=pl.Float64())
        alerts = self._alerts().filter(pl.col("phase") != "end")
        if self._plan.options.replay:
            alerts = self._warehouse.read(
                "SELECT alert_id, max(received_at) AS event_time FROM alerts "
                "JOIN raw_ticks ON raw_ticks.symbol = alerts.symbol AND trade_time <= event_time "
                "WHERE raised_at >= ? AND retracted_at IS NULL AND phase <> 'end' GROUP BY alert_id",
                [self._started_at],
            )
        both = alerts.join(self._arrivals(), on="alert_id")
        return both.select((pl.col("arrived_at") - pl.col("event_time")).dt.total_microseconds() / 1e6).to_series()


def _quantile(values: pl.Series, share: float) -> float | None:
    found = values.quantile(share, interpolation="linear")
    return None if found is None else round(float(found), 3)


def _naive_utc(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC).replace(tzinfo=None)
