"""Aggregate trades as columns of integers, and the memory of all that a simulated exchange ever made.

Owns the exact in-memory form: prices and quantities count hundred-millionths, times count microseconds since the
epoch. JSON is wire.py's; making trades is market.py's or replay.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

UNITS = 100_000_000  # of price and quantity: Binance writes eight decimals
Integers = NDArray[np.int64]
_MAKER_COLUMN = "is_buyer_maker"


@dataclass(frozen=True)
class Trades:
    """Aggregate trades of one symbol in id order, one array a column."""

    trade_ids: Integers
    prices: Integers
    quantities: Integers
    first_trade_ids: Integers
    last_trade_ids: Integers
    times_us: Integers
    is_buyer_maker: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.trade_ids)

    def rows(self, start: int, end: int) -> Trades:
        """Return the rows [start, end) as views."""
        return Trades(**{name: column[start:end] for name, column in self.columns().items()})

    def columns(self) -> dict[str, Any]:
        """Return the arrays by name."""
        return {column.name: getattr(self, column.name) for column in fields(self)}

    @classmethod
    def empty(cls) -> Self:
        """Return no trades."""
        return cls(**{column.name: np.empty(0, _dtype(column.name)) for column in fields(cls)})

    @classmethod
    def joined(cls, parts: Sequence[Trades]) -> Self:
        """Return the parts one after the other."""
        if not parts:
            return cls.empty()
        names = [column.name for column in fields(cls)]
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


class TradeBook:
    """All visible trades of one symbol, oldest dropped beyond the capacity; ids and times never decrease."""

    def __init__(self, symbol: str, capacity: int) -> None:
        self.symbol = symbol
        self.first_id: int | None = None
        self.last_id: int | None = None
        self.last_time_us: int | None = None
        self.count = 0
        self._capacity = capacity
        self._columns = Trades.empty().columns()
        self._length = 0

    def append(self, trades: Trades) -> None:
        """Add trades that follow the last one."""
        added = len(trades)
        if not added:
            return
        if self._length + added > len(self._columns["trade_ids"]):
            self._make_room(added)
        for name, column in self._columns.items():
            column[self._length : self._length + added] = getattr(trades, name)
        self._length += added
        self.count += added
        if self.first_id is None:
            self.first_id = int(trades.trade_ids[0])
        self.last_id = int(trades.trade_ids[-1])
        self.last_time_us = int(trades.times_us[-1])

    def _make_room(self, added: int) -> None:
        keep = min(self._length, max(0, self._capacity - added))
        if self._length > keep or self._length + added > self._capacity:
            keep = min(keep, self._capacity * 3 // 4)
        size = max(1024, keep + added, min(2 * (keep + added), self._capacity))
        for name, column in self._columns.items():
            grown = np.empty(size, column.dtype)
            grown[:keep] = column[self._length - keep : self._length]
            self._columns[name] = grown
        self._length = keep

    def all(self) -> Trades:
        """Return everything that is still kept, as views."""
        return Trades(**{name: column[: self._length] for name, column in self._columns.items()})

    def from_id(self, trade_id: int, limit: int) -> Trades:
        """Return up to `limit` trades from this id on, inclusive."""
        start = int(np.searchsorted(self._columns["trade_ids"][: self._length], trade_id))
        return self.all().rows(start, min(start + limit, self._length))

    def between(self, start_us: int | None, end_us: int | None) -> Trades:
        """Return the trades with start <= time < end; None leaves a side open."""
        times = self._columns["times_us"][: self._length]
        first = 0 if start_us is None else int(np.searchsorted(times, start_us, side="left"))
        last = self._length if end_us is None else int(np.searchsorted(times, end_us, side="left"))
        return self.all().rows(first, max(first, last))

    def latest(self, limit: int) -> Trades:
        """Return the newest trades, oldest first."""
        return self.all().rows(max(0, self._length - limit), self._length)


def _dtype(column: str) -> Any:
    return np.bool_ if column == _MAKER_COLUMN else np.int64
