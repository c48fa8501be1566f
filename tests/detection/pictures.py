"""Draw the pictures of docs/detection.md: one a detector, from simulated events of five symbols over two days and a half.

    python -m tests.detection.pictures docs/images

Trades with scripted events go through the stages of live operation; each picture shows candles around the event and
marks what its detector said: rarer than daily (disc), once in ten days (triangle), once in a hundred (diamond).
"""

import sys
import tempfile
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

from cryptotrace_dagster.domain.detectors.data_trouble import CLOCK
from cryptotrace_dagster.domain.detectors.market import MARKET_SYMBOL
from cryptotrace_dagster.notify.chart import candle_chart
from cryptotrace_dagster.pipeline.detection import DAY, Detection
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.tables import ANOMALY_SCORES, OHLC_BARS, RAW_TICKS
from tests.detection.history import START, stored, trades

HOURS = 60.0
SEVERITY_FROM = ((2.0, "critical"), (1.0, "warning"), (0.0, "info"))


def at(hour: float) -> datetime:
    return START + timedelta(hours=hour)


PUMP, JUMP, REGIME = at(54), at(55), at(52)
CRASH, SILENT, STALE, SKEW = at(57), at(58), at(58.25), at(59)


@dataclass(frozen=True)
class Picture:
    """What is shown of a detector: where (without a symbol: its strangest moment since), when, how wide, candles how long."""

    detector: str
    symbol: str
    time: datetime
    before: timedelta = timedelta(minutes=45)
    after: timedelta = timedelta(minutes=45)
    candle_seconds: int = 60
    scored_as: str = ""


PICTURES = (
    Picture("pump", "PUMPBTC", PUMP, timedelta(minutes=5), timedelta(minutes=4), 5),
    Picture("seasonal_trend", "JUMPBTC", JUMP),
    Picture("regime_change", "REGIMEBTC", REGIME, timedelta(hours=1), timedelta(hours=2), 120),
    Picture("isolation_forest", "", START + timedelta(hours=30)),  # its first model is of hour 24
    Picture("market_move", "CALMBTC", CRASH, scored_as=MARKET_SYMBOL),
    Picture("market_relation", "JUMPBTC", JUMP),
    Picture("combined", "JUMPBTC", JUMP),
    Picture("data_silence", "SILENTBTC", SILENT, timedelta(minutes=30), timedelta(minutes=50)),
    Picture("data_stale_price", "CALMBTC", STALE),
    Picture("data_clock_skew", "CALMBTC", SKEW, timedelta(minutes=30), timedelta(minutes=45), scored_as=CLOCK),
)


def scripted() -> pl.DataFrame:
    """Return the trades of all symbols, as `raw_ticks`, with each event in its place."""
    names = ("PUMPBTC", "JUMPBTC", "REGIMEBTC", "SILENTBTC", "CALMBTC")
    frames = []
    for seed, name in enumerate(names):
        pump_at = PUMP if name == "PUMPBTC" else None
        frames.append(trades(name, hours=HOURS, seed=seed, a_minute=20, pump_at=pump_at))
    time, symbol = pl.col("trade_time"), pl.col("symbol")
    price = pl.col("price").cast(pl.Float64)
    lift = pl.when((symbol == "JUMPBTC") & (time >= JUMP)).then(1.02).otherwise(1.0)
    fallen = ((time - CRASH).dt.total_seconds() / 120).clip(0, 1)
    is_wild = (symbol == "REGIMEBTC") & time.is_between(REGIME, REGIME + timedelta(hours=1))
    move = price.log().diff().over("symbol").fill_null(0.0)
    wild = (pl.when(is_wild).then(4 * move).otherwise(0.0)).cum_sum().over("symbol").exp()
    is_stale = (symbol == "CALMBTC") & time.is_between(STALE, STALE + timedelta(minutes=20))
    is_silent = (symbol == "SILENTBTC") & time.is_between(SILENT, SILENT + timedelta(minutes=35))
    moved = (price * lift * wild * (1 - 0.03 * fallen)).alias("moved")
    late = pl.when(time >= SKEW).then(pl.duration(milliseconds=2_500)).otherwise(pl.duration(milliseconds=0))
    latency = pl.duration(milliseconds=90 + pl.col("trade_id").hash(1) % 60)
    return (
        pl.concat(frames)
        .with_columns(moved)
        .with_columns(stale_price=pl.col("moved").filter(~is_stale & (time < STALE)).last().over("symbol"))
        .with_columns(
            price=pl.when(is_stale).then("stale_price").otherwise("moved").round(6),
            received_at=time + latency + late,
        )
        .filter(~is_silent)
        .with_columns(trade_id=pl.int_range(1, pl.len() + 1).over("symbol"))
        .with_columns(first_trade_id="trade_id", last_trade_id="trade_id")
        .select(RAW_TICKS.column_names)
        .cast(RAW_TICKS.polars_schema)
    )


