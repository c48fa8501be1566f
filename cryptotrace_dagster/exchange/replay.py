"""Recorded trades as a source: the exchange plays what really happened, at its own pace, faster, or unpaced.

Owns the file formats (messages as `<nanoseconds> <json>` lines, aggTrade dumps as CSV or zip) and the pace. Trade times
stay the recorded ones, so the exchange's clock is that of the recording. A `trade` message becomes an aggregate of one.
"""

from __future__ import annotations

import gzip
import math
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import polars as pl

from cryptotrace_dagster.errors import UserError
from cryptotrace_dagster.exchange.market import MICROSECONDS, SymbolProfile, profile_of
from cryptotrace_dagster.exchange.trades import UNITS, Trades

UNPACED_TRADES = 1_000  # one bundle when the reader sets the pace
FIRST_MICROSECOND_TIME = 10**14  # a millisecond time of this size would lie in the year 5138
DUMP_COLUMNS = ("a", "p", "q", "f", "l", "T", "m", "M")
_UNREADABLE = (
    OSError,
    EOFError,
    UnicodeDecodeError,
    zipfile.BadZipFile,
    zlib.error,
    msgspec.MsgspecError,
    pl.exceptions.PolarsError,
)
_MESSAGE_SCHEMA = {
    "symbol": pl.String,
    "a": pl.Int64,
    "p": pl.String,
    "q": pl.String,
    "f": pl.Int64,
    "l": pl.Int64,
    "T": pl.Int64,
    "m": pl.Boolean,
}


class ReplayError(UserError):
    """A recording cannot be played."""


class ReplaySource:
    """Recorded trades of one or more symbols on one common time line."""

    def __init__(self, recordings: dict[str, Trades], *, speed: float) -> None:
        """Prepare to play at `speed` times the recorded pace; infinity leaves the pace to the reader."""
        self._recordings = recordings
        self._speed = speed
        self._next = dict.fromkeys(recordings, 0)
        self._start_us = min(int(trades.times_us[0]) for trades in recordings.values())
        self._now_us = self._start_us
        times = np.concatenate([trades.times_us for trades in recordings.values()])
        owners = np.repeat(np.arange(len(recordings)), [len(trades) for trades in recordings.values()])
        self._turns = owners[np.argsort(times, kind="stable")]
        self._taken = 0

    @property
    def symbols(self) -> tuple[str, ...]:
        """Return the symbols that were recorded."""
        return tuple(self._recordings)

    @property
    def is_unpaced(self) -> bool:
        """Return whether the reader sets the pace."""
        return math.isinf(self._speed)

    @property
    def is_finished(self) -> bool:
        """Return whether everything was played."""
        return self._taken == len(self._turns)

    def profiles(self) -> list[SymbolProfile]:
        """Return what the recordings tell about each symbol's steps."""
        return [_profile(symbol, trades) for symbol, trades in self._recordings.items()]

    def due(self, elapsed: float) -> list[tuple[str, Trades]]:
        """Return the trades up to so many seconds after the start, or the next bundle when unpaced."""
        counts = self._unpaced_counts() if self.is_unpaced else self._paced_counts(elapsed)
        parts = []
        for symbol, count in counts:
            first = self._next[symbol]
            parts.append((symbol, self._recordings[symbol].rows(first, first + count)))
            self._next[symbol] += count
            self._taken += count
        if self.is_unpaced and parts:
            self._now_us = max(int(trades.times_us[-1]) for _, trades in parts)
        return parts

    def now_us(self, elapsed: float) -> int:
        """Return the recording's clock."""
        if self.is_unpaced:
            return self._now_us
        return self._start_us + round(elapsed * self._speed * MICROSECONDS)

    def _paced_counts(self, elapsed: float) -> Iterator[tuple[str, int]]:
        horizon = self.now_us(elapsed)
        for symbol, trades in self._recordings.items():
            count = int(np.searchsorted(trades.times_us, horizon, side="right")) - self._next[symbol]
            if count > 0:
                yield symbol, count

    def _unpaced_counts(self) -> Iterator[tuple[str, int]]:
        turns = self._turns[self._taken : self._taken + UNPACED_TRADES]
        counts = np.bincount(turns, minlength=len(self._recordings)).tolist()
        return ((symbol, count) for symbol, count in zip(self.symbols, counts, strict=True) if count)


