"""Features: numbers derived from closed and open bars, per symbol.

Owns the formulas. 5-second rows say what one bar says and come straight from 1-second bars in SQL; 1-minute rows add
indicators over a fixed lookback and robust seasonal deviations. Every feature depends on a fixed stretch of earlier
bars and on nothing after its own bar, so any way of cutting the history into windows gives the same rows.
Stays out: what is unusual about them (detectors/) and which window is refreshed (pipeline/detection.py).
"""

from datetime import timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cryptotrace_dagster.tables import FEATURES, OHLC_BARS, RAW_TICKS

FAST_INTERVAL = "5s"
SLOW_INTERVAL = "1m"
FAST_STEP = timedelta(seconds=5)
SLOW_STEP = timedelta(minutes=1)
PREVIOUS_CLOSE_REACH = timedelta(minutes=10)
SLOW_LOOKBACK = timedelta(minutes=150)  # EMA 26 has forgotten all but 1e-5 of what lies before
PROFILE_LOOKBACK = timedelta(hours=24)
BASELINE_LOOKBACK = timedelta(days=14)
MINIMUM_PROFILE_HOURS = 6
MINIMUM_BASELINE_HOURS = 3
VOLATILITY_MINUTES = 30
VOLUME_MINUTES = 60

Floats = NDArray[np.float64]

FAST_STATEMENT = f"""
    INSERT INTO {FEATURES.name} (
        symbol, bar_interval, bar_start, close, log_return, log_range, quote_volume, tick_count, trade_size,
        taker_imbalance, buy_orders, rush_orders, vwap_distance)
    WITH bars AS (
        SELECT symbol, time_bucket(INTERVAL '5 seconds', bar_start) AS starts,
               arg_max(close, last_tick_id)::DOUBLE AS last_close, max(high)::DOUBLE AS highest,
               min(low)::DOUBLE AS lowest, sum(quote_volume)::DOUBLE AS quote, sum(volume)::DOUBLE AS base,
               sum(taker_buy_quote_volume)::DOUBLE AS bought, sum(tick_count) AS ticks
        FROM {OHLC_BARS.name}
        WHERE bar_interval = '1s' AND bar_start >= $before AND bar_start < $end
        GROUP BY symbol, starts
    ), chained AS (
        SELECT *, lag(last_close) OVER earlier AS close_before, lag(starts) OVER earlier AS starts_before
        FROM bars WINDOW earlier AS (PARTITION BY symbol ORDER BY starts)
    ), bought AS (  -- microseconds within a bar, small numbers: with instants, a third as long again
        SELECT symbol, epoch_us(trade_time) // 5_000_000 AS bar_number,
               list_sort(list((epoch_us(trade_time) % 5_000_000)::INTEGER)) AS instants
        FROM {RAW_TICKS.name}
        WHERE trade_time >= $start AND trade_time < $end AND NOT is_buyer_maker
        GROUP BY symbol, bar_number
    ), repeated AS (  -- a list a bar: grouping by every instant costs twice as much
        SELECT symbol, make_timestamp(bar_number * 5_000_000) AS starts, len(instants) AS buys,
               list_filter(instants, lambda instant, place: place > 1 AND instants[place - 1] = instant) AS repeats
        FROM bought
    ), orders AS (
        SELECT symbol, starts, buys - len(repeats) AS buy_orders, list_unique(repeats) AS rush_orders FROM repeated
    )
    SELECT symbol, '{FAST_INTERVAL}', starts, last_close,
           CASE WHEN starts - starts_before <= INTERVAL '{int(PREVIOUS_CLOSE_REACH.total_seconds())} seconds'
                THEN ln(last_close / close_before) END,
           ln(highest / lowest), quote, ticks, quote / ticks,
           CASE WHEN quote > 0 THEN 2 * bought / quote - 1 ELSE 0 END,
           coalesce(buy_orders, 0), coalesce(rush_orders, 0),
           CASE WHEN base > 0 THEN ln(last_close * base / quote) ELSE 0 END
    FROM chained LEFT JOIN orders USING (symbol, starts)
    WHERE starts >= $start
"""

SLOW_BARS_QUERY = f"""
    SELECT symbol, bar_start, open::DOUBLE AS open, high::DOUBLE AS high, low::DOUBLE AS low, close::DOUBLE AS close,
           volume::DOUBLE AS volume, quote_volume::DOUBLE AS quote_volume,
           taker_buy_quote_volume::DOUBLE AS bought, tick_count
    FROM {OHLC_BARS.name}
    WHERE bar_interval = '{SLOW_INTERVAL}' AND bar_start >= $start AND bar_start < $end
    ORDER BY symbol, bar_start
"""

