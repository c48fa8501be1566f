"""Combined: several detectors that speak in the same minute say more than each of them.

The raw score is the sum of what the single detectors of one symbol say in a minute, each counted from "once an hour"
upwards. It is calibrated like any other, so it costs no more alarms than its rate says; where only one detector speaks,
its own score is the better witness.
"""

import json
from dataclasses import asdict

import numpy as np
import polars as pl

from cryptotrace_dagster.domain.calibration import Tail, TailPrior, advance_tail
from cryptotrace_dagster.domain.detectors.base import (
    SCORE_SCHEMA,
    STORED_BELOW,
    State,
    epoch_seconds,
    score_frame,
)

NAME = "combined"
VERSION = 1
HEARD = ("seasonal_trend", "isolation_forest", "regime_change", "market_relation")
FEWEST_VOICES = 2
PRIOR = TailPrior(scale=1.0)


def begin_combined() -> State:
    """Return the state before any minute."""
    return {"tail": asdict(Tail())}


def advance_combined(state: State, scores: pl.DataFrame) -> tuple[State, pl.DataFrame]:
    """Return the state after these scores of one symbol (rows of `anomaly_scores`), and the combined scores."""
    heard = scores.filter(pl.col("detector").is_in(HEARD)).with_columns(
        (np.log10(STORED_BELOW) - pl.col("times_a_day").log10()).alias("said")
    )
    minutes = (
        heard.sort("bar_start", "detector")
        .group_by("symbol", "bar_start", maintain_order=True)
        .agg(
            pl.col("said").sum().alias("sum"),
            pl.len().alias("voices"),
            pl.col("detector"),
            pl.col("said").alias("each"),
        )
        .sort("bar_start")
    )
    if minutes.is_empty():
        return state, pl.DataFrame(schema=SCORE_SCHEMA)
    raw = np.where(minutes["voices"].to_numpy() >= FEWEST_VOICES, minutes["sum"].to_numpy(), 0.0)
    tail, times_a_day = advance_tail(Tail(**state["tail"]), epoch_seconds(minutes) // 3600, raw, PRIOR)
    found = score_frame(minutes, raw, times_a_day, {"voices": minutes["voices"].to_numpy().astype(np.float64)})
    named = {
        row["bar_start"]: json.dumps(
            {name: round(said, 2) for name, said in zip(row["detector"], row["each"], strict=True)}
        )
        for row in minutes.iter_rows(named=True)
    }
    explained = found.with_columns(
        pl.col("bar_start").replace_strict(named, return_dtype=pl.String).alias("explanation")
        if found.height
        else "explanation"
    )
    return {"tail": asdict(tail)}, explained
