"""The running of all benchmarks: one that breaks off does not take the others along, and only small sizes are recorded."""

from collections.abc import Iterator
from pathlib import Path

from typer.testing import CliRunner

from cryptotrace_dagster.bench.rows import Row, WrongWorkError
from cryptotrace_dagster.bench.sizes import QUICK, Sizes
from cryptotrace_dagster.bench.suite import Benchmark, run
from cryptotrace_dagster.cli.main import build_app


def _row(_: Sizes) -> list[Row]:
    return [Row("third", "what", 1.0, "s")]


def _broken(_: Sizes) -> list[Row]:
    raise OSError("the disk went away")


def _wrong(_: Sizes) -> Iterator[Row]:
    yield Row("early", "what", 1.0, "s")
    raise WrongWorkError("a trade is missing")


def test_what_breaks_off_or_is_wrong_has_a_reason_and_the_rest_has_figures() -> None:
    said: list[str] = []
    benchmarks = [
        Benchmark("broken", ("first",), _broken),
        Benchmark("wrong", ("early", "second"), _wrong),
        Benchmark("right", ("third",), _row),
    ]
    outcome = run(benchmarks, QUICK, said.append)
    assert [row.name for row in outcome.rows] == ["early", "third"]
    assert set(outcome.refused) == {"first", "second"}
    assert outcome.refused["second"] == "a trade is missing"
    assert "the disk went away" in outcome.refused["first"]
    assert any("Traceback" in sentence for sentence in said)
    assert any("early: what" in sentence for sentence in said), "a run that is cut short has said what it had"


def test_full_sizes_are_not_recorded_for_a_guard_that_measures_small_ones(tmp_path: Path) -> None:
    result = CliRunner().invoke(build_app(), ["bench", "--record", str(tmp_path / "ratios.json")])
    assert result.exit_code == 2
    assert "--quick" in result.output