# Only bars of full earlier hours take part, so that the baseline of an hour is fixed before the hour begins.
HOURLY_BASELINE_QUERY = f"""
    SELECT symbol, time_bucket(INTERVAL '1 hour', bar_start) AS hour, count(*) AS bars,
           {
    ", ".join(
        f"quantile_cont({formula}, [0.25, 0.5, 0.75]) AS {name}"
        for name, formula in {
            "range": "ln(1 + 1e4 * ln(high / low))",
            "volume": "ln(greatest(quote_volume::DOUBLE, 1e-12))",
            "tick_count": "ln(tick_count)",
            "trade_size": "ln(greatest(quote_volume::DOUBLE, 1e-12) / tick_count)",
            "imbalance": "2 * taker_buy_quote_volume::DOUBLE / greatest(quote_volume::DOUBLE, 1e-12) - 1",
            "return": "ln(close / open)",
        }.items()
    )
}
    FROM {OHLC_BARS.name}
    WHERE bar_interval = '{SLOW_INTERVAL}' AND bar_start >= $start AND bar_start < $end
    GROUP BY symbol, hour
"""

# Arrivals are taken from the ticks themselves, for bars do not know when their trades were received.
ARRIVALS_QUERY = f"""
    SELECT symbol, make_timestamp(minute * 60_000_000) AS bar_start, latency / 1e6 AS latency_seconds,
           (last - minute * 60_000_000) / 1e6 AS last_trade_second
    FROM (
        SELECT symbol, epoch_us(trade_time) // 60_000_000 AS minute,  -- with time_bucket, two thirds as long again
               min(epoch_us(received_at) - epoch_us(trade_time)) AS latency, max(epoch_us(trade_time)) AS last
        FROM {RAW_TICKS.name} WHERE trade_time >= $start AND trade_time < $end GROUP BY ALL
    )
"""

_STALE_MINUTES = 60  # an indicator over an hour without a trade would describe the filling, not the market
_TAPS = 120
SLOW_READ_BEFORE = SLOW_LOOKBACK + timedelta(minutes=_STALE_MINUTES)


def slow_features(
    bars: pl.DataFrame, orders: pl.DataFrame, arrivals: pl.DataFrame, hours: pl.DataFrame, baselines: pl.DataFrame
) -> pl.DataFrame:
    """Return 1-minute `features` rows for every bar of `bars`, of which the first `SLOW_READ_BEFORE` are only lookback.

    Args:
        bars: rows of `SLOW_BARS_QUERY`, in key order.
        orders: symbol, bar_start, buy_orders, rush_orders: per minute.
        arrivals: rows of `ARRIVALS_QUERY`.
        hours: symbol, hour, base, quote: traded per full hour, over the `PROFILE_LOOKBACK` before.
        baselines: symbol, hour, and `{name}_centre`, `{name}_scale` as `seasonal_baselines` returns.
    """
    if bars.is_empty():
        return FEATURES.empty()
    rows = pl.concat([_with_indicators(part) for part in bars.partition_by("symbol", maintain_order=True)])
    rows = (
        rows.join(orders, on=["symbol", "bar_start"], how="left")
        .join(arrivals, on=["symbol", "bar_start"], how="left")
        .with_columns(
            pl.col("buy_orders", "rush_orders").fill_null(0), pl.col("bar_start").dt.truncate("1h").alias("hour")
        )
        .join(_profiles(rows, hours), on=["symbol", "hour"], how="left")
        .join(baselines, on=["symbol", "hour"], how="left")
    )
    deviations = {
        "return_deviation": ("return", pl.col("log_return")),
        "range_deviation": ("range", (1 + 1e4 * pl.col("log_range")).log()),
        "volume_deviation": ("volume", pl.col("quote_volume").clip(1e-12).log()),
        "tick_count_deviation": ("tick_count", pl.col("tick_count").log()),
        "trade_size_deviation": ("trade_size", (pl.col("quote_volume").clip(1e-12) / pl.col("tick_count")).log()),
        "imbalance_deviation": ("imbalance", pl.col("taker_imbalance")),
    }
    return rows.with_columns(
        pl.lit(SLOW_INTERVAL).alias("bar_interval"),
        ((pl.col("close").log() - pl.col("profile_centre")) / pl.col("profile_width")).alias("profile_position"),
        *(
            ((value - pl.col(f"{name}_centre")) / pl.col(f"{name}_scale")).alias(column)
            for column, (name, value) in deviations.items()
        ),
    ).select(FEATURES.column_names)


