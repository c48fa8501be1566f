"""Which trade ids have come, and which are missing. Pure: no clock, no socket, no broker.

Ids are consecutive per symbol, so a jump is a loss and a repeat is a duplicate. `OpenGaps` holds what is missing with
its plan for the next attempt; `TradeIds` says what an arriving id means. Publishing and fetching stay out.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum

NOTHING_SEEN = -1
IMPLAUSIBLE_JUMP = 50_000_000  # ids; more than a week of the busiest symbol, so a damaged id rather than a gap


class Arrival(Enum):
    """What an arriving trade id is to its symbol."""

    NEXT = "next"  # the first of all, or the one that was expected
    JUMP = "jump"  # ids before it are missing
    LATE = "late"  # one that was missing
    REPEAT = "repeat"  # one that has come before
    IMPLAUSIBLE = "implausible"  # too far ahead to be true


@dataclass(frozen=True)
class Gap:
    """Missing ids [first, last] of a symbol, and when to try to fetch them (monotonic seconds)."""

    first: int
    last: int
    due_at: float
    attempts: int = 0

    @property
    def size(self) -> int:
        """Return how many ids are missing."""
        return self.last - self.first + 1


class OpenGaps:
    """The missing ids of one symbol as disjoint gaps in order.

    A stream that loses single trades for hours leaves tens of thousands of gaps, so every change touches only the gaps
    that it concerns.
    """

    def __init__(self) -> None:
        self._gaps: list[Gap] = []
        self._missing = 0

    def __iter__(self) -> Iterator[Gap]:
        return iter(tuple(self._gaps))

    def __len__(self) -> int:
        return len(self._gaps)

    def __contains__(self, trade_id: int) -> bool:
        return self.missing_between(trade_id, trade_id) == 1

    @property
    def missing(self) -> int:
        """Return how many ids are missing in all."""
        return self._missing

    def missing_between(self, first: int, last: int) -> int:
        """Return how many ids of [first, last] are missing."""
        return sum(min(gap.last, last) - max(gap.first, first) + 1 for gap in self._gaps[self._concerned(first, last)])

    def add(self, first: int, last: int, due_at: float) -> int:
        """Note that [first, last] is missing and return how many of these ids were not known to be."""
        concerned = self._concerned(first, last)
        known = self._gaps[concerned]
        fresh = [Gap(*part, due_at) for part in subtract((first, last), [(gap.first, gap.last) for gap in known])]
        self._gaps[concerned] = sorted([*known, *fresh], key=lambda gap: gap.first)
        added = sum(gap.size for gap in fresh)
        self._missing += added
        return added

    def remove(self, first: int, last: int) -> int:
        """Note that [first, last] has come and return how many of these ids were missing."""
        removed = self.missing_between(first, last)
        concerned = self._concerned(first, last)
        self._gaps[concerned] = [part for gap in self._gaps[concerned] for part in _outside(gap, first, last)]
        self._missing -= removed
        return removed

    def postpone(self, first: int, last: int, due_at: float) -> None:
        """Count a vain attempt for what is missing inside [first, last], and say when the next one is due."""
        concerned = self._concerned(first, last)
        parts: list[Gap] = []
        for gap in self._gaps[concerned]:
            inside = Gap(max(gap.first, first), min(gap.last, last), due_at, gap.attempts + 1)
            parts += sorted([*_outside(gap, first, last), inside], key=lambda part: part.first)
        self._gaps[concerned] = parts

    def next_due(self) -> Gap | None:
        """Return the gap whose attempt is due first."""
        return min(self._gaps, key=lambda gap: (gap.due_at, gap.first), default=None)

    def _concerned(self, first: int, last: int) -> slice:
        """Return where the gaps stand that share an id with [first, last]."""
        return slice(
            bisect_left(self._gaps, first, key=lambda gap: gap.last),
            bisect_right(self._gaps, last, key=lambda gap: gap.first),
        )


def _outside(gap: Gap, first: int, last: int) -> list[Gap]:
    return [replace(gap, first=start, last=end) for start, end in subtract((gap.first, gap.last), [(first, last)])]


class TradeIds:
    """One symbol's ids since this feed started: the next one expected, the first one seen, and the gaps between."""

    __slots__ = ("first_id", "gaps", "next_id")

    def __init__(self) -> None:
        self.first_id = NOTHING_SEEN
        self.next_id = NOTHING_SEEN
        self.gaps = OpenGaps()

    def classify(self, trade_id: int) -> Arrival:
        """Return what an id is, without taking note of it (the trade may still find no room in the broker's queue)."""
        if self.next_id in (trade_id, NOTHING_SEEN):
            return Arrival.NEXT
        if trade_id > self.next_id:
            return Arrival.IMPLAUSIBLE if trade_id - self.next_id > IMPLAUSIBLE_JUMP else Arrival.JUMP
        return Arrival.LATE if trade_id in self.gaps else Arrival.REPEAT

    def record(self, trade_id: int, fetch_at: float) -> int:
        """Take note of an id that was published, and return how many ids it showed to be missing.

        `fetch_at` is when a gap that it opens may be fetched: a moment later, for the trades may only be out of order.
        """
        if self.next_id == NOTHING_SEEN:
            self.first_id, self.next_id = trade_id, trade_id + 1
            return 0
        if trade_id < self.next_id:
            self.gaps.remove(trade_id, trade_id)
            return 0
        missed = self.gaps.add(self.next_id, trade_id - 1, fetch_at) if trade_id > self.next_id else 0
        self.next_id = trade_id + 1
        return missed

    def note_existing(self, trade_id: int, fetch_at: float) -> int:
        """Take note that the exchange has an id which did not come, and return how many are missing because of it."""
        if self.next_id == NOTHING_SEEN or trade_id < self.next_id:
            return 0
        missed = self.gaps.add(self.next_id, trade_id, fetch_at)
        self.next_id = trade_id + 1
        return missed


def subtract(whole: tuple[int, int], parts: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return what is left of an inclusive range when inclusive ranges are taken out of it, in order."""
    left = [whole] if whole[0] <= whole[1] else []
    for first, last in sorted(parts):
        if not left or first > left[-1][1]:
            continue
        start, end = left[-1]
        if last < start:
            continue
        left.pop()
        if first > start:
            left.append((start, first - 1))
        if last < end:
            left.append((last + 1, end))
    return left
