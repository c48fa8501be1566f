"""The Market page: the watch list, and one symbol in depth.

Owns the layout of both. Stays out: queries (source.py) and drawing (charts.py).
"""

import polars as pl
import streamlit as st

from cryptotrace_dagster.dashboard import charts
from cryptotrace_dagster.dashboard.parts import page, palette
from cryptotrace_dagster.dashboard.source import REFRESH_SECONDS, Source, chart_rows, source, spark_lines
from cryptotrace_dagster.domain.bars import BAR_INTERVALS
from cryptotrace_dagster.looks import anomaly_state, price_text
from cryptotrace_dagster.queries import market_now, watch_list

_CARDS = 8


@page
def market(shared: Source) -> None:
    """Show what the market does."""
    _watch_list()
    symbols = watch_list(shared.reader)["symbol"].to_list()
    if not symbols:
        st.info("The first minute of trades is on its way.", icon=":material/hourglass_top:")
        return
    _controls(symbols)
    _symbol_chart()


@st.fragment(run_every=REFRESH_SECONDS)
def _watch_list() -> None:
    reader = source().reader
    rows, sparks = watch_list(reader), spark_lines(reader)
    with st.container(horizontal=True, gap="small"):
        for row in rows.head(_CARDS).iter_rows(named=True):
            _card(row, sparks.get(row["symbol"], []))
    if rows.height > _CARDS:
        _watch_table(rows, sparks)


def _card(row: dict[str, object], spark: list[float]) -> None:
    price, change = float(row["last_price"]), float(row["change_pct"])  # type: ignore[arg-type]
    state = anomaly_state(row["anomaly_score"])  # type: ignore[arg-type]
    with st.container(border=True, width=215, gap="xxsmall"):
        st.metric(
            str(row["symbol"]),
            price_text(price),
            f"{change:+.2f} %",
            delta_color="blue" if change >= 0 else "orange",
            chart_data=spark,
            delta_description="24 h",
        )
        volume = f"{float(row['quote_volume']):,.0f}"  # type: ignore[arg-type]
        st.markdown(
            f":{state.badge_color}-badge[{state.sign} {state.word}] :small[:gray[traded {volume}]]",
            help=f"Strangest score of the last 5 minutes: {state.frequency}. Traded value of 24 h in the quote currency.",
        )


def _watch_table(rows: pl.DataFrame, sparks: dict[str, list[float]]) -> None:
    table = rows.select(
        "symbol",
        pl.col("last_price").cast(pl.Float64),
        "change_pct",
        pl.col("quote_volume").cast(pl.Float64),
        pl.col("anomaly_score").map_elements(lambda score: anomaly_state(score).word, return_dtype=pl.String),
        pl.col("symbol")
        .map_elements(lambda name: sparks.get(name, []), return_dtype=pl.List(pl.Float64))
        .alias("hour"),
    )
    st.dataframe(
        table,
        hide_index=True,
        column_config={
            "symbol": "Symbol",
            "last_price": st.column_config.NumberColumn("Last price"),
            "change_pct": st.column_config.NumberColumn("24 h change", format="%+.2f %%"),
            "quote_volume": st.column_config.NumberColumn("24 h traded", format="localized"),
            "anomaly_score": "State",
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


@st.fragment(run_every=REFRESH_SECONDS)
def _symbol_chart() -> None:
    reader = source().reader
    symbol, interval = st.session_state["symbol"], st.session_state["interval"]
    rows = chart_rows(reader, symbol, interval, market_now(reader))
    if rows["close"].null_count() == rows.height:
        st.info(f"No {interval} bars of {symbol} in this time; choose a longer bar.")
        return
    st.echarts_chart(
        charts.market_chart(rows, interval, palette()),
        height=520,
        key="market-chart",
        alt=_described(rows, symbol, interval),
    )
    st.caption(
        "Hollow blue: rising. Full orange: falling. ▲ below: a bar rarer than once in ten days. Above: ● ▲ ◆ an alert "
        "(info, warning, critical). Times are UTC; scroll or pinch to zoom."
    )


def _described(rows: pl.DataFrame, symbol: str, interval: str) -> str:
    closes = rows["close"].drop_nulls()
    alerts = rows["alert_id"].drop_nulls().len()
    return (
        f"{symbol}, {closes.len()} bars of {interval}: from {price_text(closes[0])} to {price_text(closes[-1])}, "
        f"low {price_text(float(rows['low'].min()))}, high {price_text(float(rows['high'].max()))}, {alerts} alerts."  # type: ignore[arg-type]
    )
