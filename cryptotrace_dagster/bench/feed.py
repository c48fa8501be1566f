"""The feed's rows: CPU time per trade against a bare `websockets` and `json` loop on the same stream."""

import sys

from cryptotrace_dagster.bench.broker import Broker, bench_broker, fresh_topic, topic_ends
from cryptotrace_dagster.bench.rows import Pair, Row, Target, measured_pairs, require, row_of_pairs
from cryptotrace_dagster.bench.sizes import Sizes
from cryptotrace_dagster.bench.workers import background, run_worker

SYMBOLS = 10
FEED_TARGET = Target(1.05)
CHECK_TARGET = Target(0.15)
_BARE = "bare websockets + json.loads loop"


def measure_feed(sizes: Sizes) -> list[Row]:
    """Return the rows `feed` (all of it, into a broker) and `feed_check` (decode and id check)."""
    count = sizes.feed_trades
    server = [sys.executable, "-m", "cryptotrace_dagster.bench.frame_server", str(count), str(SYMBOLS)]
    with bench_broker() as broker, background(server) as (_, ready):
        url = str(ready["url"])

        def bare() -> float:
            return _microseconds(run_worker("frame_reader", "bare", str(count), str(SYMBOLS), url), count)

        def whole() -> Pair:
            return Pair(_feed_once(broker, url, count), bare())

        def check() -> Pair:
            return Pair(_microseconds(run_worker("frame_reader", "check", str(count), str(SYMBOLS)), count), bare())

        # A broker that has just started still compiles itself, and takes the processor from whom it serves.
        feed_pairs = measured_pairs(whole, sizes.feed_pairs, sizes.warm_ups + 2)
        check_pairs = measured_pairs(check, sizes.feed_pairs)
    return [
        row_of_pairs(
            "feed",
            "feed: receive, decode, check ids, publish; CPU per trade",
            "us",
            feed_pairs,
            _BARE,
            FEED_TARGET,
            trades=count,
            broker=broker.kind,
        ),
        row_of_pairs(
            "feed_check",
            "feed: decode and id check alone; CPU per trade",
            "us",
            check_pairs,
            _BARE,
            CHECK_TARGET,
            trades=count,
        ),
    ]


def _feed_once(broker: Broker, url: str, count: int) -> float:
    with fresh_topic(broker) as topic:
        arguments = ("feed", str(count), str(SYMBOLS), url, broker.bootstrap_servers, topic)
        result = run_worker("frame_reader", *arguments)
        published = sum(topic_ends(broker.bootstrap_servers, topic, may_be_evicted=True).values())
    require(published == count, f"the feed published {published} of {count} trades")
    return _microseconds(result, count)


def _microseconds(result: dict[str, float], count: int) -> float:
    right = _id_sum(count)
    is_right = result["trades"] == count and result["id_sum"] == right and not result.get("wrong")
    require(is_right, f"of {count} trades {result['trades']} came, ids add up to {result['id_sum']}, not {right}")
    return result["cpu_seconds"] / count * 1e6


def _id_sum(count: int) -> int:
    """Return what the ids of `trade_messages` add up to: 1, 2, 3 ... per symbol, the symbols by turns."""
    full, rest = divmod(count, SYMBOLS)
    return SYMBOLS * (full * (full + 1) // 2) + rest * (full + 1)
