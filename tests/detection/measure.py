"""Measure the detectors on labelled symbol-days of the simulated exchange; the table of docs/detection.md.

    python -m tests.detection.measure --pumps 200 --calm-days 2000 --seed 1 --detectors pump

Every record goes through the stages of live operation, cold, a group of symbols at a time. An alert is a score at most
`--at-most-a-day` times a day with 30 minutes of quiet after it; it counts at the end of its bar plus the allowed
lateness. The last line is one JSON object.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime, timedelta
from itertools import groupby, islice
from pathlib import Path

import polars as pl

from cryptotrace_dagster.domain.detectors import find_detectors
from cryptotrace_dagster.domain.evaluation import Event, Span, judge
from cryptotrace_dagster.domain.windows import Window
from cryptotrace_dagster.exchange.labelled import LabelledCase, LabelledPlan, labelled_cases
from cryptotrace_dagster.pipeline.bars import refresh_bars
from cryptotrace_dagster.pipeline.detection import DAY, Detection
from cryptotrace_dagster.pipeline.detector_report import rings_of
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.tables import ANOMALY_SCORES, RAW_TICKS

GROUP = 12


def ticks_of(case: LabelledCase) -> pl.DataFrame:
    instants = pl.from_epoch("timestamp", time_unit="ms").cast(pl.Datetime("us"))
    ids = pl.int_range(1, pl.len() + 1)
    return case.trades.select(
        symbol="symbol",
        trade_id=ids,
        price="price",
        quantity="amount",
        first_trade_id=ids,
        last_trade_id=ids,
        trade_time=instants,
        is_buyer_maker=pl.col("side") == "sell",
        received_at=instants,
    ).cast(RAW_TICKS.polars_schema)


def groups(plan: LabelledPlan) -> Iterator[list[LabelledCase]]:
    for _, same_days in groupby(labelled_cases(plan), key=lambda case: case.start):
        while group := list(islice(same_days, GROUP)):
            yield group


def scores_of(group: list[LabelledCase], detectors: list[str]) -> pl.DataFrame:
    """Return the scores of a group of records that go through the stages together."""
    with tempfile.TemporaryDirectory() as folder:
        warehouse = Warehouse(str(Path(folder) / "measure.duckdb"))
        warehouse.create()
        with warehouse.transaction() as transaction:
            for case in group:
                transaction.append(RAW_TICKS, ticks_of(case))
        window = Window(group[0].start, group[0].start + timedelta(days=group[0].days))
        detection = Detection(warehouse, find_detectors(*detectors))
        refresh_bars(warehouse, window)
        detection.refresh_features(window)
        for day in range(1, group[0].days if detection.learns else 0):
            detection.refresh_models(window.start + day * DAY)
        detection.refresh_scores(window, window.end)
        return warehouse.read(
            f"SELECT symbol, detector, bar_interval, bar_start, times_a_day FROM {ANOMALY_SCORES.name} ORDER BY bar_start"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pumps", type=int, default=200)
    parser.add_argument("--calm-days", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--detectors", nargs="*", default=["*"])
    parser.add_argument("--at-most-a-day", type=float, default=0.02)
    arguments = parser.parse_args()
    plan = LabelledPlan(pumps=arguments.pumps, calm_symbol_days=arguments.calm_days, seed=arguments.seed)
    events, spans, scores = [], [], []
    for group in groups(plan):
        scores.append(scores_of(group, arguments.detectors))
        for case in group:
            symbol = case.trades["symbol"][0]
            pumps = case.events.filter(pl.col("kind") == "pump")["timestamp"].to_list()
            events += [Event(symbol, datetime(1970, 1, 1) + timedelta(milliseconds=time)) for time in pumps]
            spans.append(Span(symbol, case.start, case.start + timedelta(days=case.days)))
    everything = pl.concat(scores)
    record = {}
    for name in everything["detector"].unique().sort():
        rings = rings_of(everything.filter(pl.col("detector") == name), arguments.at_most_a_day)
        verdict = judge(rings, events, spans)
        record[name] = asdict(verdict) | {"delays_seconds": None}
        print(
            f"{name}: hits {verdict.hits} of {verdict.events}, F1 {verdict.f1}, precision {verdict.precision}, "
            f"false {verdict.false_alarms_a_symbol_day}, delay {verdict.median_delay_seconds}"
        )
    print(json.dumps(record))


if __name__ == "__main__":
    main()
