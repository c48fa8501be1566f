"""Pieces that several pages show: the state of the machine in one line, and the page before there is data.

Owns their words. Stays out: what a page is about.
"""

from collections.abc import Callable

import duckdb
import streamlit as st

from cryptotrace_dagster.dashboard.source import REFRESH_SECONDS, Source, source
from cryptotrace_dagster.domain.windows import utc_now
from cryptotrace_dagster.looks import DARK, LIGHT, Palette, age_text, counted
from cryptotrace_dagster.queries import DataHealth, data_health, known_symbols
from cryptotrace_dagster.storage import StorageError, WarehouseBusyError, WarehouseMissingError

QUIET_SECONDS = 30


def palette() -> Palette:
    """Return the colours for the theme that the viewer has chosen."""
    return DARK if st.context.theme.type == "dark" else LIGHT


def page(body: Callable[[Source], None]) -> Callable[[], None]:
    """Return a page that shows its body once there is data, and says what to do until then."""

    def show() -> None:
        shared = source()
        try:
            known_symbols(shared.reader)  # asked here, because what fails inside a fragment stays inside it
            body(shared)
        except WarehouseBusyError:
            st.info("The data is being written just now. This page comes back by itself.", icon=":material/sync:")
            _come_back()
        except (WarehouseMissingError, duckdb.CatalogException):
            _nothing_yet("There is no data yet", "The store is made when trades first arrive.")
        except StorageError:
            _nothing_yet("The data cannot be read", "`cryptotrace doctor` on the server says why and what to do.")

    show.__name__ = body.__name__
    return show


def _nothing_yet(title: str, text: str) -> None:
    st.subheader(title)
    st.markdown(
        f"{text} To start everything on this machine, type in a terminal:\n\n"
        "```\ncryptotrace up --demo    # a simulated market, offline\ncryptotrace up           # the live exchange\n```\n"
        "This page fills by itself."
    )
    _come_back()


@st.fragment(run_every=REFRESH_SECONDS)
def _come_back() -> None:
    """Run the whole page again at the next beat."""
    if st.session_state.get("came_back"):
        st.session_state["came_back"] = False
        st.rerun()
    st.session_state["came_back"] = True


@st.fragment(run_every=REFRESH_SECONDS)
def status_line() -> None:
    """Show in one line whether the machine can be trusted right now."""
    try:
        health = data_health(source().reader)
    except (StorageError, duckdb.CatalogException):
        return  # the page below says what is wrong
    st.markdown(status_text(health))


def status_text(health: DataHealth) -> str:
    """Return the state of the machine as a headline and badges: freshness, completeness, delivery."""
    if health.last_received_at is None:
        return ":blue-badge[:material/hourglass_top: Waiting for the first trade]"
    age = (utc_now() - health.last_received_at).total_seconds()
    badges = [
        f":orange-badge[:material/warning: No trade for {age_text(age)}]"
        if age > QUIET_SECONDS
        else f":green-badge[:material/check: Live, last trade {age_text(age)} ago]",
        f":orange-badge[:material/warning: {counted(health.missing_trades, 'trade')} missing]"
        if health.missing_trades
        else ":green-badge[:material/check: Complete, no trade missing]",
        f":orange-badge[:material/warning: {counted(health.overdue_alerts, 'alert')} not delivered]"
        if health.overdue_alerts
        else ":green-badge[:material/check: Every alert delivered]",
    ]
    if health.dead_letters:
        badges.append(f":gray-badge[:material/mail_off: {counted(health.dead_letters, 'unreadable message')} kept]")
    return " ".join(badges)


def as_plain_text(text: object) -> str:
    """Return text that Markdown shows as it is."""
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]<>#$~|:" else letter for letter in str(text))
