"""Where the exchange's trades come from, moment by moment: the simulated market, or a recording (replay.py).

Owns the step from "so much time has passed" to "these trades have now happened", and the exchange's clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from cryptotrace_dagster.exchange.events import MarketEvent, effects_at
from cryptotrace_dagster.exchange.market import MICROSECONDS, Market, SymbolProfile
from cryptotrace_dagster.exchange.trades import Trades

BLOCK_SECONDS = 0.25  # made ahead of time in one go; an event can start this late
HISTORY_BLOCK_SECONDS = 60.0
SKEW_FADES_PER_SECOND = 0.5  # a clock that runs back would break the order of trade times; it goes slower instead


class TradeSource(Protocol):
    """What makes trades happen."""

    @property
    def symbols(self) -> tuple[str, ...]:
        """Return the symbols that trade."""
        ...

    def due(self, elapsed: float) -> list[tuple[str, Trades]]:
        """Return the trades since the last call, up to so many seconds after the start."""
        ...

    def now_us(self, elapsed: float) -> int:
        """Return the exchange's clock."""
        ...

    @property
    def is_finished(self) -> bool:
        """Return whether no trade will ever come again."""
        ...


class SimulatedSource:
    """The simulated market in real time, with the events and the clock skew that were asked for."""

    def __init__(
        self,
        profiles: Sequence[SymbolProfile],
        *,
        trades_per_second: float,
        seed: int,
        start_us: int,
        history_seconds: float = 0.0,
    ) -> None:
        self._history_seconds = history_seconds
        self._start_us = start_us
        first_us = start_us - round(history_seconds * MICROSECONDS)
        self._market = Market(profiles, trades_per_second=trades_per_second, seed=seed, start_us=first_us)
        self._events: list[tuple[float, MarketEvent]] = []
        self._ahead: dict[str, Trades] = {symbol: Trades.empty() for symbol in self._market.symbols}
        self._skew_wanted_us = 0
        self._skew_us = 0  # at the end of the newest block
        self._skew_before_us = 0  # at its start

    @property
    def symbols(self) -> tuple[str, ...]:
        """Return the symbols that trade."""
        return self._market.symbols

    @property
    def is_finished(self) -> bool:
        """Return False: a market never ends."""
        return False

    def history(self) -> list[tuple[str, Trades]]:
        """Make the trades before the start; call once, first."""
        parts: list[tuple[str, Trades]] = []
        while (left := self._history_seconds - self._market.elapsed) > 1e-9:
            parts.extend(self._market.advance(min(HISTORY_BLOCK_SECONDS, left)).items())
        return parts

    def start_event(self, event: MarketEvent) -> None:
        """Let an event begin with the next block."""
        self._events.append((self._made, event))

    def set_clock_skew(self, skew_us: int) -> None:
        """Let the exchange's clock be wrong by so much: forward at once, back by running slower."""
        self._skew_wanted_us = skew_us

    def due(self, elapsed: float) -> list[tuple[str, Trades]]:
        """Return the trades since the last call, up to so many seconds after the start."""
        parts: list[tuple[str, Trades]] = []
        while self._made <= elapsed:
            parts.extend(self._ahead.items())
            self._ahead = self._next_block()
        horizon = self.now_us(elapsed)
        for symbol, trades in self._ahead.items():
            count = int(np.searchsorted(trades.times_us, horizon, side="right"))
            if count:
                parts.append((symbol, trades.rows(0, count)))
                self._ahead[symbol] = trades.rows(count, len(trades))
        return parts

    def now_us(self, elapsed: float) -> int:
        """Return the exchange's clock, right or wrong."""
        true_us = self._start_us + round(elapsed * MICROSECONDS)
        share = 1 - max(0.0, min(1.0, (self._made - elapsed) / BLOCK_SECONDS))
        return true_us + self._skew_before_us + round(share * (self._skew_us - self._skew_before_us))

    @property
    def _made(self) -> float:
        return self._market.elapsed - self._history_seconds

    def _next_block(self) -> dict[str, Trades]:
        start = self._made
        self._events = [(begun, event) for begun, event in self._events if start < begun + event.seconds]
        block = self._market.advance(BLOCK_SECONDS, effects_at(self._events, self.symbols, start))
        self._advance_skew()
        if not self._skew_us and not self._skew_before_us:
            return block
        return {symbol: self._skewed(trades, start) for symbol, trades in block.items()}

    def _advance_skew(self) -> None:
        fade_us = round(SKEW_FADES_PER_SECOND * BLOCK_SECONDS * MICROSECONDS)
        self._skew_before_us = max(self._skew_us, self._skew_wanted_us)
        self._skew_us = max(self._skew_wanted_us, self._skew_before_us - fade_us)

    def _skewed(self, trades: Trades, block_start: float) -> Trades:
        since_us = trades.times_us - (self._start_us + round(block_start * MICROSECONDS))
        change = (self._skew_us - self._skew_before_us) / (BLOCK_SECONDS * MICROSECONDS)
        return replace(trades, times_us=trades.times_us + self._skew_before_us + (since_us * change).astype(np.int64))
