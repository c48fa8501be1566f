"""The picture of a day's scores: candles of the symbol with the strangest one, its strange moments marked.

Owns which symbol and which moments. Stays out: drawing (notify/chart.py) and where the picture is shown (the assets).
"""

from dataclasses import dataclass
from datetime import timedelta

import polars as pl

from cryptotrace_dagster.domain.windows import Window
from cryptotrace_dagster.notify.chart import candle_chart
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.tables import ANOMALY_SCORES, OHLC_BARS

CANDLE_INTERVAL, CANDLE_LENGTH = "15m", timedelta(minutes=15)
SEVERITY_FROM = ((2.0, "critical"), (1.0, "warning"), (0.0, "info"))  # as the dashboard's states: 100, 10 days, daily
MOST_MARKS = 24
LONGEST_TOLD_DAYS = 3650  # beyond, a rate from a week's history says only "never seen"


@dataclass(frozen=True)
class ScoreChart:
    """A small PNG, and what it shows in words."""

    png: bytes
    caption: str


def strangest_of(warehouse: Warehouse, window: Window) -> ScoreChart | None:
    """Return the chart of the symbol that was strangest within the window; None where nothing came rarer than daily."""
    scores = warehouse.read(
        f"SELECT symbol, detector, bar_start, score FROM {ANOMALY_SCORES.name} "
        "WHERE bar_start >= ? AND bar_start < ? AND score >= 0 "
        f"AND symbol IN (SELECT symbol FROM {OHLC_BARS.name} "
        f"WHERE bar_interval = '{CANDLE_INTERVAL}' AND bar_start >= ? AND bar_start < ?) "
        "ORDER BY score DESC, bar_start, symbol, detector",
        [window.start, window.end, window.start, window.end],
    )
    if scores.is_empty():
        return None
    strangest = scores.row(0, named=True)
    candles = warehouse.read_window(OHLC_BARS, window, bar_interval=CANDLE_INTERVAL, symbol=strangest["symbol"])
    prices = ("open", "high", "low", "close")
    drawn = candles.select(
        pl.col("bar_start").alias("start"),
        *(pl.col(name).cast(pl.Float64) for name in prices),
        pl.col("quote_volume").cast(pl.Float64).alias("volume"),
    )
    own = scores.filter(pl.col("symbol") == strangest["symbol"])
    moments = own.with_columns(pl.col("bar_start").dt.truncate(CANDLE_INTERVAL)).unique(
        "bar_start", maintain_order=True
    )
    marks = [(start, _severity(score)) for start, score in moments.head(MOST_MARKS).select("bar_start", "score").rows()]
    title = f"{strangest['symbol']}, candles of 15 minutes, {window.start:%d %b %Y}"
    seconds = int(CANDLE_LENGTH.total_seconds())
    png = candle_chart(drawn, title, moments["bar_start"][0], seconds, strange=marks)
    days = 10 ** strangest["score"]
    how_often = f"once in {days:,.1f} days" if days < LONGEST_TOLD_DAYS else "never"
    return ScoreChart(
        png,
        f"{strangest['symbol']} at {strangest['bar_start']:%H:%M:%S} UTC: `{strangest['detector']}` saw what comes about "
        f"{how_often}. Marked: rarer than daily (disc), once in ten days (triangle), in a hundred (diamond).",
    )


def _severity(score: float) -> str:
    return next(severity for least, severity in SEVERITY_FROM if score >= least)
