"""Trying rules over stored history: what would have rung, decided by the code that decides live. Nothing is stored.

Owns the bounds of a trial, so that a person who plays with a rule never keeps ingestion waiting.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from cryptotrace_dagster.domain.alerting import alerts_of
from cryptotrace_dagster.domain.rules import RuleBook
from cryptotrace_dagster.domain.signals import DECISION_INTERVAL
from cryptotrace_dagster.domain.windows import Window
from cryptotrace_dagster.pipeline.alerts import read_market
from cryptotrace_dagster.pipeline.dirty import ALLOWED_LATENESS
from cryptotrace_dagster.storage import Warehouse

LONGEST_TRIAL = timedelta(days=1)  # five symbols have half a million bars of one second in it


@dataclass(frozen=True)
class Trial:
    """What rules would have rung in a window: rows of `alerts`, but none that ends an event, and how many a day that makes."""

    window: Window
    alerts: pl.DataFrame

    @property
    def alerts_a_day(self) -> float:
        """Return the rate of alerts in the window."""
        days = (self.window.end - self.window.start) / timedelta(days=1)
        return self.alerts.height / days if days else 0.0


def try_rules(warehouse: Warehouse, book: RuleBook, end: datetime, span: timedelta) -> Trial:
    """Return what the rules would have rung in the last `span` (at most a day) before `end`, as far as bars reach back."""
    window = Window(end - min(span, LONGEST_TRIAL), end)
    with warehouse.reading() as connection:
        market = read_market(connection, book, window)
    # Longer bars, there for records, begin before the first trade: the rate would count hours that nobody watched.
    earliest = market.bars.filter(pl.col("bar_interval") == DECISION_INTERVAL)["bar_start"].min()
    if isinstance(earliest, datetime):
        window = Window(min(max(window.start, earliest), end), end)
    rung = alerts_of(book, market, until=end, lateness=ALLOWED_LATENESS, raised_at=end)
    return Trial(window, rung.filter((pl.col("available_at") >= window.start) & (pl.col("phase") != "end")))
