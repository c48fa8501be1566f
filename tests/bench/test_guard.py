"""The guard: a loss of speed is noticed, noise is not."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from cryptotrace_dagster.bench.guard import RecordError, confirmed_losses, losses, read_record, write_record
from cryptotrace_dagster.bench.rows import Row, Target


def row(name: str, ratio: float, *, more_is_better: bool = False) -> Row:
    return Row(name, "what", ratio, "s", 1.0, "bare", ratio, target=Target(1.0, is_lower=more_is_better))


def test_a_ratio_that_is_a_third_worse_is_a_loss_and_one_that_is_a_quarter_worse_is_not() -> None:
    assert list(losses([row("bars", 2.7), row("feed", 1.25)], {"bars": 2.0, "feed": 1.0})) == ["bars"]


def test_where_more_is_better_a_smaller_ratio_is_the_loss() -> None:
    record = {"ingest": 0.6}
    assert losses([row("ingest", 0.9, more_is_better=True)], record) == {}
    assert losses([row("ingest", 0.4, more_is_better=True)], record) == {"ingest": pytest.approx(0.5)}


def test_what_was_slow_once_and_is_fast_when_measured_again_is_no_loss() -> None:
    runs = iter([{"bars": 9.0, "feed": 1.0}, {"bars": 2.1}])
    asked: list[list[str]] = []

    def measure(names: Sequence[str]) -> list[Row]:
        asked.append(list(names))
        return [row(name, ratio) for name, ratio in next(runs).items()]

    assert confirmed_losses(measure, {"bars": 2.0, "feed": 1.0}) == {}
    assert asked == [["bars", "feed"], ["bars"]]


def test_what_stays_slow_is_a_loss_by_its_best_attempt() -> None:
    ratios = iter([4.0, 3.0, 5.0])
    lost = confirmed_losses(lambda names: [row(name, next(ratios)) for name in names], {"bars": 2.0}, attempts=3)
    assert lost == {"bars": pytest.approx(0.5)}


def test_what_was_recorded_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_record(path, [row("bars", 2.0), Row("tick_size", "what", 14.0, "bytes")], {"cores": 2})
    assert read_record(path) == {"bars": 2.0}


def test_a_missing_record_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="cryptotrace bench --quick --record"):
        read_record(tmp_path / "none.json")
