"""The questions that are put to the stored rows, as plain functions of the warehouse. No Dagster.

None looks at more rows of ticks, bars or scores than the last two UTC days of market time have, so that its cost does
not grow with the history; each returns what it counted, and an answer that is not a clean zero names the first offenders.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import polars as pl

from cryptotrace_dagster.binance.rest import BinanceRest, ExchangeError
from cryptotrace_dagster.domain.bars import BAR_INTERVALS
from cryptotrace_dagster.domain.windows import EPOCH, Window, day_window, floor
from cryptotrace_dagster.pipeline.delivery import stopped_routes
from cryptotrace_dagster.pipeline.dirty import ALLOWED_LATENESS, first_stale, market_watermark
from cryptotrace_dagster.pipeline.history import refetch_window
from cryptotrace_dagster.pipeline.klines import compare_with_klines
from cryptotrace_dagster.storage import Transaction, Warehouse
from cryptotrace_dagster.tables import (
    ALERT_DELIVERIES,
    ALERTS,
    FEATURES,
    NEWEST_TRADE_TIME,
    OHLC_BARS,
    RAW_TICKS,
    TRADE_ID_GAPS,
    TRADE_ID_RANGES,
    ColumnType,
)

GAP_GRACE = timedelta(seconds=60)  # the feed fills a fresh gap from REST within seconds
DELIVERY_GRACE = timedelta(seconds=60)
KLINE_GRACE = timedelta(seconds=10)  # a minute is compared when nothing of it can still be under way
FRESH_WITHIN = timedelta(minutes=5)
_SHOWN = 5
_SHORTEST_COMPARED = timedelta(minutes=1)


@dataclass(frozen=True)
class Finding:
    """The answer to one question: does it hold, what was counted, and a sentence for people."""

    passed: bool
    sentence: str
    counts: Mapping[str, int | float | str] = field(default_factory=dict)


def recent_window(warehouse: Warehouse) -> Window | None:
    """Return the last two UTC days of market time, or None before the first trade."""
    watermark = market_watermark(warehouse)
    if watermark is None:
        return None
    today = floor(watermark + ALLOWED_LATENESS, timedelta(days=1))
    return Window(today - timedelta(days=1), today + timedelta(days=1))


def trade_ids_are_unique(warehouse: Warehouse) -> Finding:
    """No trade is stored twice, counted from the rows themselves."""
    window = recent_window(warehouse)
    if window is None:
        return _no_trades_yet()
    repeated = warehouse.read(
        f"SELECT symbol, trade_id, count(*) AS copies FROM {RAW_TICKS.name} WHERE trade_time >= ? AND trade_time < ? "
        "GROUP BY ALL HAVING count(*) > 1",
        [window.start, window.end],
    )
    return _finding(repeated, "trade ids are stored more than once", "Every trade id is stored once.")


def trade_ids_are_consecutive(warehouse: Warehouse, now: datetime) -> Finding:
    """No trade is missing between a symbol's first and last one; gaps younger than a minute are still being filled."""
    open_gaps = warehouse.read(
        f"SELECT symbol, first_missing_id, last_missing_id FROM {TRADE_ID_GAPS.name} "
        "WHERE closed_at IS NULL AND noticed_at <= ? ORDER BY noticed_at",
        [now - GAP_GRACE],
    )
    missing = int((open_gaps["last_missing_id"] - open_gaps["first_missing_id"] + 1).sum())
    found = _finding(open_gaps, f"gaps, {missing} trades, are open", "No trade id is missing.")
    return Finding(found.passed, found.sentence, {**found.counts, "missing_trades": missing})


def ranges_match_the_ticks(warehouse: Warehouse) -> Finding:
    """The ranges of stored ids, which prove completeness, say the same as the ticks themselves."""
    window = recent_window(warehouse)
    if window is None:
        return _no_trades_yet()
    strays = warehouse.read(
        f"SELECT t.symbol, t.trade_id FROM {RAW_TICKS.name} t WHERE trade_time >= ? AND trade_time < ? AND NOT EXISTS "
        f"(SELECT 1 FROM {TRADE_ID_RANGES.name} r WHERE r.symbol = t.symbol "
        "AND t.trade_id BETWEEN r.first_id AND r.last_id)",
        [window.start, window.end],
    )
    return _finding(strays, "ticks lie outside the recorded ranges", "Ranges and ticks agree.")


def bars_are_consistent(warehouse: Warehouse) -> Finding:
    """Low is at most open and close, high at least; nothing is negative; a bar's parts do not exceed the whole."""
    window = recent_window(warehouse)
    if window is None:
        return _no_trades_yet()
    broken = warehouse.read(
        f"SELECT symbol, bar_interval, bar_start FROM {OHLC_BARS.name} WHERE bar_start >= ? AND bar_start < ? AND NOT ("
        "low <= least(open, close) AND high >= greatest(open, close) AND low > 0 AND volume >= taker_buy_volume "
        "AND taker_buy_volume >= 0 AND tick_count >= 1 AND trade_count >= tick_count AND first_tick_id <= last_tick_id)",
        [window.start, window.end],
    )
    return _finding(broken, "bars contradict themselves", "Every bar is consistent.")


