"""The short form of the fault matrix: no trade is missing, none is doubled, whatever breaks."""

from pathlib import Path

import pytest

from tests.broker import real_kafka
from tests.faults.matrix import Result, failures, run_matrix

PATIENCE_SECONDS = 90.0  # machines that test are busy; the promise of 30 s is held to by the full form


@pytest.mark.timeout(600)
@pytest.mark.parametrize("broker", ["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def test_whatever_breaks_every_trade_is_stored_once(tmp_path: Path, broker: str) -> None:
    if broker == "kafka":
        real_kafka()  # its jars are here; the matrix starts and kills a broker of its own
    summary = run_matrix(
        tmp_path,
        is_full=False,
        broker=broker,
        seed=1,
        trades_per_second=500,
        promised_seconds=PATIENCE_SECONDS,
    )
    assert summary["complaints"] == []
    assert (summary["missing"], summary["doubled"], summary["differing"]) == (0, 0, 0)
    trades = summary["trades"]
    assert isinstance(trades, int)
    assert trades > 5_000


def test_the_matrix_complains_of_every_broken_promise() -> None:
    """A matrix that cannot fail proves nothing."""
    results = [
        Result("good", 1, 10, slowest_seconds=1.0),
        Result("lost", 1, 10, missing=2),
        Result("twice", 1, 10, doubled=1),
        Result("slow", 1, 10, slowest_seconds=31.0),
        Result("never", 1, 10, problem="not so within 180 s"),
    ]
    assert failures(results, 30.0) == [
        "lost: 2 missing, 0 doubled",
        "twice: 0 missing, 1 doubled",
        "slow: whole after 31.0 s",
        "never: not so within 180 s",
    ]
