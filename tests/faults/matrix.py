"""The fault matrix: every fault, several times, under load; then the exchange's trades against the warehouse's, by id.

    python -m tests.faults.matrix --short|--full [--broker embedded|kafka] [--repeats N] [--only CASE ...] [--seed S]

Prints a table and, on the last line, the same as JSON; exits with 1 when a trade was missing or doubled, when a case
took longer than promised to become whole, or when a planned handover was not seamless.
"""

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.faults.rig import NeverWholeError, Rig, now_text, running_rig

PROMISED_SECONDS = 30.0
Injection = Callable[[Rig, random.Random], None]


@dataclass(frozen=True)
class Case:
    """One fault: how it is injected (returning when it is over), and how often in each form of the matrix.

    The full form repeats on Apache Kafka; beside the embedded broker every case comes once, or as often as in the short.
    `--repeats` asks for more of each, as for the table in the README.
    """

    name: str
    inject: Injection
    short: int
    full: int
    is_seamless: bool = False  # nothing may ever be missed, not even for a moment

    def repeats(self, *, is_full: bool, broker: str, at_least: int) -> int:
        """Return how often it is injected."""
        if not is_full:
            return self.short
        return max(self.full if broker == "kafka" else self.short, at_least)


@dataclass
class Result:
    """What a case came to."""

    case: str
    repeats: int = 0
    trades: int = 0
    missing: int = 0
    doubled: int = 0
    slowest_seconds: float = 0.0
    problem: str = ""


def exchange_fault(seconds: float, *faults: dict[str, object]) -> Injection:
    """Return the injection of faults at the exchange that are over after so many seconds."""

    def inject(rig: Rig, _chance: random.Random) -> None:
        for fault in faults:
            rig.exchange_fault(**fault)
        time.sleep(seconds)

    return inject


def kill_ingest(rig: Rig, chance: random.Random) -> None:
    """Kill the ingesting process at a random moment."""
    time.sleep(chance.uniform(0.2, 1.2))
    rig.kill_ingest()


GAP: dict[str, object] = {"kind": "gap", "seconds": 0.5}
CASES = (
    Case("socket aborted", exchange_fault(0.5, {"kind": "abort", "seconds": 0.5}), 1, 2),
    Case("socket refused", exchange_fault(1, {"kind": "refuse", "seconds": 1, "status": 503}, {"kind": "abort"}), 0, 2),
    Case("silence after data", exchange_fault(2, {"kind": "silence", "seconds": 2}), 1, 2),
    Case(
        "silence from the start",
        exchange_fault(1, {"kind": "silence_from_start", "seconds": 1}, {"kind": "abort"}),
        0,
        2,
    ),
    Case("serverShutdown", exchange_fault(3, {"kind": "server_shutdown", "delay_seconds": 2}), 1, 2, is_seamless=True),
    Case("gap", exchange_fault(0.5, GAP), 1, 2),
    Case("repeats", exchange_fault(1, {"kind": "repeat", "seconds": 1}), 0, 2),
    Case("disorder", exchange_fault(2, {"kind": "disorder", "seconds": 1}), 1, 2),
    Case("garbage", exchange_fault(1, {"kind": "garbage", "seconds": 1, "per_second": 50}), 0, 2),
    Case("half frames", exchange_fault(0.5, {"kind": "half_frames"}), 0, 2),
    Case("slow frames", exchange_fault(1.5, {"kind": "slow_frames", "seconds": 1.5}), 0, 2),
    Case("clock skew", exchange_fault(1, {"kind": "clock_skew", "seconds": 1}), 0, 2),
    Case("REST 429", exchange_fault(2, {"kind": "rest_error", "status": 429, "retry_after": 2, "count": 1}, GAP), 0, 2),
    Case("REST 418", exchange_fault(2, {"kind": "rest_error", "status": 418, "retry_after": 2, "count": 1}, GAP), 0, 2),
    Case("REST 500", exchange_fault(2, {"kind": "rest_error", "status": 500, "seconds": 2}, GAP), 0, 2),
    Case("REST reset", exchange_fault(2, {"kind": "rest_reset", "seconds": 2}, GAP), 0, 2),
    Case("REST stalled", exchange_fault(2, {"kind": "rest_stall", "seconds": 2, "delay_seconds": 1}, GAP), 0, 2),
    Case("feed killed", lambda rig, chance: rig.kill_feed(chance.uniform(0, 2)), 1, 3),
    Case("broker killed", lambda rig, chance: rig.kill_broker(chance.uniform(0, 2)), 1, 10),
    Case("ingest killed", kill_ingest, 3, 50),
    Case("warehouse locked", lambda rig, _chance: rig.lock_warehouse(3), 1, 2),
    Case("disk full", lambda rig, _chance: rig.fill_disk(2), 1, 2),
)


