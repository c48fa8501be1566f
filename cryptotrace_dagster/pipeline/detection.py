"""The stages that make `features` from bars and ticks, and `anomaly_scores` from features.

Owns which rows must be read, where each detector's memory is picked up, and what is stored in one transaction.
Features follow from a fixed lookback; scores from a fold whose state is kept at full hours in `detector_states`, and
in memory between the micro-batches of a live run. Stays out: formulas (domain/features.py, domain/detectors/).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import polars as pl

from cryptotrace_dagster.domain import features as formulas
from cryptotrace_dagster.domain.detectors import combined, find_detectors
from cryptotrace_dagster.domain.detectors.base import (
    SCORE_SCHEMA,
    WHOLE_MARKET,
    Detector,
    State,
    decode_state,
    encode_state,
)
from cryptotrace_dagster.domain.windows import EPOCH, Window, ceil, floor
from cryptotrace_dagster.pipeline.models import (
    CLASSIFIER,
    LEARNERS,
    MODEL_MEMORY,
    has_labels,
    stored_models,
    with_models,
)
from cryptotrace_dagster.pipeline.report import StageReport
from cryptotrace_dagster.storage import Transaction, Warehouse
from cryptotrace_dagster.tables import ANOMALY_SCORES, DETECTOR_MODELS, DETECTOR_STATES, FEATURES, OHLC_BARS

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
CHECKPOINT_STEP = timedelta(minutes=1)  # dirty windows start at whole minutes
CHECKPOINTS_KEPT = 5
HOURLY_STATES_KEPT = timedelta(days=2)
DAILY_STATES_KEPT = timedelta(days=30)
_TRIES_BESIDE_OTHERS = 3  # to score what others may change meanwhile, before they are kept out
START_REACH = timedelta(days=7)  # how far back a detector without any state begins

STEPS = {formulas.FAST_INTERVAL: formulas.FAST_STEP, formulas.SLOW_INTERVAL: formulas.SLOW_STEP}
States = dict[str, dict[str, State]]  # by detector, by symbol


@dataclass
class _Line:
    """The fold of all detectors of one bar interval: their states at a few recent instants, in order of time."""

    bar_interval: str
    detectors: tuple[Detector, ...]
    checkpoints: list[tuple[datetime, States]] = field(default_factory=list)
    scored: tuple[Window, pl.DataFrame] | None = None  # what was scored last, to see that nothing has changed

    @property
    def is_combined(self) -> bool:
        """Return whether there are several detectors here that can be heard together."""
        return sum(detector.name in combined.HEARD for detector in self.detectors) >= combined.FEWEST_VOICES

    @property
    def versions(self) -> dict[str, int]:
        """Return the version of each detector, the combined one included, by name."""
        alone = {detector.name: detector.version for detector in self.detectors}
        return alone | ({combined.NAME: combined.VERSION} if self.is_combined else {})


class Detection:
    """Features and scores of one warehouse. One instance may serve many windows; a fresh one finds the same rows."""

    def __init__(self, warehouse: Warehouse, detectors: Sequence[Detector] | None = None) -> None:
        self._warehouse = warehouse
        detectors = find_detectors() if detectors is None else detectors
        self._lines = [
            _Line(interval, tuple(detector for detector in detectors if detector.bar_interval == interval))
            for interval in STEPS
        ]
        self._models: dict[str, tuple[datetime, ...]] = {}
        self._minutes_until: datetime | None = None  # the 1-minute features are complete up to here
        self._baselines: tuple[tuple[datetime, ...], pl.DataFrame] | None = None

    def refresh_features(self, window: Window) -> StageReport:
        """Make the features of the window anew, in one transaction, and return how many.

        5-second rows include the open bar, 1-minute rows only minutes that end within the window (the minute before
        it, too, which may have ended since). Later rows that look back on the window are made anew as well, but for
        seasonal baselines, which follow when their day is refreshed. With detectors of 5-second bars alone, the 1-minute
        rows are left out.
        """
        fast = window.extended(after=formulas.PREVIOUS_CLOSE_REACH).widened_to(formulas.FAST_STEP)
        has_slow = any(line.detectors for line in self._lines if line.bar_interval == formulas.SLOW_INTERVAL)
        slow_rows = 0
        with self._warehouse.transaction() as transaction:
            _clear(transaction, formulas.FAST_INTERVAL, fast)
            before = floor(fast.start - formulas.PREVIOUS_CLOSE_REACH, formulas.FAST_STEP)
            bounds = {"start": fast.start, "end": fast.end}
            fast_rows = transaction.execute(formulas.FAST_STATEMENT, bounds | {"before": before})
            slow = self._stale_minutes(transaction, window) if has_slow else None
            if slow is not None:
                frame = _slow_features(transaction, slow, self._baselines_of(transaction, slow))
                slow_rows = transaction.replace_window(FEATURES, slow, frame, bar_interval=formulas.SLOW_INTERVAL)
                self._minutes_until = _last_minute(transaction, window) or self._minutes_until
        return StageReport(FEATURES.name, window, fast_rows + slow_rows, {"rows_5s": fast_rows, "rows_1m": slow_rows})

    def _stale_minutes(self, transaction: Transaction, window: Window) -> Window | None:
        """Return the whole minutes whose features the window changes; None where no minute has ended since."""
        first, end = floor(window.start, formulas.SLOW_STEP), floor(window.end, formulas.SLOW_STEP)
        start = first - formulas.SLOW_STEP if self._minutes_until is None else min(first, self._minutes_until)
        if self._minutes_until is not None and first >= self._minutes_until >= end:
            return None
        looking_back = transaction.query(
            f"SELECT max(bar_start) AS last FROM {FEATURES.name} "
            "WHERE bar_interval = ? AND bar_start >= ? AND bar_start < ?",
            [formulas.SLOW_INTERVAL, end, end + formulas.SLOW_READ_BEFORE],
        ).item()
        end = end if looking_back is None else looking_back + formulas.SLOW_STEP
        return Window(start, end) if end > start else None

    def _baselines_of(self, transaction: Transaction, window: Window) -> pl.DataFrame:
        """Return the seasonal baselines of the window's hours; they rest on earlier hours, so the last is remembered."""
        hours = tuple(_steps(floor(window.start, HOUR), window.end, HOUR))
        if self._baselines is None or self._baselines[0] != hours:
            hourly = transaction.query(
                formulas.HOURLY_BASELINE_QUERY,
                {"start": hours[0] - formulas.BASELINE_LOOKBACK, "end": hours[-1]},
            )
            self._baselines = hours, formulas.seasonal_baselines(hourly, list(hours))
        return self._baselines[1]

    @property
    def _learned(self) -> tuple[Detector, ...]:
        return tuple(each for line in self._lines for each in line.detectors if each.name in LEARNERS)

    @property
    def learns(self) -> bool:
        """Return whether a detector among these needs models, and has something to learn from."""
        names = {each.name for each in self._learned}
        if names != {CLASSIFIER}:
            return bool(names)
        with self._warehouse.reading() as connection:
            return has_labels(Transaction(connection))

    def refresh_models(self, valid_from: datetime) -> StageReport:
        """Fit the learned detectors on the days before a midnight, and store the models that score what follows it.

        Where a model for that midnight is stored already it is made anew; where the past is too short, none is. What
        was scored after that midnight before the model was there is to be scored again (`refresh_scores` from it on).
        """
        details: dict[str, int | float | str] = {}
        rows = 0
        with self._warehouse.transaction() as transaction:
            fits = [LEARNERS[each.name].learn(transaction, valid_from) for each in self._learned]
        for fitted in [fit() for fit in fits]:
            with self._warehouse.transaction() as transaction:
                rows += transaction.merge(DETECTOR_MODELS, fitted.rows)
            details |= fitted.details
        return StageReport(DETECTOR_MODELS.name, Window(valid_from - MODEL_MEMORY, valid_from), rows, details)

    def _load_models(self, transaction: Transaction) -> None:
        """Give the learned detectors the stored models; only looks at what is new."""
        if not self._learned:
            return
        stored = stored_models(transaction, self._learned)
        for line in self._lines:
            changed = [each for each in line.detectors if stored.get(each.name, ()) != self._models.get(each.name, ())]
            if changed:
                line.detectors = with_models(line.detectors, transaction)
                line.checkpoints, line.scored = [], None  # they may hold what another model has said
        self._models = stored

    def refresh_scores(self, window: Window, watermark: datetime) -> StageReport:
        """Score all closed bars from the start of the window on, and return how many are kept.

        A bar is closed when the watermark has passed its end. Scores after the window follow from the states that the
        window changes, so they are made anew too, until the states agree with those that are stored. What is found is
        stored in one transaction. The detectors take longer than all else, so the store is left to others meanwhile.
        """
        for _ in range(_TRIES_BESIDE_OTHERS):
            folds = self._read_folds(window, watermark)
            if not folds:
                return self._report(window, {})
            with self._warehouse.released():
                scores = [_scores_of(fold, window) for fold in folds]
            with self._warehouse.transaction() as transaction:
                if self._still_hold(transaction, folds):
                    return self._report(window, _store_all(transaction, folds, scores, window))
        with self._warehouse.held():  # others change it faster than it can be scored: now they wait
            folds = self._read_folds(window, watermark)
            scores = [_scores_of(fold, window) for fold in folds]
            with self._warehouse.transaction() as transaction:
                return self._report(window, _store_all(transaction, folds, scores, window))

    def _read_folds(self, window: Window, watermark: datetime) -> list["_Fold"]:
        """Read what there is to be scored, line by line; a line without anything new is left out."""
        with self._warehouse.reading() as connection:
            transaction = Transaction(connection)
            self._load_models(transaction)
            found = [_read_fold(transaction, line, window, watermark) for line in self._lines if line.detectors]
        return [fold for fold in found if fold is not None]

    def _still_hold(self, transaction: Transaction, folds: Sequence["_Fold"]) -> bool:
        """Return whether nobody has changed since what the folds rest on."""
        return stored_models(transaction, self._learned) == self._models and all(
            fold.rests_on == _rests_on(transaction, fold.line, fold.span) for fold in folds
        )

    def _report(self, window: Window, stored: Mapping[str, int]) -> StageReport:
        counts = {
            f"rows_{line.bar_interval}": stored.get(line.bar_interval, 0) for line in self._lines if line.detectors
        }
        return StageReport(ANOMALY_SCORES.name, window, sum(counts.values()), dict(counts))


