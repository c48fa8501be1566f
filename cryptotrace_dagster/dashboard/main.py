"""The dashboard's entry: the pages, and the line above them that tells how the machine is.

`cryptotrace dashboard` runs this file with Streamlit. Stays out: everything that a page shows.
"""

from pathlib import Path

import streamlit as st

from cryptotrace_dagster.dashboard.alerts import alerts
from cryptotrace_dagster.dashboard.health import data
from cryptotrace_dagster.dashboard.market import market
from cryptotrace_dagster.dashboard.messages import messages
from cryptotrace_dagster.dashboard.parts import status_line
from cryptotrace_dagster.dashboard.rules import try_rules_page
from cryptotrace_dagster.dashboard.source import source

ICON = Path(__file__).with_name("icon.png")
# Streamlit fades what it is about to renew; with a beat of two seconds that would be a flicker.
_NO_FADING = "<style>[data-stale='true'] { opacity: 1 !important; transition: none !important; }</style>"


def main() -> None:
    """Show the page that the address names; the address in an alert's message opens that alert."""
    st.set_page_config(page_title="CryptoTrace", page_icon=str(ICON), layout="wide")
    st.logo(str(ICON), size="large")
    market_page = st.Page(market, title="Market", icon=":material/candlestick_chart:", url_path="market", default=True)
    alerts_page = st.Page(alerts, title="Alerts", icon=":material/notifications:", url_path="alerts")
    pages = [
        market_page,
        alerts_page,
        st.Page(try_rules_page, title="Try rules", icon=":material/science:", url_path="try-rules"),
        st.Page(data, title="Data", icon=":material/database:", url_path="data"),
    ]
    if source().settings.receiver_url:
        pages.append(st.Page(messages, title="Messages", icon=":material/chat:", url_path="messages"))
    chosen = st.navigation(pages, position="top")
    if chosen == market_page and (alert_id := st.query_params.get("alert")):
        st.switch_page(alerts_page, query_params={"alert": alert_id})
    st.html(_NO_FADING)
    status_line()
    chosen.run()


if __name__ == "__main__":
    main()
