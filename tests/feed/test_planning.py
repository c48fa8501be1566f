"""Symbols over feeds and over connections: none twice, none left out."""

from hypothesis import given
from hypothesis import strategies as st

from cryptotrace_dagster.feed.planning import shard_of, spread

NAMES = st.lists(st.text("ABCDEFGH", min_size=3, max_size=6), unique=True, max_size=40)


@given(symbols=NAMES, count=st.integers(1, 7))
def test_shards_share_all_symbols_without_overlap(symbols: list[str], count: int) -> None:
    shares = [shard_of(symbols, f"{number}/{count}") for number in range(1, count + 1)]
    assert sorted(symbol for share in shares for symbol in share) == sorted(symbols)


@given(symbols=NAMES, extra=st.text("XYZ", min_size=3), count=st.integers(1, 7))
def test_a_new_symbol_moves_no_other(symbols: list[str], extra: str, count: int) -> None:
    for number in range(1, count + 1):
        shard = f"{number}/{count}"
        assert set(shard_of([*symbols, extra], shard)) - {extra} == set(shard_of(symbols, shard))


@given(symbols=NAMES, connections=st.integers(1, 5))
def test_connections_share_all_symbols_without_overlap(symbols: list[str], connections: int) -> None:
    plan = spread(symbols, {}, connections)
    assert sorted(symbol for part in plan for symbol in part) == sorted(symbols)
    assert all(plan)


def test_no_connection_carries_more_streams_than_the_exchange_allows() -> None:
    plan = spread([f"S{number}USDT" for number in range(2_500)], {}, connections=1)
    assert [len(part) <= 1_024 for part in plan] == [True, True, True]
    assert sum(len(part) for part in plan) == 2_500


def test_a_busy_symbol_gets_a_connection_nearly_to_itself() -> None:
    rates = {"BUSY": 100.0, "A": 10.0, "B": 10.0, "C": 10.0}
    assert sorted(spread(["A", "B", "BUSY", "C"], rates, connections=2)) == [["A", "B", "C"], ["BUSY"]]