def _clear(transaction: Transaction, bar_interval: str, window: Window) -> None:
    transaction.execute(
        f"DELETE FROM {FEATURES.name} WHERE bar_interval = ? AND bar_start >= ? AND bar_start < ?",
        [bar_interval, window.start, window.end],
    )


def _last_minute(transaction: Transaction, window: Window) -> datetime | None:
    """Return the minute of the last trade in the window: those before it have ended."""
    last = transaction.query(
        f"SELECT max(bar_start) FROM {FEATURES.name} WHERE bar_interval = ? AND bar_start >= ? AND bar_start < ?",
        [formulas.FAST_INTERVAL, floor(window.start, formulas.FAST_STEP), window.end],
    ).item()
    return None if last is None else floor(last, formulas.SLOW_STEP)


def _slow_features(transaction: Transaction, window: Window, baselines: pl.DataFrame) -> pl.DataFrame:
    bars = transaction.query(
        formulas.SLOW_BARS_QUERY, {"start": window.start - formulas.SLOW_READ_BEFORE, "end": window.end}
    )
    orders = transaction.query(
        f"SELECT symbol, time_bucket(INTERVAL '1 minute', bar_start) AS bar_start, "
        "sum(buy_orders)::BIGINT AS buy_orders, sum(rush_orders)::BIGINT AS rush_orders "
        f"FROM {FEATURES.name} WHERE bar_interval = ? AND bar_start >= ? AND bar_start < ? GROUP BY ALL",
        [formulas.FAST_INTERVAL, window.start, window.end],
    )
    hours = transaction.query(
        f"SELECT symbol, bar_start AS hour, volume::DOUBLE AS base, quote_volume::DOUBLE AS quote "
        f"FROM {OHLC_BARS.name} WHERE bar_interval = '1h' AND bar_start >= ? AND bar_start < ?",
        [floor(window.start, HOUR) - formulas.PROFILE_LOOKBACK, floor(window.end, HOUR)],
    )
    arrivals = transaction.query(formulas.ARRIVALS_QUERY, {"start": window.start, "end": window.end})
    rows = formulas.slow_features(bars, orders, arrivals, hours, baselines)
    return rows.filter(pl.col("bar_start") >= window.start)


