"""Frames in, chart descriptions out: what each chart of the dashboard shows, in ECharts' own words.

Owns the drawing of candles, volume, scores and marks in the visual language of looks.py. Pure functions, so that a
test can read what a chart says. Stays out: queries and Streamlit.
"""

from typing import Any

import polars as pl

from cryptotrace_dagster.looks import SEVERITIES, Palette

RARE_SCORE = 1.0
_TIME_FORMATS = {
    "1s": "%H:%M:%S",
    "1m": "%H:%M",
    "5m": "%H:%M",
    "15m": "%d %b %H:%M",
    "1h": "%d %b %H:%M",
    "1d": "%d %b %Y",
}


def market_chart(rows: pl.DataFrame, interval: str, palette: Palette) -> dict[str, Any]:
    """Return candles, volume and anomaly score as three panels that share time, pointer and zoom.

    `rows` are those of `source.chart_rows`. Rising candles are hollow, falling ones full.
    """
    frame = _drawable(rows, interval)
    times = frame["time"].to_list()
    return {
        "animation": False,
        "textStyle": {"color": palette.text},
        "legend": {"show": False},
        "tooltip": {
            "trigger": "axis",
            "axisPointer": {"type": "cross"},
            "confine": True,
            "backgroundColor": palette.background,
            "borderColor": palette.faint,
            "textStyle": {"color": palette.text, "fontSize": 12},
        },
        "axisPointer": {"link": [{"xAxisIndex": "all"}]},
        "dataZoom": [{"type": "inside", "xAxisIndex": [0, 1, 2], "minValueSpan": 12}],
        "grid": [
            {"left": 8, "right": 70, "top": 12, "height": "56%"},
            {"left": 8, "right": 70, "top": "64%", "height": "12%"},
            {"left": 8, "right": 70, "top": "80%", "height": "13%"},
        ],
        "xAxis": [_time_axis(index, times, palette, has_labels=index == 2) for index in range(3)],
        "yAxis": [
            _value_axis(0, "", palette, {"scale": True}),
            _value_axis(1, "volume", palette, {"splitNumber": 2}),
            _value_axis(2, "anomaly", palette, {"splitNumber": 2, "min": -2, "max": _score_top(frame)}),
        ],
        "series": [
            _candles(frame, palette),
            *_volumes(frame, palette),
            _scores(frame, palette),
            _rare_marks(frame, palette),
            *(_alert_marks(frame, severity, palette) for severity in SEVERITIES),
        ],
    }


def _drawable(rows: pl.DataFrame, interval: str) -> pl.DataFrame:
    span = pl.col("high").max() - pl.col("low").min()
    return rows.with_columns(
        time=pl.col("bar_start").dt.strftime(_TIME_FORMATS[interval]),
        above=pl.col("high") + 0.03 * span,
        below=pl.col("low") - 0.03 * span,
        is_rising=pl.col("close") >= pl.col("open"),
    )


def _score_top(frame: pl.DataFrame) -> float:
    highest = frame["score"].max()
    return max(3.0, float(highest) if isinstance(highest, int | float) else 0.0)


def _time_axis(index: int, times: list[str], palette: Palette, *, has_labels: bool) -> dict[str, Any]:
    return {
        "type": "category",
        "gridIndex": index,
        "data": times,
        "boundaryGap": True,
        "axisLine": {"lineStyle": {"color": palette.faint}},
        "axisTick": {"show": False},
        "axisLabel": {"show": has_labels, "color": palette.text, "hideOverlap": True},
        "axisPointer": {"label": {"show": has_labels}},
    }


def _value_axis(index: int, name: str, palette: Palette, more: dict[str, Any]) -> dict[str, Any]:
    return {
        "gridIndex": index,
        "position": "right",
        "name": name,
        "nameLocation": "start" if index == 0 else "middle",
        "nameGap": 46,
        "nameTextStyle": {"color": palette.text, "fontSize": 11},
        "axisLabel": {"color": palette.text, "fontSize": 11, "showMinLabel": index == 0},
        "splitLine": {"lineStyle": {"color": palette.faint, "opacity": 0.5}},
        **more,
    }


def _candles(frame: pl.DataFrame, palette: Palette) -> dict[str, Any]:
    values = frame.select("open", "close", "low", "high").rows()
    return {
        "type": "candlestick",
        "name": "Price",
        "data": [["-"] * 4 if row[0] is None else list(row) for row in values],
        "itemStyle": {
            "color": palette.background,
            "borderColor": palette.rising,
            "color0": palette.falling,
            "borderColor0": palette.falling,
        },
    }


def _volumes(frame: pl.DataFrame, palette: Palette) -> list[dict[str, Any]]:
    return [
        {
            "type": "bar",
            "name": name,
            "stack": "volume",
            "xAxisIndex": 1,
            "yAxisIndex": 1,
            "itemStyle": {"color": fill, "borderColor": border, "borderWidth": 1},
            "data": frame.select(pl.when(chosen).then("volume")).to_series().to_list(),
        }
        for name, chosen, fill, border in (
            ("Volume, rising", pl.col("is_rising"), palette.background, palette.rising),
            ("Volume, falling", ~pl.col("is_rising"), palette.falling, palette.falling),
        )
    ]


def _scores(frame: pl.DataFrame, palette: Palette) -> dict[str, Any]:
    return {
        "type": "line",
        "name": "Anomaly score",
        "xAxisIndex": 2,
        "yAxisIndex": 2,
        "step": "middle",
        "showSymbol": False,
        "lineStyle": {"color": palette.score, "width": 1.5},
        "itemStyle": {"color": palette.score},
        "areaStyle": {"color": palette.score, "opacity": 0.15, "origin": "start"},
        "data": frame["score"].round(2).to_list(),
        "markLine": {
            "silent": True,
            "symbol": "none",
            "lineStyle": {"color": palette.text, "type": "dashed", "opacity": 0.6},
            "label": {"formatter": "rare", "color": palette.text, "position": "insideStartTop", "fontSize": 10},
            "data": [{"yAxis": RARE_SCORE}],
        },
    }


def _rare_marks(frame: pl.DataFrame, palette: Palette) -> dict[str, Any]:
    return {
        "type": "scatter",
        "name": "Rare bar",
        "symbol": "triangle",
        "symbolSize": 8,
        "itemStyle": {"color": palette.score},
        "data": frame.select(pl.when(pl.col("score") >= RARE_SCORE).then("below")).to_series().to_list(),
        "tooltip": {"show": False},
    }


def _alert_marks(frame: pl.DataFrame, severity: str, palette: Palette) -> dict[str, Any]:
    look = SEVERITIES[severity]
    marked = pl.col("severity") == severity
    return {
        "type": "scatter",
        "name": f"Alert, {look.word}",
        "symbol": look.echarts_symbol,
        "symbolSize": 14,
        "itemStyle": {"color": getattr(palette, severity), "borderColor": palette.background, "borderWidth": 1},
        "cursor": "pointer",
        "selectedMode": "single",
        "data": frame.select(pl.when(marked).then("above")).to_series().to_list(),
        "tooltip": {"show": False},
        "z": 10,
    }
