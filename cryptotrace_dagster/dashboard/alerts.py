"""The Alerts page: what rang, why, and whether it arrived.

Owns the list, its filters and the view of one alert. Stays out: the decision (domain/) and sending (notify/).
"""

import json
from datetime import datetime, timedelta

import polars as pl
import streamlit as st

from cryptotrace_dagster.dashboard import charts
from cryptotrace_dagster.dashboard.parts import as_plain_text, page, palette
from cryptotrace_dagster.dashboard.source import (
    REFRESH_SECONDS,
    AlertFilter,
    Source,
    alert_by_id,
    alert_list,
    alert_rules,
    chart_rows,
    deliveries_of,
    feedback_of,
    source,
)
from cryptotrace_dagster.domain.windows import floor
from cryptotrace_dagster.looks import SEVERITIES, age_text, price_text
from cryptotrace_dagster.pipeline.feedback import LONGEST_NOTE, record_feedback
from cryptotrace_dagster.queries import known_symbols, market_now

_SPANS = {"1 hour": timedelta(hours=1), "1 day": timedelta(days=1), "7 days": timedelta(days=7), "all": timedelta(3650)}
_OUTCOMES = {
    "delivered": ":green-badge[:material/check: delivered]",
    "retry": ":orange-badge[:material/refresh: being sent again]",
    "unknown": ":orange-badge[:material/help: sent, answer lost]",
    "given_up": ":red-badge[:material/close: not delivered]",
    "held": ":blue-badge[:material/schedule: held until later]",
    "skipped": ":gray-badge[:material/notifications_off: not sent]",
    None: ":orange-badge[:material/hourglass_top: waiting]",
}


_FOR_THE_MACHINE = {"kind", "rule_fingerprint"}
_EVIDENCE_WORDS = {
    "measure": "what the rule measured",
    "price_before": "price a minute before",
    "change_percent": "change, per cent",
    "quote_volume_60s": "traded value in 60 s",
    "usual_quote_volume_60s": "usually traded in 60 s",
    "trades_60s": "trades in 60 s",
    "lasted_s": "lasted, in seconds",
    "peak": "strongest that was told",
    "times_a_day": "times a day that a bar is this strange",
}


@page
def alerts(shared: Source) -> None:
    """Show the alerts, or the one that the address names."""
    chosen = st.query_params.get("alert")
    if chosen:
        _one_alert(shared, chosen)
    else:
        _filters(shared)
        _list()


def _filters(shared: Source) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.segmented_control("Time", list(_SPANS), default="1 day", required=True, key="span", bind="query-params")
        for label, key, options in (
            ("Symbol", "alert_symbol", known_symbols(shared.reader)),
            ("Rule", "rule", alert_rules(shared.reader)),
            ("Severity", "severity", list(SEVERITIES)),
        ):
            st.selectbox(label, options, index=None, placeholder="all", key=key, bind="query-params", width=170)


@st.fragment(run_every=REFRESH_SECONDS)
def _list() -> None:
    reader = source().reader
    state = st.session_state
    since = floor(market_now(reader) - _SPANS[state["span"]], timedelta(minutes=1))
    found = alert_list(reader, AlertFilter(since, state["alert_symbol"], state["rule"], state["severity"]))
    if found.is_empty():
        st.info(
            "Nothing rang in this time. That is how most hours should look.", icon=":material/notifications_paused:"
        )
        return
    for row in found.head(50).iter_rows(named=True):
        _list_item(row)
    if found.height > 50:
        st.caption(f"The newest 50 of {found.height}; narrow the time or the filters to see the others.")


def _list_item(row: dict[str, object]) -> None:
    look = SEVERITIES[str(row["severity"])]
    with st.container(border=True, gap="xxsmall"):
        with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
            st.markdown(
                f":{look.badge_color}-badge[{look.sign} {look.word}] **{as_plain_text(row['title'])}**", width="content"
            )
            st.markdown(f"{_outcome(row)} :gray[{row['event_time']:%d %b %H:%M:%S}]", width="content")
        st.markdown(as_plain_text(row["message"]))
        if st.button("Why?", key=f"open-{row['alert_id']}", type="tertiary", icon=":material/manage_search:"):
            st.query_params["alert"] = str(row["alert_id"])
            st.rerun()


def _outcome(row: dict[str, object]) -> str:
    if row["retracted_at"] is not None:
        return ":gray-badge[:material/undo: retracted]"
    return _OUTCOMES.get(row["outcome"], str(row["outcome"]))  # type: ignore[call-overload, no-any-return]