@dataclass(frozen=True)
class _Fold:
    """What a line's next scores rest on, as it was read."""

    line: _Line
    span: Window  # of the features, from the instant of the states to the end of the last closed bar
    states: States
    features: pl.DataFrame
    rests_on: tuple[object, ...]
    stored_states: dict[datetime, pl.DataFrame]  # at the full hours in the span


@dataclass(frozen=True)
class _Scores:
    """What a fold has come to: the scores up to an instant, and the states to be remembered and to be stored."""

    rows: pl.DataFrame
    reached: datetime
    checkpoints: list[tuple[datetime, States]]
    new_states: list[tuple[datetime, pl.DataFrame]]


def _read_fold(transaction: Transaction, line: _Line, window: Window, watermark: datetime) -> _Fold | None:
    """Read what the scores from the window on rest on; None where there is nothing new to score."""
    step = STEPS[line.bar_interval]
    start, end = floor(window.start, step), floor(watermark, step)
    if end <= start:
        return None
    at, states = _state_before(transaction, line, start)
    span = Window(at, end)
    rests_on = _rests_on(transaction, line, span)  # before the features: a change in between must not go unnoticed
    features = transaction.query(
        f"SELECT * FROM {FEATURES.name} WHERE bar_interval = ? AND bar_start >= ? AND bar_start < ? "
        "ORDER BY bar_start, symbol",
        [line.bar_interval, at, end],
    )
    if line.scored is not None and line.scored[0] == span and line.scored[1].equals(features):
        return None  # no bar has closed since, and no late trade has changed one
    hours = [cut for cut in _cuts(at, end) if cut == floor(cut, HOUR)]
    return _Fold(
        line, span, states, features, rests_on, {hour: _stored_states(transaction, line, hour) for hour in hours}
    )


