"""When someone is told: signals become alerts, and alerts about one event on one symbol become one conversation.

Owns cooldown, re-arming, worsening and ends, as a fold whose state can be read back from the stored alerts: so any cut
of the time into windows decides the same. Stays out: what a rule measures (signals.py) and the words (wording.py).
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal

from cryptotrace_dagster.domain.rules import Rule, RuleBook, Severity

Phase = Literal["opening", "worsening", "end"]
ConversationKey = tuple[str, str]  # what it is about (a rule's group), and the symbol
MARKET = "MARKET"  # the symbol of what concerns all of them, as the market's detectors call it
WORSENING_PAUSE = timedelta(seconds=60)  # one jump passes several strengths within seconds; it is told once


@dataclass(frozen=True)
class Signal:
    """One row of `signals.find_signals`."""

    rule: str
    symbol: str
    bar_interval: str
    bar_start: datetime
    decided_at: datetime
    event_time: datetime
    price: Decimal | None
    is_ringing: bool
    measure: float | None
    price_before: float | None = None
    detector: str | None = None
    times_a_day: float | None = None
    explanation: str | None = None


@dataclass(frozen=True)
class Decision:
    """Someone is to be told: which signal, in which phase of which conversation.

    An end also says when the conversation was opened and the strongest measure that was told in it, where known.
    """

    alert_id: str
    conversation_id: str
    phase: Phase
    severity: Severity
    rule: str
    decided_at: datetime
    signal: Signal
    opened_at: datetime | None = None
    peak: float | None = None

    @property
    def lasted(self) -> timedelta | None:
        """Return how long an event that has ended went on: from the first bar that rang to the last."""
        return None if self.opened_at is None else self.signal.decided_at - self.opened_at


@dataclass(frozen=True)
class Conversation:
    """What has been told about one symbol under one heading. Everything but `last_ring` is in the stored alerts."""

    conversation_id: str
    rule: str
    is_open: bool
    severity: Severity
    told_at: datetime
    peaks: Mapping[str, float] = field(default_factory=dict)
    last_ring: Signal | None = None
    opened_at: datetime | None = None


def alert_id_of(rule: str, signal: Signal, phase: Phase) -> str:
    """Return the id that the same rule, symbol and bar always have.

    An opening that late data turns into a worsening keeps its id, so that it is not told twice.
    """
    parts = (rule, signal.symbol, signal.bar_interval, signal.bar_start.isoformat(), "end" if phase == "end" else "")
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]


def hold_conversations(
    book: RuleBook, signals: Iterable[Signal], carried: Mapping[ConversationKey, Conversation], until: datetime
) -> tuple[list[Decision], dict[ConversationKey, Conversation]]:
    """Return what is to be told up to `until` (inclusive), and the conversations as they stand then.

    `signals` are in the order of `find_signals`, all later than the carried state.
    """
    rules: dict[str, Rule] = {rule.name: rule for rule in book.rules}
    held = dict(carried)
    decisions: list[Decision] = []
    for signal in signals:
        rule = rules[signal.rule]
        key = (rule.group, signal.symbol)
        conversation = held.get(key)
        ended = _ended(book, rule, conversation, signal.decided_at, inclusive=False)
        if conversation is not None and ended is not None:
            decisions.append(ended)
            conversation = held[key] = replace(conversation, is_open=False)
        if _is_part_of_market_wide(book, rule, signal, conversation, held.get((rule.group, MARKET))):
            continue
        decision, after = _heard(rule, signal, conversation)
        if decision is not None:
            decisions.append(decision)
        if after is not None:
            held[key] = after
    for key, conversation in held.items():
        ended = _ended(book, rules.get(conversation.rule), conversation, until, inclusive=True)
        if ended is not None:
            decisions.append(ended)
            held[key] = replace(conversation, is_open=False)
    return sorted(decisions, key=lambda each: (each.decided_at, each.alert_id)), held


def _is_part_of_market_wide(
    book: RuleBook, rule: Rule, signal: Signal, now: Conversation | None, market: Conversation | None
) -> bool:
    """Return whether a symbol only does what the whole market was said to do: a crash is one message, not fifty."""
    if market is None or market.last_ring is None or signal.symbol == MARKET or (now is not None and now.is_open):
        return False
    is_going_on = market.is_open and signal.decided_at <= market.last_ring.decided_at + book.conversations.end_after
    return is_going_on and rule.severity <= market.severity


def _heard(rule: Rule, signal: Signal, now: Conversation | None) -> tuple[Decision | None, Conversation | None]:
    """Return what one signal makes us say, and the conversation after it."""
    if not signal.is_ringing:
        if now is None or not now.is_open or rule.is_timed:
            return None, now
        return _end(now, signal, signal.decided_at), replace(now, is_open=False)
    if now is not None and now.is_open:
        now = replace(now, last_ring=signal)
        return _worsening(rule, signal, now) if _is_worse(rule, signal, now) else (None, now)
    if now is not None and _is_cooling(rule, signal, now):
        return None, now
    alert_id = alert_id_of(rule.name, signal, "opening")
    decision = Decision(alert_id, alert_id, "opening", rule.severity, rule.name, signal.decided_at, signal)
    peaks = {} if signal.measure is None else {rule.name: signal.measure}
    at = signal.decided_at
    return decision, Conversation(alert_id, rule.name, True, rule.severity, at, peaks, signal, opened_at=at)


def _worsening(rule: Rule, signal: Signal, now: Conversation) -> tuple[Decision, Conversation]:
    severity = max(rule.severity, now.severity)
    alert_id = alert_id_of(rule.name, signal, "worsening")
    decision = Decision(alert_id, now.conversation_id, "worsening", severity, rule.name, signal.decided_at, signal)
    peaks = {**now.peaks, **({} if signal.measure is None else {rule.name: signal.measure})}
    return decision, replace(now, severity=severity, told_at=signal.decided_at, peaks=peaks)


def _is_worse(rule: Rule, signal: Signal, now: Conversation) -> bool:
    if rule.severity > now.severity:
        return True
    return _is_stronger(rule, signal, now) and signal.decided_at - now.told_at >= WORSENING_PAUSE


def _is_cooling(rule: Rule, signal: Signal, now: Conversation) -> bool:
    if signal.decided_at - now.told_at >= rule.cooldown:
        return False
    return rule.severity <= now.severity and not _is_stronger(rule, signal, now)


def _is_stronger(rule: Rule, signal: Signal, now: Conversation) -> bool:
    peak = now.peaks.get(rule.name)
    if peak is None or signal.measure is None or rule.severity < now.severity:
        return False
    return rule.is_clearly_stronger(signal.measure, peak)


def _ended(
    book: RuleBook, rule: Rule | None, now: Conversation | None, at: datetime, *, inclusive: bool
) -> Decision | None:
    if now is None or not now.is_open or now.last_ring is None or rule is None or not rule.is_timed:
        return None
    end = now.last_ring.decided_at + book.conversations.end_after
    is_over = end <= at if inclusive else end < at
    return _end(now, now.last_ring, end, _peak(book, now)) if is_over else None


def _peak(book: RuleBook, now: Conversation) -> float | None:
    """Return the strongest measure that was told, of all rules that measure the same as the one that opened."""
    kinds = {rule.name: rule.kind for rule in book.rules}
    told = [peak for name, peak in sorted(now.peaks.items()) if kinds.get(name) == kinds.get(now.rule)]
    return max(told, key=abs, default=None)


def _end(now: Conversation, signal: Signal, at: datetime, peak: float | None = None) -> Decision:
    alert_id = alert_id_of(now.rule, signal, "end")
    return Decision(
        alert_id, now.conversation_id, "end", now.severity, now.rule, at, signal, opened_at=now.opened_at, peak=peak
    )
