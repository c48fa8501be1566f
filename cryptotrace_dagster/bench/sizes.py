"""How much is measured: the full sizes of docs/performance.md, and small ones for a look and for the guard."""

from dataclasses import dataclass

SEED = 20_260_105


@dataclass(frozen=True)
class Sizes:
    """Sizes of all benchmarks."""

    repeats: int
    warm_ups: int
    feed_trades: int
    feed_pairs: int  # each takes seconds, and the pairs spread by a third on a shared machine
    embedded_messages: int  # the embedded broker keeps about 5 MiB a partition
    kafka_messages: int
    day_ticks: int
    micro_batches: int
    warm_history_minutes: int
    events: int  # on the fast path, one symbol each: a rule rings once in half an hour per symbol
    history: str  # of the exchange before the system starts, for the fast path
    lag_seconds: float  # for which the ingest's lag is looked at before the readers come
    floor_runs: int
    starts: int
    idle_seconds: float


FULL = Sizes(
    repeats=5,
    warm_ups=1,
    feed_trades=200_000,
    feed_pairs=11,
    embedded_messages=300_000,
    kafka_messages=20_000_000,
    day_ticks=10_000_000,
    micro_batches=40,
    warm_history_minutes=60,
    events=50,
    history="15m",
    lag_seconds=90.0,
    floor_runs=8,
    starts=5,
    idle_seconds=60.0,
)
QUICK = Sizes(
    repeats=5,
    warm_ups=1,
    feed_trades=40_000,
    feed_pairs=5,
    embedded_messages=100_000,
    kafka_messages=300_000,
    day_ticks=400_000,
    micro_batches=10,
    warm_history_minutes=5,
    events=12,
    history="3m",
    lag_seconds=30.0,
    floor_runs=2,
    starts=1,
    idle_seconds=15.0,
)
