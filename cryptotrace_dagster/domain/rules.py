"""What the user wants to be told: the alert rules of `alerts.toml`, validated.

Owns the kinds of rules, their defaults, and errors that name the line and the remedy. Stays out: reading the file and
noticing that it changed (pipeline/rule_source.py), measuring (signals.py) and deciding (conversations.py).
"""

import hashlib
import math
import re
import string
import tomllib
from collections.abc import Sequence
from datetime import datetime, time, timedelta
from enum import IntEnum
from fnmatch import fnmatchcase
from typing import Annotated, ClassVar, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from cryptotrace_dagster.domain.detectors import NAMES as DETECTOR_NAMES
from cryptotrace_dagster.domain.instants import InstantError, parse_span
from cryptotrace_dagster.errors import UserError

PLACEHOLDERS = (
    "symbol",
    "rule",
    "severity",
    "price",
    "price_before",
    "change_percent",
    "measure",
    "limit",
    "volume",
    "volume_before",
    "how_often",
    "what",
)


class RulesError(UserError):
    """The alert rules cannot be used; the message names file, line, what is wrong and what to write instead."""


class Severity(IntEnum):
    """How urgent an alert is; larger is more urgent."""

    info = 0
    warning = 1
    critical = 2


def _duration(value: object) -> object:
    if isinstance(value, timedelta):
        return value
    try:
        return parse_span(value if isinstance(value, str) else "")
    except InstantError:
        raise ValueError(
            'write a duration as a number and s, m, h, d or w, at most ten years, for example "60s" or "30m"'
        ) from None


