import marimo

app = marimo.App(width="medium", app_title="Explore a day")


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
    # Explore a day

    What one symbol did in its last day: price, volume, who was in a hurry, and what was unusual about it.
    Everything is read from the published copy, so you may take your time.
    """)


@app.cell
def _(mo, read):
    chosen = mo.ui.dropdown(read.symbols(), value=read.symbols()[0], label="Symbol")
    chosen
    return (chosen,)


@app.cell
def _(chosen, pl, read):
    bars = read.bars(chosen.value, "5m", last="1d").with_columns(
        pl.col("open", "high", "low", "close", "volume", "taker_buy_volume").cast(pl.Float64)
    )
    return (bars,)


@app.cell
def _(alt, bars, looks, pl):
    drawn = bars.with_columns(is_rising=pl.col("close") >= pl.col("open"))
    base = alt.Chart(drawn).encode(
        x=alt.X("bar_start:T", title=None),
        stroke=alt.condition("datum.is_rising", alt.value(looks.LIGHT.rising), alt.value(looks.LIGHT.falling)),
    )
    wicks = base.mark_rule().encode(y=alt.Y("low:Q", scale=alt.Scale(zero=False), title="price"), y2="high:Q")
    bodies = base.mark_bar(size=4, strokeWidth=1).encode(
        y="open:Q",
        y2="close:Q",
        fill=alt.condition("datum.is_rising", alt.value("white"), alt.value(looks.LIGHT.falling)),
        tooltip=["bar_start:T", "open", "high", "low", "close", "volume"],
    )
    candles = (wicks + bodies).properties(width=700, height=300)
    candles
    return (candles,)


@app.cell
def _(mo):
    mo.md("""
    ## Who was in a hurry?

    The share of volume in which the buyer crossed the spread. Far above one half: buyers could not wait.
    """)


@app.cell
def _(alt, bars, looks, pl):
    hurry = bars.with_columns(buyer_share=pl.col("taker_buy_volume") / pl.col("volume"))
    hurry_chart = (
        alt.Chart(hurry)
        .mark_line(color=looks.LIGHT.rising)
        .encode(
            x=alt.X("bar_start:T", title=None),
            y=alt.Y("buyer_share:Q", scale=alt.Scale(domain=[0, 1]), title="share bought in a hurry"),
        )
        .properties(width=700, height=140)
    )
    hurry_chart
    return hurry, hurry_chart


@app.cell
def _(mo):
    mo.md("""
    ## The strangest moments
    """)


@app.cell
def _(chosen, pl, read):
    strangest = (
        read.anomaly_scores(chosen.value, last="1d")
        .sort("score", descending=True)
        .head(10)
        .select("bar_start", "bar_interval", "detector", "score", pl.col("times_a_day").round(4), "explanation")
    )
    strangest
    return (strangest,)


if __name__ == "__main__":
    app.run()
