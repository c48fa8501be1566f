"""The weekly report: what rules and detectors did over the stored recent trades, and whether they kept their word.

The replay is the backtest's (pipeline/backtest.py); here are only how far back it goes, how a detector is judged by
itself, and what the report looks like. Stays out: when it is made (the asset and its schedule).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from cryptotrace_dagster.domain.detectors.market import MARKET_SYMBOL
from cryptotrace_dagster.domain.evaluation import HIT_REACH, Event, Interval, Ring, Span, Verdict, judge
from cryptotrace_dagster.domain.rules import RuleBook
from cryptotrace_dagster.domain.windows import Window, floor
from cryptotrace_dagster.pipeline.backtest import BacktestReport, backtest_stored
from cryptotrace_dagster.pipeline.detection import START_REACH, STEPS
from cryptotrace_dagster.pipeline.dirty import ALLOWED_LATENESS, market_watermark
from cryptotrace_dagster.pipeline.labels import labelled_events
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.tables import OHLC_BARS

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
DETECTOR_BUDGET = 0.05  # times a day and symbol: all of the rule `unusual`'s, which the rule divides among detectors
QUIET = timedelta(minutes=30)
PROMISES = (12.0, 4.0, 2.0, 1.0, 0.5, 0.2, 0.1)


@dataclass(frozen=True)
class DetectorReport:
    """What rang over a period, by rule and by detector, and how often each detector was as strange as it promised.

    `calibration` has detector, promised and observed: separate hours a day and symbol.
    """

    period: Window
    ticks: int
    events: int
    rules: Mapping[str, Verdict]
    detectors: Mapping[str, Verdict]
    calibration: pl.DataFrame

    @property
    def markdown(self) -> str:
        """Return the figures as a Markdown table."""
        lines = [
            f"{self.period.start:%Y-%m-%d} to {self.period.end:%Y-%m-%d}: {self.ticks:,} trades, "
            f"{self.events} labelled events. A detector by itself has {DETECTOR_BUDGET} times a day and symbol.",
            "",
            "| | alerts | a day and symbol | hit | precision | recall | F1 | false a symbol-day | delay |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        lines += [_line(f"rule *{name}*", verdict) for name, verdict in self.rules.items()]
        lines += [_line(f"`{name}`", verdict) for name, verdict in self.detectors.items()]
        return "\n".join(lines)


def report_on_detectors(warehouse: Warehouse, book: RuleBook, days: int, most_ticks: int) -> DetectorReport | None:
    """Return the report on the last whole UTC days, or None where not one is stored that is small enough.

    At most `days`, fewer where these and the days that the detectors warm up on hold more than `most_ticks` trades.
    """
    period, reach = _bounds(warehouse, days, most_ticks)
    if period is None:
        return None
    events = labelled_events(warehouse, period.start - HIT_REACH, period.end)
    replayed = backtest_stored(warehouse, book, period, events, reach=reach)
    spans = [Span(symbol, period.start, period.end) for symbol in replayed.symbols]
    return DetectorReport(
        period,
        replayed.ticks,
        len(events),
        replayed.verdicts,
        _by_detector(replayed, events, spans),
        _calibration(replayed.scores, spans),
    )


def rings_of(scores: pl.DataFrame, at_most_a_day: float, quiet: timedelta = QUIET) -> list[Ring]:
    """Return when a detector would have rung by itself: at scores so rare, and not again while it is quiet.

    `scores` are one detector's, in order of time; a ring counts at the end of its bar and the allowed lateness.
    """
    rings: list[Ring] = []
    last: dict[str, datetime] = {}
    for row in scores.filter(pl.col("times_a_day") <= at_most_a_day).iter_rows(named=True):
        available_at = row["bar_start"] + STEPS[row["bar_interval"]] + ALLOWED_LATENESS
        if available_at - last.get(row["symbol"], datetime.min) >= quiet:
            last[row["symbol"]] = available_at
            rings.append(Ring(row["symbol"], available_at))
    return rings


def _bounds(warehouse: Warehouse, days: int, most_ticks: int) -> tuple[Window | None, timedelta]:
    """Return the period, and how much of the time before it is replayed too."""
    watermark = market_watermark(warehouse)
    if watermark is None:
        return None, START_REACH
    end = floor(watermark, DAY)
    counted = warehouse.read(
        f"SELECT bar_start, sum(tick_count)::BIGINT AS ticks FROM {OHLC_BARS.name} WHERE bar_interval = '1d' "
        "AND bar_start >= ? AND bar_start < ? GROUP BY bar_start ORDER BY bar_start DESC",
        [end - days * DAY - START_REACH, end],
    )
    small = counted.filter(pl.col("ticks").cum_sum() <= most_ticks)
    if small.is_empty():
        return None, START_REACH
    first: datetime = small["bar_start"][-1]
    whole = (end - first) // DAY
    judged = max(1, min(days, whole - min(whole // 2, START_REACH // DAY)))
    start = end - judged * DAY
    return Window(start, end), min(START_REACH, start - first)


def _by_detector(replayed: BacktestReport, events: Sequence[Event], spans: Sequence[Span]) -> dict[str, Verdict]:
    return {
        str(name): judge(rings_of(part, DETECTOR_BUDGET), events, spans)
        for (name,), part in sorted(replayed.scores.partition_by("detector", as_dict=True).items())
    }


def _calibration(scores: pl.DataFrame, spans: Sequence[Span]) -> pl.DataFrame:
    rows = []
    for (name,), part in sorted(scores.partition_by("detector", as_dict=True).items()):
        watched = spans[:1] if set(part["symbol"]) == {MARKET_SYMBOL} else spans
        days = sum(span.days for span in watched)
        hours = part.with_columns(pl.col("bar_start").dt.truncate("1h"))
        for promised in PROMISES:
            strange = hours.filter(pl.col("times_a_day") <= promised).select("symbol", "bar_start").n_unique()
            rows.append((str(name), promised, strange / days))
    return pl.DataFrame(
        rows, schema={"detector": pl.String, "promised": pl.Float64, "observed": pl.Float64}, orient="row"
    )


def _line(name: str, verdict: Verdict) -> str:
    delay = "-" if verdict.median_delay_seconds is None else f"{verdict.median_delay_seconds:.1f} s"
    cells = [
        name,
        str(verdict.alerts),
        f"{verdict.alerts_a_day:.3g}",
        f"{verdict.hits} of {verdict.events}",
        *(_shown(each) for each in (verdict.precision, verdict.recall, verdict.f1)),
        _shown(verdict.false_alarms_a_symbol_day, 3) if verdict.events else "-",
        delay,
    ]
    return f"| {' | '.join(cells)} |"


def _shown(interval: Interval | None, digits: int = 2) -> str:
    if interval is None:
        return "-"
    return f"{interval.value:.{digits}f} ({interval.low:.{digits}f} to {interval.high:.{digits}f})"