def _more_than_nothing(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError('must be longer than nothing; write for example "60s"')
    return value


def _severity(value: object) -> object:
    if isinstance(value, str) and value in Severity.__members__:
        return Severity[value]
    if isinstance(value, Severity):
        return value
    raise ValueError('write "info", "warning" or "critical"')


def _time_zone(value: object) -> object:
    try:
        return ZoneInfo(str(value)).key
    except (KeyError, ValueError, OSError):
        raise ValueError('write a time zone by its place, for example "Europe/Berlin" or "UTC"') from None


def _clock(value: object) -> object:
    if isinstance(value, time):
        return value
    if isinstance(value, str) and re.fullmatch(r"([01]?\d|2[0-3]):[0-5]\d", value):
        hour, minute = value.split(":")
        return time(int(hour), int(minute))
    raise ValueError('write a time of day as "22:30"')


def _template(value: str | None) -> str | None:
    if value is None:
        return None
    try:
        parts = list(string.Formatter().parse(value))
    except ValueError as error:
        raise ValueError(f"braces do not match ({error}); write {{{{ for a literal brace") from None
    for _, name, spec, conversion in parts:
        if name is None:
            continue
        if name not in PLACEHOLDERS:
            raise ValueError(f"{{{name}}} is not known; use {', '.join(f'{{{known}}}' for known in PLACEHOLDERS)}")
        if spec or conversion:  # the values are words already: `.2f` would fail at the first alert, not here
            raise ValueError(
                f"{{{name}}} takes no format; write {{{name}}} alone, numbers are already rounded for reading"
            )
    return value


Duration = Annotated[timedelta, BeforeValidator(_duration)]
PositiveDuration = Annotated[Duration, AfterValidator(_more_than_nothing)]
SeverityName = Annotated[Severity, BeforeValidator(_severity)]
Clock = Annotated[time, BeforeValidator(_clock)]
TimeZone = Annotated[str, BeforeValidator(_time_zone)]
Template = Annotated[str | None, AfterValidator(_template)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Rule(_Part):
    """What every rule has: a name, the symbols it watches, how urgent it is, and how long it keeps quiet."""

    name: str = Field(min_length=1, max_length=60)
    symbols: tuple[str, ...] = ("*",)
    severity: SeverityName = Severity.warning
    cooldown: Duration = timedelta(minutes=30)
    digest: bool = False
    message: Template = None
    is_timed: ClassVar[bool] = True

    @property
    def group(self) -> str:
        """Return what the rule's alerts are about: rules of one group share a conversation per symbol."""
        return "market"

    @property
    def lookback(self) -> timedelta:
        """Return how much history before a bar its measure needs."""
        return timedelta(0)

    @property
    def fingerprint(self) -> str:
        """Return a short hash of everything that decides whether the rule rings."""
        text = self.model_dump_json(exclude={"message", "digest"})
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def watches(self, symbol: str) -> bool:
        """Return whether the symbol matches one of the rule's patterns."""
        return any(fnmatchcase(symbol, pattern.upper()) for pattern in self.symbols)

    def is_clearly_stronger(self, measure: float, peak: float) -> bool:
        """Return whether a measure tops what was already told by enough to be told again."""
        return abs(measure) >= 1.5 * abs(peak)


class PriceRule(_Rule):
    """Rings when the price reaches a level; again only after it has come back by the hysteresis."""

    kind: Literal["price"]
    above: Positive | None = None
    below: Positive | None = None
    hysteresis_percent: float = Field(default=0.5, ge=0, lt=100)
    is_timed: ClassVar[bool] = False

    @model_validator(mode="after")
    def _one_side(self) -> "PriceRule":
        if (self.above is None) == (self.below is None):
            raise ValueError("set either above or below, for example above = 100000; two levels are two rules")
        return self

    @property
    def level(self) -> float:
        """Return the price that matters."""
        return float(self.above if self.above is not None else self.below or 0.0)

    @property
    def group(self) -> str:
        """Return the rule's own name: a level the user asked for is never part of another conversation."""
        return f"price:{self.name}"

    def is_clearly_stronger(self, measure: float, peak: float) -> bool:
        """Return false: a level is reached or not."""
        return False


class MoveRule(_Rule):
    """Rings when the price has moved by some per cent within a time."""

    kind: Literal["move"]
    at_least_percent: Positive
    within: PositiveDuration = timedelta(seconds=60)
    direction: Literal["up", "down", "either"] = "either"

    @property
    def lookback(self) -> timedelta:
        """Return twice the window: the price in force at its start may be that old."""
        return 2 * self.within


class VolumeRule(_Rule):
    """Rings when far more is traded within a time than just before."""

    kind: Literal["volume"]
    at_least_times: Annotated[float, Field(gt=1, allow_inf_nan=False)]
    within: PositiveDuration = timedelta(seconds=10)
    compared_with: PositiveDuration = timedelta(minutes=10)
    minimum_quote_volume: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _longer_baseline(self) -> "VolumeRule":
        if self.compared_with < 5 * self.within:
            raise ValueError("compared_with must be at least five times as long as within")
        return self

    @property
    def lookback(self) -> timedelta:
        """Return the window and the time it is compared with."""
        return self.within + self.compared_with


class AnomalyRule(_Rule):
    """Rings when a detector sees what comes at most so many times a day by the symbol's own history."""

    kind: Literal["anomaly"]
    detector: str = "*"
    bar_interval: str | None = None
    at_most_a_day: Positive

    @property
    def rarest_times_a_day(self) -> float:
        """Return how rare a score must be for the budget to hold: the share of each detector that the rule listens to.

        Detectors look at the same bars, so they ring neither always together (each could have the whole budget) nor
        never (an equal part each). The share lies halfway between the two, on the logarithmic scale of scores.
        """
        listens_to = sum(fnmatchcase(name, self.detector) for name in DETECTOR_NAMES)
        return self.at_most_a_day / math.sqrt(max(1, listens_to))

    def is_clearly_stronger(self, measure: float, peak: float) -> bool:
        """Return whether it is ten times as rare: the measure is a power of ten."""
        return measure >= peak + 1.0


class RecordRule(_Rule):
    """Rings when the price leaves the range of the last days: that many whole UTC days, and today so far."""

    kind: Literal["record"]
    days: int = Field(ge=1, le=365)
    direction: Literal["high", "low", "either"] = "either"
    cooldown: Duration = timedelta(hours=12)

    @property
    def group(self) -> str:
        """Return the rule's own name, as with price levels."""
        return f"record:{self.name}"

    def is_clearly_stronger(self, measure: float, peak: float) -> bool:
        """Return false: a record that goes on is one event."""
        return False


class DataRule(_Rule):
    """Rings when the data cannot be trusted: a symbol fell silent, or trades are missing."""

    kind: Literal["data"]
    trouble: Literal["silence", "gap"]
    after: Duration = timedelta(minutes=10)
    is_timed: ClassVar[bool] = False

    @model_validator(mode="after")
    def _some_silence(self) -> "DataRule":
        if self.trouble == "silence" and not self.after:  # a gap may be told at once; silent is a market every second
            raise ValueError('after must be longer than nothing for trouble = "silence"; write for example "10m"')
        return self

    @property
    def group(self) -> str:
        """Return the trouble: silence and gaps are told apart."""
        return f"data:{self.trouble}"

    @property
    def lookback(self) -> timedelta:
        """Return how long the silence lasts before it is told."""
        return self.after

    def is_clearly_stronger(self, measure: float, peak: float) -> bool:
        """Return false: trouble is told once."""
        return False


AnyRule = Annotated[
    PriceRule | MoveRule | VolumeRule | AnomalyRule | RecordRule | DataRule, Field(discriminator="kind")
]
KINDS: dict[str, type[_Rule]] = {
    "price": PriceRule,
    "move": MoveRule,
    "volume": VolumeRule,
    "anomaly": AnomalyRule,
    "record": RecordRule,
    "data": DataRule,
}
Rule = PriceRule | MoveRule | VolumeRule | AnomalyRule | RecordRule | DataRule


class Route(_Part):
    """Where alerts go: the environment variable that holds a webhook's address, and which alerts it takes."""

    name: str = Field(min_length=1, max_length=40, pattern=r"^[\w-]+$")
    webhook_variable: str = Field(pattern=r"^[A-Z][A-Z0-9_]*$")
    severities: tuple[SeverityName, ...] = tuple(Severity)
    symbols: tuple[str, ...] = ("*",)
    rules: tuple[str, ...] = ("*",)

    def takes(self, rule: str, symbol: str, severity: Severity) -> bool:
        """Return whether an alert belongs on this route."""
        return (
            severity in self.severities
            and any(fnmatchcase(symbol, pattern.upper()) for pattern in self.symbols)
            and any(fnmatchcase(rule, pattern) for pattern in self.rules)
        )


class QuietHours(_Part):
    """A part of the day in which alerts below a severity wait; they come together when it ends."""

    start: Clock
    end: Clock
    time_zone: TimeZone = "UTC"
    below: SeverityName = Severity.critical


class Digest(_Part):
    """When the alerts of rules with `digest = true` are told, all in one message."""

    at: Clock = time(8)
    time_zone: TimeZone = "UTC"


class Conversations(_Part):
    """How alerts on one symbol hang together."""

    end_after: Duration = timedelta(minutes=5)
    tell_end: bool = True


class RuleBook(_Part):
    """The rules in force, and how their alerts are told."""

    rules: tuple[AnyRule, ...] = ()
    routes: tuple[Route, ...] = ()
    quiet_hours: QuietHours | None = None
    digest: Digest = Digest()
    conversations: Conversations = Conversations()

    @model_validator(mode="after")
    def _unique_names(self) -> "RuleBook":
        for what, names in (("rule", [r.name for r in self.rules]), ("route", [r.name for r in self.routes])):
            doubled = sorted({name for name in names if names.count(name) > 1})
            if doubled:
                raise ValueError(f"the {what} name {doubled[0]!r} is used twice; give each {what} its own")
        return self

    def rule(self, name: str) -> Rule | None:
        """Return the rule of that name, if it is in force."""
        return next((rule for rule in self.rules if rule.name == name), None)

    @property
    def lookback(self) -> timedelta:
        """Return the longest history that any rule needs before a bar."""
        return max((rule.lookback for rule in self.rules), default=timedelta(0))

    def routes_of(self, rule: str, symbol: str, severity: Severity) -> tuple[str, ...]:
        """Return the names of the routes that an alert takes; `default` where none is meant for it."""
        chosen = tuple(route.name for route in self.routes if route.takes(rule, symbol, severity))
        return chosen or ("default",)


def parse_rules(text: str, source: str) -> RuleBook:
    """Return the rules written in a TOML text; `source` is the file's name, for messages.

    Raises:
        RulesError: names the file, the line, what is wrong and the remedy; of several problems, the first.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"\(at (?:line (\d+)|end of document)", str(error))
        line = int(place[1]) if place and place[1] else len(text.splitlines())
        what = str(error).split(" (at ")[0]
        raise RulesError(f"{source}, line {line}: this is not TOML: {what}. Compare with docs/alerts.md.") from None
    try:
        return RuleBook.model_validate(content)
    except ValidationError as error:
        line, first = min(((_line_of(text, item), item) for item in error.errors()), key=lambda found: found[0])
        raise RulesError(f"{source}, line {line}: {_explained(first)}") from None


def _explained(error: ErrorDetails) -> str:
    path = [part for part in error["loc"] if isinstance(part, str)]
    kind = next((part for part in path if part in KINDS), None)
    name = path[-1] if path else "the file"
    given = error.get("input")
    match error["type"]:
        case "extra_forbidden":
            known = _known_fields(path, kind)
            where = f"a rule of kind {kind}" if kind else f"[{path[0]}]" if len(path) > 1 else "the file"
            return f"{name} is not known in {where}; write one of {', '.join(known)}."
        case "missing":
            return f"{name} is missing; add it to {f'this rule of kind {kind}' if kind else 'this section'}."
        case "union_tag_invalid" | "union_tag_not_found":
            found = given.get("kind") if isinstance(given, dict) else None
            problem = f"kind {found!r} is not known" if found is not None else "kind is missing"
            return f"{problem}; write one of {', '.join(KINDS)}."
        case _:
            message = error["msg"].removeprefix("Value error, ")
            shown = "" if isinstance(given, dict) else f" (found {given!r})"
            return f"{name}: {message}{shown}." if name != kind else f"{message}."


def _known_fields(path: Sequence[str], kind: str | None) -> list[str]:
    sections: dict[str, type[BaseModel]] = {
        "routes": Route,
        "quiet_hours": QuietHours,
        "digest": Digest,
        "conversations": Conversations,
    }
    model = KINDS[kind] if kind else sections.get(path[0], RuleBook) if len(path) > 1 else RuleBook
    return list(model.model_fields)


def _line_of(text: str, error: ErrorDetails) -> int:
    """Return the line (from 1) that a validation error speaks about: its key, or else the head of its section."""
    lines, loc = text.splitlines(), error["loc"]
    doubled = re.search(r"name '(.*)' is used twice", error["msg"])
    if doubled is not None:  # in lines of their own or in inline tables; a name written otherwise is not found
        name = re.compile(rf"""(?:^|[{{,])\s*name\s*=\s*["']{re.escape(doubled[1])}["']""")
        return max((index for index, line in enumerate(lines, start=1) if name.search(line)), default=1)
    section = str(loc[0]) if loc else ""
    number = next((part for part in loc if isinstance(part, int)), 0) if loc and len(loc) > 1 else 0
    heads = [index for index, line in enumerate(lines) if re.match(rf"\s*\[+\s*{re.escape(section)}\s*\]+", line)]
    if not section or not heads:
        key = _first(lines, 0, re.compile(rf"\s*{re.escape(section)}\s*="))
        return (key if section and key is not None else 0) + 1
    head = heads[min(number, len(heads) - 1)]
    end = next((i for i in range(head + 1, len(lines)) if lines[i].lstrip().startswith("[")), len(lines))
    for part in reversed(loc[1:]):
        if isinstance(part, str):
            found = _first(lines[:end], head + 1, re.compile(rf"\s*{re.escape(part)}\s*="))
            if found is not None:
                return found + 1
    kind = _first(lines[:end], head + 1, re.compile(r"\s*kind\s*="))
    return (kind if kind is not None and len(loc) == 2 and section == "rules" else head) + 1


def _first(lines: Sequence[str], start: int, pattern: re.Pattern[str]) -> int | None:
    return next((index for index in range(start, len(lines)) if pattern.match(lines[index])), None)


def is_quiet(hours: QuietHours, instant: datetime) -> bool:
    """Return whether a naive UTC instant lies in the quiet hours; they may pass midnight."""
    local = instant.replace(tzinfo=ZoneInfo("UTC")).astimezone(ZoneInfo(hours.time_zone)).time()
    if hours.start <= hours.end:
        return hours.start <= local < hours.end
    return local >= hours.start or local < hours.end


def next_time_of_day(after: datetime, at: time, time_zone: str) -> datetime:
    """Return the first naive UTC instant after `after` at which clocks in the zone show `at`."""
    zone = ZoneInfo(time_zone)
    local = after.replace(tzinfo=ZoneInfo("UTC")).astimezone(zone)
    candidate = datetime.combine(local.date(), at, zone)
    while candidate.astimezone(ZoneInfo("UTC")).replace(tzinfo=None) <= after:
        candidate = datetime.combine(candidate.date() + timedelta(days=1), at, zone)
    return candidate.astimezone(ZoneInfo("UTC")).replace(tzinfo=None)
