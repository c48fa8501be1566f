"""The one door to Kafka for those who read: which topic this is, how far it reaches, and batches of decoded ticks.

Reads by `assign()` from offsets that the caller keeps beside the data; no consumer group is needed, and a killed reader
resumes where its last commit stood. A message that cannot be read becomes a dead letter, never an exception.
Stays out: where offsets are stored, and the publishing of trades (feed/publisher.py).
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self, cast

import msgspec
import polars as pl
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient

from cryptotrace_dagster.domain.offsets import OffsetPlan, OffsetRange
from cryptotrace_dagster.domain.windows import utc_now
from cryptotrace_dagster.errors import UserError
from cryptotrace_dagster.tables import DEAD_LETTERS, RAW_TICKS

REQUEST_SECONDS = 10.0
SILENCE_SECONDS = 30.0  # a broker that owes us messages and sends none for so long is treated as gone
_CALL_MESSAGES = 1000  # cheaper per message than ten or a hundred times as many
_EMBEDDED_CLUSTER = "mockCluster"  # it cannot describe topics, and its cluster id is new at each start
_MICROSECONDS_FROM = 10**14  # exchange times at or above this are microseconds, below it milliseconds


class StreamError(UserError):
    """Kafka could not be read now; the same call may succeed later."""


@dataclass(frozen=True)
class TopicIdentity:
    """Which log the offsets belong to: they mean nothing in another cluster, or after the topic was made anew."""

    cluster_id: str
    topic: str
    topic_id: str


@dataclass(frozen=True)
class TickBatch:
    """Decoded messages and the offsets that follow them."""

    identity: TopicIdentity
    ticks: pl.DataFrame
    dead_letters: pl.DataFrame
    next_offsets: dict[int, int]


class AggTrade(msgspec.Struct):
    """Binance's `aggTrade`, or its `trade` (`t` in place of `a`, `f`, `l`). Letters as in the exchange's documentation."""

    s: str
    p: str  # price
    q: str  # quantity
    T: int  # trade time
    m: bool  # buyer is the maker
    a: int | None = None  # aggregate trade id
    f: int | None = None  # first trade id
    l: int | None = None  # last trade id  # noqa: E741
    t: int | None = None  # trade id of a single `trade`


_NOT_A_NUMBER = (pl.exceptions.PolarsError, OverflowError)  # a price, quantity or id that its column cannot hold
_WIRE_SCHEMA = pl.Schema(
    {
        "s": pl.String(),
        "a": pl.Int64(),
        "p": pl.String(),
        "q": pl.String(),
        "f": pl.Int64(),
        "l": pl.Int64(),
        "T": pl.Int64(),
        "m": pl.Boolean(),
    }
)


class TickStream:
    """A reader of the ticks topic. Use it as a context manager; it holds one consumer."""

    def __init__(self, bootstrap_servers: str, topic: str) -> None:
        self.topic = topic
        self._bootstrap_servers = bootstrap_servers
        self._identity: TopicIdentity | None = None
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "group.id": "cryptotrace-ingest",  # required by the client, unused: offsets live in the warehouse
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "fetch.queue.backoff.ms": 1,
                "queued.max.messages.kbytes": 65536,
                "fetch.wait.max.ms": 100,
                "socket.timeout.ms": 10_000,
            }
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._consumer.close()

    def identity(self) -> TopicIdentity:
        """Return which log this is, as the broker says now."""
        admin = AdminClient({"bootstrap.servers": self._bootstrap_servers})
        try:
            cluster_id = admin.list_topics(timeout=REQUEST_SECONDS).cluster_id or ""
        except KafkaException as error:
            raise self._away(error) from error
        if cluster_id.startswith(_EMBEDDED_CLUSTER):
            self._identity = TopicIdentity(cluster_id, self.topic, "")
            return self._identity
        try:
            described = admin.describe_topics(TopicCollection([self.topic]), request_timeout=REQUEST_SECONDS)
            topic_id = str(described[self.topic].result().topic_id)
        except KafkaException:
            topic_id = ""  # an old broker, or a topic that is not there yet
        self._identity = TopicIdentity(cluster_id, self.topic, topic_id)
        return self._identity

    def watermarks(self) -> tuple[dict[int, int], dict[int, int]]:
        """Return the low and the high watermark of each topic partition.

        Raises:
            StreamError: no broker answers.
        """
        low_watermarks: dict[int, int] = {}
        high_watermarks: dict[int, int] = {}
        try:
            partitions = self._consumer.list_topics(self.topic, timeout=REQUEST_SECONDS).topics[self.topic].partitions
            for partition in partitions:
                low, high = self._consumer.get_watermark_offsets(
                    TopicPartition(self.topic, partition), timeout=REQUEST_SECONDS
                )
                low_watermarks[partition], high_watermarks[partition] = low, high
        except KafkaException as error:
            raise self._away(error) from error
        return low_watermarks, high_watermarks

    def read(self, plan: OffsetPlan, batch_messages: int) -> Iterator[TickBatch]:
        """Yield the planned messages in batches, each with the offsets that follow it.

        Raises:
            StreamError: the broker went away, or the log changed under the plan. What was yielded before stands.
        """
        if not plan.ranges:
            return
        identity = self._identity or self.identity()
        open_ranges = {each.topic_partition: each for each in plan.ranges}
        self._consumer.assign([TopicPartition(self.topic, r.topic_partition, r.start) for r in plan.ranges])
        try:
            while open_ranges:
                messages = self._take(open_ranges, batch_messages)
                yield decoded(identity, messages)
        finally:
            self._consumer.unassign()

    def follow(self, plan: OffsetPlan, low_watermarks: Mapping[int, int], high_watermarks: Mapping[int, int]) -> None:
        """Stand at the plan's start in every partition, so that `next_batch` returns all that comes from there on."""
        starts = {**high_watermarks, **{each.topic_partition: each.start for each in plan.ranges}}
        self._consumer.assign([TopicPartition(self.topic, partition, start) for partition, start in starts.items()])

    def next_batch(self, batch_messages: int, wait_seconds: float) -> TickBatch | None:
        """Return what has come since, after waiting at most so long for the first message; None when nothing came."""
        first = self._consume(1, wait_seconds)
        if not first:
            return None
        messages = first
        while len(messages) < batch_messages:
            more = self._consume(min(_CALL_MESSAGES, batch_messages - len(messages)), 0.0)
            if not more:
                break
            messages.extend(more)
        return decoded(self._identity or self.identity(), messages)

    def _take(self, open_ranges: dict[int, OffsetRange], batch_messages: int) -> list[Message]:
        taken: list[Message] = []
        deadline = time.monotonic() + SILENCE_SECONDS
        while open_ranges and len(taken) < batch_messages:
            messages = self._consume(min(_CALL_MESSAGES, batch_messages - len(taken)), 0.2)
            if messages:
                deadline = time.monotonic() + SILENCE_SECONDS
            elif time.monotonic() > deadline:
                raise StreamError(
                    f"Kafka at {self._bootstrap_servers} sent none of the {sum(r.length for r in open_ranges.values())} "
                    f"messages it still owes for {SILENCE_SECONDS:.0f} s; check the broker, ingest resumes by itself."
                )
            for message in messages:
                planned = open_ranges.get(_partition(message))
                if planned is None:
                    continue  # beyond the planned end: the next plan reads it
                if _offset(message) < planned.end:
                    taken.append(message)
                if _offset(message) >= planned.end - 1:
                    del open_ranges[planned.topic_partition]
                    self._consumer.incremental_unassign([TopicPartition(self.topic, planned.topic_partition)])
        return taken

    def _consume(self, count: int, wait_seconds: float) -> list[Message]:
        messages: list[Message] = self._consumer.consume(count, timeout=wait_seconds)
        for message in messages:
            error = message.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                raise self._away(error)
        return [message for message in messages if message.error() is None]

    def _away(self, error: object) -> StreamError:
        return StreamError(
            f"Kafka at {self._bootstrap_servers}, topic {self.topic}, could not be read ({error}). "
            "Check that the broker runs and KAFKA_BOOTSTRAP_SERVERS is right; ingest resumes by itself."
        )


