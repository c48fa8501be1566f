"""Labelled days: reproducible, as many as asked for, with pumps where the labels say and much that is none."""

from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from cryptotrace_dagster.exchange.labelled import (
    TRADES_SCHEMA,
    LabelledCase,
    LabelledError,
    LabelledPlan,
    labelled_cases,
    write_labelled,
)
from cryptotrace_dagster.exchange.labelled_market import SYMBOL_CLASSES

PLAN = LabelledPlan(pumps=24, calm_symbol_days=120, days=3, seed=5)


@pytest.fixture(scope="module")
def cases() -> list[LabelledCase]:
    return list(labelled_cases(PLAN))


def _between(trades: pl.DataFrame, start_ms: int, end_ms: int) -> pl.DataFrame:
    return trades.filter(pl.col("timestamp").is_between(start_ms, end_ms, closed="left"))


def test_the_set_holds_the_pumps_and_calm_days_asked_for(cases: list[LabelledCase]) -> None:
    assert sum(case.pumps.height for case in cases) == PLAN.pumps
    assert len(cases) * PLAN.days - PLAN.pumps >= PLAN.calm_symbol_days
    assert LabelledPlan().symbols * 4 - 200 >= 2_000


def test_the_same_seed_makes_the_same_set_and_another_seed_another(cases: list[LabelledCase]) -> None:
    again = next(labelled_cases(PLAN))
    other = next(labelled_cases(LabelledPlan(pumps=24, calm_symbol_days=120, days=3, seed=6)))
    assert_frame_equal(again.trades, cases[0].trades)
    assert_frame_equal(again.events, cases[0].events)
    assert other.trades["price"][:20].to_list() != cases[0].trades["price"][:20].to_list()


def test_trades_are_in_the_form_that_the_backtest_reads(cases: list[LabelledCase]) -> None:
    for case in cases:
        assert dict(case.trades.schema) == TRADES_SCHEMA
        assert case.trades["timestamp"].is_sorted()
        assert set(case.trades["side"].unique()) <= {"buy", "sell"}
        assert case.trades["price"].min() > 0
        assert case.trades["amount"].min() > 0
        assert case.trades.null_count().sum_horizontal().item() == 0


def test_symbols_range_from_a_trade_in_minutes_to_several_a_second(cases: list[LabelledCase]) -> None:
    calm = [case for case in cases if case.pumps.is_empty()]
    assert {case.symbol_class for case in calm} == set(SYMBOL_CLASSES)
    rates = [case.trades.height / (PLAN.days * 86_400) for case in calm]
    assert min(rates) < 1 / 40
    assert max(rates) > 0.5


def test_a_pump_shows_as_more_trades_higher_prices_and_orders_in_the_same_instant(cases: list[LabelledCase]) -> None:
    bundled = 0
    for case in cases:
        for label in case.pumps.iter_rows(named=True):
            start, peak = label["timestamp"], label["peak_timestamp"]
            hour_before = _between(case.trades, start - 3_600_000, start - 120_000)
            rise = _between(case.trades, start, peak + 2_000)
            usual = hour_before.height / 3_480
            assert rise.height / ((peak - start) / 1_000) > 2 * usual
            assert rise["price"].max() / hour_before["price"][-1] > 1 + 0.5 * label["move"]
            buys = rise.filter(pl.col("side") == "buy")
            bundled += buys.group_by("timestamp").len()["len"].max() >= 4
            assert buys.height > 0.6 * rise.height
    assert bundled > 0.8 * PLAN.pumps


def test_pumps_differ_in_strength_length_and_market(cases: list[LabelledCase]) -> None:
    pumps = pl.concat([case.pumps for case in cases])
    lengths = (pumps["peak_timestamp"] - pumps["timestamp"]) / 1_000
    assert pumps["move"].max() / pumps["move"].min() > 8
    assert lengths.max() / lengths.min() > 8
    assert pumps["symbol_class"].n_unique() >= 2
    assert pumps["orders"].max() / pumps["orders"].min() > 10


def test_history_comes_before_every_pump(cases: list[LabelledCase]) -> None:
    for case in cases:
        for start in case.pumps["timestamp"]:
            assert start - case.trades["timestamp"][0] > 86_400_000


def test_much_happens_that_is_no_pump(cases: list[LabelledCase]) -> None:
    kinds = set(pl.concat([case.events for case in cases])["kind"])
    assert kinds >= {"pump", "news", "swept_book", "rally", "volume_surge", "market_move"}


def test_days_can_be_free_of_events_and_of_one_class_alone() -> None:
    plan = LabelledPlan(pumps=0, calm_symbol_days=12, days=6, symbol_class="middling", has_natural_events=False)
    for case in labelled_cases(plan):
        assert case.symbol_class == "middling"
        assert case.events.is_empty()
        assert case.trades.height > 6 * 86_400 / 20 / 2


def test_an_unknown_class_is_told_the_known_ones() -> None:
    with pytest.raises(LabelledError, match="thin, middling, large"):
        LabelledPlan(symbol_class="huge")


def test_nothing_trades_in_a_halt() -> None:
    plan = LabelledPlan(pumps=0, calm_symbol_days=6, days=3, seed=29)
    halted = 0
    for case in labelled_cases(plan):
        for halt in case.events.filter(pl.col("kind") == "halt").iter_rows(named=True):
            halted += 1
            assert _between(case.trades, halt["timestamp"] + 1, halt["peak_timestamp"] - 1).is_empty()
    assert halted == 2, "the exchange halts for both symbols"


def test_a_group_falls_together_in_a_market_move() -> None:
    plan = LabelledPlan(pumps=0, calm_symbol_days=75, days=3, seed=2)
    cases = list(labelled_cases(plan))
    moves = cases[0].events.filter(pl.col("kind") == "market_move").sort(pl.col("move").abs())
    largest = moves.row(-1, named=True)
    together = 0
    for case in cases:
        before = _between(case.trades, 0, largest["timestamp"])["price"][-1]
        after = _between(case.trades, 0, largest["peak_timestamp"])["price"][-1]
        together += (after > before) == (largest["move"] > 0)
    assert together > 0.8 * len(cases)


def test_files_hold_the_set_and_are_never_overwritten(tmp_path: Path, cases: list[LabelledCase]) -> None:
    plan = LabelledPlan(pumps=2, calm_symbol_days=4, days=2, seed=5)
    written = list(write_labelled(plan, tmp_path))
    labels = pl.read_csv(tmp_path / "labels.csv")
    assert labels["kind"].to_list() == ["pump"] * 2
    for case in written:
        assert_frame_equal(pl.read_parquet(tmp_path / "trades" / f"{case.symbol}.parquet"), case.trades)
    with pytest.raises(LabelledError, match="already holds a labelled set"):
        list(write_labelled(plan, tmp_path))


def test_an_empty_set_is_refused() -> None:
    with pytest.raises(LabelledError, match="at least one pump"):
        LabelledPlan(pumps=0, calm_symbol_days=0)
