"""The market as a whole: a move of most symbols at once, and one symbol that leaves the others.

Returns of a minute are compared in units of each symbol's own volatility, so that a calm and a wild symbol count alike;
the market is their median. A general move thus rings once, for the symbol `MARKET`, and takes itself out of every
symbol's own relation (a one-factor model with unit loadings in volatility units; cf. Kritzman and Li, "Skulls, Financial
Turbulence, and Risk Management", 2010). Misses: anything when fewer than four symbols trade in the same minute.
"""

from dataclasses import asdict

import numpy as np
import polars as pl

from cryptotrace_dagster.domain.calibration import Tail, TailPrior, advance_tail
from cryptotrace_dagster.domain.detectors.base import SCORE_SCHEMA, State, epoch_seconds, score_frame
from cryptotrace_dagster.domain.features import SLOW_INTERVAL, VOLATILITY_MINUTES

MARKET_SYMBOL = "MARKET"
FEWEST_SYMBOLS = 4
PRIOR = TailPrior(scale=1.5)


def _standardised(bars: pl.DataFrame) -> pl.DataFrame:
    """Return symbol, bar_start, own (return in deviations) and market (their median), for minutes with enough symbols."""
    # The volatility includes the minute itself, which bounds a lone jump; so it is taken from the minutes before.
    before = (pl.col("realised_volatility") ** 2 - pl.col("log_return") ** 2).clip(1e-12).sqrt()
    own = pl.col("log_return") / (before / np.sqrt(VOLATILITY_MINUTES - 1))
    return (
        bars.select("symbol", "bar_start", own.alias("own"))
        .drop_nulls()
        .filter(pl.len().over("bar_start") >= FEWEST_SYMBOLS)
        .with_columns(pl.col("own").median().over("bar_start").alias("market"))
        .sort("bar_start", "symbol")
    )


class MarketMoveDetector:
    """Scores how far the median symbol has moved within a minute, in its own deviations."""

    name = "market_move"
    version = 1
    bar_interval = SLOW_INTERVAL
    over_market = True

    def begin(self) -> State:
        """Return the state before any bar."""
        return {"tail": asdict(Tail())}

    def advance(self, state: State, bars: pl.DataFrame) -> tuple[State, pl.DataFrame]:
        """Return the state after these 1-minute bars of all symbols, and the market's scores."""
        minutes = _standardised(bars).unique("bar_start", maintain_order=True)
        if minutes.is_empty():
            return state, pl.DataFrame(schema=SCORE_SCHEMA)
        moves = minutes["market"].to_numpy()
        raw = np.abs(moves)
        tail, times_a_day = advance_tail(Tail(**state["tail"]), epoch_seconds(minutes) // 3600, raw, PRIOR)
        rows = minutes.with_columns(pl.lit(MARKET_SYMBOL).alias("symbol"))
        return {"tail": asdict(tail)}, score_frame(rows, raw, times_a_day, {"median_move": moves})


class MarketRelationDetector:
    """Scores how far a symbol's return of a minute departs from the market's, in its own deviations."""

    name = "market_relation"
    version = 1
    bar_interval = SLOW_INTERVAL
    over_market = True

    def begin(self) -> State:
        """Return the state before any bar."""
        return {"tails": {}}

    def advance(self, state: State, bars: pl.DataFrame) -> tuple[State, pl.DataFrame]:
        """Return the state after these 1-minute bars of all symbols, and the symbols' scores."""
        tails, scores = dict(state["tails"]), [pl.DataFrame(schema=SCORE_SCHEMA)]
        for (symbol,), part in _standardised(bars).partition_by("symbol", as_dict=True, maintain_order=True).items():
            own, market = part["own"].to_numpy(), part["market"].to_numpy()
            raw = np.abs(own - market)
            known = Tail(**tails[symbol]) if symbol in tails else Tail()
            tail, times_a_day = advance_tail(known, epoch_seconds(part) // 3600, raw, PRIOR)
            tails[symbol] = asdict(tail)
            scores.append(score_frame(part, raw, times_a_day, {"own_move": own, "market_move": market}))
        return {"tails": tails}, pl.concat(scores).sort("bar_start", "symbol")
