"""The one door to Kafka for those who read: which topic this is, how far it reaches, and batches of decoded ticks.

Reads by `assign()` from offsets that the caller keeps beside the data; no consumer group is needed, and a killed reader
resumes where its last commit stood. A message that cannot be read becomes a dead letter, never an exception.
Stays out: where offsets are stored, and the publishing of trades (feed/publisher.py).
"""

import threading
import time
from collections.abc import Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import compress
from types import TracebackType
from typing import Annotated, Self, cast

import msgspec
import polars as pl
from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, Message, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient

from cryptotrace_dagster.domain.exchange_times import microseconds_of
from cryptotrace_dagster.domain.offsets import OffsetPlan, OffsetRange
from cryptotrace_dagster.domain.windows import utc_now
from cryptotrace_dagster.errors import UserError
from cryptotrace_dagster.tables import DEAD_LETTERS, RAW_TICKS

REQUEST_SECONDS = 10.0
SILENCE_SECONDS = 30.0  # a broker that owes us messages and sends none for so long is treated as gone
_CALL_MESSAGES = 300  # below the 700 new objects at which Python's collector sets to work
_BATCH_BYTES = 96 * 2**20  # a batch ends here, however few messages that is: garbage may come in megabytes
_WITHOUT_TOPIC_ID = {  # a topic that is not there yet, or a broker from before topics had ids
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.UNSUPPORTED_VERSION,
    KafkaError._UNSUPPORTED_FEATURE,
}
_EMBEDDED_CLUSTER = "mockCluster"  # it cannot describe topics


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


_ID_LIMIT = 2**62
_Id = Annotated[int, msgspec.Meta(ge=0, lt=_ID_LIMIT)]


class _WireTrade(msgspec.Struct):
    """Binance's `aggTrade`, or its `trade` (`t` in place of `a`, `f`, `l`). Letters as in the exchange's documentation."""

    s: str
    p: str | float  # price
    q: str | float  # quantity
    T: _Id  # trade time
    m: bool  # buyer is the maker
    a: _Id | None = None  # aggregate trade id
    f: _Id | None = None  # first trade id
    l: _Id | None = None  # last trade id  # noqa: E741
    t: _Id | None = None  # trade id of a single `trade`


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
_EXACT = r"^\d{1,12}(\.\d{1,8}0*)?$"  # what DECIMAL(20,8) holds without rounding
_LATEST_MICROSECONDS = 253_402_300_799_999_999  # the end of the year 9999
_AHEAD_US = 366 * 86_400 * 10**6  # a trade so far ahead of its receipt would carry the watermark away with it


@dataclass(frozen=True)
class _Messages:
    """What is kept of messages, in columns.

    The client's own objects must not outlive the call that brought them: Python's collector walks through the many that
    a batch would hold, again and again, which costs more than decoding them.
    """

    values: list[bytes] = field(default_factory=list)
    received_ms: list[int] = field(default_factory=list)
    partitions: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, messages: list[Message]) -> "_Messages":
        """Return what is kept of the client's messages."""
        return cls(
            [message.value() or b"" for message in messages],
            [message.timestamp()[1] for message in messages],
            cast(list[int], [message.partition() for message in messages]),
            cast(list[int], [message.offset() for message in messages]),
        )

    def __len__(self) -> int:
        return len(self.values)

    @property
    def size(self) -> int:
        """Return the bytes of all values."""
        return sum(map(len, self.values))

    @property
    def last_offsets(self) -> dict[int, int]:
        """Return the offset of each topic partition's last message."""
        return dict(zip(self.partitions, self.offsets, strict=True))

    def extend(self, other: "_Messages") -> None:
        """Add the other messages at the end."""
        self.values.extend(other.values)
        self.received_ms.extend(other.received_ms)
        self.partitions.extend(other.partitions)
        self.offsets.extend(other.offsets)

    def before(self, ends: Mapping[int, int]) -> "_Messages":
        """Return the messages that lie before their topic partition's end, and none of a partition without one."""
        places = zip(self.partitions, self.offsets, strict=True)
        is_before = [offset < ends.get(partition, 0) for partition, offset in places]
        return _Messages(
            list(compress(self.values, is_before)),
            list(compress(self.received_ms, is_before)),
            list(compress(self.partitions, is_before)),
            list(compress(self.offsets, is_before)),
        )