def _partition(message: Message) -> int:
    return cast(int, message.partition())


def _offset(message: Message) -> int:
    return cast(int, message.offset())


def _bytes(message: Message) -> bytes:
    value = message.value()
    return value if isinstance(value, bytes) else b""


def decoded(identity: TopicIdentity, messages: list[Message]) -> TickBatch:
    """Return the messages as ticks, with those that cannot be read set aside, and the offsets that follow them."""
    next_offsets: dict[int, int] = {}
    for message in messages:
        next_offsets[_partition(message)] = _offset(message) + 1
    values = [_bytes(message) for message in messages]
    received_ms = [message.timestamp()[1] for message in messages]
    ticks = _decode_all(values, received_ms)
    if ticks is not None:
        return TickBatch(identity, ticks, DEAD_LETTERS.empty(), next_offsets)
    ticks, reasons = decode_ticks(values, received_ms)
    recorded_at = utc_now()
    rows = [
        (identity.topic, _partition(messages[i]), _offset(messages[i]), values[i], reason, recorded_at)
        for i, reason in reasons.items()
    ]
    return TickBatch(
        identity, ticks, pl.DataFrame(rows, schema=DEAD_LETTERS.polars_schema, orient="row"), next_offsets
    )


def _decode_all(values: list[bytes], received_ms: list[int]) -> pl.DataFrame | None:
    """Return all values as ticks at once, or None when any of them needs a closer look. Three times the speed."""
    try:
        wire = pl.read_ndjson(b"\n".join(values), schema=_WIRE_SCHEMA)
        if wire.height != len(values) or any(wire[name].null_count() for name in wire.columns):
            return None
        return _as_ticks(wire, received_ms)
    except pl.exceptions.PolarsError:
        return None


