"""What keeps the warehouse small and tidy: old rows go, ticks are packed, offsets condensed, a lake's files merged.

Owns which rows are old. Ages are counted back from the newest trade, so that a replayed recording is not old at once.
The ranges of trade ids stay for ever: they are a few rows a symbol, and a trade that was forgotten must not come back as
new and be told again (ADR 0003). Stays out: when this happens (schedules.py), and Dagster's own history of runs.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from cryptotrace_dagster.connections import connected, quoted, standing_in
from cryptotrace_dagster.domain.windows import Window, floor
from cryptotrace_dagster.pipeline.dirty import ALLOWED_LATENESS, market_watermark
from cryptotrace_dagster.settings import Settings
from cryptotrace_dagster.storage import LOCK_WAIT_SECONDS, Transaction, Warehouse
from cryptotrace_dagster.tables import (
    ALERT_DELIVERIES,
    ALERTS,
    ANOMALY_SCORES,
    DEAD_LETTERS,
    DETECTOR_MODELS,
    DIRTY_WINDOWS,
    FEATURES,
    INGESTED_OFFSETS,
    OHLC_BARS,
    RAW_TICKS,
    TRADE_ID_GAPS,
    Table,
)

READERS_MAY_TAKE = timedelta(hours=1)  # a lake's files are kept so long after they were replaced
_DAY = timedelta(days=1)
_MODELS_KEPT = 365 * _DAY  # old scores can be made again so far back; at 150 KB a day a detector takes 55 MB at most
_PACKED_AT_ONCE = 1_000_000  # ticks; takes about a second, and alerts wait no longer
_FINE = ("1s", "5s")  # the shortest bars, and the features and scores that are made of five of them


@dataclass(frozen=True)
class Retention:
    """How long each kind of row is kept."""

    ticks: timedelta
    bars: timedelta
    fine_bars: timedelta
    events: timedelta

    @classmethod
    def from_settings(cls, settings: Settings) -> "Retention":
        """Return what the settings say."""
        return cls(
            timedelta(days=settings.tick_retention_days),
            timedelta(days=settings.bar_retention_days),
            timedelta(days=settings.fine_bar_retention_days),
            timedelta(days=settings.event_retention_days),
        )


def forget_old_rows(warehouse: Warehouse, retention: Retention, now: datetime) -> dict[str, int]:
    """Delete what is older than it is kept, whole UTC days at a time, and return the number of rows by table.

    `now` bounds the newest trade: a clock that runs ahead at the exchange must not make everything old.
    """
    watermark = market_watermark(warehouse)
    if watermark is None:
        return {}
    newest = min(watermark + ALLOWED_LATENESS, now)

    def first_day(age: timedelta) -> datetime:
        return floor(newest, _DAY) - age

    forgotten: dict[str, int] = {}
    # A transaction for each table: whoever waits to write waits for one deletion, not for all of them.
    with warehouse.transaction() as transaction:
        forgotten[RAW_TICKS.name] = _delete_before(transaction, RAW_TICKS, first_day(retention.ticks))
        # A stale window whose ticks are gone cannot be made anew.
        _delete_before(transaction, DIRTY_WINDOWS, first_day(retention.ticks))
    for table in (OHLC_BARS, FEATURES, ANOMALY_SCORES):
        with warehouse.transaction() as transaction:
            fine = ", ".join(f"'{name}'" for name in _FINE)
            forgotten[table.name] = _delete_before(
                transaction, table, first_day(retention.fine_bars), f"bar_interval IN ({fine})"
            ) + _delete_before(transaction, table, first_day(retention.bars))
    with warehouse.transaction() as transaction:
        events = first_day(retention.events)
        forgotten[DEAD_LETTERS.name] = _delete_before(transaction, DEAD_LETTERS, events)
        forgotten[TRADE_ID_GAPS.name] = _delete_before(transaction, TRADE_ID_GAPS, events, "closed_at IS NOT NULL")
        forgotten[ALERTS.name] = _delete_before(transaction, ALERTS, events)
        forgotten[ALERT_DELIVERIES.name] = transaction.execute(
            f"DELETE FROM {ALERT_DELIVERIES.name} WHERE attempted_at < ? "
            f"AND alert_id NOT IN (SELECT alert_id FROM {ALERTS.name})",
            [events],
        )
        forgotten[INGESTED_OFFSETS.name] = _condense_offsets(transaction)
        forgotten[DETECTOR_MODELS.name] = _forget_models(transaction, first_day(_MODELS_KEPT))
    return forgotten


def pack_ticks(warehouse: Warehouse, day: Window) -> int:
    """Store the ticks of a closed day anew, in a few stretches, symbol by symbol in each, and return their number.

    Live runs store them second by second, the symbols mixed, where neither ids nor prices compress: 26 bytes a tick on
    a DuckDB file, 14 when packed, and a symbol's reads touch fewer blocks. A lake packs its files by itself.
    """
    if warehouse.is_lake:
        return 0
    columns = ", ".join(RAW_TICKS.column_names)
    within = f"{RAW_TICKS.time_column} >= ? AND {RAW_TICKS.time_column} < ?"
    count = warehouse.read(f"SELECT count(*) FROM {RAW_TICKS.name} WHERE {within}", [day.start, day.end]).item()
    stretches = max(1, -(-count // _PACKED_AT_ONCE))
    cuts = [day.start + (day.end - day.start) * number / stretches for number in range(stretches + 1)]
    packed = 0
    for start, end in pairwise(cuts):
        with warehouse.transaction() as transaction:
            transaction.connection.execute(
                f"CREATE TEMP TABLE packed AS SELECT {columns} FROM {RAW_TICKS.name} WHERE {within} "
                f"ORDER BY {', '.join(RAW_TICKS.key)}",
                [start, end],
            )
            transaction.execute(f"DELETE FROM {RAW_TICKS.name} WHERE {within}", [start, end])
            packed += transaction.execute(f"INSERT INTO {RAW_TICKS.name} ({columns}) SELECT {columns} FROM packed")
            transaction.connection.execute("DROP TABLE packed")
    return packed


def last_closed_day(warehouse: Warehouse, now: datetime) -> Window | None:
    """Return the UTC day before the newest trade's; None where nothing is stored."""
    watermark = market_watermark(warehouse)
    if watermark is None:
        return None
    today = floor(min(watermark + ALLOWED_LATENESS, now), _DAY)
    return Window(today - _DAY, today)


