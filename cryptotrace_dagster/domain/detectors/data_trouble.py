"""Data trouble: a symbol that falls silent while others trade, a price that no longer changes, a clock that is off.

The first two are judged by the symbol's own habits: a coin that trades once an hour is not silent after ten minutes. So
is the third: what counts is a shift of each symbol's usual latency. Holes in the trade ids are known exactly and need no
score (`trade_id_gaps`).
"""

from dataclasses import asdict
from typing import Any

import numpy as np
import polars as pl
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from cryptotrace_dagster.domain.calibration import Tail, TailPrior, advance_tail
from cryptotrace_dagster.domain.detectors.base import SCORE_SCHEMA, State, epoch_seconds, score_frame
from cryptotrace_dagster.domain.features import SLOW_INTERVAL

PRIOR = TailPrior(scale=0.7)
CLOCK = "CLOCK"  # the symbol of scores about this machine's clock: there is one, so it is told once
USUAL_MINUTES = 60  # the usual latency is the median of so many minutes that came live
FEWEST_MINUTES = 10
SMALLEST_SHIFT = 0.01  # seconds; below it, all shifts are alike


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


class ClockSkewDetector:
    """Scores by how much trades arrive later or earlier than usual, as ln(1 + shift / 10 ms): the symbols' median.

    A minute's latency is its fastest trade's, which queues and repaired holes do not touch. It counts only when trades
    came at the pace of the market: from one traded minute to the next, the latency may have changed by at most half of the
    time between their last trades. An import, a backfill or a filled outage arrives all at once, so its latency falls by as
    much as the market's time goes on, and is no clock's fault. A step of the clock that is larger than that costs one
    minute and shows in the next.
    """

    name = "data_clock_skew"
    version = 1
    bar_interval = SLOW_INTERVAL
    over_market = True

    def begin(self) -> State:
        """Return the state before any bar."""
        return {"symbols": {}, "tail": asdict(Tail())}

    def advance(self, state: State, bars: pl.DataFrame) -> tuple[State, pl.DataFrame]:
        """Return the state after these 1-minute bars of all symbols, and the clock's scores (symbol `CLOCK`)."""
        known = bars.drop_nulls(["latency_seconds", "last_trade_second"]).sort("bar_start", "symbol")
        if known.is_empty():
            return state, pl.DataFrame(schema=SCORE_SCHEMA)
        symbols, shifts = dict(state["symbols"]), []
        for (symbol,), part in known.partition_by("symbol", as_dict=True, maintain_order=True).items():
            last_trades = epoch_seconds(part) + part["last_trade_second"].to_numpy()
            found, symbols[symbol] = _shifts(symbols.get(symbol), last_trades, part["latency_seconds"].to_numpy())
            shifts.append(part.select("bar_start", pl.Series("shift", found)))
        minutes = (
            pl.concat(shifts)
            .filter(pl.col("shift").is_finite())
            .group_by("bar_start")
            .agg(pl.col("shift").median())
            .sort("bar_start")
            .with_columns(pl.lit(CLOCK).alias("symbol"))
        )
        if minutes.is_empty():
            return state | {"symbols": symbols}, pl.DataFrame(schema=SCORE_SCHEMA)
        shift = minutes["shift"].to_numpy()
        raw = np.log1p(np.abs(shift) / SMALLEST_SHIFT)
        tail, times_a_day = advance_tail(Tail(**state["tail"]), epoch_seconds(minutes) // 3600, raw, PRIOR)
        scores = score_frame(minutes, raw, times_a_day, {"shift_seconds": shift})
        return {"symbols": symbols, "tail": asdict(tail)}, scores


def _shifts(
    before: dict[str, Any] | None, last_trades: NDArray[np.float64], latencies: NDArray[np.float64]
) -> tuple[NDArray[np.float64], dict[str, Any]]:
    """Return how far each minute's latency is from the symbol's usual one (NaN where not known), and the memory after."""
    recent = np.empty(0) if before is None else np.asarray(before["recent"])
    last, latency = (np.nan, np.nan) if before is None else (before["last"], before["latency"])
    apart = np.diff(last_trades, prepend=last)
    keeps_pace = (apart >= 1.0) & (np.abs(np.diff(latencies, prepend=latency)) <= apart / 2)
    history = np.concatenate([recent, latencies[keeps_pace]])
    usual = np.array([_usual(history, end) for end in range(len(recent), min(len(history), USUAL_MINUTES))])
    if len(history) > USUAL_MINUTES:
        whole = sliding_window_view(history[:-1], USUAL_MINUTES)
        usual = np.concatenate([usual, np.median(whole[max(0, len(recent) - USUAL_MINUTES) :], axis=1)])
    found = np.full(len(latencies), np.nan)
    found[keeps_pace] = latencies[keeps_pace] - usual
    memory = {"recent": history[-USUAL_MINUTES:], "last": float(last_trades[-1]), "latency": float(latencies[-1])}
    return found, memory


def _usual(history: NDArray[np.float64], end: int) -> float:
    """Return the median of what came before a place in a history that is shorter than `USUAL_MINUTES`."""
    return float(np.median(history[:end])) if end >= FEWEST_MINUTES else np.nan