def decode_ticks(values: list[bytes], received_ms: list[int]) -> tuple[pl.DataFrame, dict[int, str]]:
    """Return the readable values as `raw_ticks` rows, and for each of the others its index and the reason."""
    rows: dict[int, tuple[object, ...]] = {}
    reasons: dict[int, str] = {}
    decoder = msgspec.json.Decoder(AggTrade)
    for index, value in enumerate(values):
        try:
            rows[index] = _wire_row(decoder.decode(value))
        except (msgspec.MsgspecError, ValueError) as error:  # the latter includes text that is not UTF-8
            reasons[index] = f"{type(error).__name__}: {error}"
    try:
        return _rows_as_ticks(rows, received_ms), reasons
    except _NOT_A_NUMBER:
        for index, row in list(rows.items()):
            try:
                _rows_as_ticks({index: row}, received_ms)
            except _NOT_A_NUMBER as error:
                reasons[index] = f"{type(error).__name__}: {error}"
                del rows[index]
    return _rows_as_ticks(rows, received_ms), reasons


def _rows_as_ticks(rows: Mapping[int, tuple[object, ...]], received_ms: list[int]) -> pl.DataFrame:
    wire = pl.DataFrame(list(rows.values()), schema=_WIRE_SCHEMA, orient="row")
    return _as_ticks(wire, [received_ms[index] for index in rows])


def _wire_row(trade: AggTrade) -> tuple[object, ...]:
    trade_id = trade.a if trade.a is not None else trade.t
    if trade_id is None:
        raise ValueError("neither an aggregate trade id `a` nor a trade id `t`")
    first = trade.f if trade.f is not None else trade_id
    last = trade.l if trade.l is not None else trade_id
    if last < first or trade_id < 0 or trade.T <= 0 or not trade.s:
        raise ValueError(f"ids {trade_id}, {first}..{last}, time {trade.T} and symbol {trade.s!r} do not make a trade")
    return (trade.s, trade_id, trade.p, trade.q, first, last, trade.T, trade.m)


def _as_ticks(wire: pl.DataFrame, received_ms: list[int]) -> pl.DataFrame:
    exchange_us = pl.when(pl.col("T") >= _MICROSECONDS_FROM).then(pl.col("T")).otherwise(pl.col("T") * 1000)
    price_type = RAW_TICKS.polars_schema["price"]
    return wire.select(
        symbol="s",
        trade_id="a",
        price=pl.col("p").cast(price_type),
        quantity=pl.col("q").cast(price_type),
        first_trade_id="f",
        last_trade_id="l",
        trade_time=exchange_us.cast(pl.Datetime("us")),
        is_buyer_maker="m",
        received_at=pl.Series(received_ms, dtype=pl.Int64).cast(pl.Datetime("ms")).cast(pl.Datetime("us")),
    )
