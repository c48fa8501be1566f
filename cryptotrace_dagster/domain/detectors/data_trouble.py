"""Data trouble: a symbol that falls silent while others trade, and a price that no longer changes while it trades.

Both are judged by the symbol's own habits: a coin that trades once an hour is not silent after ten minutes. Holes in the
trade ids are known exactly and need no score (`trade_id_gaps`); a clock that is off shows in the feed's latency.
"""

from dataclasses import asdict
from typing import Any

import numpy as np
import polars as pl

from cryptotrace_dagster.domain.calibration import Tail, TailPrior, advance_tail
from cryptotrace_dagster.domain.detectors.base import SCORE_SCHEMA, State, epoch_seconds, score_frame
from cryptotrace_dagster.domain.features import SLOW_INTERVAL

PRIOR = TailPrior(scale=0.7)


class SilenceDetector:
    """Scores how long a symbol has been silent while others traded, as ln(minutes)."""

    name = "data_silence"
    version = 1
    bar_interval = SLOW_INTERVAL
    over_market = True

    def begin(self) -> State:
        """Return the state before any bar."""
        return {"symbols": {}}

    def advance(self, state: State, bars: pl.DataFrame) -> tuple[State, pl.DataFrame]:
        """Return the state after these 1-minute bars of all symbols, and the scores of those that are silent."""
        if bars.is_empty():
            return state, pl.DataFrame(schema=SCORE_SCHEMA)
        minutes = bars.select("bar_start").unique().sort("bar_start")
        seconds = epoch_seconds(minutes)
        by_symbol = {key[0]: epoch_seconds(part) for key, part in bars.partition_by("symbol", as_dict=True).items()}
        after, scores = {}, [pl.DataFrame(schema=SCORE_SCHEMA)]
        for symbol in sorted({*state["symbols"], *by_symbol}):
            known: dict[str, Any] = state["symbols"].get(symbol, {"last": None, "tail": asdict(Tail())})
            traded = by_symbol.get(symbol, np.empty(0, dtype=np.int64))
            last = np.where(np.isin(seconds, traded), seconds, -1)
            last = np.maximum.accumulate(np.append(-1 if known["last"] is None else known["last"], last))[1:]
            is_known = last >= 0
            raw = np.where(is_known, np.log1p((seconds - last) / 60), np.nan)
            tail, times_a_day = advance_tail(Tail(**known["tail"]), seconds // 3600, raw, PRIOR)
            after[symbol] = {"last": int(last[-1]) if is_known[-1] else None, "tail": asdict(tail)}
            rows = minutes.with_columns(pl.lit(symbol).alias("symbol"))
            scores.append(score_frame(rows, raw, times_a_day, {"silent_minutes": (seconds - last) / 60}))
        return {"symbols": after}, pl.concat(scores).sort("bar_start", "symbol")


class StalePriceDetector:
    """Scores over how many trades the price has not changed from one traded minute to the next, as ln(trades)."""

    name = "data_stale_price"
    version = 1
    bar_interval = SLOW_INTERVAL
    over_market = False

    def begin(self) -> State:
        """Return the state before any bar."""
        return {"close": None, "trades": 0, "tail": asdict(Tail())}

    def advance(self, state: State, bars: pl.DataFrame) -> tuple[State, pl.DataFrame]:
        """Return the state after these 1-minute bars of one symbol, and their scores."""
        if bars.is_empty():
            return state, pl.DataFrame(schema=SCORE_SCHEMA)
        close, trades = state["close"], int(state["trades"])
        unchanged = np.zeros(bars.height)
        rows = zip(bars["close"].to_list(), bars["log_range"].to_list(), bars["tick_count"].to_list(), strict=True)
        for index, (price, log_range, ticks) in enumerate(rows):
            trades = trades + ticks if price == close and log_range == 0 else 0
            close, unchanged[index] = price, trades
        raw = np.log1p(unchanged)
        tail, times_a_day = advance_tail(Tail(**state["tail"]), epoch_seconds(bars) // 3600, raw, PRIOR)
        scores = score_frame(bars, raw, times_a_day, {"trades_at_one_price": unchanged})
        return {"close": close, "trades": trades, "tail": asdict(tail)}, scores
