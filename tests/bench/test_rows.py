"""Rows, verdicts and the refusal of figures for wrong work."""

import json

import pytest

from cryptotrace_dagster.bench import suite
from cryptotrace_dagster.bench.rows import Pair, Row, Target, WrongWorkError, measured_pairs, require, row_of_pairs
from cryptotrace_dagster.bench.sizes import QUICK, Sizes
from cryptotrace_dagster.bench.suite import Benchmark, UnknownBenchmarkError, chosen
from cryptotrace_dagster.bench.table import markdown_table


def test_the_median_of_the_pairs_ratios_counts() -> None:
    """A ratio of medians would let one slow reference flatter the figure."""
    row = row_of_pairs("a", "what", "s", [Pair(1, 1), Pair(6, 2), Pair(2, 1)], "bare", Target(2.0))
    assert (row.ratio, row.low, row.high, row.value, row.reference) == (2.0, 1.0, 3.0, 2.0, 1.0)
    assert row.is_met is True


@pytest.mark.parametrize(
    ("target", "is_met"),
    [
        (Target(0.5), True),
        (Target(0.3), False),
        (Target(0.3, is_lower=True), True),
        (Target(0.5, is_lower=True), False),
        (Target(3.0, of_value=True), False),
        (Target(5.0, of_value=True), True),
    ],
)
def test_a_target_bounds_the_ratio_or_the_value_from_its_side(target: Target, is_met: bool) -> None:
    assert Row("a", "what", 4.0, "s", 10.0, "bare", 0.4, target=target).is_met is is_met


def test_a_row_without_a_target_has_no_verdict() -> None:
    assert Row("a", "what", 4.0, "s").as_dict()["met"] is None


def test_warm_ups_are_measured_and_not_counted() -> None:
    calls = iter(range(10))
    pairs = measured_pairs(lambda: Pair(next(calls), 1), repeats=3, warm_ups=2)
    assert [pair.value for pair in pairs] == [2, 3, 4]


def test_wrong_work_gives_a_reason_in_place_of_a_figure() -> None:
    def wrong(_sizes: Sizes) -> list[Row]:
        require(False, "9 of 10 trades")
        raise AssertionError("not reached")

    def right(_sizes: Sizes) -> list[Row]:
        return [Row("c", "what", 1.0, "s")]

    said: list[str] = []
    benchmarks = [Benchmark("first", ("a", "b"), wrong), Benchmark("second", ("c",), right)]
    outcome = suite.run(benchmarks, QUICK, said.append)
    assert outcome.refused == {"a": "9 of 10 trades", "b": "9 of 10 trades"}
    assert [row.name for row in outcome.rows] == ["c"]
    assert any("9 of 10 trades" in sentence for sentence in said)


def test_benchmarks_are_chosen_by_their_names_or_by_their_rows() -> None:
    assert [each.name for each in chosen(["bars", "feed"])] == ["feed", "day"]
    assert chosen([]) == list(suite.BENCHMARKS)
    with pytest.raises(UnknownBenchmarkError, match="no benchmark nonsense; there are feed"):
        chosen(["nonsense"])


def test_the_rows_are_json_and_a_table_of_markdown() -> None:
    row = row_of_pairs("a", "what", "s", [Pair(1, 2), Pair(1, 4)], "bare", Target(1.0), ticks=10)
    assert json.loads(json.dumps(row.as_dict()))["details"] == {"ticks": 10}
    lines = markdown_table([row]).splitlines()
    assert lines[2] == "| a: what | 1 s | 3 s (bare) | 0.375 (0.25 to 0.5, n=2) | <= 1 | yes |"


def test_require_lets_right_work_pass() -> None:
    require(True, "never said")
    with pytest.raises(WrongWorkError, match="said"):
        require(False, "said")
