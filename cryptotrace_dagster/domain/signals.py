"""Where a rule's condition holds: the measure of each rule on each closed bar, as frames.

Owns what a rule measures (per cent, multiple, rarity) and at which bars it rings or returns. Everything is vectorised,
so that a second of fifty symbols and a whole day are the same call. Stays out: when someone is told (conversations.py).
"""

import re
from dataclasses import dataclass
from datetime import timedelta

import polars as pl

from cryptotrace_dagster.domain.bars import BAR_INTERVALS
from cryptotrace_dagster.domain.rules import (
    AnomalyRule,
    DataRule,
    MoveRule,
    PriceRule,
    RecordRule,
    Rule,
    RuleBook,
    VolumeRule,
)
from cryptotrace_dagster.tables import ANOMALY_SCORES, OHLC_BARS

DECISION_INTERVAL = "1s"  # of the bars that rules look at; the detectors have intervals of their own (features.py)
PRICE_AGE = timedelta(minutes=2)  # a score's price is the last trade's, unless that is older
MEASURE_DECIMALS = 4  # a rolling sum differs in its last bits with where it started; an alert must not

SIGNAL_SCHEMA = pl.Schema(
    {
        "rule": pl.String(),
        "symbol": pl.String(),
        "bar_interval": pl.String(),
        "bar_start": pl.Datetime("us"),
        "decided_at": pl.Datetime("us"),  # the end of the bar: from here on the market knows
        "event_time": pl.Datetime("us"),
        "price": pl.Decimal(20, 8),
        "is_ringing": pl.Boolean(),  # false: the price came back
        "measure": pl.Float64(),
        "price_before": pl.Float64(),  # what a move or a record is measured from
        "detector": pl.String(),
        "times_a_day": pl.Float64(),
        "explanation": pl.String(),
    }
)
_OWN_COLUMNS = ("is_ringing", "measure", "price_before", "detector", "times_a_day", "explanation")
SCORE_INTERVALS = {**BAR_INTERVALS, "5s": timedelta(seconds=5)}  # the fast detectors have bars of their own


@dataclass(frozen=True)
class Market:
    """What the rules look at: rows of `ohlc_bars`, `anomaly_scores` and `trade_id_gaps`.

    Closed bars of one second with the rules' lookback before the first that matters; longer bars only for records:
    days, the hours of the first day and the minutes of the first hour, and from there on.
    """

    bars: pl.DataFrame
    scores: pl.DataFrame
    gaps: pl.DataFrame


def find_signals(book: RuleBook, market: Market) -> pl.DataFrame:
    """Return every bar at which a rule rings or returns, in the order in which a live watcher would have known.

    The measures depend on nothing outside their lookback, so that any cut of the time finds the same.
    """
    fast = _prepared(market.bars)
    frames = [_signals_of(rule, fast, market) for rule in book.rules]
    found = pl.concat([frame for frame in frames if frame.height] or [pl.DataFrame(schema=SIGNAL_SCHEMA)])
    order = pl.DataFrame(
        {"rule": [rule.name for rule in book.rules], "severity_rank": [-int(rule.severity) for rule in book.rules]},
        schema={"rule": pl.String, "severity_rank": pl.Int64},
    )
    keys = ("decided_at", "symbol", "severity_rank", "rule", "bar_interval", "bar_start", "detector")
    return found.join(order, on="rule").sort(keys, nulls_last=True).select(SIGNAL_SCHEMA.names())


def bar_length() -> pl.Expr:
    """Return the length of each row's bar, from its `bar_interval`."""
    return pl.col("bar_interval").replace_strict(SCORE_INTERVALS, return_dtype=pl.Duration("us"))


def _prepared(bars: pl.DataFrame) -> pl.DataFrame:
    numbers = ("high", "low", "close", "quote_volume")
    return (
        bars.filter(pl.col("bar_interval") == DECISION_INTERVAL)
        .sort("symbol", "bar_start")
        .with_columns(price=pl.col("close").cast(OHLC_BARS.polars_schema["close"]))
        .with_columns(pl.col(name).cast(pl.Float64) for name in numbers)
        .with_columns(
            previous_close=pl.col("close").shift(1).over("symbol"),
            previous_start=pl.col("bar_start").shift(1).over("symbol"),
        )
    )