def seasonal_baselines(hourly: pl.DataFrame, wanted_hours: list[object]) -> pl.DataFrame:
    """Return the robust centre and scale of each 1-minute quantity for each wanted hour, from earlier hours alone.

    The centre is the median of the hourly medians, the scale the median hourly interquartile range / 1.349 (both
    Huber-robust: one wild hour moves neither). With three or more earlier days, only hours within one of the same
    time of day count, and of the same kind of day (weekday, weekend) once there are eight days; before that, the
    last 24 hours. Rows: symbol, hour, `{name}_centre`, `{name}_scale`.
    """
    names = ["range", "volume", "tick_count", "trade_size", "imbalance", "return"]
    wanted = pl.DataFrame({"hour": wanted_hours}, schema={"hour": pl.Datetime("us")})
    age = pl.col("hour") - pl.col("past_hour")
    hours_apart = (pl.col("past_hour").dt.hour().cast(pl.Int64) - pl.col("hour").dt.hour().cast(pl.Int64)).abs()
    is_same_time = pl.min_horizontal(hours_apart, 24 - hours_apart) <= 1
    is_same_kind = (pl.col("past_hour").dt.weekday() >= 6) == (pl.col("hour").dt.weekday() >= 6)
    oldest = age.max().over("symbol", "hour")
    is_chosen = (
        pl.when(oldest >= timedelta(days=8))
        .then(is_same_time & is_same_kind)
        .when(oldest >= timedelta(days=3))
        .then(is_same_time)
        .otherwise(age <= timedelta(hours=24))
    )
    centres = [pl.col(name).list.get(1).median().alias(f"{name}_centre") for name in names]
    scales = [
        ((pl.col(name).list.get(2) - pl.col(name).list.get(0)).median() / 1.349).alias(f"{name}_scale")
        for name in names
    ]
    return (
        hourly.rename({"hour": "past_hour"})
        .join(wanted, how="cross")
        .filter((age > timedelta(0)) & (age <= BASELINE_LOOKBACK))
        .filter(is_chosen)
        .group_by("symbol", "hour")
        .agg(pl.len().alias("hours"), *centres, *scales)
        .filter(pl.col("hours") >= MINIMUM_BASELINE_HOURS)
        .with_columns(  # a quantity that never varies has no deviation
            pl.when(pl.col(f"{name}_scale") > 0).then(pl.col(f"{name}_scale")).alias(f"{name}_scale") for name in names
        )
        .drop("hours")
    )


def _profiles(rows: pl.DataFrame, hours: pl.DataFrame) -> pl.DataFrame:
    """Return centre and width of the volume profile (traded value by price) before each hour that has rows."""
    wanted = rows.select("symbol", pl.col("bar_start").dt.truncate("1h").alias("hour")).unique()
    past = hours.filter(pl.col("base") > 0).select(
        "symbol",
        pl.col("hour").alias("traded_hour"),
        (pl.col("quote") / pl.col("base")).log().alias("log_price"),
        pl.col("quote").alias("weight"),
    )
    centre = (pl.col("log_price") * pl.col("weight")).sum() / pl.col("weight").sum()
    spread = ((pl.col("log_price") ** 2 * pl.col("weight")).sum() / pl.col("weight").sum() - centre**2).clip(0).sqrt()
    return (
        wanted.join(past, on="symbol")
        .filter((pl.col("traded_hour") < pl.col("hour")) & (pl.col("traded_hour") >= pl.col("hour") - PROFILE_LOOKBACK))
        .sort("symbol", "hour", "traded_hour")
        .group_by("symbol", "hour", maintain_order=True)
        .agg(centre.alias("profile_centre"), spread.alias("profile_width"), pl.len().alias("profile_hours"))
        .filter((pl.col("profile_hours") >= MINIMUM_PROFILE_HOURS) & (pl.col("profile_width") > 0))
        .drop("profile_hours")
    )


