"""What Dagster did lately, for the Data page: its newest runs, and what each asset check said last.

Owns the words and the two tables. Stays out: the questions to Dagster (dagster_client.py). Dagster may be away or slow
at any time: it is asked briefly, seldom, and once for all viewers, and a failure is an answer like another.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import httpx
import polars as pl
import streamlit as st

from cryptotrace_dagster.dagster_client import CheckExecution, DagsterClient, DagsterRequestError, Run
from cryptotrace_dagster.dashboard.source import source
from cryptotrace_dagster.domain.windows import EPOCH, utc_now
from cryptotrace_dagster.looks import age_text

REFRESH_SECONDS = 10.0
_PATIENCE_SECONDS = 3.0
_RUNS_SHOWN = 8
_STATES = {
    "QUEUED": "… waiting",
    "NOT_STARTED": "… waiting",
    "STARTING": "▶ starting",
    "STARTED": "▶ running",
    "CANCELING": "■ ending",
    "SUCCESS": "✓ done",
    "FAILURE": "✗ failed",
    "CANCELED": "■ ended early",
}
_VERDICTS = {
    "SUCCEEDED": "✓ holds",
    "FAILED": "✗ does not hold",
    "EXECUTION_FAILED": "✗ could not be asked",
    "IN_PROGRESS": "▶ being asked",
    "SKIPPED": "- left out",
}


@dataclass(frozen=True)
class DagsterNews:
    """The newest runs and the last word of each check, or why they are not known."""

    runs: tuple[Run, ...] = ()
    checks: tuple[CheckExecution, ...] = ()
    trouble: str = ""


@st.cache_data(ttl=REFRESH_SECONDS / 2, show_spinner=False)
def dagster_news(address: str) -> DagsterNews:
    """Ask Dagster at an address; the answer serves all viewers for some seconds."""
    client = DagsterClient(address, timeout_seconds=_PATIENCE_SECONDS)
    try:
        return DagsterNews(tuple(client.latest_runs(_RUNS_SHOWN)), tuple(client.check_executions(each=1)))
    except httpx.HTTPError as error:
        return DagsterNews(trouble=f"{type(error).__name__} at {address}")
    except DagsterRequestError as error:
        return DagsterNews(trouble=str(error))


@st.fragment(run_every=REFRESH_SECONDS)
def show_dagster_news() -> None:
    """Show the newest runs and what the checks said last."""
    settings = source().settings
    news = dagster_news(settings.dagster_reached_at)
    if news.trouble:
        st.info(
            f"Dagster does not tell its runs just now ({news.trouble}). `cryptotrace doctor` says what to do if it stays away.",
            icon=":material/cloud_off:",
        )
        return
    if news.runs:
        _show(run_rows(news.runs, settings.dagster_url), "The newest runs with their state, start and length")
    else:
        st.caption("No run yet: the first starts when trades arrive.")
    if news.checks:
        _show(check_rows(news.checks, settings.dagster_url), "What each asset check said last")
    else:
        st.caption("No check has been asked yet; the quarter-hourly run asks all of them.")


def _show(rows: pl.DataFrame, alt: str) -> None:
    when = st.column_config.DatetimeColumn(format="YYYY-MM-DD HH:mm:ss")
    link = st.column_config.LinkColumn(" ", display_text="open in Dagster", width="small")
    st.dataframe(rows, hide_index=True, alt=alt, column_config={"Started": when, "Asked": when, "Link": link})


def run_rows(runs: Sequence[Run], address: str) -> pl.DataFrame:
    """Return a row per run: state, job (or the assets that were chosen by hand), start, length, link."""
    now = (utc_now() - EPOCH).total_seconds()
    rows = [
        {
            "Run": run.job_name if not run.job_name.startswith("__") else f"{', '.join(run.assets)} (by hand)",
            "State": _STATES.get(run.status, run.status.lower()),
            "Started": None if run.started_at is None else EPOCH + timedelta(seconds=round(run.started_at)),
            "Took": None if run.started_at is None else age_text((run.ended_at or now) - run.started_at),
            "Link": f"{address}/runs/{run.run_id}",
        }
        for run in runs
    ]
    return pl.DataFrame(rows, schema_overrides={"Started": pl.Datetime("us"), "Took": pl.String})


def check_rows(checks: Sequence[CheckExecution], address: str) -> pl.DataFrame:
    """Return a row per check, those that do not hold first: verdict, question, asset, finding, instant, link."""
    rows = [
        {
            "Check": check.check.replace("_", " "),
            "Verdict": _VERDICTS.get(check.status, check.status.lower()),
            "Asset": check.asset,
            "Found": check.found,
            "Asked": EPOCH + timedelta(seconds=round(check.started_at)),
            "Link": f"{address}/assets/{check.asset}?view=checks",
        }
        for check in sorted(checks, key=lambda check: (check.status == "SUCCEEDED", check.asset, check.check))
    ]
    return pl.DataFrame(rows)