def load_recordings(paths: Sequence[Path]) -> dict[str, Trades]:
    """Return the trades of the files by symbol, each id once, in id order.

    Raises:
        ReplayError: a file cannot be read, or holds no trades.
    """
    frames = []
    for path in paths:
        try:
            frame = _read(path)
        except _UNREADABLE as e:
            raise ReplayError(f"The recording {path} could not be read ({e}): give recorded messages or a dump.") from e
        if frame.is_empty():
            raise ReplayError(f"The recording {path} holds no trades: give a file with trade or aggTrade messages.")
        frames.append(frame)
    everything = pl.concat(frames).unique(["symbol", "a"], keep="first").sort("symbol", "a")
    parts = everything.partition_by("symbol", maintain_order=True)
    return {str(part["symbol"][0]): _trades(part) for part in parts}


def _read(path: Path) -> pl.DataFrame:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            return _read_dump(archive.read(archive.namelist()[0]), path)
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if ".csv" in path.suffixes:
        return _read_dump(content, path)
    return pl.DataFrame(list(_message_rows(content.splitlines())), schema=_MESSAGE_SCHEMA, orient="row")


def _read_dump(content: bytes, path: Path) -> pl.DataFrame:
    """Return the rows of a public dump; its symbol stands in the file's name."""
    named = re.match(r"([A-Z0-9]+)-aggTrades-", path.name)
    if named is None:
        raise ReplayError(f"The dump {path} must be named SYMBOL-aggTrades-DATE, for its rows do not tell the symbol.")
    schema = dict.fromkeys(DUMP_COLUMNS, pl.String)
    frame = pl.read_csv(content, has_header=False, schema=schema)
    rows = frame.filter(pl.col("a").str.contains(r"^\d+$"))  # newer files begin with a header
    return rows.select(
        pl.lit(named[1]).alias("symbol"),
        pl.col("a").cast(pl.Int64),
        "p",
        "q",
        pl.col("f", "l", "T").cast(pl.Int64),
        pl.col("m").str.to_lowercase() == "true",
    )


class _Message(msgspec.Struct):
    e: str = ""
    s: str = ""
    p: str = ""
    q: str = ""
    T: int = 0
    m: bool = False
    t: int = -1
    a: int = -1
    f: int = -1
    l: int = -1  # noqa: E741 - the exchange's own letter


class _Line(msgspec.Struct):
    data: _Message | None = None


def _message_rows(lines: Iterable[bytes]) -> Iterator[tuple[str, int, str, str, int, int, int, bool]]:
    for line in lines:
        text = line[line.find(b"{") :] if b"{" in line else b""
        if not text:
            continue
        message = msgspec.json.decode(text, type=_Line).data or msgspec.json.decode(text, type=_Message)
        if message.e == "aggTrade":
            yield message.s, message.a, message.p, message.q, message.f, message.l, message.T, message.m
        elif message.e == "trade":
            yield message.s, message.t, message.p, message.q, message.t, message.t, message.T, message.m


def _trades(rows: pl.DataFrame) -> Trades:
    times = pl.when(pl.col("T") < FIRST_MICROSECOND_TIME).then(pl.col("T") * 1_000).otherwise("T")
    exact = rows.select(
        "a", "f", "l", "m", times.alias("T"), pl.col("p", "q").str.to_decimal(scale=8).to_physical().cast(pl.Int64)
    )
    columns = {name: exact[name].to_numpy() for name in exact.columns}
    return Trades(
        trade_ids=columns["a"],
        prices=columns["p"],
        quantities=columns["q"],
        first_trade_ids=columns["f"],
        last_trade_ids=columns["l"],
        times_us=columns["T"],
        is_buyer_maker=columns["m"],
    )


def _profile(symbol: str, trades: Trades) -> SymbolProfile:
    known = profile_of(symbol)
    return SymbolProfile(
        symbol,
        float(trades.prices[0]) / UNITS,
        int(np.gcd.reduce(trades.prices)),
        int(np.gcd.reduce(trades.quantities)),
        known.weight,
        known.daily_volatility,
        known.order_notional,
        known.market_beta,
    )