def _one_alert(shared: Source, alert_id: str) -> None:
    if st.button("All alerts", type="tertiary", icon=":material/arrow_back:"):
        del st.query_params["alert"]
        st.rerun()
    alert = alert_by_id(shared.reader, alert_id)
    if alert is None:
        st.warning("There is no alert with this address. It may be older than what this store keeps.")
        return
    look = SEVERITIES[str(alert["severity"])]
    st.subheader(f"{look.sign} {as_plain_text(alert['title'])}", anchor=False)
    st.markdown(as_plain_text(alert["message"]))
    _facts(alert)
    _moment(shared, alert)
    left, right = st.columns(2)
    with left:
        st.markdown("**Evidence**")
        st.dataframe(evidence_rows(str(alert["evidence"])), hide_index=True, alt="The numbers behind the alert")
    with right:
        st.markdown("**Deliveries**")
        _deliveries(shared, alert_id)
        _feedback(shared, alert_id)


def _facts(alert: dict[str, object]) -> None:
    delay = (alert["raised_at"] - alert["available_at"]).total_seconds()  # type: ignore[operator]
    facts = {
        "Time": f"{alert['event_time']:%Y-%m-%d %H:%M:%S} UTC",
        "Symbol": alert["symbol"],
        "Rule": alert["rule"],
        "Severity": alert["severity"],
        "Price": price_text(float(alert["price"])) if alert["price"] is not None else "-",  # type: ignore[arg-type]
        "Decided after": age_text(delay),
    }
    with st.container(horizontal=True, gap="large"):
        for name, value in facts.items():
            st.markdown(f":gray[{name}]  \n{as_plain_text(value)}", width="content")


def _moment(shared: Source, alert: dict[str, object]) -> None:
    interval = "1m" if alert["bar_interval"] in {"1s", "5s", "1m"} else str(alert["bar_interval"])
    event_time: datetime = alert["event_time"]  # type: ignore[assignment]
    until = min(market_now(shared.reader), event_time + timedelta(minutes=30))
    rows = chart_rows(shared.reader, str(alert["symbol"]), interval, until, shown=90)
    st.echarts_chart(
        charts.market_chart(rows, interval, palette()),
        height=420,
        key="alert-chart",
        alt=f"{alert['symbol']} around the alert of {event_time:%H:%M:%S} UTC",
    )


def evidence_rows(evidence: str) -> pl.DataFrame:
    """Return the evidence as a table of words and values; what only the machine needs is left out."""
    parsed = json.loads(evidence)
    explanation = parsed.pop("explanation", {})
    items = {**parsed, **(explanation if isinstance(explanation, dict) else {"explanation": explanation})}
    rows = [(_words(name), _value(value)) for name, value in items.items() if name not in _FOR_THE_MACHINE]
    return pl.DataFrame(rows, schema={"What": pl.String, "Value": pl.String}, orient="row")


def _words(name: str) -> str:
    text = _EVIDENCE_WORDS.get(name, name.replace("_", " "))
    return text[:1].upper() + text[1:]


def _value(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value if isinstance(value, str) else json.dumps(value)
    return f"{value:,.2f}".rstrip("0").rstrip(".") if abs(value) >= 1 else f"{value:.4g}"


def _deliveries(shared: Source, alert_id: str) -> None:
    attempts = deliveries_of(shared.reader, alert_id)
    if attempts.is_empty():
        st.markdown(":orange-badge[:material/hourglass_top: waiting to be sent]")
    for row in attempts.iter_rows(named=True):
        answer = " ".join(str(part) for part in (row["status_code"], row["reason"]) if part is not None)
        st.markdown(
            f"{_OUTCOMES.get(row['outcome'], row['outcome'])} :gray[{row['attempted_at']:%H:%M:%S}, attempt {row['attempt']}, "
            f"route {as_plain_text(row['route'])}{': ' + as_plain_text(answer) if answer else ''}]"
        )


def _feedback(shared: Source, alert_id: str) -> None:
    st.markdown("**Was it right?**")
    with st.form(f"feedback-{alert_id}", border=False):
        answer = st.segmented_control("Was it right?", ["yes", "no"], label_visibility="collapsed")
        note = st.text_input(
            "Note", placeholder="Add a note (optional)", max_chars=LONGEST_NOTE, label_visibility="collapsed"
        )
        if st.form_submit_button("Save", icon=":material/save:") and answer is not None:
            record_feedback(shared.reader.warehouse, alert_id, answer == "yes", note)
            shared.reader.forget()
            st.toast("Thank you, that is stored.", icon=":material/check:")
    said = feedback_of(shared.reader, alert_id)
    if said is not None:
        verdict = (
            ":green-badge[:material/thumb_up: right]"
            if said["was_right"]
            else ":orange-badge[:material/thumb_down: not right]"
        )
        words = f" {as_plain_text(said['note'])}" if said["note"] else ""
        st.markdown(f"{verdict} :gray[said {said['given_at']:%d %b %H:%M}]{words}")