def _signals_of(rule: Rule, bars: pl.DataFrame, market: Market) -> pl.DataFrame:
    watched = _watched(rule, bars)
    match rule:
        case AnomalyRule():
            return _anomaly_signals(rule, bars, market.scores)
        case PriceRule():
            measured = price_status(rule, watched)
        case MoveRule():
            measured = moves(rule, watched).filter("is_ringing")
        case VolumeRule():
            measured = volume_multiples(rule, watched).filter("is_ringing")
        case RecordRule():
            measured = records(rule, watched, _watched(rule, market.bars)).filter("is_ringing")
        case DataRule(trouble="silence"):
            measured = silences(rule, watched)
        case DataRule():
            measured = lasting_gaps(rule, _watched(rule, market.gaps))
    return _as_signals(rule, measured)


def price_status(rule: PriceRule, bars: pl.DataFrame) -> pl.DataFrame:
    """Return the bars at which the price reaches the level, or first comes back beyond the hysteresis."""
    margin = rule.hysteresis_percent / 100
    if rule.above is not None:
        is_ringing, is_back = pl.col("high") >= rule.level, pl.col("high") < rule.level * (1 - margin)
    else:
        is_ringing, is_back = pl.col("low") <= rule.level, pl.col("low") > rule.level * (1 + margin)
    return (
        bars.with_columns(is_ringing=pl.when(is_ringing).then(True).when(is_back).then(False))
        .drop_nulls("is_ringing")
        .filter(pl.col("is_ringing").ne_missing(pl.col("is_ringing").shift(1).over("symbol")))
        .with_columns(measure=pl.col("high" if rule.above is not None else "low"))
    )


def moves(rule: MoveRule, bars: pl.DataFrame) -> pl.DataFrame:
    """Return bars with `measure`: the per cent from the window's lowest (or highest) price to the close.

    A price stays in force until the next trade, so the last trade before the window counts as its first price when it
    is not older than the window is long. A window without history is short, not empty: a pump is seen from cold start.
    """
    span, bars = rule.within, _eventful(rule, bars)
    earlier = pl.when(pl.col("bar_start") - pl.col("previous_start") <= span).then("previous_close")
    lowest = pl.min_horizontal("low", earlier).rolling_min_by("bar_start", span).over("symbol")
    highest = pl.max_horizontal("high", earlier).rolling_max_by("bar_start", span).over("symbol")
    rise, fall = (pl.col("close") / pl.col("lowest") - 1) * 100, (pl.col("close") / pl.col("highest") - 1) * 100
    is_up = {"up": pl.lit(True), "down": pl.lit(False), "either": rise >= -fall}[rule.direction]
    return (
        bars.with_columns(lowest=lowest, highest=highest)
        .with_columns(
            measure=pl.when(is_up).then(rise).otherwise(fall).round(MEASURE_DECIMALS),
            price_before=pl.when(is_up).then("lowest").otherwise("highest"),
        )
        .with_columns(is_ringing=pl.col("measure").abs() >= rule.at_least_percent)
    )


def _eventful(rule: MoveRule, bars: pl.DataFrame) -> pl.DataFrame:
    """Return the bars of symbols whose whole range is wide enough for the rule: in most seconds, none."""
    highest = pl.max_horizontal(pl.col("high").max(), pl.col("previous_close").max())
    lowest = pl.min_horizontal(pl.col("low").min(), pl.col("previous_close").min())
    ranges = bars.group_by("symbol").agg(range_percent=(highest / lowest - 1) * 100)
    # A fall is measured from the higher price, so it is the smaller number; the range bounds both.
    wide = ranges.filter(pl.col("range_percent") >= rule.at_least_percent - 10**-MEASURE_DECIMALS)
    return bars.join(wide, on="symbol", how="semi", maintain_order="left")


def volume_multiples(rule: VolumeRule, bars: pl.DataFrame) -> pl.DataFrame:
    """Return every bar with `measure`: what the window traded over what such a window traded on average before.

    Null (and silent) until at least half of the time it is compared with has been seen.
    """
    recent = pl.col("quote_volume").rolling_sum_by("bar_start", rule.within).over("symbol")
    whole = pl.col("quote_volume").rolling_sum_by("bar_start", rule.lookback).over("symbol")
    first_seen = pl.col("bar_start").rolling_min_by("bar_start", rule.lookback).over("symbol")
    is_warm = pl.col("bar_start") - first_seen >= rule.within + rule.compared_with / 2
    share = rule.within / rule.compared_with
    return (
        bars.with_columns(recent=recent, usual=(whole - recent) * share, is_warm=is_warm)
        .with_columns(
            measure=pl.when(pl.col("is_warm") & (pl.col("usual") > 0))
            .then(pl.col("recent") / pl.col("usual"))
            .round(MEASURE_DECIMALS)
        )
        .with_columns(
            is_ringing=(pl.col("measure") >= rule.at_least_times).fill_null(False)
            & (pl.col("recent") >= rule.minimum_quote_volume)
        )
    )


