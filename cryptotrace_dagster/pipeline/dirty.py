"""The memory of what is stale: recorded in the transaction that stores ticks, cleared when all that follows is made.

A run may be killed between storing ticks and making their bars; the next one finds here what is still to be made.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from cryptotrace_dagster.domain.windows import EPOCH, Window, day_window, floor, merged, utc_now
from cryptotrace_dagster.storage import Transaction, Warehouse
from cryptotrace_dagster.tables import DIRTY_WINDOWS, NEWEST_TRADE_TIME

ALLOWED_LATENESS = timedelta(milliseconds=500)
LONGEST_SCORED_BAR = timedelta(minutes=1)
_DAY = timedelta(days=1)


def record_dirty(transaction: Transaction, windows: list[Window]) -> None:
    """Remember the windows as stale, cut at midnight so that each belongs to one day.

    The instant is taken here, while the writer's lock is held: see `clear_dirty`.
    """
    now = utc_now()
    rows = [(part.start, part.end, now) for window in windows for part in cut_by_day(window)]
    transaction.append(DIRTY_WINDOWS, pl.DataFrame(rows, schema=DIRTY_WINDOWS.polars_schema, orient="row"))


def pending_dirty(warehouse: Warehouse) -> list[Window]:
    """Return the stale windows, merged, in order."""
    rows = warehouse.read(f"SELECT DISTINCT window_start, window_end FROM {DIRTY_WINDOWS.name}")
    return merged(Window(start, end) for start, end in rows.iter_rows())


def first_stale(transaction: Transaction, day: Window, recorded_after: datetime = EPOCH) -> datetime:
    """Return where the first stale window of a day begins, of those recorded later than an instant; else its end."""
    first: datetime | None = transaction.query(
        f"SELECT min(window_start) FROM {DIRTY_WINDOWS.name} WHERE window_start >= ? AND window_start < ? "
        "AND recorded_at > ?",
        [day.start, day.end, recorded_after],
    ).item()
    return first or day.end


@dataclass(frozen=True)
class Remade:
    """A window whose bars, features, scores and alerts were made anew, for all ticks recorded until then.

    `recorded_until` lies before the first transaction of that work. Whoever recorded ticks by then held the writer's
    lock, so that transaction waited for them and saw them; whatever came later is still stale.
    """

    window: Window
    recorded_until: datetime

    def is_closed_by(self, watermark: datetime) -> bool:
        """Return whether the bars of the window are all closed; before that its last ones are still to be scored."""
        return self.window.end <= closed_until(watermark)


def closed_until(watermark: datetime) -> datetime:
    """Return the instant before which every bar that is scored is closed."""
    return floor(watermark, LONGEST_SCORED_BAR)


def clear_dirty(transaction: Transaction, remade: Sequence[Remade]) -> int:
    """Forget the stale windows that lie inside those made anew, and return their number."""
    if not remade:
        return 0
    rows = [(each.window.start, each.window.end, each.recorded_until) for each in remade]
    return transaction.execute(
        f"DELETE FROM {DIRTY_WINDOWS.name} AS stale WHERE EXISTS (SELECT 1 FROM remade WHERE "
        "stale.window_start >= remade.window_start AND stale.window_end <= remade.window_end "
        "AND stale.recorded_at <= remade.recorded_at)",
        remade=pl.DataFrame(rows, schema=DIRTY_WINDOWS.polars_schema, orient="row"),
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
    latest = warehouse.read(f"SELECT {NEWEST_TRADE_TIME}").item()
    return None if latest is None else latest - ALLOWED_LATENESS


def until_newest_trade(warehouse: Warehouse, day: Window) -> Window:
    """Return the part of a day that the market has seen; of a minute that is not over yet, no feature may be made."""
    watermark = market_watermark(warehouse)
    newest = day.start if watermark is None else watermark + ALLOWED_LATENESS + timedelta(microseconds=1)
    return Window(day.start, min(day.end, max(day.start, newest)))