def candles_of(warehouse: Warehouse, picture: Picture) -> pl.DataFrame:
    if picture.detector == "data_clock_skew":  # what is shown is the latency of its trades, in milliseconds
        value, ordered, volume, table, time = (
            "(epoch_us(received_at) - epoch_us(trade_time)) / 1e3",
            "trade_id",
            "count(*)",
            RAW_TICKS.name,
            "trade_time",
        )
        prices = (value, value, value, value)
        where = "true"
    else:
        ordered, volume, table, time = "bar_start", "sum(quote_volume)", OHLC_BARS.name, "bar_start"
        prices = ("open", "high", "low", "close")
        where = "bar_interval = '1s'"
    return warehouse.read(
        f"SELECT time_bucket(to_seconds({picture.candle_seconds}), {time}) AS start, "
        f"arg_min({prices[0]}, {ordered})::DOUBLE AS open, max({prices[1]})::DOUBLE AS high, "
        f"min({prices[2]})::DOUBLE AS low, arg_max({prices[3]}, {ordered})::DOUBLE AS close, {volume}::DOUBLE AS volume "
        f"FROM {table} WHERE {where} AND symbol = ? AND {time} >= ? AND {time} < ? GROUP BY start ORDER BY start",
        [picture.symbol, picture.time - picture.before, picture.time + picture.after],
    )


def placed(warehouse: Warehouse, picture: Picture) -> Picture:
    if picture.symbol:
        return picture
    symbol, time = warehouse.read(
        f"SELECT symbol, bar_start FROM {ANOMALY_SCORES.name} WHERE detector = ? AND bar_start >= ? "
        "ORDER BY score DESC LIMIT 1",
        [picture.detector, picture.time],
    ).row(0)
    return replace(picture, symbol=symbol, time=time)


def drawn(warehouse: Warehouse, picture: Picture) -> bytes:
    said = warehouse.read(
        f"SELECT time_bucket(to_seconds({picture.candle_seconds}), bar_start) AS start, max(score) AS score "
        f"FROM {ANOMALY_SCORES.name} WHERE detector = ? AND symbol = ? AND bar_start >= ? AND bar_start < ? "
        "AND score >= 0 GROUP BY start ORDER BY start",
        [
            picture.detector,
            picture.scored_as or picture.symbol,
            picture.time - picture.before,
            picture.time + picture.after,
        ],
    )
    marks = [
        (start, next(severity for least, severity in SEVERITY_FROM if score >= least)) for start, score in said.rows()
    ]
    print(f"{picture.detector}: {len(marks)} marks, strangest {said['score'].max()!r}")
    shown = "latency in ms" if picture.detector == "data_clock_skew" else f"candles of {picture.candle_seconds} s"
    title = f"{picture.detector}: {picture.symbol}, {shown}"
    return candle_chart(candles_of(warehouse, picture), title, picture.time, picture.candle_seconds, strange=marks)


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        warehouse = Warehouse(str(Path(temporary) / "pictures.duckdb"))
        warehouse.create()
        window = stored(warehouse, scripted(), HOURS)
        detection = Detection(warehouse)
        for day in (1, 2):
            detection.refresh_models(START + day * DAY)
        detection.refresh_scores(window, window.end)
        for picture in PICTURES:
            (folder / f"detector_{picture.detector}.png").write_bytes(drawn(warehouse, placed(warehouse, picture)))


if __name__ == "__main__":
    main()