class TickStream:
    """A reader of the ticks topic. Use it as a context manager; it holds one consumer."""

    def __init__(self, bootstrap_servers: str, topic: str) -> None:
        self.topic = topic
        self._bootstrap_servers = bootstrap_servers
        self._identity: TopicIdentity | None = None
        self._positions: dict[int, int] = {}  # of a reader that follows the topic
        self._ends: dict[int, int] = {}  # where partitions were seen to end since the last batch
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="ticks")  # of a plan; following needs no thread
        self._is_over = threading.Event()  # nobody wants the rest of the plan
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "group.id": "cryptotrace-ingest",  # required by the client, unused: offsets live in the warehouse
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "enable.partition.eof": True,
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
        self._is_over.set()
        self._reader.shutdown()
        self._consumer.close()

    def identity(self) -> TopicIdentity:
        """Return which log this is, as the broker says now."""
        admin = AdminClient({"bootstrap.servers": self._bootstrap_servers})
        try:
            cluster = admin.list_topics(timeout=REQUEST_SECONDS)
        except KafkaException as error:
            raise self._away(error) from error
        cluster_id = cluster.cluster_id or ""
        if cluster_id.startswith(_EMBEDDED_CLUSTER):
            # Its id is an address in memory, which the next one may get again; its port is another at each start.
            ports = "+".join(str(broker.port) for broker in cluster.brokers.values())
            self._identity = TopicIdentity(f"{cluster_id}:{ports}", self.topic, "")
            return self._identity
        try:
            described = admin.describe_topics(TopicCollection([self.topic]), request_timeout=REQUEST_SECONDS)
            topic_id = str(described[self.topic].result().topic_id)
        except KafkaException as error:
            if error.args[0].code() not in _WITHOUT_TOPIC_ID:
                raise self._away(error) from error
            topic_id = ""
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

    def read(self, plan: OffsetPlan, batch_messages: int) -> Generator[TickBatch, None, None]:
        """Yield the planned messages in batches, each with the offsets that follow it.

        The next batch is read and decoded while the caller has this one; no more than one lies ready.

        Raises:
            StreamError: the broker went away, or the log changed under the plan. What was yielded before stands.
        """
        if not plan.ranges:
            return
        identity = self._identity or self.identity()
        open_ranges = {each.topic_partition: each for each in plan.ranges}  # the reader's, while it is at work
        self._consumer.assign([TopicPartition(self.topic, r.topic_partition, r.start) for r in plan.ranges])

        def read_on() -> Future[TickBatch] | None:
            if not open_ranges:
                return None
            return self._reader.submit(self._planned_batch, identity, open_ranges, batch_messages)

        coming = read_on()
        try:
            while coming is not None:
                batch = coming.result()
                coming = read_on()
                yield batch
        finally:
            if not self._is_over.is_set():  # else the stream itself was closed, and the reader with it
                self._is_over.set()
                if coming is not None:
                    wait([coming])
                self._is_over.clear()
                self._consumer.unassign()

    def follow(self, plan: OffsetPlan, low_watermarks: Mapping[int, int], high_watermarks: Mapping[int, int]) -> None:
        """Stand at the plan's start in every partition, so that `next_batch` returns all that comes from there on."""
        self._positions = {**high_watermarks, **{each.topic_partition: each.start for each in plan.ranges}}
        self._consumer.assign([TopicPartition(self.topic, p, start) for p, start in self._positions.items()])

    def next_batch(self, batch_messages: int, wait_seconds: float) -> TickBatch | None:
        """Return what has come since, after waiting at most so long for the first message; None when nothing came."""
        deadline = time.monotonic() + wait_seconds
        messages = self._consume(1, wait_seconds)
        while not messages and (left := deadline - time.monotonic()) > 0:
            messages = self._consume(1, left)  # what ended the wait was the news that a partition's end is reached
        size = messages.size
        while messages and len(messages) < batch_messages and size < _BATCH_BYTES:
            more = self._consume(min(_CALL_MESSAGES, batch_messages - len(messages)), 0.0)
            if not more:
                break
            messages.extend(more)
            size += more.size
        # The log may end with what is no message: a transaction's marker. It counts as read too.
        reached = {p: end for p, end in self._ends.items() if end > self._positions.get(p, end)}
        self._ends.clear()
        if not messages and not reached:
            return None
        batch = decoded(self._identity or self.identity(), messages, reached)
        self._positions.update(batch.next_offsets)
        return batch

    def _planned_batch(
        self, identity: TopicIdentity, open_ranges: dict[int, OffsetRange], batch_messages: int
    ) -> TickBatch:
        before = dict(open_ranges)
        messages = self._take(open_ranges, batch_messages)
        reached = {p: planned.end for p, planned in before.items() if p not in open_ranges}
        return decoded(identity, messages, reached)

    def _take(self, open_ranges: dict[int, OffsetRange], batch_messages: int) -> _Messages:
        """Return planned messages, and take the partitions whose planned end is reached out of `open_ranges`."""
        taken = _Messages()
        size = 0
        deadline = time.monotonic() + SILENCE_SECONDS
        while open_ranges and len(taken) < batch_messages and size < _BATCH_BYTES and not self._is_over.is_set():
            messages = self._consume(min(_CALL_MESSAGES, batch_messages - len(taken)), 0.2)
            if messages:
                deadline = time.monotonic() + SILENCE_SECONDS
            elif time.monotonic() > deadline:
                raise StreamError(
                    f"Kafka at {self._bootstrap_servers} sent none of the {sum(r.length for r in open_ranges.values())} "
                    f"messages it still owes for {SILENCE_SECONDS:.0f} s; check the broker, ingest resumes by itself."
                )
            ends = {partition: planned.end for partition, planned in open_ranges.items()}
            last_offsets = messages.last_offsets
            if any(offset >= ends.get(partition, 0) for partition, offset in last_offsets.items()):
                messages = messages.before(ends)  # what lies beyond the planned end is read by the next plan
            taken.extend(messages)
            size += messages.size
            for partition, end in ends.items():
                # The last offsets may hold no message but a transaction's marker; the log's end then says so.
                if last_offsets.get(partition, -1) >= end - 1 or self._ends.get(partition, -1) >= end:
                    self._close(open_ranges, partition)
        return taken

    def _close(self, open_ranges: dict[int, OffsetRange], partition: int) -> None:
        del open_ranges[partition]
        self._consumer.incremental_unassign([TopicPartition(self.topic, partition)])

    def _consume(self, count: int, wait_seconds: float) -> _Messages:
        messages: list[Message] = self._consumer.consume(count, timeout=wait_seconds)
        news = [message for message in messages if message.error() is not None]
        if news:
            self._note(news)
            messages = [message for message in messages if message.error() is None]
        return _Messages.of(messages)

    def _note(self, news: list[Message]) -> None:
        """Keep where partitions were seen to end; any other news is an error."""
        for message in news:
            error = message.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                raise self._away(error)
        self._ends |= _Messages.of(news).last_offsets

    def _away(self, error: object) -> StreamError:
        return StreamError(
            f"Kafka at {self._bootstrap_servers}, topic {self.topic}, could not be read ({error}). "
            "Check that the broker runs and KAFKA_BOOTSTRAP_SERVERS is right; ingest resumes by itself."
        )


