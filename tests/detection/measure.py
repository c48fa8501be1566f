"""Measure the detectors on labelled symbol-days of the simulated exchange; the table of docs/detection.md.

    python -m tests.detection.measure --pumps 200 --calm-days 2000 --seed 1 --detectors pump

Every record goes through the stages of live operation, cold, a group of symbols at a time. An alert is a score at most
`--at-most-a-day` times a day with 30 minutes of quiet after it; it counts at the end of its bar plus the allowed
lateness. The pump classifier learns as it goes: each pump's label is known from the midnight after it on, and its line
counts only the records that began after enough pumps were labelled. The last line is one JSON object.
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
from cryptotrace_dagster.domain.detectors.pump_classifier import FEWEST_EVENTS
from cryptotrace_dagster.domain.detectors.pump_classifier import NAME as CLASSIFIER
from cryptotrace_dagster.domain.evaluation import Event, Span, judge
from cryptotrace_dagster.domain.windows import Window
from cryptotrace_dagster.exchange.labelled import LabelledCase, LabelledPlan, labelled_cases
from cryptotrace_dagster.pipeline.bars import refresh_bars
from cryptotrace_dagster.pipeline.detection import DAY, Detection
from cryptotrace_dagster.pipeline.detector_report import rings_of
from cryptotrace_dagster.pipeline.labels import FILE, PUMP
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.tables import ANOMALY_SCORES, EVENT_LABELS, RAW_TICKS

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


def labels_of(group: list[LabelledCase]) -> pl.DataFrame:
    """Return the pumps of a group as `event_labels` rows whose bars have not been met yet."""
    times = pl.from_epoch("timestamp", time_unit="ms").cast(pl.Datetime("us"))
    return pl.concat(case.pumps for case in group).select(
        symbol="symbol",
        event_time=times,
        kind=pl.lit(PUMP),
        is_event=pl.lit(True),
        source=pl.lit(FILE),
        origin=pl.lit("simulated"),
        note=pl.lit(None, pl.String),
        recorded_at=times,
        examples=pl.lit(None, pl.Binary),
    )


def scored(group: list[LabelledCase], detectors: list[str], known: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the scores of a group of records that go through the stages together, and the labels known after it.

    `known` are the labels of earlier groups. A midnight's model learns from the labels before it alone, so that the
    group's own may lie there from the beginning.
    """
    with tempfile.TemporaryDirectory() as folder:
        warehouse = Warehouse(str(Path(folder) / "measure.duckdb"))
        warehouse.create()
        with warehouse.transaction() as transaction:
            transaction.append(EVENT_LABELS, pl.concat([known, labels_of(group)]))
            for case in group:
                transaction.append(RAW_TICKS, ticks_of(case))
        window = Window(group[0].start, group[0].start + timedelta(days=group[0].days))
        detection = Detection(warehouse, find_detectors(*detectors))
        refresh_bars(warehouse, window)
        detection.refresh_features(window)
        for day in range(group[0].days + 1 if detection.learns else 0):
            detection.refresh_models(window.start + day * DAY)
        detection.refresh_scores(window, window.end)
        scores = warehouse.read(
            f"SELECT symbol, detector, bar_interval, bar_start, times_a_day FROM {ANOMALY_SCORES.name} ORDER BY bar_start"
        )
        return scores, warehouse.read(f"SELECT * FROM {EVENT_LABELS.name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pumps", type=int, default=200)
    parser.add_argument("--calm-days", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--detectors", nargs="*", default=["*"])
    parser.add_argument("--at-most-a-day", type=float, default=0.02)
    arguments = parser.parse_args()
    plan = LabelledPlan(pumps=arguments.pumps, calm_symbol_days=arguments.calm_days, seed=arguments.seed)
    spans, scores, labels = [], [], EVENT_LABELS.empty()
    first_learned: datetime | None = None
    for group in groups(plan):
        earlier = labels.filter(pl.col("event_time") < group[0].start)
        if first_learned is None and earlier["examples"].count() >= FEWEST_EVENTS:
            first_learned = group[0].start
        found, labels = scored(group, arguments.detectors, labels)
        scores.append(found)
        spans += [Span(case.symbol, case.start, case.start + timedelta(days=case.days)) for case in group]
    events = [Event(symbol, time) for symbol, time in labels.select("symbol", "event_time").iter_rows()]
    everything = pl.concat(scores)
    record = {}
    for name in everything["detector"].unique().sort():
        rings = rings_of(everything.filter(pl.col("detector") == name), arguments.at_most_a_day)
        since = (first_learned or datetime.max) if name == CLASSIFIER else datetime.min
        judged = [span for span in spans if span.start >= since]
        verdict = judge(
            [ring for ring in rings if ring.time >= since], [event for event in events if event.time >= since], judged
        )
        record[name] = asdict(verdict) | {"delays_seconds": None}
        print(
            f"{name}: hits {verdict.hits} of {verdict.events}, F1 {verdict.f1}, precision {verdict.precision}, "
            f"false {verdict.false_alarms_a_symbol_day}, delay {verdict.median_delay_seconds}, records {len(judged)}"
        )
    print(json.dumps(record))


if __name__ == "__main__":
    main()