def records(rule: RecordRule, bars: pl.DataFrame, longer: pl.DataFrame) -> pl.DataFrame:
    """Return every bar with `measure`: by how many per cent its high (low) passes all prices of the last days.

    The days before come from bars of a day, today's hours, this hour's minutes and this minute's seconds from their own
    bars; nothing that was not over yet is looked at. Silent until the days are all there.
    """
    ceiling = _earlier_extreme(rule, bars, longer, "high")
    floor = _earlier_extreme(rule, bars, longer, "low")
    rise, fall = (pl.col("high") / pl.col("ceiling") - 1) * 100, (pl.col("low") / pl.col("floor") - 1) * 100
    is_high = pl.lit(rule.direction != "low") & (rise > 0)
    is_low = pl.lit(rule.direction != "high") & (fall < 0)
    return bars.with_columns(ceiling=ceiling, floor=floor).with_columns(
        is_ringing=(is_high | is_low).fill_null(False),
        measure=pl.when(is_high).then(rise).otherwise(fall).round(MEASURE_DECIMALS),
        price_before=pl.when(is_high).then("ceiling").otherwise("floor"),
    )


def _earlier_extreme(rule: RecordRule, bars: pl.DataFrame, longer: pl.DataFrame, side: str) -> pl.Series:
    """Return for each bar the highest high (lowest low) of the rule's days before it, null while they are not there."""
    sign = 1.0 if side == "high" else -1.0  # the lowest low is the highest of the mirrored prices
    value = pl.col(side).cast(pl.Float64) * sign
    found = bars.select("symbol", "bar_start", value=value)
    minute = pl.col("bar_start").dt.truncate("1m")
    parts = [pl.col("value").cum_max().over("symbol", minute).shift(1).over("symbol", minute)]
    for interval, parent in (("1m", "1h"), ("1h", "1d")):
        running = (
            longer.filter(pl.col("bar_interval") == interval)
            .sort("bar_start")
            .select(
                "symbol",
                period="bar_start",
                parent=pl.col("bar_start").dt.truncate(parent),
                value=value.cum_max().over("symbol", pl.col("bar_start").dt.truncate(parent)),
            )
        )
        column = f"before_{interval}"
        own = pl.col("bar_start").dt.truncate(interval)
        found = (
            found.with_columns(own=own, index=pl.int_range(pl.len()))
            .sort("own")
            .join_asof(
                running.rename({"value": column}),
                left_on="own",
                right_on="period",
                by="symbol",
                allow_exact_matches=False,
                check_sortedness=False,
            )
            .with_columns(
                pl.when(pl.col("parent") == pl.col("bar_start").dt.truncate(parent)).then(column).alias(column)
            )
            .sort("index")
            .drop("own", "index", "period", "parent")
        )
        parts.append(pl.col(column))
    days = _earlier_days(rule, longer, value)
    found = found.with_columns(day=pl.col("bar_start").dt.truncate("1d")).join(
        days, on=["symbol", "day"], how="left", maintain_order="left"
    )
    parts.append(pl.col("before_1d"))
    extreme = pl.when(pl.col("before_1d").is_not_null()).then(pl.max_horizontal(parts)) * sign
    return found.select(extreme.alias(side)).to_series()


def _earlier_days(rule: RecordRule, longer: pl.DataFrame, value: pl.Expr) -> pl.DataFrame:
    """Return for each symbol and day the extreme of the rule's days before, null unless an even earlier day is there."""
    span = timedelta(days=rule.days)
    is_complete = pl.col("bar_start").min().over("symbol") < pl.col("bar_start") - span
    extreme = value.rolling_max_by("bar_start", span, closed="left").over("symbol")
    return (
        longer.filter(pl.col("bar_interval") == "1d")
        .sort("symbol", "bar_start")
        .select("symbol", day="bar_start", before_1d=pl.when(is_complete).then(extreme))
    )


