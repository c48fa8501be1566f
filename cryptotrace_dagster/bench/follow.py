"""One micro-batch of the live run, 50 symbols and 1,000 trades, against the bare commit of the same rows."""

import tempfile
import time
from datetime import timedelta
from pathlib import Path

import duckdb
import polars as pl
from confluent_kafka import Producer

from cryptotrace_dagster.bench.broker import PARTITIONS, Broker, bench_broker, fresh_topic
from cryptotrace_dagster.bench.market import DAY_START, bar_totals, messages_frame, symbol_names, trade_messages
from cryptotrace_dagster.bench.rows import Pair, Row, require, row_of_pairs
from cryptotrace_dagster.bench.sizes import Sizes
from cryptotrace_dagster.domain.bars import BAR_INTERVALS
from cryptotrace_dagster.domain.windows import utc_now
from cryptotrace_dagster.notify.messenger import Messenger
from cryptotrace_dagster.pipeline.bars import refresh_bars
from cryptotrace_dagster.pipeline.detection import Detection
from cryptotrace_dagster.pipeline.dirty import pending_dirty
from cryptotrace_dagster.pipeline.ingest import store_ticks
from cryptotrace_dagster.pipeline.live import MarketFollower
from cryptotrace_dagster.pipeline.rule_source import RuleSource
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.stream import TickStream
from cryptotrace_dagster.tables import DIRTY_WINDOWS, RAW_TICKS

SYMBOLS = 50
TRADES_PER_SECOND = 1_000
_WARM_UPS = 3


def measure_follow(sizes: Sizes) -> list[Row]:
    """Return the row `micro_batch`: a second's trades taken all the way, after so many minutes of history."""
    symbols = symbol_names(SYMBOLS)
    history = sizes.warm_history_minutes * 60 * TRADES_PER_SECOND
    batches = sizes.micro_batches + _WARM_UPS
    total = history + batches * TRADES_PER_SECOND
    messages = list(trade_messages(total, symbols, DAY_START, TRADES_PER_SECOND))
    with bench_broker() as broker, fresh_topic(broker) as topic, tempfile.TemporaryDirectory() as folder:
        warehouse = Warehouse(str(Path(folder) / "live.duckdb"))
        warehouse.create()
        ticks = messages_frame(total, symbols, DAY_START, TRADES_PER_SECOND)
        _bring_history(warehouse, ticks.head(history))
        bare = Path(folder) / "bare.duckdb"
        with duckdb.connect(str(bare)) as connection:
            connection.execute(RAW_TICKS.ddl)
        pairs = []
        with TickStream(broker.bootstrap_servers, topic) as stream:
            _send(broker, topic, messages[history : history + 1])  # makes the topic on the embedded broker
            follower = MarketFollower(
                warehouse, stream, RuleSource(Path("no-such-file")), Messenger(lambda _name: None)
            )
            follower.start()
            sent = history + 1
            for number in range(batches):
                end = history + (number + 1) * TRADES_PER_SECOND
                _send(broker, topic, messages[sent:end])
                ours = _step(follower, end - sent)
                pairs.append(Pair(ours, _bare_commit(bare, ticks.slice(sent, end - sent))))
                sent = end
        _check(warehouse, total)
    return [
        row_of_pairs(
            "micro_batch",
            "live run: a second of 1,000 trades over 50 symbols, from Kafka to decided alerts",
            "ms",
            [Pair(pair.value * 1e3, pair.reference * 1e3) for pair in pairs[_WARM_UPS:]],
            "bare commit of the same rows",
            None,
            history_minutes=sizes.warm_history_minutes,
            broker=broker.kind,
        )
    ]


def _bring_history(warehouse: Warehouse, ticks: pl.DataFrame) -> None:
    store_ticks(warehouse, ticks, utc_now())
    detection = Detection(warehouse)
    for window in pending_dirty(warehouse):
        refresh_bars(warehouse, window)
        detection.refresh_features(window)
        detection.refresh_scores(window, window.end)
    with warehouse.transaction() as transaction:
        transaction.execute(f"DELETE FROM {DIRTY_WINDOWS.name}")


def _send(broker: Broker, topic: str, messages: list[bytes]) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "linger.ms": 1, "log_level": 2})
    for index, message in enumerate(messages):
        producer.produce(topic, message, partition=index % PARTITIONS)
    require(producer.flush(30) == 0, "the broker did not take all messages")


def _step(follower: MarketFollower, count: int) -> float:
    """Step until so many trades are through, and return the seconds."""
    began = time.perf_counter()
    stored = 0
    while stored < count:
        reports = follower.step(1.0)
        stored += sum(report.rows for report in reports if report.asset == RAW_TICKS.name)
        require(time.perf_counter() - began < 60, f"of {count} trades only {stored} were stored within a minute")
    return time.perf_counter() - began


def _bare_commit(path: Path, ticks: pl.DataFrame) -> float:
    began = time.perf_counter()
    with duckdb.connect(str(path)) as connection:
        connection.begin()
        connection.register("incoming", ticks)
        connection.execute(f"INSERT INTO {RAW_TICKS.name} SELECT * FROM incoming")
        connection.commit()
    return time.perf_counter() - began


def _check(warehouse: Warehouse, total: int) -> None:
    stored = warehouse.read(f"SELECT count(*) FROM {RAW_TICKS.name}").item()
    require(stored == total, f"{stored} of {total} trades are stored")
    totals = bar_totals(warehouse)
    require(totals == dict.fromkeys(BAR_INTERVALS, total), f"the bars hold {totals} of {total} ticks")
    seconds = warehouse.read("SELECT max(bar_end) FROM ohlc_bars WHERE bar_interval = '1s'").item()
    require(seconds <= DAY_START + timedelta(seconds=total / TRADES_PER_SECOND), f"a bar ends at {seconds}")
