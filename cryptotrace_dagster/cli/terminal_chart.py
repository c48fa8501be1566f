"""Candles drawn with characters: for a terminal without colours a rising candle is hollow and a falling one is full.

Owns the drawing. Stays out: which bars (`cryptotrace bars --chart` chooses them).
"""

import shutil

import polars as pl

_HEIGHT = 18
_RISING, _FALLING, _WICK = "▯", "▮", "│"
_BLOCKS = " ▁▂▃▄▅▆▇█"


def candles(bars: pl.DataFrame, width: int | None = None) -> str:
    """Return the bars (at most as many as fit, merged where there are more) as candles, with volume below."""
    columns = (width or shutil.get_terminal_size((100, 30)).columns) - 14
    merged = _merged_to_fit(bars, columns)
    low, high = float(merged["low"].min()), float(merged["high"].max())  # type: ignore[arg-type]
    step = (high - low) / (_HEIGHT - 1) or 1.0
    grid = [[" "] * merged.height for _ in range(_HEIGHT)]
    for column, bar in enumerate(merged.iter_rows(named=True)):
        rows = {name: round((float(bar[name]) - low) / step) for name in ("open", "high", "low", "close")}
        body = _RISING if bar["close"] >= bar["open"] else _FALLING
        for row in range(rows["low"], rows["high"] + 1):
            inside = min(rows["open"], rows["close"]) <= row <= max(rows["open"], rows["close"])
            grid[row][column] = body if inside else _WICK
    lines = [f"{low + step * row:>12.6g} ┤{''.join(grid[row])}" for row in range(_HEIGHT - 1, -1, -1)]
    return "\n".join([_heading(bars, merged), *lines, _volume_line(merged), _time_line(merged)])


def _merged_to_fit(bars: pl.DataFrame, columns: int) -> pl.DataFrame:
    together = -(-bars.height // columns)
    return (
        bars.sort("bar_start")
        .with_row_index()
        .group_by(pl.col("index") // together, maintain_order=True)
        .agg(
            pl.col("symbol", "bar_interval", "bar_start", "open").first(),
            pl.col("high").max(),
            pl.col("low").min(),
            pl.col("close").last(),
            pl.col("volume").sum(),
        )
    )


def _heading(bars: pl.DataFrame, merged: pl.DataFrame) -> str:
    symbol, interval = bars["symbol"][0], bars["bar_interval"][0]
    together = -(-bars.height // merged.height)
    each = f"each candle is {together} bars of {interval}" if together > 1 else f"{interval} bars"
    change = 100 * (float(merged["close"][-1]) / float(merged["open"][0]) - 1)
    return f"{symbol}  {float(merged['close'][-1]):.10g}  {change:+.2f} %   {each}   {_RISING} up  {_FALLING} down"


def _volume_line(merged: pl.DataFrame) -> str:
    volumes = merged["volume"].cast(pl.Float64)
    top = float(volumes.max() or 0) or 1.0  # type: ignore[arg-type]
    return f"{'volume':>12} ┤" + "".join(_BLOCKS[round(value / top * (len(_BLOCKS) - 1))] for value in volumes)


def _time_line(merged: pl.DataFrame) -> str:
    first, last = (f"{merged['bar_start'][index]:%Y-%m-%d %H:%M}" for index in (0, -1))
    return " " * 14 + first + last.rjust(max(merged.height - len(first), len(last) + 1)) + " UTC"
