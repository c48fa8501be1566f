import marimo

app = marimo.App(width="medium", app_title="Judge the detectors")


@app.cell
def _():
    import altair as alt
    import marimo as mo
    import polars as pl

    from cryptotrace_dagster import looks, read

    return alt, looks, mo, pl, read


@app.cell
def _(mo):
    mo.md("""
    # Judge the detectors

    A score has one meaning over all detectors: how often, by the symbol's own history, a bar scores at least this high.
    If that is so, then a threshold of *n times a day* is really passed about *n* times a day. This notebook looks whether
    it is, detector by detector, on what is stored.
    """)


@app.cell
def _(read):
    scores = read.sql(
        "SELECT symbol, detector, bar_interval, bar_start, times_a_day, score FROM anomaly_scores ORDER BY bar_start"
    )
    return (scores,)


@app.cell
def _(pl, scores):
    span_days = (
        scores.group_by("detector", "symbol")
        .agg(days=(pl.col("bar_start").max() - pl.col("bar_start").min()).dt.total_seconds() / 86_400)
        .group_by("detector")
        .agg(symbol_days=pl.col("days").sum())
    )
    promised = [100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1]
    kept = (
        pl.concat(
            scores.filter(pl.col("times_a_day") <= rate)
            .group_by("detector")
            .agg(bars=pl.len())
            .with_columns(promised_a_day=pl.lit(rate))
            for rate in promised
        )
        .join(span_days, on="detector")
        .with_columns(seen_a_day=pl.col("bars") / pl.col("symbol_days"))
        .sort("detector", "promised_a_day")
    )
    kept
    return kept, span_days


@app.cell
def _(alt, kept, looks):
    calibration = (
        alt.Chart(kept)
        .mark_line(point=True)
        .encode(
            x=alt.X("promised_a_day:Q", scale=alt.Scale(type="log"), title="promised: times a day and symbol"),
            y=alt.Y("seen_a_day:Q", scale=alt.Scale(type="log"), title="seen"),
            color=alt.Color(
                "detector:N", scale=alt.Scale(range=[looks.LIGHT.rising, looks.LIGHT.falling, looks.LIGHT.score])
            ),
            shape="detector:N",
            tooltip=["detector", "promised_a_day", "seen_a_day", "bars"],
        )
        .properties(width=600, height=320, title="On the diagonal, the promise is kept")
    )
    calibration
    return (calibration,)


@app.cell
def _(mo):
    mo.md("""
    ## What people said

    The feedback that was given on alerts in the dashboard, by rule.
    """)


@app.cell
def _(read):
    verdicts = read.sql(
        "SELECT rule, count(*) AS alerts, count(was_right) AS judged, count(*) FILTER (was_right) AS right_ones "
        "FROM alerts LEFT JOIN (SELECT alert_id, arg_max(was_right, given_at) AS was_right FROM alert_feedback "
        "GROUP BY alert_id) USING (alert_id) GROUP BY rule ORDER BY alerts DESC"
    )
    verdicts
    return (verdicts,)


if __name__ == "__main__":
    app.run()
