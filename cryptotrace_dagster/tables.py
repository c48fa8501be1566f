"""Every column of every table, written once.

Owns the names, types, units and meaning of all stored data. The DDL, the Polars schemas, Dagster's column metadata,
the API's models and `docs/tables.md` are derived from here; nothing else may spell a column list.
Stays out: SQL that reads or writes (storage.py) and the computation of values (domain/).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import polars as pl


class ColumnType(Enum):
    """A stored type, as (DuckDB type, Polars type). Prices and quantities are exact: Binance lists quantities above 1e10."""

    TEXT = ("VARCHAR", pl.String())
    INTEGER = ("BIGINT", pl.Int64())
    DOUBLE = ("DOUBLE", pl.Float64())
    BOOLEAN = ("BOOLEAN", pl.Boolean())
    INSTANT = ("TIMESTAMP", pl.Datetime("us"))  # always UTC; plain TIMESTAMP never shifts with a session's time zone
    PRICE = ("DECIMAL(20,8)", pl.Decimal(20, 8))
    VOLUME = ("DECIMAL(38,8)", pl.Decimal(38, 8))
    QUOTE_VOLUME = ("DECIMAL(38,16)", pl.Decimal(38, 16))  # price times quantity keeps all sixteen digits
    BLOB = ("BLOB", pl.Binary())

    @property
    def sql(self) -> str:
        """Return the DuckDB spelling."""
        return str(self.value[0])

    @property
    def polars(self) -> pl.DataType:
        """Return the Polars type of the same values."""
        dtype: pl.DataType = self.value[1]
        return dtype


@dataclass(frozen=True)
class Column:
    """One column: its name, stored type, meaning (with unit), and whether null is a legal value."""

    name: str
    type: ColumnType
    description: str
    nullable: bool = False


@dataclass(frozen=True)
class Table:
    """A contract: columns, the key that is unique, and the instant that windows are cut by."""

    name: str
    description: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    time_column: str

    def __post_init__(self) -> None:
        names = self.column_names
        unknown = [name for name in (*self.key, self.time_column) if name not in names]
        if unknown or len(set(names)) != len(names):
            raise ValueError(f"Table {self.name}: key or time column {unknown} unknown, or a column name is repeated.")

    @property
    def column_names(self) -> tuple[str, ...]:
        """Return the names in stored order."""
        return tuple(column.name for column in self.columns)

    @property
    def polars_schema(self) -> pl.Schema:
        """Return the schema that a frame of this table has."""
        return pl.Schema({column.name: column.type.polars for column in self.columns})

    @property
    def ddl(self) -> str:
        """Return `CREATE TABLE IF NOT EXISTS`; no keys, for DuckLake has none (the asset checks hold them)."""
        columns = ", ".join(f"{c.name} {c.type.sql}{'' if c.nullable else ' NOT NULL'}" for c in self.columns)
        return f"CREATE TABLE IF NOT EXISTS {self.name} ({columns})"

    def empty(self) -> pl.DataFrame:
        """Return a frame without rows."""
        return pl.DataFrame(schema=self.polars_schema)


T = ColumnType
_SYMBOL = Column("symbol", T.TEXT, "Exchange spelling, upper case, e.g. BTCUSDT.")
_BAR_INTERVAL = Column("bar_interval", T.TEXT, "Length of the bar: 1s, 5s, 1m, 5m, 15m, 1h or 1d.")
_BAR_START = Column("bar_start", T.INSTANT, "Start of the bar [start, start + interval), UTC.")

RAW_TICKS = Table(
    name="raw_ticks",
    description="Every aggregate trade of the exchange, once. `trade_id` is consecutive per symbol, which proves completeness.",
    columns=(
        _SYMBOL,
        Column("trade_id", T.INTEGER, "Aggregate trade id `a`, consecutive per symbol."),
        Column("price", T.PRICE, "Price in quote units, exact."),
        Column("quantity", T.PRICE, "Quantity in base units, exact."),
        Column("first_trade_id", T.INTEGER, "Id `f` of the first single trade inside."),
        Column("last_trade_id", T.INTEGER, "Id `l` of the last single trade inside."),
        Column("trade_time", T.INSTANT, "When the trade happened at the exchange (`T`), UTC. All windows use it."),
        Column("is_buyer_maker", T.BOOLEAN, "True when the seller was the aggressor (`m`)."),
        Column("received_at", T.INSTANT, "When the feed read the message, UTC, by this machine's clock."),
    ),
    key=("symbol", "trade_id"),
    time_column="trade_time",
)

OHLC_BARS = Table(
    name="ohlc_bars",
    description="Open, high, low, close and volume per symbol and interval, equal to the exchange's klines. "
    "An interval without trades has no bar.",
    columns=(
        _SYMBOL,
        _BAR_INTERVAL,
        _BAR_START,
        Column("bar_end", T.INSTANT, "End of the bar, exclusive, UTC."),
        Column("open", T.PRICE, "Price of the trade with the lowest id."),
        Column("high", T.PRICE, "Highest price."),
        Column("low", T.PRICE, "Lowest price."),
        Column("close", T.PRICE, "Price of the trade with the highest id."),
        Column("volume", T.VOLUME, "Sum of quantities, base units."),
        Column("quote_volume", T.QUOTE_VOLUME, "Sum of price times quantity, quote units."),
        Column("trade_count", T.INTEGER, "Number of single trades: sum of `l - f + 1`."),
        Column("taker_buy_volume", T.VOLUME, "Volume in which the buyer was the aggressor, base units."),
        Column("taker_buy_quote_volume", T.QUOTE_VOLUME, "The same in quote units."),
        Column("tick_count", T.INTEGER, "Number of aggregate trades, i.e. rows of `raw_ticks`."),
        Column("first_tick_id", T.INTEGER, "Lowest `trade_id` inside."),
        Column("last_tick_id", T.INTEGER, "Highest `trade_id` inside."),
        Column("last_trade_time", T.INSTANT, "Time of the latest trade inside, UTC."),
    ),
    key=("symbol", "bar_interval", "bar_start"),
    time_column="bar_start",
)

INGESTED_OFFSETS = Table(
    name="ingested_offsets",
    description="How far each Kafka topic partition has been read. Append-only; the latest row counts. "
    "Committed in the transaction that holds the ticks themselves.",
    columns=(
        Column("cluster_id", T.TEXT, "Kafka's cluster id: offsets of another cluster mean nothing here."),
        Column("topic", T.TEXT, "Topic name."),
        Column("topic_id", T.TEXT, "Kafka's id of this incarnation of the topic; empty where the broker has none."),
        Column("topic_partition", T.INTEGER, "Kafka's shard number."),
        Column("next_offset", T.INTEGER, "First offset that has not been read."),
        Column("recorded_at", T.INSTANT, "When the batch was committed, UTC."),
    ),
    key=("cluster_id", "topic", "topic_id", "topic_partition", "next_offset"),
    time_column="recorded_at",
)

TRADE_ID_RANGES = Table(
    name="trade_id_ranges",
    description="The stored trade ids as disjoint ranges, kept in the transaction that stores the ticks. "
    "One row a symbol means: nothing is missing between its first and last trade.",
    columns=(
        _SYMBOL,
        Column("first_id", T.INTEGER, "First trade id of the range."),
        Column("last_id", T.INTEGER, "Last trade id of the range, inclusive."),
        Column("first_trade_time", T.INSTANT, "Time of the first trade, UTC."),
        Column("last_trade_time", T.INSTANT, "Time of the last trade, UTC."),
    ),
    key=("symbol", "first_id"),
    time_column="first_trade_time",
)

# Where the stored market stands, as SQL. To look for the newest bar instead reads all bars that are stored.
NEWEST_TRADE_TIME = f"(SELECT max(last_trade_time) FROM {TRADE_ID_RANGES.name})"

TRADE_ID_GAPS = Table(
    name="trade_id_gaps",
    description="Every hole in the trade ids that was ever seen, and when it was closed. Open ones have no `closed_at`.",
    columns=(
        _SYMBOL,
        Column("first_missing_id", T.INTEGER, "First trade id that is missing."),
        Column("last_missing_id", T.INTEGER, "Last trade id that is missing, inclusive."),
        Column("gap_start", T.INSTANT, "Time of the last trade before the hole, UTC."),
        Column("gap_end", T.INSTANT, "Time of the first trade after the hole, UTC."),
        Column("noticed_at", T.INSTANT, "When ingest first saw it, UTC."),
        Column(
            "closed_at", T.INSTANT, "When its last trade was stored (or it split), UTC; null while open.", nullable=True
        ),
    ),
    key=("symbol", "first_missing_id", "last_missing_id", "noticed_at"),
    time_column="gap_start",
)

DEAD_LETTERS = Table(
    name="dead_letters",
    description="Kafka messages that could not be read, kept whole with the reason.",
    columns=(
        Column("topic", T.TEXT, "Topic it came from."),
        Column("topic_partition", T.INTEGER, "Kafka's shard number."),
        Column("message_offset", T.INTEGER, "Offset of the message."),
        Column("payload", T.BLOB, "The bytes as they came."),
        Column("reason", T.TEXT, "Why it could not be read."),
        Column("recorded_at", T.INSTANT, "When it was set aside, UTC."),
    ),
    key=("topic", "topic_partition", "message_offset", "recorded_at"),
    time_column="recorded_at",
)

FEATURES = Table(
    name="features",
    description="Numbers derived from bars. 5-second rows hold only what one bar says (the fast detectors carry their own "
    "memory), 1-minute rows also indicators and deviations over a lookback; a feature whose lookback is not full is null. "
    "Bars without trades have no row, so five liquid symbols cost at most 86,400 narrow rows a day at 5 seconds, "
    "kept FINE_BAR_RETENTION_DAYS.",
    columns=(
        _SYMBOL,
        _BAR_INTERVAL,
        _BAR_START,
        Column("close", T.DOUBLE, "Last price, quote units."),
        Column("log_return", T.DOUBLE, "ln(close / close of the bar before), within 10 minutes.", nullable=True),
        Column("log_range", T.DOUBLE, "ln(high / low)."),
        Column("quote_volume", T.DOUBLE, "Traded value, quote units."),
        Column("tick_count", T.INTEGER, "Number of aggregate trades."),
        Column("trade_size", T.DOUBLE, "Traded value per aggregate trade, quote units."),
        Column("taker_imbalance", T.DOUBLE, "(aggressive buying - aggressive selling) / traded value, -1 to 1."),
        Column("buy_orders", T.INTEGER, "Instants (ms) with aggressive buys: about the number of buying orders."),
        Column(
            "rush_orders", T.INTEGER, "Instants (ms) in which two or more aggressive buys arrived (La Morgia 2020)."
        ),
        Column("vwap_distance", T.DOUBLE, "ln(close / volume-weighted average price of the bar)."),
        Column("realised_volatility", T.DOUBLE, "Root of the summed squared 1 m returns, 30 minutes.", nullable=True),
        Column("volume_ratio", T.DOUBLE, "Traded value / mean of the 60 minutes before.", nullable=True),
        Column("sma_distance", T.DOUBLE, "ln(close / simple moving average of 20 closes).", nullable=True),
        Column("ema_distance", T.DOUBLE, "ln(close / exponential moving average of span 20).", nullable=True),
        Column("rsi", T.DOUBLE, "Wilder's relative strength index of 14, 0 to 100.", nullable=True),
        Column("macd", T.DOUBLE, "(EMA 12 - EMA 26) / close.", nullable=True),
        Column("macd_histogram", T.DOUBLE, "MACD less its EMA of span 9.", nullable=True),
        Column("bollinger_position", T.DOUBLE, "(close - SMA 20) / standard deviation of 20.", nullable=True),
        Column("average_true_range", T.DOUBLE, "Wilder's ATR of 14 / close.", nullable=True),
        Column(
            "profile_position",
            T.DOUBLE,
            "Distance of ln close from the centre of the volume profile of the last 24 full hours, in its widths.",
            nullable=True,
        ),
        Column("return_deviation", T.DOUBLE, "log_return, as robust seasonal z (docs/detection.md).", nullable=True),
        Column("range_deviation", T.DOUBLE, "ln(1 + log_range in bp), as robust seasonal z.", nullable=True),
        Column("volume_deviation", T.DOUBLE, "ln(quote_volume), as robust seasonal z.", nullable=True),
        Column("tick_count_deviation", T.DOUBLE, "ln(tick_count), as robust seasonal z.", nullable=True),
        Column("trade_size_deviation", T.DOUBLE, "ln(trade_size), as robust seasonal z.", nullable=True),
        Column("imbalance_deviation", T.DOUBLE, "taker_imbalance, as robust seasonal z.", nullable=True),
        Column(
            "latency_seconds",
            T.DOUBLE,
            "Smallest received_at - trade_time of the bar, seconds: latency and clock skew; large where trades were fetched "
            "afterwards.",
            nullable=True,
        ),
        Column("last_trade_second", T.DOUBLE, "Time of the last trade, seconds after the bar's start.", nullable=True),
    ),
    key=("symbol", "bar_interval", "bar_start"),
    time_column="bar_start",
)

DETECTOR_STATES = Table(
    name="detector_states",
    description="What each detector carries from bar to bar, as it was at full hours: from any of them the scores after it "
    "can be computed again, to the bit. About 5 KB a symbol and hour, so only midnights are kept after two days.",
    columns=(
        _SYMBOL,
        Column("detector", T.TEXT, "Name of the detector."),
        Column("detector_version", T.INTEGER, "Version of its definition; another version starts afresh."),
        Column("state_time", T.INSTANT, "The state holds all bars that start before this full hour, UTC."),
        Column("state", T.BLOB, "The state, as msgpack."),
    ),
    key=("symbol", "detector", "detector_version", "state_time"),
    time_column="state_time",
)

DETECTOR_MODELS = Table(
    name="detector_models",
    description="The learned detectors' models. A model is its sample of past bars: fitting it again gives the same "
    "trees, so nothing is pickled. At most 150 KB a model, kept a year so that old scores can be made again.",
    columns=(
        Column("detector", T.TEXT, "Name of the detector."),
        Column("detector_version", T.INTEGER, "Version of its definition."),
        Column(
            "valid_from", T.INSTANT, "Scores bars from this midnight on, until the next model; knows only earlier ones."
        ),
        Column("trained_from", T.INSTANT, "Start of the first minute, or time of the first label, that it could know."),
        Column("minutes", T.INTEGER, "Number of bars it was drawn from: minutes, for the pump classifier bars of 5 s."),
        Column("parameters", T.TEXT, "Parameters as a JSON object."),
        Column("validation", T.TEXT, "Out-of-time validation as a JSON object: docs/detection.md."),
        Column("sample", T.BLOB, "The sample: rows of the feature vector, the layout is the detector's own."),
    ),
    key=("detector", "detector_version", "valid_from"),
    time_column="valid_from",
)

ANOMALY_SCORES = Table(
    name="anomaly_scores",
    description="How unusual each closed bar is to each detector. `score` has one meaning over all detectors: "
    "minus log10 of how many times a day this symbol, by its own history, scores at least this high "
    "(0: daily; 1: once in ten days; 2: once in a hundred days). Only bars rarer than once an hour are stored.",
    columns=(
        _SYMBOL,
        _BAR_INTERVAL,
        _BAR_START,
        Column("detector", T.TEXT, "Name of the detector."),
        Column("detector_version", T.INTEGER, "Version of its definition."),
        Column("raw_score", T.DOUBLE, "The detector's own measure, before calibration; its docstring gives the unit."),
        Column(
            "times_a_day",
            T.DOUBLE,
            "In how many separate hours of a day the symbol, by its own history, scores at least this high.",
        ),
        Column("score", T.DOUBLE, "-log10(times_a_day); larger is stranger."),
        Column("explanation", T.TEXT, "Evidence as a JSON object: the features that speak, and how loudly."),
    ),
    key=("symbol", "bar_interval", "bar_start", "detector"),
    time_column="bar_start",
)

ALERTS = Table(
    name="alerts",
    description="Our decisions to tell someone. The id is derived from rule, symbol and bar, so a rerun cannot double one. "
    "An alert that would no longer ring is marked in `retracted_at`, never deleted.",
    columns=(
        Column("alert_id", T.TEXT, "Derived from rule, symbol and bar."),
        Column("rule", T.TEXT, "Name of the alert rule."),
        _SYMBOL,
        Column("severity", T.TEXT, "info, warning or critical."),
        Column("phase", T.TEXT, "opening, worsening or end of one event's conversation."),
        Column("conversation_id", T.TEXT, "The alert id of the opening; one event on one symbol is one conversation."),
        _BAR_INTERVAL,
        _BAR_START,
        Column("detector", T.TEXT, "Detector that spoke; null for price and volume rules.", nullable=True),
        Column("score", T.DOUBLE, "Its score, or the rule's own measure (per cent, multiple).", nullable=True),
        Column("event_time", T.INSTANT, "Time of the last trade that the decision rests on, UTC."),
        Column("available_at", T.INSTANT, "First moment at which live operation could have rung (market time), UTC."),
        Column("raised_at", T.INSTANT, "When this machine decided, UTC."),
        Column("price", T.PRICE, "Price at that moment.", nullable=True),
        Column("title", T.TEXT, "One line: what happened."),
        Column("message", T.TEXT, "What happened and how unusual it is, in plain words."),
        Column("evidence", T.TEXT, "The numbers behind it as a JSON object."),
        Column("retracted_at", T.INSTANT, "When late data showed that it would not ring; else null.", nullable=True),
    ),
    key=("alert_id",),
    time_column="event_time",
)

ALERT_DELIVERIES = Table(
    name="alert_deliveries",
    description="Every attempt to send an alert, with its outcome. An alert without a final row is still to be sent.",
    columns=(
        Column("alert_id", T.TEXT, "The alert."),
        Column("route", T.TEXT, "Where to: the name of the route in alerts.toml, `default` without one."),
        Column("attempt", T.INTEGER, "Number of the attempt for this alert and route, from 1; 0 while it is held."),
        Column(
            "outcome",
            T.TEXT,
            "delivered, retry, unknown (perhaps sent, no answer), held (quiet hours, digest), given_up, or skipped (`reason`).",
        ),
        Column("attempted_at", T.INSTANT, "When it was sent, UTC."),
        Column("retry_at", T.INSTANT, "Not before this; null when final.", nullable=True),
        Column("status_code", T.INTEGER, "HTTP status, where one came.", nullable=True),
        Column("reason", T.TEXT, "What went wrong, without secrets.", nullable=True),
        Column("message_id", T.TEXT, "Discord's id of the message.", nullable=True),
    ),
    key=("alert_id", "route", "attempt"),
    time_column="attempted_at",
)

FINAL_OUTCOMES = ("delivered", "given_up", "skipped")  # of a delivery; any other is followed by another attempt

DIRTY_WINDOWS = Table(
    name="dirty_windows",
    description="Time ranges whose bars, features, scores and alerts new ticks have made stale. Recorded with the ticks, "
    "removed when everything after them has been made again: what a killed run left undone is not forgotten.",
    columns=(
        Column("window_start", T.INSTANT, "Start of the range, inclusive, UTC."),
        Column("window_end", T.INSTANT, "End of the range, exclusive, UTC; never beyond the start's day."),
        Column("recorded_at", T.INSTANT, "When its ticks were stored, UTC."),
    ),
    key=("window_start", "window_end", "recorded_at"),
    time_column="window_start",
)

ALERT_RULE_VERSIONS = Table(
    name="alert_rule_versions",
    description="From when on (market time) each definition of a rule has been in force: what happened before is not told.",
    columns=(
        Column("rule", T.TEXT, "Name of the alert rule."),
        Column("fingerprint", T.TEXT, "Hash of what decides whether it rings."),
        Column("definition", T.TEXT, "The rule as a JSON object."),
        Column("in_force_from", T.INSTANT, "Watermark when it was first evaluated, UTC."),
        Column("recorded_at", T.INSTANT, "When that was, by this machine's clock, UTC."),
    ),
    key=("rule", "fingerprint"),
    time_column="in_force_from",
)

ALERT_FEEDBACK = Table(
    name="alert_feedback",
    description="What people said about an alert: was it right? Append-only; the newest word of an alert counts.",
    columns=(
        Column("alert_id", T.TEXT, "The alert."),
        Column("was_right", T.BOOLEAN, "True when it was worth ringing, false when not."),
        Column("note", T.TEXT, "What the person added; null when nothing.", nullable=True),
        Column("given_at", T.INSTANT, "When it was said, UTC."),
    ),
    key=("alert_id", "given_at"),
    time_column="given_at",
)

EVENT_LABELS = Table(
    name="event_labels",
    description="What is known to have happened, or not: people's answers about alerts, and imported lists of events. "
    "The pump classifier learns from them, and the detectors' weekly report is held against them.",
    columns=(
        Column("symbol", T.TEXT, "Symbol as the exchange or the file spells it: VIA means VIABTC too."),
        Column("event_time", T.INSTANT, "When it happened: the alert's last trade, or the time in the file, UTC."),
        Column("kind", T.TEXT, "pump, or for answers about other alerts the name of the detector or rule."),
        Column("is_event", T.BOOLEAN, "True when there was such an event, false when a person says there was none."),
        Column("source", T.TEXT, "feedback or file."),
        Column("origin", T.TEXT, "The alert's id, or the name of the file."),
        Column("note", T.TEXT, "What the person added; null when nothing.", nullable=True),
        Column("recorded_at", T.INSTANT, "When it was recorded, UTC."),
        Column(
            "examples",
            T.BLOB,
            "The feature vectors of the 5-second bars around it (msgpack), kept because those bars go after a week; "
            "null until the models job has met them.",
            nullable=True,
        ),
    ),
    key=("symbol", "event_time", "kind", "source"),
    time_column="event_time",
)

SCHEMA_VERSIONS = Table(
    name="schema_versions",
    description="The schema versions that this warehouse has had; the largest counts.",
    columns=(
        Column("version", T.INTEGER, "Version of the tables."),
        Column("migrated_at", T.INSTANT, "When this version was reached, UTC."),
    ),
    key=("version",),
    time_column="migrated_at",
)
SCHEMA_VERSION = 1

ALL_TABLES: tuple[Table, ...] = (
    RAW_TICKS,
    OHLC_BARS,
    FEATURES,
    DETECTOR_STATES,
    DETECTOR_MODELS,
    ANOMALY_SCORES,
    ALERTS,
    ALERT_DELIVERIES,
    ALERT_RULE_VERSIONS,
    ALERT_FEEDBACK,
    EVENT_LABELS,
    INGESTED_OFFSETS,
    TRADE_ID_RANGES,
    TRADE_ID_GAPS,
    DEAD_LETTERS,
    DIRTY_WINDOWS,
    SCHEMA_VERSIONS,
)