def run_case(rig: Rig, case: Case, repeats: int, chance: random.Random) -> Result:
    """Inject a fault so many times, wait after each until the warehouse is whole, and compare."""
    result = Result(case.name)
    before, gaps = rig.compared(rig.sent()).trades, rig.gaps_noticed()
    for _ in range(repeats):
        case.inject(rig, chance)
        sent = rig.sent()
        try:
            seconds = rig.seconds_until_whole(sent)
        except NeverWholeError as error:
            seconds, result.problem = float("inf"), str(error)
        found = rig.compared(sent)
        result.repeats += 1
        result.trades = found.trades - before
        result.missing = max(result.missing, found.missing)
        result.doubled = max(result.doubled, found.doubled)
        result.slowest_seconds = max(result.slowest_seconds, seconds)
        if result.problem:
            break
    if case.is_seamless and rig.gaps_noticed() != gaps:
        result.problem = "it was unwhole for a moment"
    return result


def failures(results: list[Result], promised_seconds: float) -> list[str]:
    """Return what was promised and did not hold."""
    complaints = []
    for each in results:
        if each.missing or each.doubled:
            complaints.append(f"{each.case}: {each.missing} missing, {each.doubled} doubled")
        if each.problem:
            complaints.append(f"{each.case}: {each.problem}")
        elif each.slowest_seconds > promised_seconds:
            complaints.append(f"{each.case}: whole after {each.slowest_seconds:.1f} s")
    return complaints


def run_matrix(
    folder: Path,
    *,
    is_full: bool,
    broker: str,
    seed: int,
    trades_per_second: int,
    promised_seconds: float,
    at_least: int = 1,
    only: Collection[str] = (),
) -> dict[str, object]:
    """Run every case of the short or the full form, print the table, and return the summary."""
    chance = random.Random(seed)
    results = []
    with running_rig(folder, broker, seed, trades_per_second) as rig:
        print(f"{'case':<24}{'repeats':>8}{'trades':>10}{'missing':>9}{'doubled':>9}{'whole after':>13}", flush=True)
        for case in CASES:
            repeats = case.repeats(is_full=is_full, broker=broker, at_least=at_least)
            if not repeats or (only and case.name not in only):
                continue
            result = run_case(rig, case, repeats, chance)
            results.append(result)
            print(
                f"{result.case:<24}{result.repeats:>8}{result.trades:>10,}{result.missing:>9}{result.doubled:>9}"
                f"{result.slowest_seconds:>11.1f} s  {now_text()} {result.problem}",
                flush=True,
            )
        sent = rig.sent()
        rig.seconds_until_whole(sent)
        total, differing = rig.compared(sent), rig.differing(sent)
    complaints = failures(results, promised_seconds)
    if differing:
        complaints.append(f"{differing} stored trades differ from the exchange's record")
    return {
        "broker": broker,
        "seed": seed,
        "trades_per_second": trades_per_second,
        "injections": sum(each.repeats for each in results),
        **asdict(total),
        "differing": differing,
        "complaints": complaints,
        "cases": [asdict(each) for each in results],
    }


def main() -> int:
    """Run the matrix from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    form = parser.add_mutually_exclusive_group(required=True)
    form.add_argument("--short", action="store_true")
    form.add_argument("--full", action="store_true")
    parser.add_argument("--broker", choices=["embedded", "kafka"], default="embedded")
    parser.add_argument("--repeats", type=int, default=1, help="of every case in the full form, at least")
    parser.add_argument("--only", nargs="*", choices=[case.name for case in CASES], default=[], metavar="CASE")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trades-per-second", type=int, default=1000)
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended then, too
    with tempfile.TemporaryDirectory(prefix="cryptotrace-faults-") as folder:
        summary = run_matrix(
            Path(folder),
            is_full=chosen.full,
            broker=chosen.broker,
            seed=chosen.seed,
            trades_per_second=chosen.trades_per_second,
            promised_seconds=PROMISED_SECONDS,
            at_least=chosen.repeats,
            only=chosen.only,
        )
    print(json.dumps(summary))
    return 1 if summary["complaints"] else 0


if __name__ == "__main__":
    sys.exit(main())