def empty_topic(bootstrap_servers: str, topic: str) -> None:
    """Delete the messages that a topic holds now; one that is not there holds none.

    Raises:
        StreamError: no broker answers, or it does not let us.
    """
    admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})
    try:
        found = admin.list_topics(timeout=REQUEST_SECONDS).topics.get(topic)
        if found is None:
            return
        ends = [TopicPartition(topic, partition, OFFSET_END) for partition in found.partitions]
        for deletion in admin.delete_records(ends, request_timeout=REQUEST_SECONDS).values():
            deletion.result()
    except KafkaException as error:
        raise StreamError(
            f"The topic {topic} of Kafka at {bootstrap_servers} could not be emptied ({error}): "
            "delete it, or restart a broker that keeps its messages in memory; then try again."
        ) from error


def decoded(identity: TopicIdentity, messages: _Messages, reached: Mapping[int, int]) -> TickBatch:
    """Return the messages as ticks, with those that cannot be read set aside, and the offsets that follow them.

    `reached` names offsets that were reached beyond the messages.
    """
    next_offsets = {partition: offset + 1 for partition, offset in messages.last_offsets.items()}
    for partition, end in reached.items():
        next_offsets[partition] = max(end, next_offsets.get(partition, 0))
    ticks, reasons = decode_ticks(messages.values, messages.received_ms)
    recorded_at = utc_now()
    rows = [
        (identity.topic, messages.partitions[i], messages.offsets[i], messages.values[i], reason, recorded_at)
        for i, reason in reasons.items()
    ]
    dead_letters = pl.DataFrame(rows, schema=DEAD_LETTERS.polars_schema, orient="row")
    return TickBatch(identity, ticks, dead_letters, next_offsets)


