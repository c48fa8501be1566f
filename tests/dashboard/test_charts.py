"""Charts say what the rows say."""

from datetime import datetime, timedelta

import polars as pl
import pytest

from cryptotrace_dagster.dashboard import charts
from cryptotrace_dagster.dashboard.source import chart_rows
from cryptotrace_dagster.looks import (
    ANOMALY_STATES,
    DARK,
    LIGHT,
    SEVERITIES,
    age_text,
    anomaly_state,
    counted,
    direction_sign,
    price_text,
    short_number,
    symbol_badge,
)
from cryptotrace_dagster.queries import Reader
from cryptotrace_dagster.storage import Warehouse
from tests.market import MARKET_END, PUMPED, fill


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    store = Warehouse(str(tmp_path_factory.mktemp("market") / "cryptotrace.duckdb"))
    store.create()
    fill(store, minutes=60)
    return Reader(store)


def test_a_chart_has_a_candle_per_interval_and_marks_alerts(reader: Reader) -> None:
    rows = chart_rows(reader, PUMPED, "1m", MARKET_END, shown=40)
    chart = charts.market_chart(rows, "1m", LIGHT)
    series = {one["name"]: one for one in chart["series"]}
    assert len(chart["xAxis"][0]["data"]) == rows.height == len(series["Price"]["data"])
    marked = [value for value in series["Alert, critical"]["data"] if value is not None]
    assert len(marked) == 1
    assert [value for value in series["Alert, info"]["data"] if value is not None] == []
    rare = [value for value in series["Rare bar"]["data"] if value is not None]
    assert rare


def test_rising_is_hollow_and_falling_is_full_in_both_themes(reader: Reader) -> None:
    rows = chart_rows(reader, PUMPED, "1m", MARKET_END)
    for palette in (LIGHT, DARK):
        style = charts.market_chart(rows, "1m", palette)["series"][0]["itemStyle"]
        assert style["color"] == palette.background
        assert style["color0"] == style["borderColor0"] == palette.falling
        assert style["borderColor"] == palette.rising != palette.falling


def test_an_interval_without_trades_stays_empty(reader: Reader) -> None:
    rows = chart_rows(reader, "BTCUSDT", "1s", MARKET_END, shown=120)
    assert rows["close"].null_count() > 0
    chart = charts.market_chart(rows, "1s", LIGHT)
    assert ["-"] * 4 in chart["series"][0]["data"]
    assert rows["bar_start"].diff().drop_nulls().unique().to_list() == [timedelta(seconds=1)]


def test_a_feature_gets_a_panel_of_its_own(reader: Reader) -> None:
    rows = chart_rows(reader, "BTCUSDT", "1m", MARKET_END, feature="rsi")
    chart = charts.market_chart(rows, "1m", LIGHT, {"pump": 1.7})
    assert len(chart["grid"]) == 4
    assert chart["yAxis"][3]["name"] == "rsi"
    with pytest.raises(ValueError, match="not a feature"):
        chart_rows(reader, "BTCUSDT", "1m", MARKET_END, feature="close; DROP TABLE alerts")


def test_a_click_near_a_mark_opens_its_alert(reader: Reader) -> None:
    rows = chart_rows(reader, PUMPED, "1m", MARKET_END, shown=40)
    index = rows["alert_id"].is_not_null().arg_max()
    assert charts.clicked_alert(rows, [{"data_indices": [index]}]) == "a1b2c3d4"
    assert charts.clicked_alert(rows, [{"data_indices": [index - 1]}]) == "a1b2c3d4"
    assert charts.clicked_alert(rows, [{"data_indices": [3]}]) is None
    assert charts.clicked_alert(rows, []) is None


def test_the_calendar_shows_missing_days_as_empty_and_gaps_with_their_number() -> None:
    days = pl.DataFrame({"symbol": ["A", "B"], "day": [datetime(2026, 1, 5).date()] * 2, "missing_trades": [0, 20]})
    chart = charts.completeness_calendar(days, LIGHT)
    assert len(chart["xAxis"]["data"]) == charts.CALENDAR_DAYS
    complete, missing = chart["series"]
    assert complete["data"] == [["05 Jan", "A", 0]]
    assert missing["data"] == [["05 Jan", "B", 20]]
    assert missing["label"]["show"]


def test_words_for_numbers() -> None:
    assert [price_text(value) for value in (61250.5, 154.83, 2.5, 0.5608, 0.00001234)] == [
        "61,250.50",
        "154.83",
        "2.50",
        "0.5608",
        "0.00001234",
    ]
    assert [age_text(value) for value in (0.84, 42, 300, 7200, 200_000)] == ["0.8 s", "42 s", "5 min", "2 h", "2 days"]
    assert [short_number(value) for value in (950, 12_300, 4_560_000, 7.8e9)] == ["950", "12.3 k", "4.56 M", "7.8 G"]
    assert [short_number(value) for value in (999_400_000, 999_700_000, 999_600)] == ["999 M", "1 G", "1 M"]
    assert [counted(value, "trade") for value in (0, 1, 2000)] == ["0 trades", "1 trade", "2,000 trades"]
    assert [direction_sign(value) for value in (1.0, -1.0, 0.0)] == ["▲", "▼", "■"]


def test_an_alert_of_late_says_more_of_a_symbol_than_its_score() -> None:
    assert [symbol_badge(score, None).word for score in (None, 1.5)] == ["calm", "rare"]
    told = symbol_badge(None, "critical")
    assert (told.sign, told.word, told.color) == (SEVERITIES["critical"].sign, "alert", "red")


def test_states_and_severities_differ_in_shape_and_not_only_in_colour() -> None:
    assert [anomaly_state(score).word for score in (None, -3, 0.5, 1, 7)] == [
        "calm",
        "calm",
        "unusual",
        "rare",
        "extreme",
    ]
    assert len({state.sign for state in ANOMALY_STATES}) == len(ANOMALY_STATES)
    for name in ("sign", "echarts_symbol", "matplotlib_marker"):
        assert len({getattr(look, name) for look in SEVERITIES.values()}) == 3
