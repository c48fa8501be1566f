"""What a detector is: a fold over closed bars, and the codec of the memory that it carries.

A detector never looks ahead and never looks back: everything it knows of the past is in its state. Hence a history
gives the same scores whether it comes bar by bar, in batches of any size, or by day.
Stays out: reading bars and writing scores (pipeline/detection.py).
"""

import json
from typing import Any, Protocol

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from cryptotrace_dagster.domain.calibration import HOURS_A_DAY

State = dict[str, Any]
WHOLE_MARKET = "*"  # keeps the state of a detector that looks at all symbols; its scores are of `MARKET_SYMBOL`
STORED_BELOW = HOURS_A_DAY  # scores that come every hour say nothing and are not stored

SCORE_SCHEMA = pl.Schema(
    {
        "symbol": pl.String(),
        "bar_start": pl.Datetime("us"),
        "raw_score": pl.Float64(),
        "times_a_day": pl.Float64(),
        "explanation": pl.String(),
    }
)


class Detector(Protocol):
    """A fold over the closed bars of one symbol, or of all symbols for the market's detectors (`over_market`)."""

    name: str
    version: int
    bar_interval: str
    over_market: bool

    def begin(self) -> State:
        """Return the state before any bar."""
        ...

    def advance(self, state: State, bars: pl.DataFrame) -> tuple[State, pl.DataFrame]:
        """Return the state after these bars, and their scores (`SCORE_SCHEMA`, those rarer than once an hour).

        `bars` are rows of `features` in time order that follow directly on those seen before; the given state is
        left as it was.
        """
        ...


def encode_state(state: State) -> bytes:
    """Return the state as msgpack; arrays keep dtype, shape and bits."""
    return msgspec.msgpack.encode(state, enc_hook=_encode_array)


def decode_state(data: bytes) -> State:
    """Return the state that `encode_state` wrote."""
    decoded: State = _restored(msgspec.msgpack.decode(data))
    return decoded


def _encode_array(value: object) -> object:
    if isinstance(value, np.ndarray):
        return {"dtype": value.dtype.str, "shape": list(value.shape), "bytes": value.tobytes()}
    if isinstance(value, np.generic):
        return value.item()
    raise NotImplementedError(f"A detector's state holds numbers, text and arrays, not {type(value)}.")


def _restored(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"dtype", "shape", "bytes"}:
            return np.frombuffer(value["bytes"], dtype=value["dtype"]).reshape(value["shape"])
        return {key: _restored(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_restored(item) for item in value]
    return value


def epoch_seconds(bars: pl.DataFrame) -> NDArray[np.int64]:
    """Return the starts of the bars in seconds since the epoch."""
    seconds: NDArray[np.int64] = bars["bar_start"].dt.epoch("s").to_numpy().astype(np.int64)
    return seconds


def significant(value: float, digits: int = 4) -> float:
    """Return the value with so many significant digits, for explanations."""
    return float(f"{value:.{digits}g}")


def score_frame(
    bars: pl.DataFrame,
    raw: NDArray[np.float64],
    times_a_day: NDArray[np.float64],
    evidence: dict[str, NDArray[np.float64]],
) -> pl.DataFrame:
    """Return the scores worth storing (`SCORE_SCHEMA`), each with its evidence as JSON, three significant digits."""
    chosen = np.flatnonzero(times_a_day < STORED_BELOW)
    explanations = [
        json.dumps(
            {
                name: significant(float(values[index]), 3)
                for name, values in evidence.items()
                if np.isfinite(values[index])
            }
        )
        for index in chosen
    ]
    return pl.DataFrame(
        {
            "symbol": bars["symbol"][chosen],
            "bar_start": bars["bar_start"][chosen],
            "raw_score": raw[chosen],
            "times_a_day": times_a_day[chosen],
            "explanation": explanations,
        },
        schema=SCORE_SCHEMA,
    )
