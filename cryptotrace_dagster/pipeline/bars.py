"""The stage that makes `ohlc_bars` from `raw_ticks` for a window."""

from cryptotrace_dagster.domain.bars import BAR_INTERVALS, bar_statements
from cryptotrace_dagster.domain.windows import Window
from cryptotrace_dagster.pipeline.report import StageReport
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.tables import OHLC_BARS


def refresh_bars(warehouse: Warehouse, window: Window) -> StageReport:
    """Make the bars of all intervals that touch the window anew, in one transaction, and return how many."""
    rows = 0
    with warehouse.transaction() as transaction:
        for interval, statement in bar_statements().items():
            whole = window.widened_to(BAR_INTERVALS[interval])
            bounds = {"start": whole.start, "end": whole.end}
            transaction.execute(
                f"DELETE FROM {OHLC_BARS.name} "
                "WHERE bar_interval = $interval AND bar_start >= $start AND bar_start < $end",
                bounds | {"interval": interval},
            )
            rows += transaction.execute(statement, bounds)
    return StageReport(OHLC_BARS.name, window, rows)
