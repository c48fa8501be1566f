"""The stage that decides: alert rules over closed bars and scores of a window, into `alerts`.

Owns which bars are read, how the state of conversations is carried from stored alerts, and what becomes of stored
alerts that late data has changed. Stays out: the decisions (domain/) and the sending (pipeline/delivery.py).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import duckdb
import polars as pl

from cryptotrace_dagster.domain.alerting import (
    MENTIONED_TIMES_A_DAY,
    NOW_SPAN,
    SURROUNDINGS_SPAN,
    alert_rows,
    as_signals,
    conversations_of,
    course_of,
    with_last_rings,
)
from cryptotrace_dagster.domain.conversations import (
    Conversation,
    ConversationKey,
    Decision,
    hold_conversations,
)
from cryptotrace_dagster.domain.rules import RuleBook
from cryptotrace_dagster.domain.signals import DECISION_INTERVAL, PRICE_AGE, SCORE_INTERVALS, Market, find_signals
from cryptotrace_dagster.domain.windows import EPOCH, Window, floor
from cryptotrace_dagster.pipeline.dirty import ALLOWED_LATENESS
from cryptotrace_dagster.pipeline.report import StageReport
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.tables import ALERT_RULE_VERSIONS, ALERTS, ANOMALY_SCORES, OHLC_BARS, TRADE_ID_GAPS

CHUNK = timedelta(hours=6)  # bounds the memory of a whole day: fifty symbols have a million bars of one second in it
# Measures are floating point; the close stays exact, for it is told as the price, and so does the traded value, because
# DuckDB's cast of a wide decimal costs as much as all the rest of the reading (polars casts it later, at a tenth).
_BAR_COLUMNS = (
    "symbol, bar_interval, bar_start, bar_end, high::DOUBLE AS high, low::DOUBLE AS low, close, quote_volume, "
    "trade_count, last_trade_time"
)
_STATE_SPAN = timedelta(days=2)
_NEAR = timedelta(hours=1)


@dataclass(frozen=True)
class _Evaluation:
    """What one stretch of time, read and decided, has come to."""

    stretch: Window
    decisions: list[Decision]
    before: dict[ConversationKey, Conversation]  # as the stored alerts had it at the end of the stretch
    after: dict[ConversationKey, Conversation]  # as it is now
    stored: pl.DataFrame
    earliest_bar: datetime | None


def refresh_alerts(
    warehouse: Warehouse, book: RuleBook, window: Window, watermark: datetime, now: datetime
) -> StageReport:
    """Decide about the closed bars of a window anew, and store what changed.

    The same window twice changes nothing. Alerts that no longer ring are marked in `retracted_at`. What follows the
    window is decided anew as far as the change reaches: its lookback, and on until the conversations are as before.
    """
    if not book.rules:
        return StageReport(ALERTS.name, window, 0, {"retracted": 0})
    reach = min(watermark, window.end + _lookback(book))
    raised = retracted = 0
    evaluation: _Evaluation | None = None
    while True:
        # Nobody else decides about the same stretch between our reading and our writing.
        with warehouse.held():
            if evaluation is None:
                evaluation = _evaluate_first(warehouse, book, window, watermark, now)
            else:
                evaluation = _evaluate_next(warehouse, book, evaluation, reach, watermark)
            if evaluation is None:
                break
            new, gone = _store(warehouse, book, evaluation, now)
        raised, retracted = raised + new, retracted + gone
    return StageReport(ALERTS.name, window, raised, {"retracted": retracted})


def _evaluate_first(
    warehouse: Warehouse, book: RuleBook, window: Window, watermark: datetime, now: datetime
) -> _Evaluation | None:
    """Evaluate the first stretch, and note the rules that are seen for the first time."""
    with warehouse.reading() as connection:
        start = _first_decision(connection, window)
        known = set(connection.execute(f"SELECT rule, fingerprint FROM {ALERT_RULE_VERSIONS.name}").fetchall())
        until = _end_of_stretch(start, min(watermark, window.end + _lookback(book)), watermark)
        evaluation = None if until is None else _evaluate(connection, book, Window(start, until), None)
    # What the very first evaluation finds is told; what happened before a later change of a rule is not.
    _record_versions(warehouse, book, known, watermark if known else min(window.start, watermark), now)
    return evaluation


def _evaluate_next(
    warehouse: Warehouse, book: RuleBook, done: _Evaluation, reach: datetime, watermark: datetime
) -> _Evaluation | None:
    """Evaluate the stretch after one that is done; None where nothing further can have changed."""
    until = _end_of_stretch(done.stretch.end, reach, watermark)
    if until is None or (done.stretch.end >= reach and _told(done.before) == _told(done.after)):
        return None
    with warehouse.reading() as connection:
        return _evaluate(connection, book, Window(done.stretch.end, until), done.after)


def _end_of_stretch(start: datetime, reach: datetime, watermark: datetime) -> datetime | None:
    if start >= watermark:
        return None
    return min(start + CHUNK, reach if start < reach else watermark)


def _lookback(book: RuleBook) -> timedelta:
    return max(book.lookback, PRICE_AGE)


def _first_decision(connection: duckdb.DuckDBPyConnection, window: Window) -> datetime:
    """Return the instant after which everything is decided anew.

    The last bars before the window may have been open when they were last looked at.
    """
    latest: datetime | None = None
    for earliest in (window.start - _NEAR, EPOCH):  # further back only where the market slept: that reads all bars
        (latest,) = connection.execute(
            f"SELECT max(bar_start) FROM {OHLC_BARS.name} WHERE bar_interval = ? AND bar_start >= ? AND bar_start < ?",
            [DECISION_INTERVAL, earliest, window.start],
        ).fetchone() or (None,)
        if latest is not None:
            break
    return (latest or window.start) - ALLOWED_LATENESS - timedelta(seconds=1)


def _record_versions(
    warehouse: Warehouse, book: RuleBook, known: set[tuple[str, str]], in_force_from: datetime, now: datetime
) -> None:
    """Note from when on each definition is in force, so that a changed rule does not tell of what is long past."""
    new = [rule for rule in book.rules if (rule.name, rule.fingerprint) not in known]
    if not new:
        return
    rows = [(rule.name, rule.fingerprint, rule.model_dump_json(), in_force_from, now) for rule in new]
    with warehouse.transaction() as transaction:
        transaction.merge(
            ALERT_RULE_VERSIONS, pl.DataFrame(rows, schema=ALERT_RULE_VERSIONS.polars_schema, orient="row")
        )


def _evaluate(
    connection: duckdb.DuckDBPyConnection,
    book: RuleBook,
    stretch: Window,
    carried: dict[ConversationKey, Conversation] | None,
) -> _Evaluation:
    stored = _stored_alerts(connection, stretch)
    held = carried if carried is not None else conversations_of(book, stored, stretch.start, ALLOWED_LATENESS)
    is_any_open = carried is None and any(each.is_open for each in held.values())
    memory = book.conversations.end_after if is_any_open else timedelta(0)
    market = read_market(connection, book, stretch.extended(before=memory))
    signals = as_signals(find_signals(book, market))
    if carried is None:
        held = with_last_rings(book, held, [each for each in signals if each.decided_at <= stretch.start])
    fresh = [each for each in signals if stretch.start < each.decided_at <= stretch.end]
    decisions, after = hold_conversations(book, fresh, held, stretch.end)
    before = conversations_of(book, stored, stretch.end, ALLOWED_LATENESS)
    earliest = market.bars.filter(pl.col("bar_interval") == DECISION_INTERVAL)["bar_start"].min()
    return _Evaluation(stretch, decisions, before, after, stored, earliest if isinstance(earliest, datetime) else None)


def _stored_alerts(connection: duckdb.DuckDBPyConnection, stretch: Window) -> pl.DataFrame:
    """Return the stored alerts inside the stretch, and those before it that say how conversations stood."""
    return connection.execute(
        f"""
        SELECT {", ".join(ALERTS.column_names)} FROM {ALERTS.name} WHERE available_at <= $until
        QUALIFY available_at >= $recent OR (
            retracted_at IS NULL
            AND row_number() OVER (PARTITION BY rule, symbol, retracted_at IS NULL ORDER BY available_at DESC) <= 3)
        """,
        {"until": stretch.end + ALLOWED_LATENESS, "recent": stretch.start - _STATE_SPAN},
    ).pl()


def read_market(connection: duckdb.DuckDBPyConnection, book: RuleBook, stretch: Window) -> Market:
    """Return the closed bars, the scores and the gaps that a stretch of decisions rests on, with the rules' lookback."""
    ranges = [(DECISION_INTERVAL, stretch.start - _lookback(book) - timedelta(seconds=2))]
    days = max((rule.days for rule in book.rules if rule.kind == "record"), default=None)
    if days is not None:
        ranges += [
            ("1m", floor(stretch.start, timedelta(hours=1))),
            ("1h", floor(stretch.start, timedelta(days=1))),
            ("1d", floor(stretch.start, timedelta(days=1)) - timedelta(days=days + 1)),
        ]
    # Of the longer bars, the last one is still growing; it is there to name its period, its prices are not looked at.
    bars = connection.execute(
        " UNION ALL ".join(
            f"SELECT {_BAR_COLUMNS} FROM {OHLC_BARS.name} WHERE bar_interval = '{name}' "
            f"AND bar_start >= ? AND bar_start < ? AND (bar_end <= ? OR bar_interval <> '{DECISION_INTERVAL}')"
            for name, _ in ranges
        ),
        [value for _, start in ranges for value in (start, stretch.end, stretch.end)],
    ).pl()
    gaps = TRADE_ID_GAPS.empty()
    if any(rule.kind == "data" and rule.trouble == "gap" for rule in book.rules):
        gaps = connection.execute(f"SELECT * FROM {TRADE_ID_GAPS.name} WHERE gap_end < ?", [stretch.end]).pl()
    rarity = max((rule.rarest_times_a_day for rule in book.rules if rule.kind == "anomaly"), default=None)
    scores = ANOMALY_SCORES.empty() if rarity is None else _read_scores(connection, stretch, rarity)
    return Market(bars, scores, gaps)


