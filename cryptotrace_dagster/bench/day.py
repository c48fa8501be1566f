"""A whole day through the stages: bars, then features, scores and alerts, against one plain `GROUP BY` of the ticks."""

import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import polars as pl
from polars.testing import assert_frame_equal

from cryptotrace_dagster.bench.market import DAY, PUMPED, MarketDay, bar_totals, fill_day, stored_bytes
from cryptotrace_dagster.bench.rows import Pair, Row, Target, WrongWorkError, measured_pairs, require, row_of_pairs
from cryptotrace_dagster.bench.sizes import Sizes
from cryptotrace_dagster.connections import connected
from cryptotrace_dagster.domain.bars import BAR_INTERVALS
from cryptotrace_dagster.pipeline.alerts import refresh_alerts
from cryptotrace_dagster.pipeline.bars import refresh_bars
from cryptotrace_dagster.pipeline.detection import Detection
from cryptotrace_dagster.pipeline.housekeeping import pack_ticks
from cryptotrace_dagster.pipeline.rule_source import load_rules
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.tables import (
    ALERT_RULE_VERSIONS,
    ALERTS,
    ANOMALY_SCORES,
    DETECTOR_STATES,
    FEATURES,
    OHLC_BARS,
    RAW_TICKS,
    Table,
)

BARS_TARGET = Target(2.0)
DETECTION_TARGET = Target(5.0)
SCALING_TARGET = Target(11.0)
TICK_TARGET = Target(12.0, of_value=True)
SCALE = 10
_WATERMARK = DAY.end + timedelta(minutes=1)
_PLAIN = "one GROUP BY of 1-minute OHLCV over the same ticks"
PLAIN_QUERY = f"""
    SELECT symbol, time_bucket(INTERVAL '1 minute', trade_time) AS bar_start, arg_min(price, trade_id) AS open,
           max(price) AS high, min(price) AS low, arg_max(price, trade_id) AS close, sum(quantity) AS volume
    FROM {RAW_TICKS.name} GROUP BY symbol, bar_start
"""


def measure_day(sizes: Sizes) -> list[Row]:
    """Return the rows `bars`, `detection`, `detection_scaling` and `tick_size`."""
    with tempfile.TemporaryDirectory() as folder:
        warehouse = Warehouse(str(Path(folder) / "day.duckdb"))
        warehouse.create()
        day = fill_day(warehouse, sizes.day_ticks)
        small = Warehouse(str(Path(folder) / "small.duckdb"))
        small.create()
        fill_day(small, sizes.day_ticks // SCALE)
        bars = measured_pairs(lambda: Pair(_make_bars(warehouse), _plain(warehouse)), sizes.repeats, sizes.warm_ups)
        _check_bars(warehouse, day.ticks)
        _make_bars(small)
        detection = measured_pairs(lambda: Pair(_detect(warehouse), _plain(warehouse)), sizes.repeats, sizes.warm_ups)
        _check_detection(warehouse)
        scaling = measured_pairs(lambda: Pair(_detect(warehouse), _detect(small)), max(1, sizes.repeats // 2))
        tick_size = _tick_size(warehouse, day)
    return [
        row_of_pairs("bars", "bars of a day, all six intervals", "s", bars, _PLAIN, BARS_TARGET, ticks=day.ticks),
        row_of_pairs(
            "detection",
            "features, scores and alerts of that day",
            "s",
            detection,
            _PLAIN,
            DETECTION_TARGET,
            ticks=day.ticks,
        ),
        row_of_pairs(
            "detection_scaling",
            "the same for ten times the ticks",
            "s",
            scaling,
            "the same for a tenth of the ticks",
            SCALING_TARGET,
        ),
        tick_size,
    ]


def _tick_size(warehouse: Warehouse, day: MarketDay) -> Row:
    """Return the row of what a stored tick takes once its day is packed, as it is every night."""
    ids = f"SELECT count(*), count(DISTINCT (symbol, trade_id)) FROM {RAW_TICKS.name}"
    before = stored_bytes(warehouse)
    pack_ticks(warehouse, DAY)
    packed = day.bytes_per_tick - (before - stored_bytes(warehouse)) / day.ticks
    require(warehouse.read(ids).row(0) == (day.ticks, day.ticks), "packing lost or doubled ticks")
    return Row(
        name="tick_size",
        what="stored tick of a closed day, ids and times included",
        value=packed,
        unit="bytes",
        target=TICK_TARGET,
        details={"ticks": day.ticks, "bytes_before_packing": round(day.bytes_per_tick, 2)},
    )


def _make_bars(warehouse: Warehouse) -> float:
    _clear(warehouse, OHLC_BARS)
    return _seconds(lambda: refresh_bars(warehouse, DAY))


def _detect(warehouse: Warehouse) -> float:
    _clear(warehouse, FEATURES, ANOMALY_SCORES, DETECTOR_STATES, ALERTS, ALERT_RULE_VERSIONS)
    rules = load_rules(Path("no-such-file"))  # hence the built-in ones

    def work() -> None:
        detection = Detection(warehouse)
        detection.refresh_features(DAY)
        detection.refresh_scores(DAY, _WATERMARK)
        refresh_alerts(warehouse, rules, DAY, _WATERMARK, _WATERMARK)

    return _seconds(work)


def _plain(warehouse: Warehouse) -> float:
    return _seconds(lambda: warehouse.read(PLAIN_QUERY))


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _clear(warehouse: Warehouse, *tables: Table) -> None:
    with warehouse.transaction() as transaction:
        for table in tables:
            transaction.execute(f"DELETE FROM {table.name}")
    with connected(warehouse.address, read_only=False, wait_seconds=60) as connection:
        connection.execute("CHECKPOINT")


def _check_bars(warehouse: Warehouse, ticks: int) -> None:
    totals = bar_totals(warehouse)
    require(totals == dict.fromkeys(BAR_INTERVALS, ticks), f"the bars hold {totals} of {ticks} ticks")
    order = ["symbol", "bar_start"]
    names = [*order, "open", "high", "low", "close", "volume"]
    ours = warehouse.read(f"SELECT {', '.join(names)} FROM {OHLC_BARS.name} WHERE bar_interval = '1m'").sort(order)
    try:
        assert_frame_equal(ours, warehouse.read(PLAIN_QUERY).select(names).sort(order))
    except AssertionError as error:
        raise WrongWorkError(f"the 1-minute bars differ from the plain query's: {error}") from error


def _check_detection(warehouse: Warehouse) -> None:
    wanted = warehouse.read(
        f"SELECT count(DISTINCT (symbol, time_bucket(INTERVAL '5 seconds', trade_time))) FROM {RAW_TICKS.name}"
    ).item()
    found = warehouse.read(f"SELECT count(*) FROM {FEATURES.name} WHERE bar_interval = '5s'").item()
    require(found == wanted, f"{found} rows of features for {wanted} bars of five seconds")
    alerts = warehouse.read(f"SELECT DISTINCT symbol FROM {ALERTS.name} WHERE phase = 'opening'")
    missed = pl.Series(PUMPED).filter(~pl.Series(PUMPED).is_in(alerts["symbol"].implode()))
    require(missed.is_empty(), f"no alert for the pumps of {', '.join(missed)}")