def _rests_on(transaction: Transaction, line: _Line, span: Window) -> tuple[object, ...]:
    """Return what changes when a feature in the span does: the number of rows, and the sum of what each hashes to."""
    return transaction.query(
        f"SELECT count(*), sum(hash({FEATURES.name})) FROM {FEATURES.name} "
        "WHERE bar_interval = ? AND bar_start >= ? AND bar_start < ?",
        [line.bar_interval, span.start, span.end],
    ).row(0)


def _scores_of(fold: _Fold, window: Window) -> _Scores:
    """Let the detectors look at the features, hour by hour; needs no store."""
    line, states, reached = fold.line, fold.states, fold.span.start
    settled = window.end + formulas.SLOW_READ_BEFORE  # features that look back on the window may have changed till then
    kept: list[pl.DataFrame] = []
    checkpoints = list(line.checkpoints)
    new_states = []
    for cut in _cuts(fold.span.start, fold.span.end):
        part = fold.features.filter((pl.col("bar_start") >= reached) & (pl.col("bar_start") < cut))
        states, scores = _advance(line, states, part)
        kept.append(scores)
        reached = cut
        checkpoints.append((reached, states))
        if reached in fold.stored_states:
            fresh = _state_rows(line, reached, states)
            if fresh.is_empty() or not fresh.equals(fold.stored_states[reached]):
                new_states.append((reached, fresh))
            elif reached >= settled:
                break  # what follows was computed from the very same state
    rows = pl.concat(kept).filter(pl.col("bar_start") >= floor(window.start, STEPS[line.bar_interval]))
    return _Scores(rows, reached, checkpoints[-CHECKPOINTS_KEPT:], new_states)


def _store_all(
    transaction: Transaction, folds: Sequence[_Fold], scores: Sequence[_Scores], window: Window
) -> dict[str, int]:
    """Store what the folds have come to, and return the number of scores by bar interval."""
    pairs = zip(folds, scores, strict=True)
    return {fold.line.bar_interval: _store_scores(transaction, fold, found, window) for fold, found in pairs}


def _store_scores(transaction: Transaction, fold: _Fold, scores: _Scores, window: Window) -> int:
    """Store what a fold has come to, in the place of what was stored of it, and return the number of scores."""
    line, start = fold.line, floor(window.start, STEPS[fold.line.bar_interval])
    line.scored, line.checkpoints = (fold.span, fold.features), scores.checkpoints
    names = list(line.versions)
    for at, rows in scores.new_states:
        instant = Window(at, at + timedelta(microseconds=1))
        transaction.replace_window(DETECTOR_STATES, instant, rows, detector=names)
        _prune_states(transaction, at)
    return transaction.replace_window(
        ANOMALY_SCORES, Window(start, scores.reached), scores.rows, bar_interval=line.bar_interval, detector=names
    )


def _cuts(start: datetime, end: datetime) -> Iterator[datetime]:
    """Return the instants at which states are wanted: midnights, the last full hour, the last full minute, the end."""
    midnights = list(_steps(ceil(start, DAY), end, DAY))
    recent = [floor(end, HOUR), floor(end, CHECKPOINT_STEP), end]
    return iter(sorted({cut for cut in [*midnights, *recent] if start < cut <= end}))


def _steps(start: datetime, end: datetime, step: timedelta) -> Iterator[datetime]:
    at = floor(start, step)
    while at < end:
        yield at
        at += step