def _read_scores(connection: duckdb.DuckDBPyConnection, stretch: Window, times_a_day: float) -> pl.DataFrame:
    """Return the scores of bars that end in the stretch and are at least so rare."""
    columns = ", ".join(ANOMALY_SCORES.column_names)
    # One narrow range for each interval lets DuckDB skip all but the newest row groups.
    parts = [
        f"SELECT {columns} FROM {ANOMALY_SCORES.name} WHERE times_a_day <= ? AND bar_interval = '{name}' "
        "AND bar_start > ? AND bar_start <= ?"
        for name in SCORE_INTERVALS
    ]
    ranges = [(stretch.start - length, stretch.end - length) for length in SCORE_INTERVALS.values()]
    parameters = [value for start, end in ranges for value in (times_a_day, start, end)]
    return connection.execute(" UNION ALL ".join(parts), parameters).pl()


def _store(warehouse: Warehouse, book: RuleBook, evaluation: _Evaluation, now: datetime) -> tuple[int, int]:
    """Write what differs from the stored alerts of the stretch; return the numbers of new and of retracted alerts."""
    known = {row["alert_id"]: row for row in evaluation.stored.iter_rows(named=True)}
    touched = [each for each in evaluation.decisions if _differs(each, known.get(each.alert_id))]
    gone = _no_longer_ringing(book, evaluation)
    if not touched and gone.is_empty():
        return 0, 0
    rows = _rows(warehouse, book, touched, now)
    first_raised = {each.alert_id: known[each.alert_id]["raised_at"] for each in touched if each.alert_id in known}
    raised_at = pl.col("alert_id").replace_strict(
        first_raised, default=pl.col("raised_at"), return_dtype=pl.Datetime("us")
    )
    with warehouse.transaction() as transaction:
        transaction.merge(ALERTS, rows.with_columns(raised_at=raised_at))
        transaction.merge(ALERTS, gone.with_columns(retracted_at=pl.lit(now, dtype=pl.Datetime("us"))))
    return len(touched) - len(first_raised), gone.height


