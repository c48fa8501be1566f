"""The guard against slow decay: ratios of this run against the ones that were recorded last.

Ratios, not times: the recorded ones come from another machine. One bad moment of a shared machine shall not fail a
change, so what looks lost is measured again, and its best ratio counts.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cryptotrace_dagster.bench.rows import Row
from cryptotrace_dagster.errors import UserError

ALLOWED_LOSS = 0.30
ATTEMPTS = 3


class RecordError(UserError):
    """The recorded ratios cannot be read."""


def read_record(path: Path) -> dict[str, float]:
    """Return the recorded ratio of each row.

    Raises:
        RecordError: the file is missing or damaged.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))["ratios"]
        return {str(name): float(ratio) for name, ratio in record.items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise RecordError(
            f"The recorded ratios {path} could not be read ({error}): make them with `cryptotrace bench --quick --record {path}`."
        ) from error


def write_record(path: Path, rows: Sequence[Row], machine: Mapping[str, object]) -> None:
    """Write down the ratios of a run for the next ones to be compared with."""
    ratios = {row.name: float(f"{row.ratio:.4g}") for row in rows if row.ratio is not None}
    path.write_text(json.dumps({"ratios": ratios, "machine": dict(machine)}, indent=2) + "\n", encoding="utf-8")


def losses(rows: Sequence[Row], record: Mapping[str, float]) -> dict[str, float]:
    """Return the rows that have lost more than is allowed, and by what share each is worse (0.5: half as slow again)."""
    lost = {row.name: loss_of(row, record[row.name]) for row in rows if row.ratio is not None and row.name in record}
    return {name: loss for name, loss in lost.items() if loss > ALLOWED_LOSS}


def loss_of(row: Row, recorded: float) -> float:
    """Return by what share a row's ratio is worse than the recorded one; negative where it is better."""
    if row.ratio is None:
        raise ValueError(f"{row.name} has no ratio")
    more_is_better = row.target is not None and row.target.is_lower
    return recorded / row.ratio - 1 if more_is_better else row.ratio / recorded - 1


def confirmed_losses(
    measure: Callable[[Sequence[str]], Sequence[Row]], record: Mapping[str, float], attempts: int = ATTEMPTS
) -> dict[str, float]:
    """Return the losses that remain when what seems lost is measured again; `measure` takes the rows' names."""
    suspects: dict[str, float] = {}
    names: Sequence[str] = list(record)
    for _ in range(attempts):
        found = losses([row for row in measure(names) if row.name in names], record)
        suspects = {name: min(loss, suspects.get(name, loss)) for name, loss in found.items()}
        names = list(suspects)
        if not names:
            break
    return suspects
