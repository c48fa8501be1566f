"""The exchange's times: integers since the epoch in ms or in µs, told apart by their size."""

from datetime import datetime, timedelta

import polars as pl

from cryptotrace_dagster.domain.windows import EPOCH

MICROSECONDS_FROM = 10**14  # 15 digits and more: in milliseconds that would be the year 5138


def instant_of(value: int) -> datetime:
    """Return an exchange time in ms or µs as naive UTC."""
    return EPOCH + timedelta(microseconds=value if value >= MICROSECONDS_FROM else value * 1000)


def seconds_of(value: int) -> float:
    """Return an exchange time in ms or µs as seconds since the epoch."""
    return value / 1_000_000 if value >= MICROSECONDS_FROM else value / 1000


def microseconds_of(values: pl.Expr) -> pl.Expr:
    """Return exchange times in ms or µs as µs since the epoch."""
    return pl.when(values >= MICROSECONDS_FROM).then(values).otherwise(values * 1000)
