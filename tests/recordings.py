"""Real recordings as frames, through the same decoding as live messages."""

import gzip
from pathlib import Path

import msgspec
import polars as pl

from cryptotrace_dagster.stream import decode_ticks


class _Envelope(msgspec.Struct):
    data: msgspec.Raw


def recorded_ticks(path: Path) -> pl.DataFrame:
    """Return the `raw_ticks` of a recording of `<receive time in ns> <json>` lines."""
    values, received_ms = [], []
    with gzip.open(path) as lines:
        for line in lines:
            received_ns, _, message = line.partition(b" ")
            data = bytes(msgspec.json.decode(message, type=_Envelope).data)
            if b'"e":"trade"' in data or b'"e":"aggTrade"' in data:
                values.append(data)
                received_ms.append(int(received_ns) // 1_000_000)
    frame, unreadable = decode_ticks(values, received_ms)
    assert not unreadable
    return frame
