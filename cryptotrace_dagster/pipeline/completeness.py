"""How complete the stored trades are, by symbol and day: the question that consecutive trade ids can answer.

Owns the query that the dashboard's calendar and Dagster's metadata share, and its table in Markdown.
"""

import polars as pl

from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.tables import NEWEST_TRADE_TIME, OHLC_BARS, TRADE_ID_GAPS

SHOWN_DAYS = 7
SHOWN_SYMBOLS = 25  # an entry of Dagster's event log stays small

# Per symbol and UTC day with stored trades, of so many days: the trades missing in gaps that are still open. A gap counts
# for each day it touches.
MISSING_BY_DAY_QUERY = f"""
    WITH stored AS (
        SELECT DISTINCT symbol, bar_start::DATE AS day FROM {OHLC_BARS.name}
        WHERE bar_interval = '1h' AND bar_start > {NEWEST_TRADE_TIME} - to_days(?)
    )
    SELECT stored.symbol, stored.day, coalesce(sum(last_missing_id - first_missing_id + 1), 0)::BIGINT AS missing_trades
    FROM stored LEFT JOIN {TRADE_ID_GAPS.name} AS gaps ON gaps.symbol = stored.symbol AND gaps.closed_at IS NULL
        AND stored.day BETWEEN gaps.gap_start::DATE AND gaps.gap_end::DATE
    GROUP BY ALL ORDER BY stored.symbol, stored.day
"""


def completeness_table(warehouse: Warehouse) -> str | None:
    """Return symbols by days in Markdown, those with most missing trades first; None where no bar is stored yet."""
    missing = warehouse.read(MISSING_BY_DAY_QUERY, [SHOWN_DAYS])
    if missing.is_empty():
        return None
    worst = missing.group_by("symbol").agg(pl.col("missing_trades").sum()).sort("missing_trades", descending=True)
    shown = worst.sort(["missing_trades", "symbol"], descending=[True, False]).head(SHOWN_SYMBOLS)["symbol"].to_list()
    days = missing["day"].unique().sort().to_list()
    counts = {(symbol, day): count for symbol, day, count in missing.iter_rows()}
    lines = [f"| symbol | {' | '.join(f'{day:%d %b}' for day in days)} |", "|---" * (len(days) + 1) + "|"]
    lines += [f"| {symbol} | {' | '.join(_cell(counts.get((symbol, day))) for day in days)} |" for symbol in shown]
    if worst.height > len(shown):
        lines += ["", f"{worst.height - len(shown)} more symbols miss no more than these."]
    return "\n".join(lines)


def _cell(missing: int | None) -> str:
    if missing is None:
        return "-"
    return "✓" if missing == 0 else f"{missing:,} missing"
