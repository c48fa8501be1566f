"""Scripts: which events and faults come when, from a TOML or JSON file or by a built-in name.

Owns the file format and its validation. A script has tables `[[event]]` and `[[fault]]`; each has `at` (seconds after
the start), may have `every` (seconds between repetitions), and the fields of `MarketEvent` or `Fault`.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import msgspec

from cryptotrace_dagster.errors import UserError
from cryptotrace_dagster.exchange.events import EventKind, MarketEvent
from cryptotrace_dagster.exchange.faults import TICK_FAULTS, Fault, FaultKind

Step = MarketEvent | Fault


class ScriptError(UserError):
    """A script cannot be read, or a step in it is wrong."""


@dataclass(frozen=True)
class ScriptStep:
    """One step of a script."""

    at: float
    step: Step
    every: float | None = None


DEMO_PUMP_AT = 50.0
STORM_SECONDS = 86_400.0
_STORM_KINDS = tuple(kind for kind in FaultKind if not kind.name.startswith("DUMP_"))


def demo_script(symbols: Iterable[str]) -> list[ScriptStep]:
    """Return a script with which there is always something to see: a pump first, then others by turns."""
    names = list(symbols)

    def symbol(index: int) -> str:
        return names[index % len(names)]

    pump = MarketEvent(kind=EventKind.PUMP, symbol=symbol(2), gain=0.14, intensity=10.0)
    second_pump = MarketEvent(kind=EventKind.PUMP, symbol=symbol(4), gain=0.09, intensity=8.0)
    crash = MarketEvent(kind=EventKind.CRASH, symbol=symbol(1), gain=0.05, intensity=8.0)
    surge = MarketEvent(kind=EventKind.VOLUME_SURGE, symbol=symbol(3), intensity=7.0, rise_seconds=40.0)
    return [
        ScriptStep(DEMO_PUMP_AT - pump.accumulation_seconds, pump, every=900),
        ScriptStep(240, surge, every=900),
        ScriptStep(420, crash, every=900),
        ScriptStep(660, second_pump, every=900),
    ]


def fault_storm(symbols: Iterable[str], seed: int) -> list[ScriptStep]:
    """Return a day of random faults, one about every half minute: for soaks. The same seed gives the same storm."""
    draw = random.Random(seed)
    names = list(symbols)
    steps, at = [], 15.0
    while at < STORM_SECONDS:
        steps.append(ScriptStep(round(at, 3), _random_fault(draw, names)))
        at += 10 + draw.expovariate(1 / 20)
    return steps


def _random_fault(draw: random.Random, symbols: list[str]) -> Fault:
    kind = draw.choice(_STORM_KINDS)
    seconds: float | None = round(draw.uniform(0.5, 8), 3)
    if kind in {FaultKind.SILENCE, FaultKind.HALF_FRAMES, FaultKind.ABORT} and draw.random() < 0.5:
        seconds = None
    return Fault(
        kind=kind,
        seconds=seconds,
        symbol=draw.choice([None, *symbols]) if kind in TICK_FAULTS else None,
        connections=draw.choice(("all", "oldest")),
        status=draw.choice((429, 418, 500, 502, 503)),
        retry_after=draw.choice((None, 1, 3)),
        delay_seconds=round(draw.uniform(0.5, 5), 3),
        lifetime_seconds=round(draw.uniform(5, 20), 3),
        skew_ms=draw.randrange(100, 3_000),
    )


def load_script(script: str, symbols: Iterable[str], seed: int = 1) -> list[ScriptStep]:
    """Return the steps of a built-in script (`demo`, `storm`, `calm`) or of a file.

    Raises:
        ScriptError: there is no such script, or a step of it is wrong; the message names the step.
    """
    if script == "demo":
        return demo_script(symbols)
    if script == "storm":
        return fault_storm(symbols, seed)
    if script in {"", "calm"}:
        return []
    path = Path(script)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ScriptError(
            f"The script {script} could not be read ({error.strerror}): give a file, or one of demo, storm, calm."
        ) from error
    try:
        decode = msgspec.json.decode if path.suffix == ".json" else msgspec.toml.decode
        tables = decode(content, type=dict[str, list[dict[str, object]]])
    except msgspec.MsgspecError as error:
        raise ScriptError(f"The script {script} could not be read: {error}. Correct it there.") from error
    return steps_of(tables, set(symbols), script)


def steps_of(tables: dict[str, list[dict[str, object]]], symbols: set[str], script: str) -> list[ScriptStep]:
    """Return the validated steps of the tables `event` and `fault`."""
    types: dict[str, type[Step]] = {"event": MarketEvent, "fault": Fault}
    unknown = set(tables) - set(types)
    if unknown:
        raise ScriptError(
            f"{script}: unknown table {', '.join(sorted(unknown))}; a script has [[event]] and [[fault]]."
        )
    steps = []
    for name, rows in tables.items():
        for number, row in enumerate(rows, start=1):
            where = f"{script}: [[{name}]] number {number}"
            times = {key: row[key] for key in ("at", "every") if key in row}
            rest = {key: value for key, value in row.items() if key not in times}
            try:
                step = msgspec.convert(rest, types[name])
                timing = msgspec.convert(times, _Timing)
            except msgspec.ValidationError as error:
                raise ScriptError(f"{where} is wrong: {error}. Correct it there.") from error
            if step.symbol is not None and step.symbol not in symbols:
                raise ScriptError(f"{where} names {step.symbol}, which is not traded: add it with --symbols.")
            steps.append(ScriptStep(timing.at, step, timing.every))
    return steps


class _Timing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    at: float
    every: float | None = None

    def __post_init__(self) -> None:
        if self.at < 0 or (self.every is not None and self.every <= 0):
            raise ValueError("`at` is 0 or later and `every` is above 0")


class Schedule:
    """The steps of a script in the order of their time."""

    def __init__(self, steps: Iterable[ScriptStep]) -> None:
        self._numbers = count()
        self._queue = [(step.at, next(self._numbers), step) for step in steps]
        heapq.heapify(self._queue)

    def due(self, elapsed: float) -> list[Step]:
        """Return the steps whose time has come since the last call."""
        steps = []
        while self._queue and self._queue[0][0] <= elapsed:
            at, _, scripted = heapq.heappop(self._queue)
            steps.append(scripted.step)
            if scripted.every is not None:
                heapq.heappush(self._queue, (at + scripted.every, next(self._numbers), scripted))
        return steps
