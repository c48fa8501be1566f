"""The Try rules page: change a rule, see at once when it would have rung, take it away as TOML.

Owns the editor and the picture of the answer. Stays out: what a rule means (domain/rules.py) and the trial itself
(pipeline/trial.py). Nothing here changes what is in force: that is alerts.toml.
"""

from datetime import timedelta

import streamlit as st

from cryptotrace_dagster.dashboard import charts
from cryptotrace_dagster.dashboard.parts import as_plain_text, page, palette
from cryptotrace_dagster.dashboard.source import Source
from cryptotrace_dagster.domain.rules import RuleBook, RulesError, parse_rules
from cryptotrace_dagster.domain.windows import floor
from cryptotrace_dagster.looks import SEVERITIES, counted
from cryptotrace_dagster.pipeline.trial import Trial, try_rules
from cryptotrace_dagster.queries import market_now, watch_list

_SPANS = {"1 hour": timedelta(hours=1), "6 hours": timedelta(hours=6), "1 day": timedelta(days=1)}
_TEMPLATES = {
    "A fast move": """[[rules]]
name = "my fast move"
kind = "move"
at_least_percent = 2.0
within = "60s"
severity = "warning"
cooldown = "30m"
""",
    "A price level": """[[rules]]
name = "my price level"
kind = "price"
symbols = ["{symbol}"]
above = {level}
severity = "info"
""",
    "A volume surge": """[[rules]]
name = "my volume surge"
kind = "volume"
at_least_times = 20.0
within = "10s"
compared_with = "10m"
minimum_quote_volume = 50000.0
severity = "warning"
cooldown = "1h"
""",
    "An unusual bar": """[[rules]]
name = "my unusual bar"
kind = "anomaly"
detector = "combined"
at_most_a_day = 1.0
severity = "info"
cooldown = "1h"
""",
}


@page
def try_rules_page(shared: Source) -> None:
    """Show the editor and what the rule would have done."""
    st.caption(
        "Nothing here is in force: the rules that ring are those of "
        f"`{shared.settings.alerts_file.name}`. Change a number, leave the field, and see."
    )
    editor, answer = st.columns([2, 3], gap="large")
    with editor:
        chosen = st.selectbox("Start from", list(_TEMPLATES), key="template")
        text = st.text_area("Rule (TOML)", _template(shared, chosen), height=270, key=f"rule-{chosen}")
        span = st.segmented_control("Over the last", list(_SPANS), default="1 day", required=True, key="trial_span")
    with answer:
        try:
            book = parse_rules(text, "the rule")
        except RulesError as error:
            st.error(str(error), icon=":material/edit:")
            return
        _answer(shared, book, _SPANS[span])
    with editor:
        st.markdown("**To keep it**, add it to your file:")
        st.code(text.strip(), language="toml")


def _template(shared: Source, name: str) -> str:
    """Return a template; a price level starts at the top of what the busiest symbol's last 24 hours saw."""
    if "{level}" not in _TEMPLATES[name]:
        return _TEMPLATES[name]
    busiest = watch_list(shared.reader).row(0, named=True)
    return _TEMPLATES[name].format(symbol=busiest["symbol"], level=f"{busiest['high']:.8f}".rstrip("0").rstrip("."))


def _answer(shared: Source, book: RuleBook, span: timedelta) -> None:
    now = floor(market_now(shared.reader), timedelta(seconds=5))
    trial = try_rules(shared.reader.warehouse, book, now, span)
    rung = trial.alerts
    with st.container(horizontal=True):
        st.metric("Would have rung", f"{counted(rung.height, 'time')}", border=True, width=210)
        st.metric("A day, at this rate", f"{trial.alerts_a_day:.1f}", border=True, width=210)
        st.metric("Symbols", f"{rung['symbol'].n_unique()}", border=True, width=130)
    if rung.is_empty():
        st.info("It would have kept quiet all this time.", icon=":material/notifications_paused:")
        return
    _picture(trial)
    for row in rung.sort("event_time", descending=True).head(12).iter_rows(named=True):
        look = SEVERITIES[row["severity"]]
        st.markdown(
            f":{look.badge_color}-badge[{look.sign} {look.word}] **{as_plain_text(row['title'])}** "
            f":gray[{row['event_time']:%d %b %H:%M:%S}]  \n{as_plain_text(row['message'])}"
        )
    if rung.height > 12:
        st.caption(f"The newest 12 of {rung.height}.")


def _picture(trial: Trial) -> None:
    st.echarts_chart(
        charts.trial_chart(trial.alerts, trial.window, palette()),
        height=210,
        key="trial-chart",
        alt=f"When the rule would have rung: {counted(trial.alerts.height, 'alert')} over time, by symbol",
    )
