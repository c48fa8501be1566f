"""Public dump files made from the exchange's trades: daily and monthly zips of aggTrades and klines, with checksums.

Owns paths, CSV and zip form as the exchange's public data site has them: no header, milliseconds before 2025 and
microseconds since, a file for each day or month that is over. Faults give a file a header, double rows, or a wrong
checksum, as some of the real ones have.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import monotonic

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cryptotrace_dagster.domain.windows import EPOCH, Window
from cryptotrace_dagster.exchange import wire
from cryptotrace_dagster.exchange.faults import FaultBoard, FaultKind
from cryptotrace_dagster.exchange.trades import TradeBook

FIRST_MICROSECOND_DAY = datetime(2025, 1, 1)
AGG_TRADES_HEADER = (
    "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker,is_best_match"
)
KLINES_HEADER = (
    "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore"
)
REPEATED_ROWS = 10
_FILE = re.compile(r"(?P<symbol>[^/]+)-(?P<content>aggTrades|\d+[smhd])-(?P<date>\d{4}-\d{2}(?:-\d{2})?)\.zip")


@dataclass(frozen=True)
class Dump:
    """Which file was asked for."""

    symbol: str
    interval: str | None  # None: aggTrades
    window: Window
    name: str


class DumpSite:
    """Serves `/dumps/data/spot/...`."""

    def __init__(self, books: Mapping[str, TradeBook], now_us: Callable[[], int], board: FaultBoard) -> None:
        self._books = books
        self._now_us = now_us
        self._board = board
        self._made: dict[tuple[str, bool, bool], bytes] = {}

    def routes(self) -> list[Route]:
        """Return the endpoint."""
        return [Route("/dumps/data/spot/{path:path}", self._serve)]

    async def _serve(self, request: Request) -> Response:
        path = request.path_params["path"]
        dump = parse_dump_path(path.removesuffix(".CHECKSUM"))
        if dump is None or dump.symbol not in self._books or _microseconds(dump.window.end) > self._now_us():
            return Response("<Error><Code>NoSuchKey</Code></Error>", 404, media_type="application/xml")
        content = await self._file(dump)
        if content is None:
            return Response("<Error><Code>NoSuchKey</Code></Error>", 404, media_type="application/xml")
        if not path.endswith(".CHECKSUM"):
            return Response(content, media_type="application/zip")
        is_wrong = self._board.first(FaultKind.DUMP_WRONG_CHECKSUM, monotonic()) is not None
        digest = hashlib.sha256(content + b"changed afterwards" if is_wrong else content).hexdigest()
        return Response(f"{digest}  {dump.name}\n", media_type="text/plain")

    async def _file(self, dump: Dump) -> bytes | None:
        now = monotonic()
        has_header = self._board.first(FaultKind.DUMP_HEADER, now) is not None
        has_repeats = self._board.first(FaultKind.DUMP_DUPLICATES, now) is not None
        key = (dump.name, has_header, has_repeats)
        if key not in self._made:
            lines = await asyncio.to_thread(_lines, dump, self._books[dump.symbol])
            if not lines:
                return None
            if has_repeats:
                lines = lines[:REPEATED_ROWS] + lines
            if has_header:
                lines.insert(0, AGG_TRADES_HEADER if dump.interval is None else KLINES_HEADER)
            self._made[key] = await asyncio.to_thread(_zipped, dump.name.replace(".zip", ".csv"), lines)
        return self._made[key]


def parse_dump_path(path: str) -> Dump | None:
    """Return what a path such as `daily/aggTrades/BTCUSDT/BTCUSDT-aggTrades-2026-01-05.zip` asks for."""
    folder, _, name = path.rpartition("/")
    found = _FILE.fullmatch(name)
    if found is None:
        return None
    symbol, content, date = found["symbol"], found["content"], found["date"]
    is_daily = len(date) == len("2026-01-05")
    place = f"aggTrades/{symbol}" if content == "aggTrades" else f"klines/{symbol}/{content}"
    if folder != f"{'daily' if is_daily else 'monthly'}/{place}":
        return None
    if content != "aggTrades" and content not in wire.KLINE_INTERVALS_US:
        return None
    try:
        start = datetime.fromisoformat(date if is_daily else f"{date}-01")
    except ValueError:
        return None
    end = start + timedelta(days=1) if is_daily else (start + timedelta(days=31)).replace(day=1)
    return Dump(symbol, None if content == "aggTrades" else content, Window(start, end), name)


def _lines(dump: Dump, book: TradeBook) -> list[str]:
    start_us, end_us = _microseconds(dump.window.start), _microseconds(dump.window.end)
    trades = book.between(start_us, end_us)
    unit = wire.MICROSECOND if dump.window.start >= FIRST_MICROSECOND_DAY else wire.MILLISECOND
    if dump.interval is None:
        return [_agg_trade_line(tick, unit) for tick in wire.ticks_of(dump.symbol, trades)]
    width = wire.KLINE_INTERVALS_US[dump.interval]
    klines = wire.with_empty_bars(wire.klines_of(trades, width), width, end_us)
    return [wire.kline_row(kline, width, unit).strip("[]").replace('"', "") for kline in klines]


def _agg_trade_line(tick: wire.Tick, unit: int) -> str:
    return (
        f"{tick.trade_id},{wire.decimal_text(tick.price)},{wire.decimal_text(tick.quantity)},{tick.first_trade_id},"
        f"{tick.last_trade_id},{tick.time_us // unit},{tick.is_buyer_maker},True"
    )


def _zipped(name: str, lines: list[str]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        # A fixed date: the same trades make the same bytes, and so the same checksum.
        entry = zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0))
        entry.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(entry, "\n".join(lines) + "\n")
    return content.getvalue()


def _microseconds(instant: datetime) -> int:
    return (instant - EPOCH) // timedelta(microseconds=1)
