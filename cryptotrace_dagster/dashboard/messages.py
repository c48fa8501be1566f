"""The Messages page of the demo: what the local receiver got in place of Discord.

Owns the layout. Stays out: the receiver itself, which is asked over HTTP.
"""

from typing import Any

import httpx
import streamlit as st

from cryptotrace_dagster.dashboard.source import REFRESH_SECONDS, source

_SHOWN = 20


def messages() -> None:
    """Show the newest messages."""
    st.caption(
        "No Discord webhook is set, so a receiver on this machine takes its place. This is what would be in the channel."
    )
    _messages()


@st.fragment(run_every=REFRESH_SECONDS)
def _messages() -> None:
    try:
        answer = httpx.get(
            f"{source().settings.receiver_url}/_control/messages",
            params={"limit": _SHOWN},
            timeout=2.0,
            trust_env=False,
        )
        received: list[dict[str, Any]] = answer.raise_for_status().json()  # oldest first
    except httpx.HTTPError as error:
        st.warning(f"The receiver does not answer ({type(error).__name__}). Is `cryptotrace up --demo` still running?")
        return
    if not received:
        st.info("No message yet. The demo's first pump comes within two minutes.", icon=":material/hourglass_top:")
    for message in reversed(received):
        _message(message)


def _message(message: dict[str, Any]) -> None:
    with st.container(border=True):
        if message["content"]:
            st.text(message["content"])
        for embed in message["embeds"] or ():
            st.markdown("**" + str(embed.get("title", "")).replace("*", "\\*") + "**")
            st.text(embed.get("description", ""))
            with st.container(horizontal=True):
                for field in embed.get("fields", []):
                    with st.container(width="content", gap=None):
                        st.caption(field["name"])
                        st.text(field["value"])
            if (footer := embed.get("footer", {}).get("text")) is not None:
                st.caption(footer)
