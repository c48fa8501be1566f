"""What one benchmark says: a value, what it is held against, and whether the target is met.

Owns the row, its verdict, and repeated measuring in pairs. A pair is measured back to back, so that what else the
machine does falls on both; the median of the pairs' ratios is what counts. Stays out: what is measured.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


class WrongWorkError(Exception):
    """What was measured did not do its work right, so there is no figure."""


@dataclass(frozen=True)
class Pair:
    """One measurement of ours and the reference's measured beside it, in the same unit."""

    value: float
    reference: float


@dataclass(frozen=True)
class Target:
    """A bound of a row's ratio, or, where there is nothing to hold it against, of its value."""

    bound: float
    is_lower: bool = False  # the figure shall be at least the bound, not at most
    of_value: bool = False

    def is_met(self, figure: float) -> bool:
        """Return whether a figure keeps the bound."""
        return figure >= self.bound if self.is_lower else figure <= self.bound

    def __str__(self) -> str:
        return f"{'value ' if self.of_value else ''}{'>=' if self.is_lower else '<='} {self.bound:g}"


@dataclass(frozen=True)
class Row:
    """One line of the table. `ratio` is value / reference; low and high are its extremes over the repeats."""

    name: str
    what: str
    value: float
    unit: str
    reference: float | None = None
    reference_name: str = ""
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    repeats: int = 1
    target: Target | None = None
    details: dict[str, float | int | str] = field(default_factory=dict)

    @property
    def is_met(self) -> bool | None:
        """Return whether the target is met; None for a row that has none."""
        if self.target is None:
            return None
        figure = self.value if self.target.of_value or self.ratio is None else self.ratio
        return self.target.is_met(figure)

    def as_dict(self) -> dict[str, object]:
        """Return the row as JSON values."""
        return {
            "what": self.what,
            "value": _rounded(self.value),
            "unit": self.unit,
            "reference": _rounded(self.reference),
            "reference_name": self.reference_name,
            "ratio": _rounded(self.ratio),
            "ratio_low": _rounded(self.low),
            "ratio_high": _rounded(self.high),
            "repeats": self.repeats,
            "target": None if self.target is None else str(self.target),
            "met": self.is_met,
            **({"details": self.details} if self.details else {}),
        }


def measured_pairs(measure: Callable[[], Pair], repeats: int, warm_ups: int = 0) -> list[Pair]:
    """Return the pairs of so many repeats, after some that do not count."""
    for _ in range(warm_ups):
        measure()
    return [measure() for _ in range(repeats)]


def row_of_pairs(
    name: str,
    what: str,
    unit: str,
    pairs: Sequence[Pair],
    reference_name: str,
    target: Target | None,
    **details: float | int | str,
) -> Row:
    """Return the row of repeated pairs: medians, and how far the ratios spread."""
    ratios = [pair.value / pair.reference for pair in pairs]
    return Row(
        name=name,
        what=what,
        value=statistics.median(pair.value for pair in pairs),
        unit=unit,
        reference=statistics.median(pair.reference for pair in pairs),
        reference_name=reference_name,
        ratio=statistics.median(ratios),
        low=min(ratios),
        high=max(ratios),
        repeats=len(pairs),
        target=target,
        details=dict(details),
    )


def require(is_right: bool, what: str) -> None:
    """Refuse the figure when the work was wrong.

    Raises:
        WrongWorkError: it was; `what` says what was found.
    """
    if not is_right:
        raise WrongWorkError(what)


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