@dataclass(frozen=True)
class Made:
    """The day whose bars the asking run has made, and when it began to: what was recorded later may still be stale."""

    day: Window
    began: datetime


def bars_add_up_to_the_ticks(warehouse: Warehouse, made: Made | None = None) -> Finding:
    """Volume, quote volume and trade counts of each interval add up to those of the ticks.

    Each day is compared up to its first tick that still awaits its bars.
    """
    window = recent_window(warehouse)
    if window is None:
        return _no_trades_yet()
    days = {window.start, window.start + timedelta(days=1), *([made.day.start] if made else [])}
    with warehouse.reading() as connection:
        connection.begin()  # a live run goes on storing: what is stale and what is stored must be of one moment
        snapshot = Transaction(connection)
        stretches = [_settled(snapshot, day_window(start.date()), made) for start in sorted(days)]
        differing = [_sums_that_differ(snapshot, each) for each in stretches if each.end > each.start]
    if not differing:
        return Finding(True, "Every recent day has ticks that await their bars; there is nothing to compare yet.")
    return _finding(pl.concat(differing), "sums of bars differ from the ticks", "Bars add up to the ticks.")


def _settled(snapshot: Transaction, day: Window, made: Made | None) -> Window:
    """Return the whole minutes of a day before its first tick that awaits its bars."""
    recorded_after = made.began if made is not None and made.day == day else EPOCH
    return Window(day.start, floor(first_stale(snapshot, day, recorded_after), _SHORTEST_COMPARED))


def _sums_that_differ(snapshot: Transaction, stretch: Window) -> pl.DataFrame:
    """Return symbol and interval of those whole bars of a stretch (from midnight on) whose sums are not the ticks'."""
    whole = {name: floor(stretch.end, max(length, _SHORTEST_COMPARED)) for name, length in BAR_INTERVALS.items()}
    return snapshot.query(
        f"""
        WITH compared AS (
            SELECT unnest($intervals) AS bar_interval, unnest($untils)::TIMESTAMP AS until
        ), minutes AS (
            SELECT symbol, time_bucket(INTERVAL '1 minute', trade_time) AS minute,
                   sum(quantity) AS volume, sum(price * quantity) AS quote_volume,
                   sum(last_trade_id - first_trade_id + 1) AS trades, count(*) AS tick_count
            FROM {RAW_TICKS.name} WHERE trade_time >= $start AND trade_time < $end GROUP BY ALL
        ), expected AS (
            SELECT symbol, bar_interval, sum(volume) AS volume, sum(quote_volume) AS quote_volume,
                   sum(trades) AS trades, sum(tick_count) AS tick_count
            FROM minutes JOIN compared ON minute < until GROUP BY ALL
        ), bars AS (
            SELECT symbol, bar_interval, sum(volume) AS volume, sum(quote_volume) AS quote_volume,
                   sum(trade_count) AS trades, sum(tick_count) AS tick_count
            FROM {OHLC_BARS.name} JOIN compared USING (bar_interval)
            WHERE bar_start >= $start AND bar_start < until GROUP BY ALL
        )
        SELECT expected.symbol, expected.bar_interval FROM expected LEFT JOIN bars USING (symbol, bar_interval)
        WHERE bars.volume IS DISTINCT FROM expected.volume
           OR bars.quote_volume IS DISTINCT FROM expected.quote_volume
           OR bars.trades IS DISTINCT FROM expected.trades
           OR bars.tick_count IS DISTINCT FROM expected.tick_count
        """,
        {"start": stretch.start, "end": stretch.end, "intervals": list(whole), "untils": list(whole.values())},
    )


