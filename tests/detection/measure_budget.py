"""Measure how often a budget rings where nothing happens; the table of budgets in docs/detection.md.

    python -m tests.detection.measure_budget --days 15 --symbols 4 --seed 1

Symbols of each class trade for days without any event (no pump, news, swept book, rally, halt or market move). They go
through the stages of live operation from a cold start, and each detector has one rule to itself, `at_most_a_day = 2` with
the usual quiet time. The last line is one JSON object.
"""

import argparse
import json
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import polars as pl

from cryptotrace_dagster.domain.alerting import as_signals
from cryptotrace_dagster.domain.conversations import hold_conversations
from cryptotrace_dagster.domain.detectors import find_detectors
from cryptotrace_dagster.domain.rules import AnomalyRule, RuleBook
from cryptotrace_dagster.domain.signals import Market, find_signals
from cryptotrace_dagster.domain.windows import Window
from cryptotrace_dagster.exchange.labelled import LabelledPlan, labelled_cases
from cryptotrace_dagster.exchange.labelled_market import SYMBOL_CLASSES
from cryptotrace_dagster.pipeline.bars import refresh_bars
from cryptotrace_dagster.pipeline.detection import DAY, Detection
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.tables import ANOMALY_SCORES, OHLC_BARS, RAW_TICKS, TRADE_ID_GAPS
from tests.detection.measure import ticks_of

BUDGET = 2.0
EVERY_DETECTOR = "*"  # one rule over all of them, each with the budget
DAYS_AT_ONCE = 3  # bars and features of so many days are made together; a large coin has a million trades in them


@dataclass(frozen=True)
class Spent:
    """How often a detector's rule rang in a class of symbols."""

    symbol_class: str
    detector: str
    alerts_a_day: float
    fewest: float
    most: float


def scored(plan: LabelledPlan, patterns: list[str]) -> tuple[pl.DataFrame, Window]:
    """Return the scores of all symbols of a plan, which live through the same days, and these days."""
    with tempfile.TemporaryDirectory() as folder:
        warehouse = Warehouse(str(Path(folder) / "budget.duckdb"))
        warehouse.create()
        for case in labelled_cases(plan):
            window = Window(case.start, case.start + timedelta(days=case.days))
            with warehouse.transaction() as transaction:
                transaction.append(RAW_TICKS, ticks_of(case))
        detection = Detection(warehouse, find_detectors(*patterns))
        for day in range(0, plan.days, DAYS_AT_ONCE):
            start = window.start + day * DAY
            part = Window(start, min(start + DAYS_AT_ONCE * DAY, window.end))
            refresh_bars(warehouse, part)
            detection.refresh_features(part)
        for day in range(1, plan.days if detection.learns else 0):
            detection.refresh_models(window.start + day * DAY)
        detection.refresh_scores(window, window.end)
        return warehouse.read(f"SELECT * FROM {ANOMALY_SCORES.name}"), window


def alerts_a_day(scores: pl.DataFrame, detector: str, window: Window) -> dict[str, float]:
    """Return how often a rule with the budget rings for each symbol, decided by the code that decides live."""
    book = RuleBook(rules=(AnomalyRule(name="budget", kind="anomaly", detector=detector, at_most_a_day=BUDGET),))
    signals = find_signals(book, Market(OHLC_BARS.empty(), scores, TRADE_ID_GAPS.empty()))
    decisions, _ = hold_conversations(book, as_signals(signals), {}, window.end)
    days = (window.end - window.start) / DAY
    rung = [decision.signal.symbol for decision in decisions if decision.phase != "end"]
    return {symbol: rung.count(symbol) / days for symbol in set(rung)}


def spent(symbol_class: str, symbols: int, days: int, seed: int, patterns: list[str]) -> list[Spent]:
    """Return what each detector's budget came to in one class of symbols."""
    plan = LabelledPlan(
        pumps=0,
        calm_symbol_days=symbols * days,
        days=days,
        seed=seed,
        symbol_class=symbol_class,
        has_natural_events=False,
    )
    scores, window = scored(plan, patterns)
    found = []
    for detector in [*scores["detector"].unique().sort(), EVERY_DETECTOR]:
        rates = alerts_a_day(scores, detector, window)
        watched = 1 if detector == "market_move" else symbols
        each = [*rates.values(), *[0.0] * (watched - len(rates))]
        found.append(Spent(symbol_class, detector, sum(each) / watched, min(each), max(each)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", nargs="*", default=list(SYMBOL_CLASSES))
    parser.add_argument("--symbols", type=int, default=4)
    parser.add_argument("--days", type=int, default=15)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--detectors", nargs="*", default=["*"])
    arguments = parser.parse_args()
    record = []
    for symbol_class in arguments.classes:
        for each in spent(symbol_class, arguments.symbols, arguments.days, arguments.seed, arguments.detectors):
            print(
                f"{each.symbol_class} {each.detector}: {each.alerts_a_day:.2f} a day "
                f"({each.fewest:.2f} to {each.most:.2f})",
                flush=True,
            )
            record.append(vars(each))
    print(json.dumps(record))


if __name__ == "__main__":
    main()