def _with_indicators(bars: pl.DataFrame) -> pl.DataFrame:
    """Return one symbol's bars with the features that need only its own earlier minutes."""
    minutes = bars["bar_start"].dt.epoch("s").to_numpy() // 60
    grid = np.arange(minutes[0], minutes[-1] + 1)
    traded = minutes - minutes[0]
    filled = np.full(len(grid), -1)
    filled[traded] = np.arange(len(traded))
    filled = np.maximum.accumulate(filled)
    is_stale = grid - minutes[filled] > _STALE_MINUTES

    def dense(column: str) -> Floats:
        values: Floats = bars[column].to_numpy()[filled]
        return np.where(is_stale, np.nan, values)

    close = dense("close")
    has_trade = np.zeros(len(grid), dtype=bool)
    has_trade[traded] = True
    high = np.where(has_trade, dense("high"), close)
    low = np.where(has_trade, dense("low"), close)
    quote = np.where(has_trade, dense("quote_volume"), np.where(is_stale, np.nan, 0.0))
    indicators = _indicators(close, high, low, quote)
    # A minute's own return needs the close before it to be fresh, as at five seconds.
    before = np.concatenate([[-1], traded[:-1]])
    reach = int(PREVIOUS_CLOSE_REACH.total_seconds()) // 60
    has_before = (np.arange(len(traded)) > 0) & (traded - before <= reach)
    closes = bars["close"].to_numpy()
    log_return = np.where(has_before, np.log(closes / np.concatenate([closes[:1], closes[:-1]])), np.nan)
    return bars.select(
        "symbol",
        "bar_start",
        "close",
        pl.Series("log_return", log_return, nan_to_null=True),
        (pl.col("high") / pl.col("low")).log().alias("log_range"),
        "quote_volume",
        "tick_count",
        (pl.col("quote_volume") / pl.col("tick_count")).alias("trade_size"),
        pl.when(pl.col("quote_volume") > 0)
        .then(2 * pl.col("bought") / pl.col("quote_volume") - 1)
        .otherwise(0.0)
        .alias("taker_imbalance"),
        pl.when(pl.col("quote_volume") > 0)
        .then((pl.col("close") * pl.col("volume") / pl.col("quote_volume")).log())
        .otherwise(0.0)
        .alias("vwap_distance"),
        *(pl.Series(name, values[traded], nan_to_null=True) for name, values in indicators.items()),
    )


def _indicators(close: Floats, high: Floats, low: Floats, quote: Floats) -> dict[str, Floats]:
    """Return the textbook indicators on a grid of minutes; NaN where the lookback is not full.

    Exponential averages are cut off after `_TAPS` minutes, so that no bar depends on where the history was cut.
    """
    change = np.diff(close, prepend=np.nan)
    steps = np.diff(np.log(close), prepend=np.nan)
    sma = _windows(close, 20).mean(axis=1)
    deviation = _windows(close, 20).std(axis=1)
    macd = (_ema(close, 2 / 13) - _ema(close, 2 / 27)) / close
    gain, loss = _ema(np.maximum(change, 0), 1 / 14), _ema(np.maximum(-change, 0), 1 / 14)
    before = np.concatenate([[np.nan], close[:-1]])
    true_range = np.maximum(high, before) - np.minimum(low, before)
    mean_volume = _windows(np.concatenate([[np.nan], quote[:-1]]), VOLUME_MINUTES).mean(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        indicators = {
            "realised_volatility": np.sqrt((_windows(steps, VOLATILITY_MINUTES) ** 2).sum(axis=1)),
            "volume_ratio": quote / mean_volume,
            "sma_distance": np.log(close / sma),
            "ema_distance": np.log(close / _ema(close, 2 / 21)),
            "rsi": 100 * gain / (gain + loss),
            "macd": macd,
            "macd_histogram": macd - _ema(macd, 2 / 10, taps=27),
            "bollinger_position": (close - sma) / deviation,
            "average_true_range": _ema(true_range, 1 / 14) / close,
        }
    return {name: np.where(np.isfinite(values), values, np.nan) for name, values in indicators.items()}


def _windows(values: Floats, width: int) -> Floats:
    """Return, for each element, the `width` values that end with it; NaN before the start."""
    padded = np.concatenate([np.full(width - 1, np.nan), values])
    # A contiguous copy, so that each row is summed in the same order whatever the number of rows.
    return np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(padded, width))


def _ema(values: Floats, weight: float, taps: int = _TAPS) -> Floats:
    kernel = weight * (1 - weight) ** np.arange(taps)[::-1]
    averaged: Floats = (_windows(values, taps) * (kernel / kernel.sum())).sum(axis=1)
    return averaged
