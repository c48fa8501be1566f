"""The memory of what is stale: recorded in the transaction that stores ticks, cleared when all that follows is made.

A run may be killed between storing ticks and making their bars; the next one finds here what is still to be made.
"""

from datetime import datetime, timedelta

import polars as pl

from cryptotrace_dagster.domain.windows import Window, day_window, floor, merged
from cryptotrace_dagster.storage import Transaction, Warehouse
from cryptotrace_dagster.tables import DIRTY_WINDOWS, TRADE_ID_RANGES

ALLOWED_LATENESS = timedelta(milliseconds=500)
_DAY = timedelta(days=1)


def record_dirty(transaction: Transaction, windows: list[Window], now: datetime) -> None:
    """Remember the windows as stale, cut at midnight so that each belongs to one day."""
    rows = [(part.start, part.end, now) for window in windows for part in cut_by_day(window)]
    transaction.append(DIRTY_WINDOWS, pl.DataFrame(rows, schema=DIRTY_WINDOWS.polars_schema, orient="row"))


def pending_dirty(warehouse: Warehouse) -> list[Window]:
    """Return the stale windows, merged, in order."""
    rows = warehouse.read(f"SELECT DISTINCT window_start, window_end FROM {DIRTY_WINDOWS.name}")
    return merged(Window(start, end) for start, end in rows.iter_rows())


def clear_dirty(transaction: Transaction, inside: Window, recorded_until: datetime) -> int:
    """Forget the stale windows that start in `inside` and were recorded by then; return their number."""
    return transaction.execute(
        f"DELETE FROM {DIRTY_WINDOWS.name} WHERE window_start >= ? AND window_start < ? AND recorded_at <= ?",
        [inside.start, inside.end, recorded_until],
    )


def cut_by_day(window: Window) -> list[Window]:
    """Return the window as pieces that each lie within one UTC day."""
    pieces = []
    day = floor(window.start, _DAY)
    while day < window.end:
        pieces.append(Window(max(window.start, day), min(window.end, day + _DAY)))
        day += _DAY
    return pieces


def dirty_days(warehouse: Warehouse) -> list[Window]:
    """Return the UTC days, as whole windows, in which something is stale."""
    return [day_window(day.date()) for day in sorted({floor(w.start, _DAY) for w in pending_dirty(warehouse)})]


def market_watermark(warehouse: Warehouse) -> datetime | None:
    """Return the largest trade time stored, less the allowed lateness; None before the first trade."""
    latest = warehouse.read(f"SELECT max(last_trade_time) AS latest FROM {TRADE_ID_RANGES.name}").item()
    return None if latest is None else latest - ALLOWED_LATENESS