def maintain_lake(warehouse: Warehouse, now: datetime, keep: timedelta = READERS_MAY_TAKE) -> dict[str, int]:
    """Merge a lake's small files and remove those that nobody needs any more; return what was done.

    Every micro-batch leaves files behind, and a thousand of them make a query six times as slow. What was replaced less
    than `keep` ago stays, because a reader may be at it. On a DuckDB file there is nothing to do: it reuses its space.
    """
    if not warehouse.is_lake:
        return {}
    older = quoted((now - keep).isoformat(sep=" "))
    steps = {
        "files_rewritten": "ducklake_rewrite_data_files('{lake}')",
        "tables_merged": "ducklake_merge_adjacent_files('{lake}')",
        "snapshots_expired": f"ducklake_expire_snapshots('{{lake}}', older_than => TIMESTAMP '{older}')",
        "files_removed": f"ducklake_cleanup_old_files('{{lake}}', older_than => TIMESTAMP '{older}')",
    }
    done: dict[str, int] = {}
    with connected(warehouse.address, read_only=False, wait_seconds=LOCK_WAIT_SECONDS) as connection:
        name = standing_in(connection)
        for what, call in steps.items():
            done[what] = len(connection.execute(f"CALL {call.format(lake=name)}").fetchall())
    return done


def _delete_before(transaction: Transaction, table: Table, before: datetime, only: str = "TRUE") -> int:
    return transaction.execute(f"DELETE FROM {table.name} WHERE {table.time_column} < ? AND {only}", [before])


def _forget_models(transaction: Transaction, before: datetime) -> int:
    """Delete the models of long ago, but never a detector's newest."""
    return transaction.execute(
        f"DELETE FROM {DETECTOR_MODELS.name} AS older WHERE valid_from < ? AND EXISTS (SELECT 1 FROM "
        f"{DETECTOR_MODELS.name} AS newer WHERE newer.detector = older.detector AND newer.valid_from > older.valid_from)",
        [before],
    )


def _condense_offsets(transaction: Transaction) -> int:
    """Keep the latest row of each topic partition: only that one is ever read."""
    log = "cluster_id, topic, topic_id, topic_partition"
    same_log = " AND ".join(f"newer.{name} = older.{name}" for name in log.split(", "))
    return transaction.execute(
        f"DELETE FROM {INGESTED_OFFSETS.name} AS older WHERE EXISTS (SELECT 1 FROM {INGESTED_OFFSETS.name} AS newer "
        f"WHERE {same_log} AND (newer.recorded_at, newer.next_offset) > (older.recorded_at, older.next_offset))"
    )
