"""What a stage tells its caller about what it did."""

from dataclasses import dataclass, field

from cryptotrace_dagster.domain.windows import Window


@dataclass(frozen=True)
class StageReport:
    """One stage's work on one window; becomes the metadata of a materialisation."""

    asset: str
    window: Window | None
    rows: int
    details: dict[str, int | float | str] = field(default_factory=dict)
