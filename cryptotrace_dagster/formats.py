"""How rows leave the house: as JSON, CSV, Arrow or Parquet, with exact decimals and unmistakable times.

Owns the spelling of values: decimals as plain strings, instants as ISO-8601 in UTC with a Z, stored JSON as JSON.
Used alike by the API and the command line, so that the same row reads the same everywhere.
Stays out: which rows (queries.py) and how they travel (api/, cli/).
"""

import io
from collections.abc import Callable
from typing import Any

import msgspec
import polars as pl
from polars import selectors as cs

JSON_COLUMNS = frozenset({"explanation", "evidence"})
_EXCHANGE_DECIMALS = 8


def plain(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the frame with decimals and instants as strings.

    Decimals keep the exchange's eight places and lose only zeros beyond them; they never use an exponent.
    """
    trimmed = cs.decimal().cast(pl.String).str.replace(rf"(\.\d{{{_EXCHANGE_DECIMALS}}}\d*?)0+$", "$1")
    instant = cs.datetime().dt.strftime("%Y-%m-%dT%H:%M:%S%.6f").str.replace(r"0+$", "").str.strip_chars_end(".")
    return frame.with_columns(trimmed, instant + "Z", cs.date().dt.to_string("iso"))


def records(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Return the rows as dictionaries ready for JSON; columns that hold JSON become objects, bytes become text."""
    rows = plain(frame).to_dicts()
    embedded = [name for name in frame.columns if name in JSON_COLUMNS]
    binary = [name for name, dtype in frame.schema.items() if dtype == pl.Binary()]
    for row in rows:
        for name in embedded:
            row[name] = _embedded(row[name])
        for name in binary:
            row[name] = None if row[name] is None else row[name].decode("utf-8", "backslashreplace")
    return rows


def to_json(frame: pl.DataFrame) -> bytes:
    """Return a JSON array of objects; not-a-number and infinity become null."""
    return msgspec.json.encode(records(frame))


def to_csv(frame: pl.DataFrame) -> bytes:
    """Return comma separated values with a header line; lists and structures are spelled as JSON."""
    readable = plain(frame).with_columns(cs.binary().bin.encode("hex"))
    nested = readable.select(cs.nested())
    spelled = [pl.Series(each.name, map(_as_json, each.to_list()), dtype=pl.String) for each in nested]
    return readable.with_columns(spelled).write_csv().encode()


def to_arrow(frame: pl.DataFrame) -> bytes:
    """Return an Arrow IPC stream; instants carry their time zone, decimals stay decimals."""
    buffer = io.BytesIO()
    _with_zone(frame).write_ipc_stream(buffer)
    return buffer.getvalue()


def to_parquet(frame: pl.DataFrame) -> bytes:
    """Return a Parquet file; instants carry their time zone, decimals stay decimals."""
    buffer = io.BytesIO()
    _with_zone(frame).write_parquet(buffer)
    return buffer.getvalue()


def _embedded(value: object) -> object:
    """Return the object that a JSON text stands for; in a query of somebody's own the column may hold anything."""
    if not isinstance(value, str):
        return value
    try:
        return msgspec.json.decode(value)
    except msgspec.DecodeError:
        return value


def _as_json(value: object) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()


def _with_zone(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(cs.datetime(time_zone=None).dt.replace_time_zone("UTC"))


WRITERS: dict[str, Callable[[pl.DataFrame], bytes]] = {
    "json": to_json,
    "csv": to_csv,
    "arrow": to_arrow,
    "parquet": to_parquet,
}
