"""The words of an alert: one line that says what happened, and how unusual it is in plain words.

Owns titles, messages and the user's templates. Stays out: colours, links and pictures (notify/).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from cryptotrace_dagster.domain.conversations import MARKET, Decision
from cryptotrace_dagster.domain.detectors.data_trouble import CLOCK
from cryptotrace_dagster.domain.rules import (
    AnomalyRule,
    DataRule,
    MoveRule,
    PriceRule,
    RecordRule,
    Rule,
    VolumeRule,
)
from cryptotrace_dagster.looks import age_text

DAYS_A_YEAR = 365


@dataclass(frozen=True)
class Surroundings:
    """What trading was like at an alert and just before: the same window now, and on average before it."""

    price: float | None = None
    price_before: float | None = None
    volume: float | None = None
    usual_volume: float | None = None
    trades: int | None = None
    times_a_day: float | None = None

    @property
    def change_percent(self) -> float | None:
        """Return the change of the price in per cent."""
        if self.price is None or not self.price_before:
            return None
        return (self.price / self.price_before - 1) * 100


def title_of(rule: Rule, decision: Decision) -> str:
    """Return one line that says what happened, without markup."""
    who = name_of(decision.signal.symbol)
    if decision.phase == "end":
        return f"{who}: {_ended_words(rule)}"
    still = " (worsening)" if decision.phase == "worsening" else ""
    return f"{who} {_happened(rule, decision)}{still}"


def message_of(rule: Rule, decision: Decision, around: Surroundings) -> str:
    """Return what happened and how unusual it is, in plain words or in the user's own template."""
    if rule.message is not None and decision.phase != "end":
        return rule.message.format_map(placeholders(rule, decision, around))
    sentences = [*_course_words(rule, decision), *_price_words(rule, decision, around)]
    if around.volume is not None and around.usual_volume:
        sentences.append(_volume_words(round(around.volume / around.usual_volume, 1)))
    if around.times_a_day is not None and decision.phase != "end":
        sentences.append(f"{_such(rule)} comes {how_often(around.times_a_day)}{_where(decision.signal.symbol)}.")
    return " ".join(sentences) or f"{title_of(rule, decision)}."


def _volume_words(multiple: float) -> str:
    if multiple == 1:
        return "The volume of the last minute was as usual."
    return f"In the last minute {number(multiple)} times the usual volume was traded."


def _price_words(rule: Rule, decision: Decision, around: Surroundings) -> list[str]:
    if around.price is None:
        return []
    now, before = number(around.price), number(around.price_before)
    if around.price_before is None:
        words = f"The price is {now}."
    elif decision.phase == "end" or decision.signal.price_before is None:
        words = f"The price is {now}; a minute before it was {before}."
    elif isinstance(rule, RecordRule):
        words = f"The price is {now}; the record was {before}."
    else:
        words = f"From {before} to {now}."
    return [words]


def _course_words(rule: Rule, decision: Decision) -> list[str]:
    """Return how long an event that has ended went on, and how strong it was."""
    if decision.lasted is None:
        return []
    span = age_text(decision.lasted.total_seconds()) if decision.lasted >= timedelta(seconds=1) else "a moment"
    match rule:
        case MoveRule() if decision.peak is not None:
            strongest = f"; at its strongest the price {_moved(decision.peak)}"
        case VolumeRule() if decision.peak is not None:
            strongest = f"; at its strongest {decision.peak:.0f} times the usual volume was traded"
        case _:
            strongest = ""
    return [f"It lasted {span}{strongest}."]


def _moved(percent: float) -> str:
    return f"{'rose' if percent > 0 else 'fell'} {abs(percent):.1f} %"


def name_of(symbol: str) -> str:
    """Return what a symbol is called in a sentence."""
    return {MARKET: "The whole market", CLOCK: "This machine's clock"}.get(symbol, symbol)


def placeholders(rule: Rule, decision: Decision, around: Surroundings) -> Mapping[str, str]:
    """Return the values of `rules.PLACEHOLDERS` for a template."""
    return {
        "symbol": decision.signal.symbol,
        "rule": rule.name,
        "severity": decision.severity.name,
        "price": number(around.price),
        "price_before": number(around.price_before),
        "change_percent": number(around.change_percent),
        "measure": number(decision.signal.measure),
        "limit": number(limit_of(rule)),
        "volume": number(around.volume),
        "volume_before": number(around.usual_volume),
        "how_often": "unknown" if around.times_a_day is None else how_often(around.times_a_day),
        "what": title_of(rule, decision),
    }


def how_often(times_a_day: float) -> str:
    """Return a rate in plain words, from `several times an hour` to `about once in 40 days`."""
    if times_a_day >= 48:
        return "several times an hour"
    if times_a_day >= 1.5:
        return f"about {times_a_day:.0f} times a day"
    if times_a_day > 0.67:
        return "about once a day"
    days = 1 / times_a_day if times_a_day > 0 else math.inf
    if days >= 2 * DAYS_A_YEAR:
        return "less than once in two years"
    return f"about once in {days:.0f} days"


def limit_of(rule: Rule) -> float | None:
    """Return the number that the measure had to reach."""
    match rule:
        case PriceRule():
            return rule.level
        case MoveRule():
            return rule.at_least_percent
        case VolumeRule():
            return rule.at_least_times
        case AnomalyRule():
            return rule.rarest_times_a_day
        case RecordRule():
            return float(rule.days)
        case DataRule():
            return rule.after.total_seconds()


def duration(span: timedelta) -> str:
    """Return a duration in whole words: 60 s, 5 min, 2 h, 3 days."""
    seconds = int(span.total_seconds())
    if seconds == 86400:
        return "24 h"
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds % size == 0 and seconds > size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def number(value: float | None) -> str:
    """Return a number with about five significant digits and no exponent; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "-"
    if value == 0:
        return "0"
    places = max(0, 4 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{min(places, 8)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _such(rule: Rule) -> str:
    return "A move like this" if isinstance(rule, MoveRule) else "Trading like this"


def _where(symbol: str) -> str:
    return "" if symbol == MARKET else f" on {symbol}"


def _happened(rule: Rule, decision: Decision) -> str:
    measure = decision.signal.measure or 0.0
    match rule:
        case PriceRule():
            words = f"is {'above' if rule.above is not None else 'below'} {number(rule.level)}"
        case MoveRule():
            words = f"{_moved(measure)} within {duration(rule.within)}"
        case VolumeRule():
            words = f"traded {measure:.0f} times its usual volume within {duration(rule.within)}"
        case AnomalyRule():
            words = f"is behaving unusually ({(decision.signal.detector or rule.detector).replace('_', ' ')})"
        case RecordRule():
            words = f"is at its {'highest' if measure > 0 else 'lowest'} in {duration(timedelta(days=rule.days))}"
        case DataRule(trouble="silence"):
            words = f"has not traded for {duration(rule.after)} while the market went on"
        case DataRule():
            words = "has missing trades that could not be filled"
    return words


def _ended_words(rule: Rule) -> str:
    match rule:
        case PriceRule():
            return f"back {'below' if rule.above is not None else 'above'} {number(rule.level)}"
        case DataRule():
            return "trading again" if rule.trouble == "silence" else "the missing trades are here"
        case _:
            return "calm again"
