"""The stage that makes `ohlc_bars` from `raw_ticks` for a window."""

from datetime import timedelta

import polars as pl

from cryptotrace_dagster.domain.bars import BAR_INTERVALS, bar_statements
from cryptotrace_dagster.domain.windows import Window
from cryptotrace_dagster.pipeline.report import StageReport
from cryptotrace_dagster.storage import Transaction, Warehouse
from cryptotrace_dagster.tables import NEWEST_TRADE_TIME, OHLC_BARS, RAW_TICKS

_DAY = timedelta(days=1)


def refresh_bars(warehouse: Warehouse, window: Window) -> StageReport:
    """Make the bars of all intervals that touch the window anew, in one transaction, and return how many.

    Of a day that lies so far back that retention may have taken its one-second bars, the whole day is made from its
    ticks; where it has taken the ticks too, the bars stay as they are.
    """
    rows = 0
    with warehouse.transaction() as transaction:
        remade, kept = window, OHLC_BARS.empty()
        if _may_be_thinned_out(transaction, window):
            remade = window.widened_to(_DAY)
            kept = _bars_whose_ticks_are_gone(transaction, remade)
        for interval, statement in bar_statements().items():
            whole = remade.widened_to(BAR_INTERVALS[interval])
            bounds = {"start": whole.start, "end": whole.end}
            transaction.execute(
                f"DELETE FROM {OHLC_BARS.name} "
                "WHERE bar_interval = $interval AND bar_start >= $start AND bar_start < $end",
                bounds | {"interval": interval},
            )
            rows += transaction.execute(statement, bounds)
        if kept.height:
            transaction.replace_window(OHLC_BARS, remade, kept, symbol=kept["symbol"].unique().to_list())
    return StageReport(OHLC_BARS.name, window, rows, {"kept": kept.height} if kept.height else {})


def _may_be_thinned_out(transaction: Transaction, window: Window) -> bool:
    newest = transaction.query(f"SELECT {NEWEST_TRADE_TIME}").item()
    return newest is not None and window.end < newest - _DAY


def _bars_whose_ticks_are_gone(transaction: Transaction, days: Window) -> pl.DataFrame:
    """Return the stored bars of the symbols that have fewer ticks in one of the days than its bar was made of."""
    return transaction.query(
        f"""
        WITH ticks AS (
            SELECT symbol, time_bucket(INTERVAL '1 day', trade_time) AS bar_start, count(*) AS ticks
            FROM {RAW_TICKS.name} WHERE trade_time >= $start AND trade_time < $end GROUP BY ALL
        ), thinned AS (
            SELECT symbol FROM {OHLC_BARS.name} LEFT JOIN ticks USING (symbol, bar_start)
            WHERE bar_interval = '1d' AND bar_start >= $start AND bar_start < $end AND coalesce(ticks, 0) < tick_count
        )
        SELECT {", ".join(OHLC_BARS.column_names)} FROM {OHLC_BARS.name}
        WHERE bar_start >= $start AND bar_start < $end AND symbol IN (SELECT symbol FROM thinned)
        """,
        {"start": days.start, "end": days.end},
    )
