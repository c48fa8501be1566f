"""What the dashboard reads: one shared reader per server, and the questions of its pages.

Owns the queries that only the dashboard asks; each is bounded in rows and answered from memory while nothing changed.
Stays out: how things look (charts.py, parts.py).
"""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl
import streamlit as st

from cryptotrace_dagster.domain.bars import BAR_INTERVALS
from cryptotrace_dagster.domain.rules import RulesError
from cryptotrace_dagster.domain.windows import Window, floor
from cryptotrace_dagster.pipeline.completeness import MISSING_BY_DAY_QUERY
from cryptotrace_dagster.pipeline.rule_source import load_rules
from cryptotrace_dagster.queries import Reader, open_for_reading, watch_list
from cryptotrace_dagster.settings import Settings, load_settings
from cryptotrace_dagster.tables import (
    ALERT_DELIVERIES,
    ALERT_FEEDBACK,
    ALERTS,
    ANOMALY_SCORES,
    DEAD_LETTERS,
    FEATURES,
    NEWEST_TRADE_TIME,
    OHLC_BARS,
    TRADE_ID_GAPS,
    TRADE_ID_RANGES,
)

REFRESH_SECONDS = 2.0
BARS_SHOWN = 180
_SPARK_BARS = 60
FEATURE_NAMES = tuple(name for name in FEATURES.column_names if name not in {*FEATURES.key, "close"})


@dataclass(frozen=True)
class Source:
    """The settings and the reader that all viewers of this server share."""

    settings: Settings
    reader: Reader


@st.cache_resource
def source() -> Source:
    """Return the shared source."""
    settings = load_settings()
    warehouse = open_for_reading(settings, patience_seconds=4.0, shares_opening=True)
    return Source(settings, Reader(warehouse, fresh_for=1.0, stale_for=60.0))


def watched(shared: Source) -> pl.DataFrame:
    """Return the watch list in the order of SYMBOLS, others after them: a row that jumps about cannot be found again."""
    order = {symbol: index for index, symbol in enumerate(shared.settings.symbols)}
    rank = pl.col("symbol").replace_strict(order, default=len(order), return_dtype=pl.Int64)
    return watch_list(shared.reader).sort(rank, "symbol")


def spark_lines(reader: Reader) -> dict[str, list[float]]:
    """Return the closes of the last hour of minutes, per symbol."""
    rows = reader.read(
        f"""
        SELECT symbol, list(close::DOUBLE ORDER BY bar_start) AS closes
        FROM {OHLC_BARS.name}
        WHERE bar_interval = '1m' AND bar_start > {NEWEST_TRADE_TIME} - INTERVAL {_SPARK_BARS} MINUTE
        GROUP BY symbol
        """
    )
    return dict(rows.iter_rows())