def bars_equal_the_exchanges_klines(warehouse: Warehouse, rest: BinanceRest, made: Made | None = None) -> Finding:
    """The closed minutes of the last two UTC days equal the exchange's own klines to the last digit.

    They are compared up to the first tick that still awaits its bars. Minutes that differ are named, and their trades
    are fetched again at once; the next run shows whether that helped.
    """
    window = recent_window(warehouse)
    watermark = market_watermark(warehouse)
    if window is None or watermark is None:
        return _no_trades_yet()
    with warehouse.reading() as connection:
        yesterday, today = (
            _settled(Transaction(connection), day_window(start.date()), made)
            for start in (window.start, window.start + timedelta(days=1))
        )
    settled = today.end if yesterday.end == today.start else yesterday.end
    until = min(settled, floor(watermark - KLINE_GRACE, timedelta(minutes=1)))
    closed = Window(window.start, max(window.start, until))
    symbols = warehouse.read(f"SELECT DISTINCT symbol FROM {TRADE_ID_RANGES.name} ORDER BY symbol")["symbol"].to_list()
    try:
        comparison = compare_with_klines(warehouse, rest, closed, symbols)
        for symbol, stretches in comparison.windows_to_repair().items():
            for stretch in stretches:
                refetch_window(warehouse, symbol, stretch, rest)
    except ExchangeError as error:
        return Finding(False, f"The klines could not be compared: {error}")
    counts: dict[str, int | float | str] = {
        "minutes_compared": comparison.minutes_compared,
        "values_that_differ": len(comparison.mismatches),
    }
    if comparison.is_equal:
        return Finding(True, f"{comparison.minutes_compared} minutes equal the exchange's klines.", counts)
    named = "; ".join(str(mismatch) for mismatch in comparison.mismatches[:_SHOWN])
    return Finding(
        False, f"{len(comparison.mismatches)} values differ, their minutes were fetched again: {named}", counts
    )


def no_bar_lies_in_the_future(warehouse: Warehouse, now: datetime) -> Finding:
    """No bar starts later than this machine's clock allows."""
    future = warehouse.read(
        f"SELECT symbol, bar_interval, bar_start FROM {OHLC_BARS.name} WHERE bar_start > ?",
        [now + timedelta(seconds=5)],
    )
    return _finding(future, "bars start in the future; check the clocks", "No bar lies in the future.")


def features_are_finite(warehouse: Warehouse) -> Finding:
    """A feature is a number or null (warm-up), never infinite or NaN."""
    window = recent_window(warehouse)
    if window is None:
        return _no_trades_yet()
    doubles = [column.name for column in FEATURES.columns if column.type is ColumnType.DOUBLE]
    infinite = " OR ".join(f"isnan({name}) OR isinf({name})" for name in doubles)
    broken = warehouse.read(
        f"SELECT symbol, bar_interval, bar_start FROM {FEATURES.name} "
        f"WHERE bar_start >= ? AND bar_start < ? AND ({infinite})",
        [window.start, window.end],
    )
    return _finding(broken, "rows hold a feature that is not finite", "Every feature is finite or null.")


def every_alert_has_a_delivery(warehouse: Warehouse, now: datetime) -> Finding:
    """Each alert that is a minute old has an attempt on record, and none was given up."""
    waiting = warehouse.read(
        f"SELECT alert_id, rule, symbol FROM {ALERTS.name} WHERE raised_at <= ? AND retracted_at IS NULL "
        f"AND alert_id NOT IN (SELECT alert_id FROM {ALERT_DELIVERIES.name})",
        [now - DELIVERY_GRACE],
    )
    given_up = warehouse.read(
        f"SELECT alert_id, route, reason FROM {ALERT_DELIVERIES.name} WHERE outcome = 'given_up' AND attempted_at >= ?",
        [now - timedelta(days=1)],
    )
    if given_up.height:
        return _finding(given_up, "deliveries were given up within the last day", "")
    return _finding(waiting, "alerts were not sent within a minute", "Every alert was sent.")


def no_route_is_stopped(warehouse: Warehouse) -> Finding:
    """Discord accepts us on every route; after a 401, 403 or 404 a route is only tried once an hour."""
    stopped = stopped_routes(warehouse)
    if not stopped:
        return Finding(True, "Discord accepts us on every route.", {"stopped_routes": 0})
    words = "; ".join(f"{route}: {reason}" for route, reason in stopped.items())
    remedy = "Set the right address or token, then see that `cryptotrace alerts test` delivers."
    return Finding(False, f"{words}. {remedy}", {"stopped_routes": len(stopped)})


def ticks_are_fresh(warehouse: Warehouse, now: datetime) -> Finding:
    """The newest trades were received within the last minutes; older ones, as a backfill brings them, do not count."""
    newest = warehouse.read(
        f"SELECT max(received_at) FROM {RAW_TICKS.name} WHERE trade_time >= {NEWEST_TRADE_TIME} - INTERVAL 1 MINUTE"
    ).item()
    if newest is None:
        return Finding(False, "There is no trade yet: is the feed running, and can it reach the exchange?")
    age = (now - newest).total_seconds()
    sentence = f"The newest trade was received {age:.0f} s ago."
    return Finding(age <= FRESH_WITHIN.total_seconds(), sentence, {"age_seconds": age})


def _finding(offenders: pl.DataFrame, complaint: str, praise: str) -> Finding:
    if offenders.is_empty():
        return Finding(True, praise, {"offenders": 0})
    first = "; ".join(" ".join(str(value) for value in row) for row in offenders.head(_SHOWN).iter_rows())
    return Finding(False, f"{offenders.height} {complaint}: {first}", {"offenders": offenders.height})


def _no_trades_yet() -> Finding:
    return Finding(True, "There is no trade yet, so nothing contradicts.")
