"""The Data page: how fresh and how whole the data is, and where to look further.

Owns the layout. Stays out: the questions (source.py, queries.py) and what Dagster tells of itself (dagster_news.py).
"""

import streamlit as st

from cryptotrace_dagster.dashboard import charts
from cryptotrace_dagster.dashboard.dagster_news import show_dagster_news
from cryptotrace_dagster.dashboard.parts import page, palette
from cryptotrace_dagster.dashboard.source import (
    REFRESH_SECONDS,
    Source,
    completeness,
    completeness_by_day,
    dead_letter_list,
    gap_list,
    source,
)
from cryptotrace_dagster.domain.windows import utc_now
from cryptotrace_dagster.looks import age_text, counted
from cryptotrace_dagster.queries import data_health

_DAGSTER_LINKS = (
    ("Lineage", "asset-groups", ":material/account_tree:"),
    ("Runs", "runs", ":material/play_circle:"),
    ("Schedules and sensors", "automation", ":material/schedule:"),
    ("Checks of the trades", "assets/raw_ticks?view=checks", ":material/fact_check:"),
)


@page
def data(shared: Source) -> None:
    """Show the state of the data."""
    _freshness()
    st.subheader("Completeness", anchor=False)
    st.caption("The exchange numbers its trades without a gap, so a missing one shows as a missing number.")
    _calendar()
    _completeness()
    st.subheader("Pipeline in Dagster", anchor=False)
    with st.container(horizontal=True):
        for label, path, icon in _DAGSTER_LINKS:
            st.link_button(label, f"{shared.settings.dagster_url}/{path}", icon=icon)
    show_dagster_news()
    _gaps(shared)
    _dead_letters(shared)


@st.fragment(run_every=REFRESH_SECONDS)
def _freshness() -> None:
    health = data_health(source().reader)
    if health.last_trade_time is None or health.last_received_at is None:
        st.info("No trade is stored yet.")
        return
    lags = health.stage_lags()
    figures = {
        "Last trade received": f"{age_text((utc_now() - health.last_received_at).total_seconds())} ago",
        "Bars behind trades": age_text(lags["ohlc_bars"].total_seconds()),
        "Features behind trades": age_text(lags["features"].total_seconds()),
        "Missing trades": f"{health.missing_trades:,}",
        "Unreadable messages": f"{health.dead_letters:,}",
        "Alerts to deliver": f"{health.undelivered_alerts:,}",
    }
    with st.container(horizontal=True):
        for label, value in figures.items():
            st.metric(label, value, border=True, width=185)


@st.fragment(run_every=REFRESH_SECONDS)
def _completeness() -> None:
    st.dataframe(
        completeness(source().reader),
        hide_index=True,
        column_config={
            "symbol": "Symbol",
            "stored_trades": st.column_config.NumberColumn("Stored trades", format="localized"),
            "missing_trades": st.column_config.NumberColumn("Missing trades", format="localized"),
            "open_gaps": "Open gaps",
            "complete_pct": st.column_config.ProgressColumn("Complete", format="%.4f %%", min_value=0, max_value=100),
            "since": st.column_config.DatetimeColumn("Since", format="YYYY-MM-DD HH:mm"),
            "last_trade_time": st.column_config.DatetimeColumn("Last trade", format="YYYY-MM-DD HH:mm:ss"),
        },
        alt="Stored and missing trades per symbol",
    )


@st.fragment(run_every=REFRESH_SECONDS)
def _calendar() -> None:
    days = completeness_by_day(source().reader, charts.CALENDAR_DAYS)
    if days.is_empty():
        return
    missing = int(days["missing_trades"].sum())
    st.echarts_chart(
        charts.completeness_calendar(days, palette()),
        height=60 + 34 * days["symbol"].n_unique(),
        key="completeness-calendar",
        alt=f"Completeness of each symbol over {counted(days['day'].n_unique(), 'day')}: {counted(missing, 'trade')} missing",
    )
    st.caption(
        "One square per symbol and UTC day. Blue: every trade is there. Orange, with a number: so many are missing. Empty: nothing was watched."
    )


def _gaps(shared: Source) -> None:
    found = gap_list(shared.reader)
    with st.expander(f"Gaps ever seen ({found.height})", expanded=False):
        if found.is_empty():
            st.markdown("None.")
        else:
            st.dataframe(found, hide_index=True, alt="Every gap with the time it was noticed and closed")


def _dead_letters(shared: Source) -> None:
    found = dead_letter_list(shared.reader)
    with st.expander(f"Messages that could not be read ({found.height})", expanded=False):
        if found.is_empty():
            st.markdown("None.")
        else:
            st.dataframe(found, hide_index=True, alt="Unreadable messages with the reason")
