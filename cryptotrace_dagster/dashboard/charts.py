"""Frames in, chart descriptions out: what each chart of the dashboard shows, in ECharts' own words.

Owns the drawing of candles, volume, scores and marks in the visual language of looks.py. Pure functions, so that a
test can read what a chart says. Stays out: queries and Streamlit.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

import polars as pl

from cryptotrace_dagster.domain.windows import EPOCH, Window
from cryptotrace_dagster.looks import SEVERITIES, Palette, price_text
from cryptotrace_dagster.tables import FEATURES

RARE_SCORE = 1.0
CALENDAR_DAYS = 14
_BAR_COLUMNS = {"bar_start", "close", "symbol", "bar_interval"}
_TIME_FORMATS = {
    "1s": "%H:%M:%S",
    "1m": "%H:%M",
    "5m": "%H:%M",
    "15m": "%d %b %H:%M",
    "1h": "%d %b %H:%M",
    "1d": "%d %b %Y",
}


def market_chart(
    rows: pl.DataFrame, interval: str, palette: Palette, thresholds: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Return candles, volume and anomaly score as panels that share time, pointer and zoom; rising candles are hollow.

    `rows` are those of `source.chart_rows`; a column `feature` adds a panel. `thresholds` are scores by rule name.
    """
    frame = _drawable(rows, interval)
    feature = next((name for name in rows.columns if name in FEATURES.column_names and name not in _BAR_COLUMNS), None)
    heights = (
        {"price": 50, "volume": 11, "anomaly": 12, feature: 12}
        if feature
        else {"price": 58, "volume": 13, "anomaly": 13}
    )
    names = list(heights)
    times = frame["time"].to_list()
    last = len(names) - 1
    return {
        "animation": False,
        "textStyle": {"color": palette.text},
        "legend": {"show": False},
        "tooltip": _tooltip(palette),
        "axisPointer": {"link": [{"xAxisIndex": "all"}]},
        "dataZoom": [{"type": "inside", "xAxisIndex": list(range(len(names))), "minValueSpan": 12}],
        "grid": _grids(list(heights.values())),
        "xAxis": [_time_axis(index, times, palette, has_labels=index == last) for index in range(len(names))],
        "yAxis": [
            _value_axis(0, "", palette, {"scale": True}),
            _value_axis(1, "volume", palette, {"splitNumber": 2}),
            _value_axis(
                2, "anomaly", palette, {"splitNumber": 2, "min": -2, "startValue": -2, "max": _score_top(frame)}
            ),
            *(
                [_value_axis(3, feature.replace("_", " "), palette, {"scale": True, "splitNumber": 2})]
                if feature
                else []
            ),
        ],
        "series": [
            _candles(frame, palette),
            *_volumes(frame, palette),
            _scores(frame, palette, thresholds or {"rare": RARE_SCORE}),
            _rare_marks(frame, palette),
            *(_alert_marks(frame, severity, palette) for severity in SEVERITIES),
            *([_feature(frame, feature, palette)] if feature else []),
        ],
    }


def _tooltip(palette: Palette) -> dict[str, Any]:
    return {
        "trigger": "axis",
        "axisPointer": {"type": "cross"},
        "confine": True,
        "backgroundColor": palette.background,
        "borderColor": palette.faint,
        "textStyle": {"color": palette.text, "fontSize": 12},
    }


def _grids(heights: list[int]) -> list[dict[str, Any]]:
    """Return the panels from top to bottom, heights in per cent of the chart."""
    grids, top = [], 2
    for height in heights:
        grids.append({"left": 8, "right": 70, "top": f"{top}%", "height": f"{height}%", "outerBoundsMode": "none"})
        top += height + 4
    return grids


def _feature(frame: pl.DataFrame, feature: str, palette: Palette) -> dict[str, Any]:
    return {
        "type": "line",
        "name": feature.replace("_", " "),
        "xAxisIndex": 3,
        "yAxisIndex": 3,
        "showSymbol": False,
        "connectNulls": True,
        "lineStyle": {"color": palette.text, "width": 1.2},
        "itemStyle": {"color": palette.text},
        "data": frame[feature].to_list(),
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
    return max(3.0, math.ceil(highest) if isinstance(highest, int | float) else 0.0)


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
        "markLine": _last_price(frame, palette),
    }


