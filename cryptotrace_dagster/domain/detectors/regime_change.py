"""Regime change: volume and range stay away from their usual level, though no single minute is remarkable.

Page's cumulative sum (Page, "Continuous Inspection Schemes", Biometrika 1954), upwards and downwards, over the mean of the
seasonal deviations of volume and range, each minute clipped so that a lone outlier is left to other detectors. The raw
score is the larger sum. Sees: a market that wakes up or dies for tens of minutes. Misses: what passes in a minute.
"""

from dataclasses import asdict

import numpy as np
import polars as pl

from cryptotrace_dagster.domain.calibration import Tail, TailPrior, advance_tail
from cryptotrace_dagster.domain.detectors.base import SCORE_SCHEMA, State, epoch_seconds, score_frame
from cryptotrace_dagster.domain.features import SLOW_INTERVAL

SLACK = 1.0  # deviations below it are taken for noise
CLIP = 3.0
LARGEST_SUM = 200.0  # forgets a regime within hours once it has ended
PRIOR = TailPrior(scale=6.0)


class RegimeChangeDetector:
    """Scores how long and how far volume and range have kept away from their usual level."""

    name = "regime_change"
    version = 1
    bar_interval = SLOW_INTERVAL
    over_market = False

    def begin(self) -> State:
        """Return the state before any bar."""
        return {"up": 0.0, "down": 0.0, "tail": asdict(Tail())}

    def advance(self, state: State, bars: pl.DataFrame) -> tuple[State, pl.DataFrame]:
        """Return the state after these 1-minute bars of one symbol, and their scores."""
        if bars.is_empty():
            return state, pl.DataFrame(schema=SCORE_SCHEMA)
        deviations = bars.select(
            ((pl.col("volume_deviation").clip(-CLIP, CLIP) + pl.col("range_deviation").clip(-CLIP, CLIP)) / 2).alias(
                "d"
            )
        )["d"]
        up, down = float(state["up"]), float(state["down"])
        ups, downs = np.full(bars.height, np.nan), np.full(bars.height, np.nan)
        for index, deviation in enumerate(deviations.to_list()):
            if deviation is not None:  # a minute in the warm-up says nothing
                up = min(max(up + deviation - SLACK, 0.0), LARGEST_SUM)
                down = min(max(down - deviation - SLACK, 0.0), LARGEST_SUM)
                ups[index], downs[index] = up, down
        raw = np.fmax(ups, downs)
        hours = epoch_seconds(bars) // 3600
        tail, times_a_day = advance_tail(Tail(**state["tail"]), hours, raw, PRIOR)
        scores = score_frame(bars, raw, times_a_day, {"upwards": ups, "downwards": downs})
        return {"up": up, "down": down, "tail": asdict(tail)}, scores