def chart_rows(
    reader: Reader, symbol: str, interval: str, until: datetime, shown: int = BARS_SHOWN, feature: str | None = None
) -> pl.DataFrame:
    """Return one row per interval of the chart, empty where nobody traded, with the strangest score and the alerts of it.

    It starts with the first bar that is stored. Columns: `bar_start, open, high, low, close, volume, trade_count, score,
    detector, alert_id, alert_title, severity`, and the feature if one is named.
    """
    if feature is not None and feature not in FEATURE_NAMES:
        raise ValueError(f"{feature} is not a feature")
    step = BAR_INTERVALS[interval]
    end = floor(until, step) + step
    window = Window(end - shown * step, end)
    feature_columns, feature_join, feature_parameters = "", "", []
    if feature is not None:
        feature_columns = (
            f", measured AS (SELECT time_bucket(to_microseconds(?), bar_start) AS bar_start, "
            f"arg_max({feature}, bar_start)::DOUBLE AS {feature} FROM {FEATURES.name} "
            "WHERE symbol = ? AND bar_interval = ? AND bar_start >= ? AND bar_start < ? GROUP BY 1)"
        )
        feature_join = "LEFT JOIN measured USING (bar_start)"
        source_interval = "5s" if interval == "1s" else "1m"
        feature_parameters = [_microseconds(step), symbol, source_interval, window.start, window.end]
    rows = reader.read(
        f"""
        WITH intervals AS (
            SELECT unnest(generate_series(?::TIMESTAMP, ?::TIMESTAMP, to_microseconds(?))) AS bar_start
        ), bars AS (
            SELECT bar_start, open::DOUBLE AS open, high::DOUBLE AS high, low::DOUBLE AS low, close::DOUBLE AS close,
                   volume::DOUBLE AS volume, trade_count
            FROM {OHLC_BARS.name} WHERE symbol = ? AND bar_interval = ? AND bar_start >= ? AND bar_start < ?
        ), scores AS (
            SELECT time_bucket(to_microseconds(?), bar_start) AS bar_start, max(score) AS score,
                   arg_max(detector, score) AS detector
            FROM {ANOMALY_SCORES.name} WHERE symbol = ? AND bar_start >= ? AND bar_start < ? GROUP BY 1
        ), rung AS (
            SELECT time_bucket(to_microseconds(?), event_time) AS bar_start, arg_max(alert_id, event_time) AS alert_id,
                   arg_max(title, event_time) AS alert_title, arg_max(severity, event_time) AS severity
            FROM {ALERTS.name} WHERE symbol = ? AND event_time >= ? AND event_time < ? AND retracted_at IS NULL GROUP BY 1
        ){feature_columns}
        SELECT * FROM intervals LEFT JOIN bars USING (bar_start) LEFT JOIN scores USING (bar_start)
        LEFT JOIN rung USING (bar_start) {feature_join} ORDER BY bar_start
        """,
        [
            *(window.start, window.end - step, _microseconds(step)),
            *(symbol, interval, window.start, window.end),
            *(_microseconds(step), symbol, window.start, window.end),
            *(_microseconds(step), symbol, window.start, window.end),
            *feature_parameters,
        ],
    )
    return rows.filter(pl.col("close").is_not_null().cum_max())


def _microseconds(span: timedelta) -> int:
    return int(span.total_seconds() * 1_000_000)


def score_thresholds(settings: Settings) -> dict[str, float]:
    """Return, by rule name, the anomaly score from which each rule about scores speaks."""
    try:
        book = load_rules(settings.alerts_file)
    except RulesError:
        return {}  # `cryptotrace alerts check` and the Try rules page say what is wrong with the file
    return {rule.name: -math.log10(rule.rarest_times_a_day) for rule in book.rules if rule.kind == "anomaly"}


@dataclass(frozen=True)
class AlertFilter:
    """Which alerts are wanted; None means all."""

    since: datetime
    symbol: str | None = None
    rule: str | None = None
    severity: str | None = None


def alert_list(reader: Reader, wanted: AlertFilter, limit: int = 200) -> pl.DataFrame:
    """Return the newest alerts that pass the filter, each with the state of its delivery."""
    clauses, parameters = ["event_time >= ?"], [wanted.since]  # type: tuple[list[str], list[object]]
    for name in ("symbol", "rule", "severity"):
        if (value := getattr(wanted, name)) is not None:
            clauses.append(f"{name} = ?")
            parameters.append(value)
    return reader.read(
        f"""
        WITH wanted AS (
            SELECT {", ".join(ALERTS.column_names)} FROM {ALERTS.name} WHERE {" AND ".join(clauses)}
            ORDER BY event_time DESC LIMIT {int(limit)}
        ), sent AS (
            SELECT alert_id, arg_max(outcome, (attempted_at, attempt)) AS outcome,
                   max(attempted_at) AS attempted_at, count(*) AS attempts
            FROM {ALERT_DELIVERIES.name} WHERE alert_id IN (SELECT alert_id FROM wanted) GROUP BY alert_id
        )
        SELECT * FROM wanted LEFT JOIN sent USING (alert_id) ORDER BY event_time DESC
        """,
        parameters,
    )