def _advance(line: _Line, states: States, features: pl.DataFrame) -> tuple[States, pl.DataFrame]:
    """Return the states after these bars and the scores of all detectors, as rows of `anomaly_scores`."""
    by_symbol = {key[0]: part for key, part in features.partition_by("symbol", as_dict=True).items()}
    after: States = {}
    rows = [ANOMALY_SCORES.empty()]
    for detector in line.detectors:
        known = dict(states.get(detector.name, {}))
        parts = {WHOLE_MARKET: features} if detector.over_market else by_symbol
        scores = [pl.DataFrame(schema=SCORE_SCHEMA)]
        for symbol, bars in parts.items():
            if bars.is_empty():
                continue
            known[symbol], found = detector.advance(known.get(symbol) or detector.begin(), bars)
            scores.append(found)
        after[detector.name] = known
        rows.append(_score_rows(line.bar_interval, detector.name, detector.version, pl.concat(scores)))
    found = pl.concat(rows)
    if not line.is_combined:
        return after, found
    known, scores = dict(states.get(combined.NAME, {})), [pl.DataFrame(schema=SCORE_SCHEMA)]
    for (symbol,), part in found.partition_by("symbol", as_dict=True, maintain_order=True).items():
        known[symbol], said = combined.advance_combined(known.get(symbol) or combined.begin_combined(), part)
        scores.append(said)
    after[combined.NAME] = known
    together = _score_rows(line.bar_interval, combined.NAME, combined.VERSION, pl.concat(scores))
    return after, pl.concat([found, together])


def _score_rows(bar_interval: str, detector: str, version: int, scores: pl.DataFrame) -> pl.DataFrame:
    return scores.with_columns(
        pl.lit(bar_interval).alias("bar_interval"),
        pl.lit(detector).alias("detector"),
        pl.lit(version, dtype=pl.Int64).alias("detector_version"),
        (-pl.col("times_a_day").log10()).alias("score"),
    ).select(ANOMALY_SCORES.column_names)


def _state_before(transaction: Transaction, line: _Line, start: datetime) -> tuple[datetime, States]:
    """Return the latest known states at or before the start, and their instant; empty ones where there are none."""
    line.checkpoints = [checkpoint for checkpoint in line.checkpoints if checkpoint[0] <= start]
    if line.checkpoints:
        return line.checkpoints[-1]
    versions = line.versions
    known = " OR ".join("(detector = ? AND detector_version = ?)" for _ in versions)
    rows = transaction.query(
        f"SELECT detector, symbol, state_time, state FROM {DETECTOR_STATES.name} WHERE ({known}) AND state_time = ("
        f"SELECT max(state_time) FROM {DETECTOR_STATES.name} WHERE ({known}) AND state_time <= ?)",
        [value for pair in versions.items() for value in pair] * 2 + [start],
    )
    if rows.is_empty():
        first = transaction.query(
            f"SELECT min(bar_start) AS first FROM {FEATURES.name} WHERE bar_interval = ?", [line.bar_interval]
        ).item()
        return max(min(first or start, start), start - START_REACH), {}
    states: States = {}
    for row in rows.iter_rows(named=True):
        states.setdefault(row["detector"], {})[row["symbol"]] = decode_state(row["state"])
    at: datetime = rows["state_time"][0]
    return at, states


def _state_rows(line: _Line, at: datetime, states: States) -> pl.DataFrame:
    """Return the states at an instant as rows of `detector_states`, in key order."""
    return pl.DataFrame(
        [
            {
                "symbol": symbol,
                "detector": detector,
                "detector_version": version,
                "state_time": at,
                "state": encode_state(state),
            }
            for detector, version in line.versions.items()
            for symbol, state in states.get(detector, {}).items()
        ],
        schema=DETECTOR_STATES.polars_schema,
    ).sort(DETECTOR_STATES.key)


def _stored_states(transaction: Transaction, line: _Line, at: datetime) -> pl.DataFrame:
    names = list(line.versions)
    marks = ", ".join("?" * len(names))
    stored = transaction.query(
        f"SELECT * FROM {DETECTOR_STATES.name} WHERE state_time = ? AND detector IN ({marks})", [at, *names]
    )
    return stored.cast(DETECTOR_STATES.polars_schema).sort(DETECTOR_STATES.key)


def _prune_states(transaction: Transaction, at: datetime) -> None:
    """Delete states that no refresh will start from: hourly ones after two days, midnights after a month."""
    transaction.execute(
        f"DELETE FROM {DETECTOR_STATES.name} WHERE state_time < ? "
        "OR (state_time < ? AND state_time <> date_trunc('day', state_time))",
        [max(at - DAILY_STATES_KEPT, EPOCH), max(at - HOURLY_STATES_KEPT, EPOCH)],
    )
