"""Compares our bars with the exchange's own klines, minute by minute and to the last digit.

Owns which minutes can be compared and what counts as equal; called by an asset check, which fails and starts the repair
of the minutes that are named here. Stays out: the repair (history.refetch_window) and Dagster.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from cryptotrace_dagster.binance.rest import PAGE_LIMIT, BinanceRest, Kline
from cryptotrace_dagster.domain.exchange_times import instant_of
from cryptotrace_dagster.domain.windows import Window, ceil, floor, merged
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.tables import OHLC_BARS, TRADE_ID_RANGES

MINUTE = timedelta(minutes=1)
_LAST_QUOTE_DIGIT = Decimal("0.00000001")
_KLINES_WEIGHT = 2
# Our column, and its place in a row of /api/v3/klines.
_COMPARED = (
    ("open", 1),
    ("high", 2),
    ("low", 3),
    ("close", 4),
    ("volume", 5),
    ("quote_volume", 7),
    ("trade_count", 8),
    ("taker_buy_volume", 9),
    ("taker_buy_quote_volume", 10),
)


@dataclass(frozen=True, order=True)
class KlineMismatch:
    """One value of one minute that differs; `ours` is empty where we have no bar, `theirs` where they have no trades."""

    symbol: str
    minute: datetime
    column: str
    ours: str
    theirs: str

    def __str__(self) -> str:
        return f"{self.symbol} {self.minute:%Y-%m-%d %H:%M} {self.column}: ours {self.ours or '-'}, theirs {self.theirs or '-'}"


@dataclass(frozen=True)
class KlineComparison:
    """How many minutes were compared, and what differs."""

    minutes_compared: int
    mismatches: tuple[KlineMismatch, ...]

    @property
    def is_equal(self) -> bool:
        """Return whether every minute agrees to the last digit."""
        return not self.mismatches

    def windows_to_repair(self) -> dict[str, list[Window]]:
        """Return, by symbol, the time ranges whose trades must be fetched again."""
        symbols = sorted({each.symbol for each in self.mismatches})
        return {
            symbol: merged(Window(m.minute, m.minute + MINUTE) for m in self.mismatches if m.symbol == symbol)
            for symbol in symbols
        }


def compare_with_klines(
    warehouse: Warehouse, rest: BinanceRest, window: Window, symbols: Sequence[str]
) -> KlineComparison:
    """Compare the whole minutes of the window. The caller sees to it that they are closed and ingested.

    A symbol is compared from its first whole stored minute on; what was before it was never watched.

    Raises:
        ExchangeError: the exchange did not answer.
    """
    compared = 0
    mismatches: list[KlineMismatch] = []
    for symbol in symbols:
        minutes = _watched_minutes(warehouse, symbol, window)
        if minutes is None:
            continue
        ours = _our_bars(warehouse, symbol, minutes)
        theirs = {instant_of(kline[0]): kline for kline in _their_klines(rest, symbol, minutes)}
        compared += (minutes.end - minutes.start) // MINUTE
        for minute in sorted(ours.keys() | theirs.keys()):
            mismatches.extend(differences(symbol, minute, ours.get(minute), theirs.get(minute)))
    return KlineComparison(compared, tuple(mismatches))


def differences(
    symbol: str, minute: datetime, ours: dict[str, object] | None, theirs: Kline | None
) -> Iterator[KlineMismatch]:
    """Yield the values that differ. A kline without trades and no bar are the same thing."""
    if theirs is None or int(theirs[8]) == 0:
        if ours is not None:
            yield KlineMismatch(symbol, minute, "bar", f"{ours['trade_count']} trades", "")
    elif ours is None:
        yield KlineMismatch(symbol, minute, "bar", "", f"{theirs[8]} trades")
    else:
        for column, place in _COMPARED:
            our_value, their_value = Decimal(str(ours[column])), Decimal(str(theirs[place]))
            if not _is_same(column, our_value, their_value):
                yield KlineMismatch(symbol, minute, column, f"{our_value:f}", f"{their_value:f}")


def _is_same(column: str, ours: Decimal, theirs: Decimal) -> bool:
    if column.endswith("quote_volume"):
        return abs(ours - theirs) < _LAST_QUOTE_DIGIT  # ours has sixteen decimals, theirs eight
    return ours == theirs


def _watched_minutes(warehouse: Warehouse, symbol: str, window: Window) -> Window | None:
    since = warehouse.read(
        f"SELECT min(first_trade_time) AS since FROM {TRADE_ID_RANGES.name} WHERE symbol = ?", [symbol]
    ).item()
    if since is None:
        return None
    start, end = ceil(max(window.start, since), MINUTE), floor(window.end, MINUTE)
    return Window(start, end) if start < end else None


def _our_bars(warehouse: Warehouse, symbol: str, minutes: Window) -> dict[datetime, dict[str, object]]:
    rows = warehouse.read_window(OHLC_BARS, minutes, symbol=symbol, bar_interval="1m")
    return {row["bar_start"]: row for row in rows.iter_rows(named=True)}


def _their_klines(rest: BinanceRest, symbol: str, minutes: Window) -> Iterator[Kline]:
    start = minutes.start
    while start < minutes.end:
        end = min(minutes.end, start + PAGE_LIMIT * MINUTE)
        time.sleep(rest.wait(_KLINES_WEIGHT))
        yield from rest.klines(symbol, "1m", start, end)
        start = end
