"""Half-open windows of time, and the arithmetic on them. All instants are naive UTC."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

EPOCH = datetime(1970, 1, 1)


@dataclass(frozen=True, order=True)
class Window:
    """The time range [start, end), naive UTC."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        if self.start.tzinfo is not None or self.end.tzinfo is not None:
            raise ValueError("Windows hold naive UTC instants; pass value.astimezone(UTC).replace(tzinfo=None).")
        if self.end < self.start:
            raise ValueError(f"A window ends at or after its start, got [{self.start}, {self.end}).")

    def widened_to(self, step: timedelta) -> "Window":
        """Return the smallest window of whole steps (counted from the epoch) that covers this one."""
        return Window(floor(self.start, step), ceil(self.end, step))

    def extended(self, before: timedelta = timedelta(0), after: timedelta = timedelta(0)) -> "Window":
        """Return the window with a margin on either side."""
        return Window(self.start - before, self.end + after)


def utc_now() -> datetime:
    """Return this machine's clock as naive UTC."""
    return datetime.now(UTC).replace(tzinfo=None)


def floor(instant: datetime, step: timedelta) -> datetime:
    """Return the start of the step (counted from the epoch) that holds the instant."""
    return instant - (instant - EPOCH) % step


def ceil(instant: datetime, step: timedelta) -> datetime:
    """Return the first step boundary at or after the instant."""
    floored = floor(instant, step)
    return floored if floored == instant else floored + step


def day_window(day: date) -> Window:
    """Return the window of one UTC day."""
    start = datetime.combine(day, time())
    return Window(start, start + timedelta(days=1))


def merged(windows: Iterable[Window], gap: timedelta = timedelta(0)) -> list[Window]:
    """Return the union as disjoint windows in order; those that touch, or have no more than a gap between, become one."""
    result: list[Window] = []
    for window in sorted(windows):
        if result and window.start <= result[-1].end + gap:
            result[-1] = Window(result[-1].start, max(result[-1].end, window.end))
        else:
            result.append(window)
    return result
