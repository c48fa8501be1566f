"""The memory of trades: windows by id and time, and bounded growth."""

import numpy as np

from cryptotrace_dagster.exchange.trades import TradeBook, Trades


def _trades(first: int, count: int) -> Trades:
    numbers = np.arange(first, first + count, dtype=np.int64)
    return Trades(numbers, numbers, numbers, numbers, numbers, numbers * 10, numbers % 2 == 0)


def test_ids_and_times_select_half_open_ranges() -> None:
    book = TradeBook("BTCUSDT", 1_000)
    book.append(_trades(100, 50))
    assert book.from_id(120, 3).trade_ids.tolist() == [120, 121, 122]
    assert book.from_id(0, 2).trade_ids.tolist() == [100, 101]
    assert len(book.from_id(150, 10)) == 0
    assert book.between(1_100, 1_120).trade_ids.tolist() == [110, 111]
    assert book.between(None, 1_020).trade_ids.tolist() == [100, 101]
    assert book.latest(2).trade_ids.tolist() == [148, 149]


def test_the_oldest_are_dropped_beyond_the_capacity_but_still_counted() -> None:
    book = TradeBook("BTCUSDT", 4_000)
    for first in range(0, 20_000, 70):
        book.append(_trades(first, 70))
    kept = book.all()
    assert book.count == 20_020
    assert (book.first_id, book.last_id) == (0, 20_019)
    assert 2_000 <= len(kept) <= 4_000
    assert kept.trade_ids.tolist() == list(range(20_020 - len(kept), 20_020))


def test_an_empty_book_answers_with_nothing() -> None:
    book = TradeBook("BTCUSDT", 10)
    book.append(Trades.empty())
    assert len(book.all()) == len(book.latest(5)) == len(book.between(None, None)) == 0
    assert book.last_id is None