def decode_ticks(values: list[bytes], received_ms: list[int]) -> tuple[pl.DataFrame, dict[int, str]]:
    """Return the readable values as `raw_ticks` rows, and for each of the others its index and the reason."""
    wire = _read_together(values)
    if wire is not None:
        wire = wire.with_columns(received_us=pl.Series(received_ms, dtype=pl.Int64) * 1000)
        if not wire.select(_complaint().is_not_null().any()).item():
            return _as_ticks(wire), {}
    wire, reasons = _read_one_by_one(values)
    wire = wire.with_columns(received_us=pl.Series([received_ms[i] for i in wire["index"]], dtype=pl.Int64) * 1000)
    judged = wire.with_columns(complaint=_complaint())
    refused = judged.filter(pl.col("complaint").is_not_null())
    reasons |= dict(refused.select("index", "complaint").iter_rows())
    return _as_ticks(judged.filter(pl.col("complaint").is_null())), dict(sorted(reasons.items()))


def _read_together(values: list[bytes]) -> pl.DataFrame | None:
    """Return all values as wire rows at once, or None when any needs a closer look. Three times the speed."""
    lines = b"\n".join(values)
    if not values or lines.count(b"\n") != len(values) - 1:
        return None
    try:
        wire = pl.read_ndjson(lines, schema=_WIRE_SCHEMA)
    except (pl.exceptions.PolarsError, OSError):  # the latter: bytes that look like a compressed file, and are none
        return None
    has_all = wire.height == len(values) and not any(wire[name].null_count() for name in wire.columns)
    return wire if has_all else None


def _read_one_by_one(values: list[bytes]) -> tuple[pl.DataFrame, dict[int, str]]:
    """Return the values that have a trade's form as wire rows with their `index`, and the reasons of the others."""
    rows: list[tuple[object, ...]] = []
    reasons: dict[int, str] = {}
    decoder = msgspec.json.Decoder(_WireTrade)
    for index, value in enumerate(values):
        try:
            trade = decoder.decode(value)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            reasons[index] = f"{type(error).__name__}: {error}"
            continue
        trade_id = trade.a if trade.a is not None else trade.t
        if trade_id is None:
            reasons[index] = "neither an aggregate trade id `a` nor a trade id `t`"
            continue
        first = trade.f if trade.f is not None else trade_id
        last = trade.l if trade.l is not None else trade_id
        rows.append((index, trade.s, trade_id, str(trade.p), str(trade.q), first, last, trade.T, trade.m))
    return pl.DataFrame(rows, schema={"index": pl.Int64(), **_WIRE_SCHEMA}, orient="row"), reasons


def _complaint() -> pl.Expr:
    """Return why a wire row is no trade; null for those that are one."""

    def is_id(name: str) -> pl.Expr:
        return pl.col(name).is_between(0, _ID_LIMIT, closed="left")

    is_ahead = (pl.col("received_us") > 0) & (microseconds_of(pl.col("T")) > pl.col("received_us") + _AHEAD_US)
    return (
        pl.when(~pl.col("s").str.contains(r"^[\p{L}\p{N}_-]+$"))
        .then(pl.lit("the symbol `s` is not one word"))
        .when(~pl.col("p").str.contains(_EXACT) | ~pl.col("q").str.contains(_EXACT))
        .then(pl.lit("price `p` or quantity `q` is no number of up to 12 digits and 8 decimals"))
        .when(~is_id("a") | ~is_id("f") | ~is_id("l") | (pl.col("l") < pl.col("f")))
        .then(pl.lit("the ids `a`, `f`, `l` are out of bounds or out of order"))
        .when((pl.col("T") <= 0) | (pl.col("T") > _LATEST_MICROSECONDS) | is_ahead)
        .then(pl.lit("the trade time `T` lies outside of what can be, or a year ahead of its receipt"))
        .otherwise(pl.lit(None, pl.String()))
    )


def _as_ticks(wire: pl.DataFrame) -> pl.DataFrame:
    price_type = RAW_TICKS.polars_schema["price"]
    return wire.select(
        symbol="s",
        trade_id="a",
        price=pl.col("p").cast(price_type),
        quantity=pl.col("q").cast(price_type),
        first_trade_id="f",
        last_trade_id="l",
        trade_time=microseconds_of(pl.col("T")).cast(pl.Datetime("us")),
        is_buyer_maker="m",
        received_at=pl.col("received_us").cast(pl.Datetime("us")),
    )