def silences(rule: DataRule, bars: pl.DataFrame) -> pl.DataFrame:
    """Return the moments at which a symbol has been silent for too long, and those at which it trades again."""
    following = pl.col("bar_start").shift(-1).over("symbol")
    falls_silent = (following.is_null() | (following - pl.col("bar_end") >= rule.after)).fill_null(False)
    began = bars.filter(falls_silent).with_columns(
        is_ringing=pl.lit(True), bar_end=pl.col("bar_end") + rule.after, measure=pl.lit(rule.after.total_seconds())
    )
    quiet = pl.col("bar_start") - pl.col("previous_start") - timedelta(seconds=1)
    ended = bars.filter((quiet >= rule.after).fill_null(True)).with_columns(
        is_ringing=pl.lit(False), measure=pl.lit(None, dtype=pl.Float64)
    )
    return pl.concat([began, ended])


def lasting_gaps(rule: DataRule, gaps: pl.DataFrame) -> pl.DataFrame:
    """Return the moments at which trades have been missing for too long, and those at which they were found."""
    told_at = pl.col("gap_end") + rule.after
    lasting = gaps.filter(pl.col("closed_at").is_null() | (pl.col("closed_at") > told_at)).select(
        "symbol",
        "closed_at",
        bar_interval=pl.lit(DECISION_INTERVAL),
        bar_start=pl.col("gap_end").dt.truncate("1s"),
        bar_end=told_at,
        last_trade_time="gap_end",
        price=pl.lit(None, dtype=pl.Decimal(20, 8)),
        measure=(pl.col("last_missing_id") - pl.col("first_missing_id") + 1).cast(pl.Float64),
        is_ringing=pl.lit(True),
    )
    found = lasting.drop_nulls("closed_at").with_columns(bar_end="closed_at", is_ringing=pl.lit(False))
    return pl.concat([lasting, found])


def _anomaly_signals(rule: AnomalyRule, bars: pl.DataFrame, scores: pl.DataFrame) -> pl.DataFrame:
    ringing = _watched(rule, scores.filter(pl.col("times_a_day") <= rule.rarest_times_a_day)).filter(
        pl.col("detector").str.contains(_pattern(rule.detector))
    )
    if rule.bar_interval is not None:
        ringing = ringing.filter(pl.col("bar_interval") == rule.bar_interval)
    if ringing.is_empty():
        return pl.DataFrame(schema=SIGNAL_SCHEMA)
    latest = bars.select("symbol", "price", "last_trade_time", at="bar_end").sort("at")
    with_price = (
        ringing.select(ANOMALY_SCORES.column_names)
        .with_columns(decided_at=pl.col("bar_start") + bar_length())
        .sort("decided_at")
        .join_asof(
            latest, left_on="decided_at", right_on="at", by="symbol", tolerance=PRICE_AGE, check_sortedness=False
        )
    )
    return with_price.select(
        pl.lit(rule.name).alias("rule"),
        "symbol",
        "bar_interval",
        "bar_start",
        "decided_at",
        # Market-wide scores belong to no symbol that trades; they rest on the whole bar.
        pl.coalesce("last_trade_time", "decided_at").alias("event_time"),
        "price",
        pl.lit(True).alias("is_ringing"),
        pl.col("score").round(MEASURE_DECIMALS).alias("measure"),
        pl.lit(None).alias("price_before"),
        "detector",
        "times_a_day",
        "explanation",
    ).cast(SIGNAL_SCHEMA)


def _watched(rule: Rule, frame: pl.DataFrame) -> pl.DataFrame:
    if "*" in rule.symbols:
        return frame
    pattern = "|".join(_pattern(symbol.upper()) for symbol in rule.symbols)
    return frame.filter(pl.col("symbol").str.contains(pattern))


def _pattern(glob: str) -> str:
    """Return a shell pattern (`*` and `?`) as a regular expression that polars understands."""
    return f"^{re.escape(glob).replace(re.escape('*'), '.*').replace(re.escape('?'), '.')}$"


def _as_signals(rule: Rule, measured: pl.DataFrame) -> pl.DataFrame:
    absent = [name for name in _OWN_COLUMNS if name not in measured.columns]
    return (
        measured.with_columns(
            rule=pl.lit(rule.name),
            decided_at="bar_end",
            event_time="last_trade_time",
            **{name: pl.lit(None) for name in absent},
        )
        .select(SIGNAL_SCHEMA.names())
        .cast(SIGNAL_SCHEMA)
    )
