"""The Market page: the watch list, and one symbol in depth.

Owns the layout of both. Stays out: queries (source.py) and drawing (charts.py).
"""

import html
from urllib.parse import urlencode

import polars as pl
import streamlit as st

from cryptotrace_dagster.dashboard import charts
from cryptotrace_dagster.dashboard.parts import page, palette
from cryptotrace_dagster.dashboard.source import (
    FEATURE_NAMES,
    REFRESH_SECONDS,
    Source,
    chart_rows,
    score_thresholds,
    source,
    spark_lines,
    watched,
)
from cryptotrace_dagster.domain.bars import BAR_INTERVALS
from cryptotrace_dagster.looks import price_text, short_number, symbol_badge
from cryptotrace_dagster.queries import market_now

CARD_WIDTH = 172
_CARDS = 14
# Two cards beside each other would push the chart below the first screen; a row is swiped instead.
_ONE_ROW_ON_A_PHONE = """<style>@media (max-width: 640px) {
  .st-key-watch-list { flex-wrap: nowrap; overflow-x: auto; scroll-snap-type: x proximity; }
  .st-key-watch-list > div { flex: none; scroll-snap-align: start; }
}</style>"""


@page
def market(shared: Source) -> None:
    """Show what the market does."""
    _watch_list()
    symbols = watched(shared)["symbol"].to_list()
    if not symbols:
        st.info("The first minute of trades is on its way.", icon=":material/hourglass_top:")
        return
    _controls(symbols)
    _symbol_chart()


@st.fragment(run_every=REFRESH_SECONDS)
def _watch_list() -> None:
    shared = source()
    rows, sparks = watched(shared), spark_lines(shared.reader)
    st.html(_ONE_ROW_ON_A_PHONE)
    with st.container(horizontal=True, gap="small", key="watch-list"):
        for row in rows.head(_CARDS).iter_rows(named=True):
            _card(row, sparks.get(row["symbol"], []))
    if rows.height > _CARDS:
        _watch_table(rows, sparks)


def _card(row: dict[str, object], spark: list[float]) -> None:
    price, change = float(row["last_price"]), float(row["change_pct"])  # type: ignore[arg-type]
    state = symbol_badge(row["anomaly_score"], row["alert_severity"])  # type: ignore[arg-type]
    symbol = str(row["symbol"])
    is_chosen = st.session_state.get("symbol", st.query_params.get("symbol")) == symbol
    with st.container(border=True, width=CARD_WIDTH, gap="xxsmall", key=f"card-{symbol}"):
        st.html(_link_to(symbol, is_chosen))
        st.metric(
            symbol,
            price_text(price),
            f"{change:+.2f} %",
            delta_color="blue" if change >= 0 else "orange",
            chart_data=spark,
            label_visibility="collapsed",
        )
        volume = short_number(float(row["quote_volume"]))  # type: ignore[arg-type]
        st.markdown(
            f":{state.color}-badge[{state.sign} {state.word}] :small[:gray[{volume} in 24 h]]",
        )


def _link_to(symbol: str, is_chosen: bool) -> str:
    """Return a link that shows a symbol below.

    Not a button: what a button sets on the server can be undone by a beat that the browser sent before it knew.
    """
    kept = {name: value for name in ("interval", "feature") if (value := st.query_params.get(name)) is not None}
    address = html.escape("?" + urlencode({"symbol": symbol, **kept}))
    mark, weight = (' aria-current="true"', 700) if is_chosen else ("", 400)
    style = f"color: inherit; text-decoration: none; font-weight: {weight}"
    name = html.escape(symbol)
    sign = " ▾" if is_chosen else ""
    return f'<a href="{address}" target="_self" title="Show {name} below" style="{style}"{mark}>{name}{sign}</a>'


def _watch_table(rows: pl.DataFrame, sparks: dict[str, list[float]]) -> None:
    # No Python inside Polars' expressions: several sessions' threads would wait for each other for good.
    badges = map(symbol_badge, rows["anomaly_score"], rows["alert_severity"])
    table = rows.select(
        "symbol",
        pl.col("last_price").cast(pl.Float64),
        "change_pct",
        pl.col("quote_volume").cast(pl.Float64),
        pl.Series("state", [f"{badge.sign} {badge.word}" for badge in badges], pl.String),
        pl.Series("hour", [sparks.get(symbol, []) for symbol in rows["symbol"]], pl.List(pl.Float64)),
    )
    st.dataframe(
        table,
        hide_index=True,
        column_config={
            "symbol": "Symbol",
            "last_price": st.column_config.NumberColumn("Last price"),
            "change_pct": st.column_config.NumberColumn("24 h change", format="%+.2f %%"),
            "quote_volume": st.column_config.NumberColumn("24 h traded", format="localized"),
            "state": "State",
            "hour": st.column_config.LineChartColumn("Last hour"),
        },
        alt="All watched symbols with price, change, traded value, anomaly state and the last hour",
    )


def _controls(symbols: list[str]) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.selectbox("Symbol", symbols, key="symbol", bind="query-params", width=180)
        st.segmented_control(
            "Bar", list(BAR_INTERVALS), default="1m", required=True, key="interval", bind="query-params"
        )
        st.selectbox(
            "Feature",
            FEATURE_NAMES,
            index=None,
            placeholder="none",
            key="feature",
            bind="query-params",
            format_func=lambda name: name.replace("_", " "),
            width=210,
        )


@st.fragment(run_every=REFRESH_SECONDS)
def _symbol_chart() -> None:
    shared = source()
    symbol, interval = st.session_state["symbol"], st.session_state["interval"]
    now = market_now(shared.reader)
    rows = chart_rows(shared.reader, symbol, interval, now, feature=st.session_state["feature"])
    if rows.is_empty():
        st.info(f"No {interval} bars of {symbol} in this time; choose a longer bar.")
        return
    clicked = st.echarts_chart(
        charts.market_chart(rows, interval, palette(), score_thresholds(shared.settings)),
        height=470,
        key="market-chart",
        on_select="rerun",
        alt=_described(rows, symbol, interval),
    )
    if alert_id := charts.clicked_alert(rows, clicked.selection.selected):
        st.query_params["alert"] = alert_id
        st.rerun()
    st.caption(
        "Hollow blue: rising. Full orange: falling. Purple ▲ below a bar: rarer than once in ten days. "
        "Above a bar: an alert, ● info, ▲ warning, ◆ critical; click it to see why. Times are UTC."
    )


def _described(rows: pl.DataFrame, symbol: str, interval: str) -> str:
    closes = rows["close"].drop_nulls()
    alerts = rows["alert_id"].drop_nulls().len()
    return (
        f"{symbol}, {closes.len()} bars of {interval}: from {price_text(closes[0])} to {price_text(closes[-1])}, "
        f"low {price_text(float(rows['low'].min()))}, high {price_text(float(rows['high'].max()))}, {alerts} alerts."  # type: ignore[arg-type]
    )
