"""From bars and scores to rows of `alerts`: signals, conversations and words put together.

Owns the shape of an alert and how the state of conversations is read back from stored alerts. Pure, so that the live
run, the schedule and the backtest decide by the same code. Stays out: reading and writing (pipeline/alerts.py).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from cryptotrace_dagster.domain.conversations import (
    Conversation,
    ConversationKey,
    Decision,
    Signal,
    hold_conversations,
)
from cryptotrace_dagster.domain.rules import AnomalyRule, RuleBook, Severity
from cryptotrace_dagster.domain.signals import DECISION_INTERVAL, Market, bar_length, find_signals
from cryptotrace_dagster.domain.wording import Surroundings, message_of, title_of
from cryptotrace_dagster.tables import ALERTS

NOW_SPAN = timedelta(seconds=60)  # "now" in a message
BEFORE_SPAN = timedelta(minutes=10)  # what "usual" in a message is taken from
LEAST_BEFORE = timedelta(minutes=2)
SURROUNDINGS_SPAN = NOW_SPAN + BEFORE_SPAN
MENTIONED_TIMES_A_DAY = 1.0  # what comes more often is no reason to be alarmed, and would only confuse


def alerts_of(
    book: RuleBook, market: Market, *, until: datetime, lateness: timedelta, raised_at: datetime
) -> pl.DataFrame:
    """Return every alert of a history, from its very start: what live operation would have told, in order."""
    signals = as_signals(find_signals(book, market).filter(pl.col("decided_at") <= until))
    decisions, _ = hold_conversations(book, signals, {}, until)
    return alert_rows(book, decisions, market.bars, market.scores, lateness=lateness, raised_at=raised_at)


def as_signals(frame: pl.DataFrame) -> list[Signal]:
    """Return the rows of `find_signals` as records."""
    return [Signal(**row) for row in frame.iter_rows(named=True)]


def alert_rows(
    book: RuleBook,
    decisions: Iterable[Decision],
    bars: pl.DataFrame,
    scores: pl.DataFrame,
    *,
    lateness: timedelta,
    raised_at: datetime,
) -> pl.DataFrame:
    """Return the decisions as rows of `alerts`; `bars` reach SURROUNDINGS_SPAN back from each decision."""
    by_symbol = {
        str(symbol): part
        for (symbol,), part in bars.filter(pl.col("bar_interval") == DECISION_INTERVAL)
        .sort("bar_start")
        .partition_by("symbol", as_dict=True)
        .items()
    }
    rows = []
    for decision in decisions:
        around = surroundings(decision, by_symbol.get(decision.signal.symbol), scores)
        rows.append(_row(book, decision, around, lateness, raised_at))
    return pl.DataFrame(rows, schema=ALERTS.polars_schema)


def surroundings(decision: Decision, bars: pl.DataFrame | None, scores: pl.DataFrame) -> Surroundings:
    """Return price, volume and rarity at a decision: its last minute against the ten minutes before."""
    signal, at = decision.signal, decision.decided_at
    price = None if signal.price is None else float(signal.price)
    if decision.phase == "end" and bars is not None:
        price = _last_close(bars, at)
    times_a_day = signal.times_a_day if signal.times_a_day is not None else _rarest(scores, signal.symbol, at)
    if bars is None:
        return Surroundings(price, signal.price_before, times_a_day=times_a_day)
    start = at - NOW_SPAN
    now = bars.filter(pl.col("bar_start").is_between(start, at, closed="left"))
    before = bars.filter(pl.col("bar_start").is_between(start - BEFORE_SPAN, start, closed="left"))
    price_before = None if decision.phase == "end" else signal.price_before
    if price_before is None and before.height:
        price_before = float(before["close"][-1])
    return Surroundings(
        price=price,
        price_before=price_before,
        volume=float(now["quote_volume"].cast(pl.Float64).sum()),
        usual_volume=_usual_volume(before, start),
        trades=int(now["trade_count"].sum()),
        times_a_day=times_a_day,
    )


def _row(
    book: RuleBook, decision: Decision, around: Surroundings, lateness: timedelta, raised_at: datetime
) -> dict[str, Any]:
    rule = book.rule(decision.rule)
    if rule is None:
        raise ValueError(f"A decision names the rule {decision.rule!r}, which is not in the rule book.")
    signal = decision.signal
    return {
        "alert_id": decision.alert_id,
        "rule": rule.name,
        "symbol": signal.symbol,
        "severity": decision.severity.name,
        "phase": decision.phase,
        "conversation_id": decision.conversation_id,
        "bar_interval": signal.bar_interval,
        "bar_start": signal.bar_start,
        "detector": signal.detector if isinstance(rule, AnomalyRule) else None,
        "score": signal.measure,
        "event_time": signal.event_time,
        "available_at": decision.decided_at + lateness,
        "raised_at": raised_at,
        "price": signal.price if decision.phase != "end" else around.price,
        "title": title_of(rule, decision),
        "message": message_of(rule, decision, around),
        "evidence": json.dumps(_evidence(rule.kind, rule.fingerprint, decision, around)),
        "retracted_at": None,
    }


def course_of(decision: Decision) -> dict[str, float]:
    """Return how an event that has ended went, as its evidence says it; nothing for other phases."""
    lasted_s = None if decision.lasted is None else decision.lasted.total_seconds()
    numbers = {"lasted_s": lasted_s, "peak": decision.peak}
    return {name: round(value, 8) for name, value in numbers.items() if value is not None}


def _evidence(kind: str, fingerprint: str, decision: Decision, around: Surroundings) -> dict[str, Any]:
    signal = decision.signal
    numbers = {
        "measure": signal.measure,
        "price_before": around.price_before,
        "change_percent": around.change_percent,
        "quote_volume_60s": around.volume,
        "usual_quote_volume_60s": around.usual_volume,
        "trades_60s": around.trades,
        "times_a_day": around.times_a_day,
    }
    known = {name: round(value, 8) for name, value in numbers.items() if value is not None}
    explanation = {} if signal.explanation is None else {"explanation": json.loads(signal.explanation)}
    return {"kind": kind, "rule_fingerprint": fingerprint, **known, **course_of(decision), **explanation}


def conversations_of(
    book: RuleBook, stored: pl.DataFrame, at: datetime, lateness: timedelta
) -> dict[ConversationKey, Conversation]:
    """Return the conversations as they stood at an instant, read back from stored alerts that were not retracted."""
    until = at + lateness
    rows = stored.filter((pl.col("available_at") <= until) & pl.col("retracted_at").is_null())
    held: dict[ConversationKey, Conversation] = {}
    for row in rows.sort("available_at", "alert_id").iter_rows(named=True):
        rule = book.rule(row["rule"])
        if rule is None:
            continue
        key = (rule.group, row["symbol"])
        held[key] = _after(held.get(key), row, row["available_at"] - lateness)
    return held


def _after(held: Conversation | None, row: Mapping[str, Any], decided_at: datetime) -> Conversation:
    is_new = held is None or held.conversation_id != row["conversation_id"]
    if held is None or is_new:
        opened_at = decided_at if row["phase"] == "opening" else None  # the opening may be older than what was read
        severity = Severity[row["severity"]]
        held = Conversation(row["conversation_id"], row["rule"], True, severity, decided_at, opened_at=opened_at)
    if row["phase"] == "end":
        return replace(held, is_open=False)
    peaks = held.peaks if row["score"] is None else {**held.peaks, row["rule"]: row["score"]}
    last_ring = Signal(
        rule=row["rule"],
        symbol=row["symbol"],
        bar_interval=row["bar_interval"],
        bar_start=row["bar_start"],
        decided_at=decided_at,
        event_time=row["event_time"],
        price=row["price"],
        is_ringing=True,
        measure=row["score"],
        detector=row["detector"],
    )
    return replace(
        held, is_open=True, severity=Severity[row["severity"]], told_at=decided_at, peaks=peaks, last_ring=last_ring
    )


def with_last_rings(
    book: RuleBook, held: Mapping[ConversationKey, Conversation], earlier: Sequence[Signal]
) -> dict[ConversationKey, Conversation]:
    """Return the open conversations with the last bar that rang for each, out of the signals before a window."""
    result = dict(held)
    for signal in earlier:
        rule = book.rule(signal.rule)
        conversation = result.get((rule.group, signal.symbol)) if rule is not None else None
        if rule is None or conversation is None or not conversation.is_open or not signal.is_ringing:
            continue
        if conversation.last_ring is None or signal.decided_at >= conversation.last_ring.decided_at:
            result[(rule.group, signal.symbol)] = replace(conversation, last_ring=signal)
    return result


def _last_close(bars: pl.DataFrame, at: datetime) -> float | None:
    closes = bars.filter(pl.col("bar_start") < at)["close"]
    return float(closes[-1]) if len(closes) else None


def _usual_volume(before: pl.DataFrame, until: datetime) -> float | None:
    """Return what was traded in a span like NOW_SPAN on average; None where too little of the past has been seen."""
    first = before["bar_start"].min()
    if not isinstance(first, datetime) or until - first < LEAST_BEFORE:
        return None
    return float(before["quote_volume"].cast(pl.Float64).sum()) * (NOW_SPAN / (until - first))


def _rarest(scores: pl.DataFrame, symbol: str, at: datetime) -> float | None:
    """Return the rarity of the strangest bar that ended in the last minute, where it is worth a mention."""
    ended = pl.col("bar_start") + bar_length()
    rarest = scores.filter(
        (pl.col("symbol") == symbol)
        & (ended > at - NOW_SPAN)
        & (ended <= at)
        & (pl.col("times_a_day") <= MENTIONED_TIMES_A_DAY)
    )["times_a_day"].min()
    return float(rarest) if isinstance(rarest, int | float) else None