def _last_price(frame: pl.DataFrame, palette: Palette) -> dict[str, Any]:
    closes = frame["close"].drop_nulls()
    return {
        "silent": True,
        "symbol": "none",
        "lineStyle": {"color": palette.text, "type": "dotted", "opacity": 0.7},
        "label": {
            "position": "end",
            "distance": 4,
            "formatter": price_text(closes[-1]) if closes.len() else "",
            "color": palette.background,
            "opacity": 1,  # otherwise the line's
            "backgroundColor": palette.text,
            "padding": [2, 4],
            "fontSize": 11,
        },
        "data": [{"yAxis": closes[-1]}] if closes.len() else [],
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


def _scores(frame: pl.DataFrame, palette: Palette, thresholds: Mapping[str, float]) -> dict[str, Any]:
    return {
        "type": "bar",  # scores are kept of unusual bars only: most bars have none
        "name": "Anomaly score",
        "xAxisIndex": 2,
        "yAxisIndex": 2,
        "barMinWidth": 2,
        "barMaxWidth": 8,
        "itemStyle": {"color": palette.score},
        "data": frame["score"].round(2).to_list(),
        "markLine": {
            "silent": True,
            "symbol": "none",
            "lineStyle": {"color": palette.text, "type": "dashed", "opacity": 0.6},
            "label": {"formatter": "{b}", "color": palette.text, "fontSize": 10},
            "data": [
                {"yAxis": round(score, 2), "name": name, "label": {"position": f"inside{side}Top"}}
                for (name, score), side in zip(
                    thresholds.items(), itertools.cycle(("Start", "End", "Middle")), strict=False
                )
            ],
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


def clicked_alert(rows: pl.DataFrame, selected: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the id of the alert whose mark was clicked, or None.

    The chart may have moved on by a bar or two between drawing and clicking, so the nearest marked bar counts.
    """
    for group in selected:
        for index in group["data_indices"]:
            near = rows.slice(max(index - 2, 0), 5)["alert_id"].drop_nulls()
            if near.len():
                return str(near[near.len() // 2])
    return None


def trial_chart(alerts: pl.DataFrame, window: Window, palette: Palette) -> dict[str, Any]:
    """Return a mark per alert over time, a row per symbol, in the shape of its severity."""
    symbols = sorted(alerts["symbol"].unique().to_list())
    return {
        "useUTC": True,
        "animation": False,
        "grid": {"left": 80, "right": 20, "top": 10, "bottom": 30, "outerBoundsMode": "none"},
        "tooltip": {"trigger": "item", "formatter": "{b}", "confine": True},
        "xAxis": {
            "type": "time",
            "min": _epoch_ms(window.start),
            "max": _epoch_ms(window.end),
            "axisLabel": {"color": palette.text, "hideOverlap": True},
            "splitLine": {"show": True, "lineStyle": {"color": palette.faint, "opacity": 0.4}},
        },
        "yAxis": {"type": "category", "data": symbols, "axisLabel": {"color": palette.text}},
        "series": [
            {
                "type": "scatter",
                "name": look.word,
                "symbol": look.echarts_symbol,
                "symbolSize": 12,
                "itemStyle": {"color": getattr(palette, severity)},
                "data": [
                    {"name": row["title"], "value": [_epoch_ms(row["event_time"]), row["symbol"]]}
                    for row in alerts.filter(pl.col("severity") == severity).iter_rows(named=True)
                ],
            }
            for severity, look in SEVERITIES.items()
        ],
    }


def _epoch_ms(instant: datetime) -> int:
    return int((instant - EPOCH).total_seconds() * 1000)


def completeness_calendar(days: pl.DataFrame, palette: Palette) -> dict[str, Any]:
    """Return a square per symbol and UTC day: full when nothing is missing, marked with the number when something is.

    `days` has `symbol, day, missing_trades`.
    """
    symbols = sorted(days["symbol"].unique().to_list(), reverse=True)
    newest: date = days["day"].max()  # type: ignore[assignment]
    labels = [f"{newest - timedelta(days=back):%d %b}" for back in range(CALENDAR_DAYS - 1, -1, -1)]
    cells = days.with_columns(label=pl.col("day").dt.strftime("%d %b"))

    def series(name: str, chosen: pl.Expr, color: str, *, shows_number: bool) -> dict[str, Any]:
        return {
            "type": "heatmap",
            "name": name,
            "data": [
                [row[0], row[1], row[2]]
                for row in cells.filter(chosen).select("label", "symbol", "missing_trades").rows()
            ],
            "itemStyle": {"color": color, "borderColor": palette.background, "borderWidth": 3, "borderRadius": 4},
            "label": {"show": shows_number, "color": palette.background, "fontWeight": "bold"},
        }

    return {
        "animation": False,
        "grid": {"left": 80, "right": 10, "top": 6, "bottom": 26, "outerBoundsMode": "none"},
        "tooltip": {"trigger": "item", "confine": True},
        "visualMap": {"show": False, "min": 0, "max": 1, "seriesIndex": []},
        "xAxis": {
            "type": "category",
            "data": labels,
            "axisLabel": {"color": palette.text},
            "axisTick": {"show": False},
        },
        "yAxis": {
            "type": "category",
            "data": symbols,
            "axisLabel": {"color": palette.text},
            "axisTick": {"show": False},
        },
        "series": [
            series("Complete", pl.col("missing_trades") == 0, palette.rising, shows_number=False),
            series("Missing trades", pl.col("missing_trades") > 0, palette.falling, shows_number=True),
        ],
    }