def _differs(decision: Decision, row: Mapping[str, Any] | None) -> bool:
    """Return whether a stored alert says something else than the decision, or is not there."""
    if row is None or row["retracted_at"] is not None:
        return True
    stored = (row["phase"], row["conversation_id"], row["severity"], row["available_at"])
    decided = (decision.phase, decision.conversation_id, decision.severity.name, decision.decided_at + ALLOWED_LATENESS)
    course = course_of(decision)
    evidence = json.loads(row["evidence"]) if course else {}
    told_course = {name: evidence.get(name) for name in course}
    return stored != decided or row["score"] != decision.signal.measure or told_course != course


def _no_longer_ringing(book: RuleBook, evaluation: _Evaluation) -> pl.DataFrame:
    """Return the stored alerts of the stretch that the same rules would not raise now.

    A changed rule takes nothing back, and neither do bars that have been deleted because of their age.
    """
    if evaluation.earliest_bar is None:
        return evaluation.stored.clear()
    fingerprints = {rule.name: rule.fingerprint for rule in book.rules}
    same_rule = pl.col("evidence").str.json_path_match("$.rule_fingerprint") == pl.col("rule").replace_strict(
        fingerprints, default=None, return_dtype=pl.String
    )
    decided_at = pl.col("available_at") - ALLOWED_LATENESS
    return evaluation.stored.filter(
        pl.col("retracted_at").is_null()
        & (decided_at > evaluation.stretch.start)
        & (decided_at <= evaluation.stretch.end)
        & (decided_at >= evaluation.earliest_bar + _lookback(book))
        & ~pl.col("alert_id").is_in([each.alert_id for each in evaluation.decisions])
        & same_rule
    )


def _rows(warehouse: Warehouse, book: RuleBook, decisions: list[Decision], now: datetime) -> pl.DataFrame:
    if not decisions:
        return ALERTS.empty()
    symbols = sorted({each.signal.symbol for each in decisions})
    first, last = min(each.decided_at for each in decisions), max(each.decided_at for each in decisions)
    with warehouse.reading() as connection:
        bars = connection.execute(
            f"SELECT {_BAR_COLUMNS} FROM {OHLC_BARS.name} WHERE bar_interval = ? AND bar_start >= ? AND bar_start < ? "
            f"AND symbol IN ({', '.join('?' * len(symbols))})",
            [DECISION_INTERVAL, first - SURROUNDINGS_SPAN, last, *symbols],
        ).pl()
        scores = _read_scores(connection, Window(first - NOW_SPAN, last), MENTIONED_TIMES_A_DAY)
    return alert_rows(book, decisions, bars, scores, lateness=ALLOWED_LATENESS, raised_at=now)


def _told(held: Mapping[ConversationKey, Conversation]) -> dict[ConversationKey, Conversation]:
    """Return the conversations without what stored alerts do not say."""
    return {key: replace(each, last_ring=None, peaks=dict(each.peaks)) for key, each in held.items()}
