"""All benchmarks by name, in the order in which they run, and the running of those that were asked for."""

import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cryptotrace_dagster.bench.day import measure_day
from cryptotrace_dagster.bench.feed import measure_feed
from cryptotrace_dagster.bench.follow import measure_follow
from cryptotrace_dagster.bench.ingest import measure_ingest
from cryptotrace_dagster.bench.reads import measure_reads
from cryptotrace_dagster.bench.rows import Row, WrongWorkError
from cryptotrace_dagster.bench.sizes import Sizes
from cryptotrace_dagster.bench.system import measure_fast_path, measure_start_and_idle
from cryptotrace_dagster.bench.table import in_a_line
from cryptotrace_dagster.errors import UserError


class UnknownBenchmarkError(UserError):
    """There is no benchmark of that name."""


@dataclass(frozen=True)
class Benchmark:
    """A group of rows that are measured together; those that come before something goes wrong keep their figures."""

    name: str
    rows: tuple[str, ...]
    measure: Callable[[Sizes], Iterable[Row]]


BENCHMARKS = (
    Benchmark("feed", ("feed", "feed_check"), measure_feed),
    Benchmark("ingest", ("ingest", "ingest_memory"), measure_ingest),
    Benchmark("day", ("bars", "detection", "detection_scaling", "tick_size"), measure_day),
    Benchmark("micro_batch", ("micro_batch",), measure_follow),
    Benchmark("start", ("start", "idle_cpu", "idle_memory"), measure_start_and_idle),
    Benchmark(
        "fast_path",
        ("fast_path_p50", "fast_path_p95", "fast_path_seconds", "cost_of_a_day"),
        measure_fast_path,
    ),
    Benchmark(
        "reads",
        ("api_reads", "dashboard_reads", "api_latency", "interaction", "ingest_lag"),
        measure_reads,
    ),
)
# The rows that are short and steady enough to be compared from commit to commit.
GUARDED = ("feed", "feed_check", "ingest", "bars", "detection")


def chosen(only: Iterable[str]) -> list[Benchmark]:
    """Return the benchmarks that bear, or whose rows bear, one of the names; all of them without names.

    Raises:
        UnknownBenchmarkError: a name is not known.
    """
    names = list(only)
    known = {name: each for each in BENCHMARKS for name in (each.name, *each.rows)}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UnknownBenchmarkError(f"There is no benchmark {', '.join(unknown)}; there are {', '.join(known)}.")
    wanted = {known[name].name for name in names} or {each.name for each in BENCHMARKS}
    return [each for each in BENCHMARKS if each.name in wanted]


@dataclass(frozen=True)
class Outcome:
    """The rows of a run, and why some have no figure."""

    rows: list[Row]
    refused: dict[str, str]


def run(benchmarks: Iterable[Benchmark], sizes: Sizes, say: Callable[[str], None]) -> Outcome:
    """Run benchmarks one after the other; wrong or broken work gives a reason in place of a figure.

    A run takes most of an hour: one benchmark that breaks must not take the others' figures with it.
    """
    rows: list[Row] = []
    refused: dict[str, str] = {}
    for benchmark in benchmarks:
        say(f"{benchmark.name} ...")
        try:
            for row in benchmark.measure(sizes):
                rows.append(row)
                say(f"  {in_a_line(row)}")
        except WrongWorkError as error:
            reason = str(error)
            say(f"{benchmark.name}: no figure, for the work was wrong: {error}")
        except Exception as error:
            reason = f"it broke off: {error!r}"
            say(f"{benchmark.name}: no figure, for it broke off:\n{traceback.format_exc()}")
        else:
            continue
        measured = {row.name for row in rows}
        refused |= {name: reason for name in benchmark.rows if name not in measured}
    return Outcome(rows, refused)
