"""Trade files and label files of others, read into our own records.

Owns the liberal part: CSV or Parquet, instants in seconds to nanoseconds or ISO, the usual other names of columns,
prices too small for our decimals. Stays out: what is done with the trades (pipeline/backtest.py).
"""

from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

from cryptotrace_dagster.domain.evaluation import Event, normal_symbol
from cryptotrace_dagster.errors import UserError
from cryptotrace_dagster.tables import RAW_TICKS

_TRADE_NAMES = {
    "symbol": ("symbol", "pair", "market", "instrument"),
    "timestamp": ("timestamp", "trade_time", "time", "ts", "transact_time", "datetime", "date"),
    "side": ("side", "taker_side", "aggressor"),
    "price": ("price",),
    "amount": ("amount", "quantity", "qty", "size", "volume"),
}
_LABEL_TIMES = ("timestamp", "time", "event_time", "announced_at", "pump_time", "datetime", "date")
_LABEL_SYMBOLS = ("symbol", "pair", "market", "coin")
_SMALLEST_EXACT = 1e-8


class TradeFileError(UserError):
    """A file of trades or labels cannot be used; the message names it, what was found, and what is wanted."""


def read_trades(path: Path) -> pl.DataFrame:
    """Return the trades of a CSV or Parquet file (`symbol,timestamp,side,price,amount`) as rows of `raw_ticks`.

    `side` is the aggressor's (buy or sell). Trades keep the file's order within an instant, and are numbered per symbol
    from 1. A missing symbol is the file's name.

    Raises:
        TradeFileError: the file cannot be read, a column is missing, or a value makes no sense.
    """
    frame = _read(path)
    names = {wanted: _find(frame, known) for wanted, known in _TRADE_NAMES.items()}
    missing = [wanted for wanted, name in names.items() if name is None and wanted != "symbol"]
    if missing:
        raise TradeFileError(
            f"{path}: no column {', '.join(missing)} among {', '.join(frame.columns)}; "
            "a trade file has symbol, timestamp, side, price and amount."
        )
    symbol = pl.col(str(names["symbol"])).cast(pl.String) if names["symbol"] else pl.lit(_symbol_of(path))
    side = pl.col(str(names["side"])).cast(pl.String).str.to_lowercase().str.slice(0, 1)
    trades = frame.select(
        symbol.alias("symbol"),
        _instants(frame[str(names["timestamp"])], path).alias("trade_time"),
        side.alias("side"),
        pl.col(str(names["price"])).cast(pl.Float64, strict=False).alias("price"),
        pl.col(str(names["amount"])).cast(pl.Float64, strict=False).alias("quantity"),
    )
    is_sound = (
        pl.col("side").is_in(["b", "s"])
        & (pl.col("price") > 0)
        & (pl.col("quantity") > 0)
        & pl.col("price").is_finite()
    )
    bad = trades.filter(~is_sound.fill_null(False) | pl.col("trade_time").is_null())
    if bad.height:
        raise TradeFileError(
            f"{path}: {bad.height} of {trades.height} rows are no trades, the first is {bad.row(0)}; "
            "side must be buy or sell, price and amount positive, timestamp s, ms, µs or ISO."
        )
    if trades.is_empty():
        raise TradeFileError(f"{path} holds no trades.")
    return _as_ticks(trades)


def read_labels(path: Path) -> list[Event]:
    """Return the events of a CSV or Parquet file: a symbol column if there is one, and `timestamp`, `time` or `date`.

    A `date` column (YYYY-MM-DD) may be joined by `hour` (HH:MM). Without a symbol column every event concerns every
    symbol. Instants without a zone are UTC.

    Raises:
        TradeFileError: the file cannot be read, or has no time that can be understood.
    """
    frame = _read(path)
    time_name, symbol_name = _find(frame, _LABEL_TIMES), _find(frame, _LABEL_SYMBOLS)
    if time_name is None:
        raise TradeFileError(
            f"{path}: no column for the time among {', '.join(frame.columns)}; a label file has symbol and timestamp."
        )
    hour_name = _find(frame, ("hour", "clock"))
    times = frame[time_name]
    if hour_name is not None and time_name.lower() == "date":
        times = times.cast(pl.String).str.slice(0, 10) + "T" + frame[hour_name].cast(pl.String).str.zfill(5)
    instants = _instants(times, path)
    if instants.null_count():
        raise TradeFileError(f"{path}: the time {times.filter(instants.is_null())[0]!r} cannot be understood.")
    symbols = frame[symbol_name].cast(pl.String).to_list() if symbol_name else [""] * frame.height
    return [Event(symbol or "", instant) for symbol, instant in zip(symbols, instants.to_list(), strict=True)]


