"""The dashboard's entry: the pages, and the line above them that tells how the machine is.

`cryptotrace dashboard` runs this file with Streamlit. Stays out: everything that a page shows.
"""

import streamlit as st

from cryptotrace_dagster.dashboard.alerts import alerts
from cryptotrace_dagster.dashboard.health import data
from cryptotrace_dagster.dashboard.market import market
from cryptotrace_dagster.dashboard.messages import messages
from cryptotrace_dagster.dashboard.parts import status_line
from cryptotrace_dagster.dashboard.source import source


def main() -> None:
    """Show the page that the address names."""
    st.set_page_config(page_title="CryptoTrace", page_icon=":material/monitoring:", layout="wide")
    pages = [
        st.Page(market, title="Market", icon=":material/candlestick_chart:", url_path="market", default=True),
        st.Page(alerts, title="Alerts", icon=":material/notifications:", url_path="alerts"),
        st.Page(data, title="Data", icon=":material/database:", url_path="data"),
    ]
    if source().settings.receiver_url:
        pages.append(st.Page(messages, title="Messages", icon=":material/chat:", url_path="messages"))
    chosen = st.navigation(pages, position="top")
    status_line()
    chosen.run()


if __name__ == "__main__":
    main()