def alert_by_id(reader: Reader, alert_id: str) -> dict[str, object] | None:
    """Return one alert, or None."""
    rows = reader.read(
        f"SELECT {', '.join(ALERTS.column_names)} FROM {ALERTS.name} WHERE alert_id = ? LIMIT 1", [alert_id]
    )
    return rows.row(0, named=True) if rows.height else None


def deliveries_of(reader: Reader, alert_id: str) -> pl.DataFrame:
    """Return every attempt to send an alert, in order."""
    return reader.read(
        f"SELECT {', '.join(ALERT_DELIVERIES.column_names)} FROM {ALERT_DELIVERIES.name} "
        "WHERE alert_id = ? ORDER BY attempted_at, route, attempt LIMIT 200",
        [alert_id],
    )


def alert_rules(reader: Reader) -> list[str]:
    """Return the names of the rules that ever rang."""
    return reader.read(f"SELECT DISTINCT rule FROM {ALERTS.name} ORDER BY rule LIMIT 200")["rule"].to_list()


def completeness(reader: Reader) -> pl.DataFrame:
    """Return per symbol: stored trades by id, open gaps, missing trades, and the share that is stored."""
    return reader.read(
        f"""
        WITH stored AS (
            SELECT symbol, sum(last_id - first_id + 1)::BIGINT AS stored_trades, min(first_trade_time) AS since,
                   max(last_trade_time) AS last_trade_time
            FROM {TRADE_ID_RANGES.name} GROUP BY symbol
        ), holes AS (
            SELECT symbol, count(*) AS open_gaps, sum(last_missing_id - first_missing_id + 1)::BIGINT AS missing_trades
            FROM {TRADE_ID_GAPS.name} WHERE closed_at IS NULL GROUP BY symbol
        )
        SELECT symbol, stored_trades, coalesce(missing_trades, 0) AS missing_trades, coalesce(open_gaps, 0) AS open_gaps,
               100.0 * stored_trades / (stored_trades + coalesce(missing_trades, 0)) AS complete_pct,
               since, last_trade_time
        FROM stored LEFT JOIN holes USING (symbol) ORDER BY symbol
        """
    )


def gap_list(reader: Reader, limit: int = 200) -> pl.DataFrame:
    """Return the newest gaps, open ones first."""
    return reader.read(
        f"""
        SELECT symbol, last_missing_id - first_missing_id + 1 AS missing_trades, gap_start, gap_end, noticed_at, closed_at,
               first_missing_id, last_missing_id
        FROM {TRADE_ID_GAPS.name} ORDER BY closed_at IS NOT NULL, noticed_at DESC LIMIT {int(limit)}
        """
    )


def dead_letter_list(reader: Reader, limit: int = 100) -> pl.DataFrame:
    """Return the newest unreadable messages, the first 200 bytes of each as text."""
    rows = reader.read(
        f"SELECT recorded_at, reason, topic, topic_partition, message_offset, payload FROM {DEAD_LETTERS.name} "
        f"ORDER BY recorded_at DESC LIMIT {int(limit)}"
    )
    texts = [payload[:200].decode("utf-8", "backslashreplace") for payload in rows["payload"]]
    return rows.with_columns(pl.Series("payload", texts, pl.String))


def completeness_by_day(reader: Reader, days: int) -> pl.DataFrame:
    """Return per symbol and UTC day with stored trades: the trades missing in gaps that are still open.

    A gap counts for each day it touches. Columns: `symbol, day, missing_trades`.
    """
    return reader.read(MISSING_BY_DAY_QUERY, [days])


def feedback_of(reader: Reader, alert_id: str) -> dict[str, object] | None:
    """Return the newest word about an alert, or None."""
    rows = reader.read(
        f"SELECT was_right, note, given_at FROM {ALERT_FEEDBACK.name} WHERE alert_id = ? ORDER BY given_at DESC LIMIT 1",
        [alert_id],
    )
    return rows.row(0, named=True) if rows.height else None