def _read(path: Path) -> pl.DataFrame:
    if not path.is_file():
        raise TradeFileError(f"There is no file {path}.")
    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path)
        return pl.read_csv(path, infer_schema_length=10_000)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise TradeFileError(f"{path} could not be read as CSV or Parquet: {reason}") from error


def _find(frame: pl.DataFrame, known: tuple[str, ...]) -> str | None:
    lower = {name.strip().lower(): name for name in frame.columns}
    return next((lower[name] for name in known if name in lower), None)


def _symbol_of(path: Path) -> str:
    return normal_symbol(path.name.split(".")[0]) or "SYMBOL"


def _instants(values: pl.Series, path: Path) -> pl.Series:
    """Return the values as naive UTC instants; null where one cannot be understood."""
    if values.dtype == pl.String:
        numbers = values.cast(pl.Float64, strict=False)
        if numbers.null_count() < values.len():
            return _instants(numbers, path)
        return values.map_elements(_iso, return_dtype=pl.Datetime("us"))
    if isinstance(values.dtype, pl.Datetime):
        utc = values.dt.convert_time_zone("UTC") if values.dtype.time_zone else values
        return utc.dt.replace_time_zone(None).cast(pl.Datetime("us"))
    if values.dtype == pl.Date:
        return values.cast(pl.Datetime("us"))
    if not values.dtype.is_numeric() or values.is_empty():
        raise TradeFileError(f"{path}: times of type {values.dtype} are not understood; use s, ms, µs or ISO.")
    largest = float(values.cast(pl.Float64).abs().max() or 0)  # type: ignore[arg-type]
    per_second = next(unit for unit in (1, 10**3, 10**6, 10**9) if largest < 1e11 * unit or unit == 10**9)
    if values.dtype.is_integer():
        whole = values.cast(pl.Int64)
        micros = whole // (per_second // 10**6) if per_second > 10**6 else whole * (10**6 // per_second)
    else:
        micros = (values.cast(pl.Float64) * (10**6 / per_second)).round().cast(pl.Int64)
    return micros.cast(pl.Datetime("us"))


def _iso(text: str) -> datetime | None:
    try:
        instant = datetime.fromisoformat(text.strip().replace(" UTC", "+00:00"))
    except ValueError:
        return None
    offset = instant.utcoffset() or timedelta(0)
    return instant.replace(tzinfo=None) - offset


def _as_ticks(trades: pl.DataFrame) -> pl.DataFrame:
    is_backwards = trades["trade_time"][0] > trades["trade_time"][-1]
    ordered = (trades.reverse() if is_backwards else trades).sort("symbol", "trade_time", maintain_order=True)
    cheapest = ordered.group_by("symbol").agg(pl.col("price").min().alias("cheapest"))
    ids = pl.int_range(1, pl.len() + 1).over("symbol")
    # Prices near our last decimal would lose their moves: such a symbol is counted in larger units.
    enlarge = pl.when(pl.col("cheapest") < 1e3 * _SMALLEST_EXACT).then(1e6).otherwise(1.0)
    return (
        ordered.join(cheapest, on="symbol", maintain_order="left")
        .with_columns(
            pl.col("price") * enlarge,
            pl.max_horizontal(pl.col("quantity"), pl.lit(_SMALLEST_EXACT)),
            ids.alias("trade_id"),
            (pl.col("side") == "s").alias("is_buyer_maker"),
        )
        .with_columns(
            pl.col("trade_id").alias("first_trade_id"),
            pl.col("trade_id").alias("last_trade_id"),
            pl.col("trade_time").alias("received_at"),
        )
        .select(RAW_TICKS.column_names)
        .cast(RAW_TICKS.polars_schema)
    )
