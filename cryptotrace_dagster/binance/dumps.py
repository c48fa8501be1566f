"""The exchange's public dump files: where they lie, and how their lines become ticks. Pure: bytes in, frames out.

Lines are a,p,q,f,l,T,m,M. Times are in µs from 2025 on and in ms before; spot files have no header, newer futures
files do; a few files hold an id twice. Stays out: downloading and storing (pipeline/history.py).
"""

import re
from datetime import date, datetime

import polars as pl

from cryptotrace_dagster.domain.exchange_times import microseconds_of
from cryptotrace_dagster.errors import UserError
from cryptotrace_dagster.tables import RAW_TICKS

CHECKSUM_SUFFIX = ".CHECKSUM"
_COLUMNS = ("a", "p", "q", "f", "l", "T", "m")
_FILE_NAME = re.compile(r"(?P<symbol>[^/\\-]+)-aggTrades-\d{4}-\d{2}(-\d{2})?\.(zip|csv)$")


class DumpError(UserError):
    """A dump file is damaged or is no dump of aggregate trades."""


def dump_path(symbol: str, day: date) -> str:
    """Return the path of a day's dump below the dump host."""
    return f"/data/spot/daily/aggTrades/{symbol}/{symbol}-aggTrades-{day.isoformat()}.zip"


def symbol_of(file_name: str) -> str | None:
    """Return the symbol that a dump's file name tells, or None when it has another form."""
    match = _FILE_NAME.search(file_name)
    return match["symbol"] if match else None


def sha256_of(checksum_text: str) -> str:
    """Return the digest in a `.CHECKSUM` file, which holds `<sha256>  <file name>`.

    Raises:
        DumpError: it holds something else.
    """
    digest = checksum_text.split(maxsplit=1)[0].lower() if checksum_text.strip() else ""
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise DumpError(f"The checksum file does not begin with a sha256 but with {checksum_text[:40]!r}.")
    return digest


def ticks_of_lines(lines: bytes, symbol: str, received_at: datetime, where: str) -> pl.DataFrame:
    """Return the `raw_ticks` rows of whole CSV lines; a header line among them is left out.

    Raises:
        DumpError: a line does not have the columns of an aggregate trade, or a value is no number.
    """
    if not lines.strip():
        return RAW_TICKS.empty()
    try:
        text = pl.read_csv(
            lines, has_header=False, infer_schema=False, schema_overrides={}, truncate_ragged_lines=False
        ).filter(pl.nth(0).str.contains(r"^\s*\d"))
        if text.width < len(_COLUMNS):
            raise DumpError(f"{where} has {text.width} columns; a dump of aggregate trades has a,p,q,f,l,T,m,M.")
        named = text.select(pl.nth(index).str.strip_chars().alias(name) for index, name in enumerate(_COLUMNS))
        return _typed(named, symbol, received_at)
    except pl.exceptions.PolarsError as error:
        raise DumpError(f"{where} is not a dump of aggregate trades (a,p,q,f,l,T,m,M): {error}") from error


def _typed(text: pl.DataFrame, symbol: str, received_at: datetime) -> pl.DataFrame:
    schema = RAW_TICKS.polars_schema
    return text.select(
        symbol=pl.lit(symbol),
        trade_id=pl.col("a").cast(pl.Int64),
        price=pl.col("p").cast(schema["price"]),
        quantity=pl.col("q").cast(schema["quantity"]),
        first_trade_id=pl.col("f").cast(pl.Int64),
        last_trade_id=pl.col("l").cast(pl.Int64),
        trade_time=microseconds_of(pl.col("T").cast(pl.Int64)).cast(schema["trade_time"]),
        is_buyer_maker=pl.col("m").str.to_lowercase() == "true",
        received_at=pl.lit(received_at, schema["received_at"]),
    )
