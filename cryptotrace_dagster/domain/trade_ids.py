"""Trade ids as sets of ranges: what is stored, what is new, what is missing.

The exchange numbers each symbol's aggregate trades without holes, so a handful of ranges a symbol says exactly which
trades are stored. New trades are told from repeats, and gaps are found, without looking at the ticks themselves.
"""

import polars as pl

from cryptotrace_dagster.tables import TRADE_ID_RANGES


def ranges_of(ticks: pl.DataFrame) -> pl.DataFrame:
    """Return the ranges (a `trade_id_ranges` frame) that the ids of a `raw_ticks` frame form, in any order of rows."""
    is_next = (pl.col("symbol") == pl.col("symbol").shift(1)) & (pl.col("trade_id") == pl.col("trade_id").shift(1) + 1)
    streaks = (
        ticks.select("symbol", "trade_id", "trade_time", streak=(~is_next).fill_null(True).cum_sum())
        .group_by("streak")
        .agg(
            pl.col("symbol").first(),
            first_id=pl.col("trade_id").first(),
            last_id=pl.col("trade_id").last(),
            first_trade_time=pl.col("trade_time").min(),
            last_trade_time=pl.col("trade_time").max(),
        )
        .select(TRADE_ID_RANGES.column_names)
    )
    return union(streaks)


def union(*ranges: pl.DataFrame) -> pl.DataFrame:
    """Return the union of sets of ranges: disjoint, not even touching, in key order."""
    together = pl.concat(ranges).sort("symbol", "first_id")
    reached_before = pl.col("last_id").cum_max().shift(1).over("symbol")
    starts_run = (pl.col("first_id") > reached_before + 1).fill_null(True)
    return (
        together.with_columns(run=starts_run.cum_sum().over("symbol"))
        .group_by("symbol", "run", maintain_order=True)
        .agg(
            pl.col("first_id").min(),
            pl.col("last_id").max(),
            pl.col("first_trade_time").min(),
            pl.col("last_trade_time").max(),
        )
        .select(TRADE_ID_RANGES.column_names)
    )


def unseen(ticks: pl.DataFrame, stored: pl.DataFrame) -> pl.DataFrame:
    """Return the ticks whose ids lie in none of the stored ranges, each id once, sorted by symbol and id.

    Where a batch holds the same id twice, the first one received stays: it is the one whose latency is true.
    """
    single = _single(ticks)
    oldest = single.group_by("symbol").agg(pl.col("trade_id").min())
    newest_stored = stored.group_by("symbol").agg(pl.col("last_id").max())
    if oldest.join(newest_stored, on="symbol").filter(pl.col("trade_id") <= pl.col("last_id")).is_empty():
        return single  # the usual case: all are newer than what is stored
    bounds = stored.select("symbol", "first_id", "last_id").sort("symbol", "first_id")
    located = single.join_asof(
        bounds, left_on="trade_id", right_on="first_id", by="symbol", strategy="backward", check_sortedness=False
    )
    is_new = pl.col("last_id").is_null() | (pl.col("trade_id") > pl.col("last_id"))
    return located.filter(is_new).select(ticks.columns)


def _single(ticks: pl.DataFrame) -> pl.DataFrame:
    """Return the ticks with each id once, the first one received, sorted by symbol and id."""
    parts = ticks.partition_by("symbol", as_dict=True)
    by_symbol = pl.concat([ticks.clear(), *(parts[symbol] for symbol in sorted(parts))], rechunk=True)
    # A topic brings each symbol's trades in order, so there is seldom anything to sort.
    is_ascending = (pl.col("symbol") != pl.col("symbol").shift(1)) | (pl.col("trade_id") > pl.col("trade_id").shift(1))
    if by_symbol.select(is_ascending.fill_null(True).all()).item():
        return by_symbol
    return by_symbol.sort("symbol", "trade_id", "received_at").unique(
        subset=["symbol", "trade_id"], keep="first", maintain_order=True
    )


def gaps_in(ranges: pl.DataFrame) -> pl.DataFrame:
    """Return the holes between a symbol's ranges.

    Columns: symbol, first_missing_id, last_missing_id, gap_start and gap_end (the trades on either side).
    """
    return (
        ranges.sort("symbol", "first_id")
        .with_columns(
            next_first_id=pl.col("first_id").shift(-1).over("symbol"),
            next_trade_time=pl.col("first_trade_time").shift(-1).over("symbol"),
        )
        .filter(pl.col("next_first_id").is_not_null())
        .select(
            "symbol",
            first_missing_id=pl.col("last_id") + 1,
            last_missing_id=pl.col("next_first_id") - 1,
            gap_start=pl.col("last_trade_time"),
            gap_end=pl.col("next_trade_time"),
        )
    )
