"""Backtest: what would have rung over a stretch of history, and how that compares with labelled events.

The history is put into a warehouse of its own, in a temporary folder, and goes through the very stages of live
operation: bars, features, scores, alerts. Owns the fetching of history and the report. Stays out: any formula,
detector or rule (domain/), and the output (cli/backtest.py).
"""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from cryptotrace_dagster.domain.detectors import find_detectors
from cryptotrace_dagster.domain.evaluation import Event, Ring, Span, Verdict, judge
from cryptotrace_dagster.domain.rules import AnomalyRule, RuleBook, Severity
from cryptotrace_dagster.domain.windows import Window, ceil, floor
from cryptotrace_dagster.errors import UserError
from cryptotrace_dagster.pipeline.alerts import refresh_alerts
from cryptotrace_dagster.pipeline.bars import refresh_bars
from cryptotrace_dagster.pipeline.detection import START_REACH, Detection
from cryptotrace_dagster.pipeline.ingest import store_ticks
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.tables import ALERTS, ANOMALY_SCORES, EVENT_LABELS, RAW_TICKS

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)

PUMPS_ONLY = RuleBook(
    rules=(
        AnomalyRule(
            name="pump",
            kind="anomaly",
            detector="pump",
            at_most_a_day=0.02,
            severity=Severity.critical,
            cooldown=timedelta(minutes=30),
        ),
    )
)


@dataclass(frozen=True)
class BacktestReport:
    """What rang, rule by rule, how it compares with the labels, and the scores behind it."""

    start: datetime
    end: datetime
    ticks: int
    symbols: tuple[str, ...]
    alerts: pl.DataFrame
    verdicts: dict[str, Verdict]
    scores: pl.DataFrame

    def as_record(self) -> dict[str, Any]:
        """Return the report as plain values for JSON; instants are ISO-8601 UTC."""
        return {
            "start": _iso(self.start),
            "end": _iso(self.end),
            "ticks": self.ticks,
            "symbols": list(self.symbols),
            "rules": {name: asdict(verdict) for name, verdict in self.verdicts.items()},
            "alerts": [
                {
                    "symbol": row["symbol"],
                    "rule": row["rule"],
                    "detector": row["detector"],
                    "severity": row["severity"],
                    "score": row["score"],
                    "event_time": _iso(row["event_time"]),
                    "available_at": _iso(row["available_at"]),
                    "phase": row["phase"],
                    "title": row["title"],
                }
                for row in self.alerts.iter_rows(named=True)
            ],
        }


def backtest_ticks(ticks: pl.DataFrame, book: RuleBook, events: Sequence[Event] = ()) -> BacktestReport:
    """Return what the rules would have told about these trades (rows of `raw_ticks`), from a cold start."""
    with tempfile.TemporaryDirectory(prefix="cryptotrace-backtest-") as folder:
        warehouse = Warehouse(str(Path(folder) / "backtest.duckdb"))
        warehouse.create()
        store_ticks(warehouse, ticks, ticks["trade_time"].max())  # type: ignore[arg-type]
        window = _span_of(ticks)
        return _replay(warehouse, book, events, window, window)


def backtest_stored(
    source: Warehouse,
    book: RuleBook,
    period: Window,
    events: Sequence[Event] = (),
    reach: timedelta = START_REACH,
) -> BacktestReport:
    """Return what the rules would have told in a period of the stored history.

    The week before (`reach`) is replayed too, as far as it is stored, so that detectors know what live operation knew.
    """
    with tempfile.TemporaryDirectory(prefix="cryptotrace-backtest-") as folder:
        warehouse = Warehouse(str(Path(folder) / "backtest.duckdb"))
        warehouse.create()
        _copy_labels(source, warehouse, period.end)
        first: datetime | None = None
        day = floor(period.start - reach, DAY)
        while day < period.end:
            ticks = source.read_window(RAW_TICKS, Window(day, min(day + DAY, period.end)))
            if ticks.height:
                store_ticks(warehouse, ticks, day)
                first = first or ticks["trade_time"].min()  # type: ignore[assignment]
            day += DAY
        if first is None:
            raise UserError(
                f"There are no trades between {period.start} and {period.end} in {source.address}: "
                "bring them in with `cryptotrace import` or `cryptotrace backfill` first."
            )
        return _replay(warehouse, book, events, Window(floor(first, MINUTE), period.end), period)


def _copy_labels(source: Warehouse, warehouse: Warehouse, end: datetime) -> None:
    """Give the replay the labels: a midnight's model learns from those of events before it, as in live operation."""
    labels = source.read(f"SELECT * FROM {EVENT_LABELS.name} WHERE event_time < ?", [end])
    with warehouse.transaction() as transaction:
        transaction.append(EVENT_LABELS, labels)


def _span_of(ticks: pl.DataFrame) -> Window:
    first, last = ticks["trade_time"].min(), ticks["trade_time"].max()
    assert isinstance(first, datetime) and isinstance(last, datetime)  # noqa: S101 - narrows for the type checker
    return Window(floor(first, MINUTE), ceil(last + timedelta(microseconds=1), MINUTE))


def _replay(
    warehouse: Warehouse, book: RuleBook, events: Sequence[Event], window: Window, period: Window
) -> BacktestReport:
    detection = Detection(warehouse, find_detectors(*(rule.detector for rule in book.rules if rule.kind == "anomaly")))
    refresh_bars(warehouse, window)
    detection.refresh_features(window)
    # Learned detectors are fitted at each midnight on what was known by then, as the daily job does.
    midnight = ceil(window.start, DAY)
    while detection.learns and midnight < window.end:
        detection.refresh_models(midnight)
        midnight += DAY
    detection.refresh_scores(window, window.end)
    refresh_alerts(warehouse, book, window, window.end, window.end)
    alerts = warehouse.read(
        f"SELECT * FROM {ALERTS.name} WHERE retracted_at IS NULL AND phase IN ('opening', 'worsening') "
        "AND available_at >= ? ORDER BY available_at, symbol, rule",
        [period.start],
    )
    spans = _spans(warehouse, period)
    verdicts = {
        rule.name: judge(
            [
                Ring(row["symbol"], row["available_at"])
                for row in alerts.iter_rows(named=True)
                if row["rule"] == rule.name
            ],
            events,
            spans,
        )
        for rule in book.rules
    }
    scores = warehouse.read(
        f"SELECT symbol, detector, bar_interval, bar_start, times_a_day FROM {ANOMALY_SCORES.name} "
        "WHERE bar_start >= ? ORDER BY bar_start, symbol, detector",
        [period.start],
    )
    count = warehouse.read(f"SELECT count(*) FROM {RAW_TICKS.name} WHERE trade_time >= ?", [period.start]).item()
    return BacktestReport(
        period.start, period.end, count, tuple(span.symbol for span in spans), alerts, verdicts, scores
    )


def _spans(warehouse: Warehouse, period: Window) -> list[Span]:
    """Return for each symbol the time from its first to its last trade within the period."""
    rows = warehouse.read(
        f"SELECT symbol, min(trade_time), max(trade_time) FROM {RAW_TICKS.name} "
        "WHERE trade_time >= ? AND trade_time < ? GROUP BY symbol ORDER BY symbol",
        [period.start, period.end],
    )
    return [Span(symbol, start, end) for symbol, start, end in rows.iter_rows()]


def _iso(instant: datetime) -> str:
    return instant.replace(tzinfo=UTC).isoformat(timespec="milliseconds")
