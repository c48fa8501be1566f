"""Brings the past into the warehouse: dump files, recordings, and the exchange's REST for what is not dumped yet.

Plain functions, called by the commands and by a partitioned asset. All of them are idempotent, for ids tell new trades
from repeats, and resumable, for they store chunk by chunk and skip what the stored id ranges prove to be there.
Stays out: the file format (binance/dumps.py) and what is made from ticks beyond bars.
"""

import gzip
import hashlib
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import IO, cast

import httpx
import polars as pl
import stamina
import structlog

from cryptotrace_dagster.binance.dumps import (
    CHECKSUM_SUFFIX,
    DumpError,
    dump_path,
    sha256_of,
    symbol_of,
    ticks_of_lines,
)
from cryptotrace_dagster.binance.messages import agg_trade_from_rest
from cryptotrace_dagster.binance.rest import BinanceRest, ExchangeError, RateLimitedError, TradesPage
from cryptotrace_dagster.domain.exchange_times import instant_of
from cryptotrace_dagster.domain.windows import Window, day_window, merged, utc_now
from cryptotrace_dagster.errors import UserError
from cryptotrace_dagster.pipeline.bars import refresh_bars
from cryptotrace_dagster.pipeline.dirty import cut_by_day
from cryptotrace_dagster.pipeline.ingest import StoreReport, store_ticks
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.stream import decode_ticks
from cryptotrace_dagster.tables import TRADE_ID_GAPS, TRADE_ID_RANGES

_LOG = structlog.get_logger(__name__)
_CHUNK_BYTES = 32 * 1024 * 1024  # of text; about 400,000 trades, some 200 MB while they are stored
_PAGES_A_TRANSACTION = 20
_ATTEMPTS = 5
Progress = Callable[[int], None]
"""Is told how many more bytes of a file, or how many more trades of a day, have been dealt with."""


class HistoryError(UserError):
    """The past could not be brought in; the message says which file or day, and what to do."""


@dataclass(frozen=True)
class HistoryReport:
    """What an import or a backfill did.

    `windows` are the time ranges whose bars were made anew, `gaps` the rows of `trade_id_gaps` that are open there now.
    """

    source: str
    stored: int = 0
    repeated: int = 0
    unreadable: int = 0
    bars: int = 0
    windows: list[Window] = field(default_factory=list)
    gaps: pl.DataFrame = field(default_factory=TRADE_ID_GAPS.empty)


def import_file(warehouse: Warehouse, path: Path, symbol: str | None, progress: Progress) -> HistoryReport:
    """Store the trades of a dump (zip or csv) or of a recording (jsonl, jsonl.gz), and make their bars.

    Raises:
        HistoryError: the file cannot be read, is not what its name says, or its symbol is not told.
        DumpError: its checksum does not match, or its lines are no aggregate trades.
    """
    if not path.is_file():
        raise HistoryError(f"There is no file {path}: check the path.")
    verify_checksum(path)
    is_recording = path.name.removesuffix(".gz").endswith((".jsonl", ".ndjson"))
    chunks = _recorded_chunks(path, symbol) if is_recording else _dump_chunks(path, _symbol_for(path, symbol))
    return _store_chunks(warehouse, str(path), chunks, progress)


def verify_checksum(path: Path) -> bool:
    """Compare a file with the `.CHECKSUM` beside it; return whether there is one.

    Raises:
        DumpError: they differ.
    """
    beside = path.with_name(path.name + CHECKSUM_SUFFIX)
    if not beside.is_file():
        return False
    expected = sha256_of(beside.read_text())
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise DumpError(f"{path} is damaged: its sha256 is {found}, {beside.name} says {expected}. Download it again.")
    return True


def backfill_day(
    warehouse: Warehouse, symbol: str, day: date, rest: BinanceRest, *, dump_url: str, progress: Progress
) -> HistoryReport:
    """Store one symbol's trades of one UTC day and make its bars: from the dump, or from REST where there is none yet.

    Raises:
        ExchangeError: the exchange did not answer, several times over; what was stored stays, and counts next time.
    """
    window = day_window(day)
    if is_complete(warehouse, symbol, window):
        return HistoryReport(f"{symbol} {day}: already complete")
    with tempfile.TemporaryDirectory(prefix="cryptotrace-") as folder:
        dump = fetch_dump_day(dump_url, symbol, day, Path(folder))
        if dump is not None:
            return _store_chunks(warehouse, f"{symbol} {day}: dump", _dump_chunks(dump, symbol), progress)
    chunks = _rest_chunks(warehouse, symbol, window, rest)
    return _store_chunks(warehouse, f"{symbol} {day}: REST", chunks, progress)


def refetch_window(warehouse: Warehouse, symbol: str, window: Window, rest: BinanceRest) -> HistoryReport:
    """Ask REST for what a window lacks, and make its bars anew whether anything was missing or not."""
    chunks = _rest_chunks(warehouse, symbol, window, rest)
    report = _store_chunks(warehouse, f"{symbol} {window.start}: REST", chunks, lambda _: None)
    bars = sum(refresh_bars(warehouse, part).rows for part in cut_by_day(window))
    return replace(report, bars=bars, windows=[window])


def is_complete(warehouse: Warehouse, symbol: str, window: Window) -> bool:
    """Return whether the stored ids prove that no trade of the window is missing."""
    return not warehouse.read(
        f"SELECT 1 FROM {TRADE_ID_RANGES.name} WHERE symbol = ? AND first_trade_time < ? AND last_trade_time >= ? LIMIT 1",
        [symbol, window.start, window.end],
    ).is_empty()


def fetch_dump_day(dump_url: str, symbol: str, day: date, folder: Path) -> Path | None:
    """Download a day's dump, verified by its checksum; return None when the exchange has not made it yet.

    Raises:
        ExchangeError: the host did not answer, or the file stayed damaged, several times over.
    """
    url = dump_url.rstrip("/") + dump_path(symbol, day)
    target = folder / url.rpartition("/")[2]
    try:
        for attempt in stamina.retry_context(on=(DumpError, httpx.HTTPError), attempts=_ATTEMPTS, wait_max=10.0):
            with attempt, httpx.Client(timeout=30.0, follow_redirects=True) as client:
                is_there = _download(client, url, target)
    except (DumpError, httpx.HTTPError) as error:
        raise ExchangeError(f"{url} could not be fetched: {error} Try again later.") from error
    return target if is_there else None


def _download(client: httpx.Client, url: str, target: Path) -> bool:
    checksum = client.get(url + CHECKSUM_SUFFIX)
    if checksum.status_code == httpx.codes.NOT_FOUND:
        return False
    checksum.raise_for_status()
    with client.stream("GET", url) as answer:
        if answer.status_code == httpx.codes.NOT_FOUND:
            return False
        answer.raise_for_status()
        with target.open("wb") as file:
            for part in answer.iter_bytes():
                file.write(part)
    target.with_name(target.name + CHECKSUM_SUFFIX).write_text(checksum.text)
    return verify_checksum(target)


def _store_chunks(warehouse: Warehouse, source: str, chunks: Iterator["_Chunk"], progress: Progress) -> HistoryReport:
    stored, unreadable = StoreReport(), 0
    spans: list[Window] = []
    symbols: set[str] = set()
    for chunk in chunks:
        if chunk.ticks.height:
            stored += store_ticks(warehouse, chunk.ticks, utc_now())
            spans.append(_span(chunk.ticks))
            symbols.update(chunk.ticks["symbol"].unique())
        unreadable += chunk.unreadable
        progress(chunk.progress)
    # All of them, not only where something new was stored: an earlier import may have been killed before this point.
    windows = merged(part for span in spans for part in cut_by_day(span))
    bars = sum(refresh_bars(warehouse, part).rows for window in windows for part in cut_by_day(window))
    gaps = _open_gaps(warehouse, sorted(symbols), windows)
    return HistoryReport(source, stored.stored, stored.repeated, unreadable, bars, windows, gaps)


def _open_gaps(warehouse: Warehouse, symbols: list[str], windows: list[Window]) -> pl.DataFrame:
    if not symbols:
        return TRADE_ID_GAPS.empty()
    return warehouse.read(
        f"SELECT * FROM {TRADE_ID_GAPS.name} WHERE closed_at IS NULL AND list_contains(?, symbol) "
        "AND gap_start < ? AND gap_end >= ? ORDER BY symbol, first_missing_id",
        [symbols, windows[-1].end, windows[0].start],
    )


@dataclass(frozen=True)
class _Chunk:
    ticks: pl.DataFrame
    progress: int
    unreadable: int = 0


def _span(ticks: pl.DataFrame) -> Window:
    first, end = ticks.select(
        first=pl.col("trade_time").min(), end=pl.col("trade_time").max() + pl.duration(microseconds=1)
    ).row(0)
    return Window(first, end)


def _symbol_for(path: Path, symbol: str | None) -> str:
    told = symbol or symbol_of(path.name)
    if told is None:
        raise HistoryError(f"The name {path.name} does not tell its symbol: add --symbol, e.g. --symbol BTCUSDT.")
    return told.upper()


def _dump_chunks(path: Path, symbol: str) -> Iterator[_Chunk]:
    received_at = utc_now()
    with _opened(path) as (file, scale):
        for lines in _whole_lines(file):
            yield _Chunk(ticks_of_lines(lines, symbol, received_at, path.name), int(len(lines) * scale))


def _recorded_chunks(path: Path, symbol: str | None) -> Iterator[_Chunk]:
    with _opened(path) as (file, scale):
        for lines in _whole_lines(file):
            values, received_ms = _recorded_messages(lines)
            ticks, reasons = decode_ticks(values, received_ms)
            wanted = ticks if symbol is None else ticks.filter(pl.col("symbol") == symbol.upper())
            yield _Chunk(wanted, int(len(lines) * scale), len(reasons))


def _recorded_messages(lines: bytes) -> tuple[list[bytes], list[int]]:
    """Return the messages of `<receive time in ns> <json>` lines without the envelope of a combined stream.

    A line may do without the time; it counts as received now.
    """
    values, received_ms, now_ms = [], [], int(time.time() * 1000)
    for line in lines.splitlines():
        nanoseconds, _, message = (b"", b"", line) if line.startswith(b"{") else line.partition(b" ")
        if line.strip():
            begins, ends = message.find(b'"data":'), message.rfind(b"}")
            values.append(message[begins + 7 : ends] if message.startswith(b'{"stream"') else message)
            received_ms.append(int(nanoseconds) // 1_000_000 if nanoseconds.isdigit() else now_ms)
    return values, received_ms


@contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], float]]:
    """Lend the text of a file, unpacked, and how many packed bytes stand for one unpacked byte.

    Raises:
        HistoryError: it cannot be read or unpacked.
    """
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                members = [member for member in archive.infolist() if not member.is_dir()]
                if len(members) != 1:
                    raise HistoryError(f"{path} holds {len(members)} files; a dump holds one.")
                with archive.open(members[0]) as file:
                    yield file, path.stat().st_size / max(1, members[0].file_size)
        elif path.suffix == ".gz":
            with gzip.open(path) as file:
                yield (
                    cast(IO[bytes], file),
                    0.1,
                )  # only the end of a gzip file tells its length; text packs to about a tenth
        else:
            with path.open("rb") as file:
                yield file, 1.0
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise HistoryError(f"{path} could not be read ({error}): download it again or check its owner.") from error


def _whole_lines(file: IO[bytes]) -> Iterator[bytes]:
    rest = b""
    while block := file.read(_CHUNK_BYTES):
        cut = block.rfind(b"\n") + 1
        if cut:
            yield rest + block[:cut]
            rest = block[cut:]
        else:
            rest += block
    if rest.strip():
        yield rest


def _rest_chunks(warehouse: Warehouse, symbol: str, window: Window, rest: BinanceRest) -> Iterator[_Chunk]:
    end = min(window.end, utc_now())
    page = _patiently(rest, lambda: rest.agg_trades_since(symbol, window.start))
    pages: list[TradesPage] = []
    while page.trade_ids and instant_of(page.trade_times[0]) < end:
        pages.append(page)
        next_id = _first_not_stored(warehouse, symbol, page.trade_ids[-1] + 1)
        if len(pages) >= _PAGES_A_TRANSACTION:
            yield _chunk_of_pages(symbol, pages)
            pages = []
        if instant_of(page.trade_times[-1]) >= end:
            break
        page = _patiently(rest, lambda from_id=next_id: rest.agg_trades(symbol, from_id))  # type: ignore[misc]
    if pages:
        yield _chunk_of_pages(symbol, pages)


def _chunk_of_pages(symbol: str, pages: list[TradesPage]) -> _Chunk:
    values = [agg_trade_from_rest(symbol, row) for page in pages for row in page.rows]
    received_ms = [int(time.time() * 1000)] * len(values)
    ticks, reasons = decode_ticks(values, received_ms)
    return _Chunk(ticks, len(values), len(reasons))


def _first_not_stored(warehouse: Warehouse, symbol: str, trade_id: int) -> int:
    """Return the first id from this one on that is not stored."""
    inside = warehouse.read(
        f"SELECT max(last_id) AS last_id FROM {TRADE_ID_RANGES.name} WHERE symbol = ? AND ? BETWEEN first_id AND last_id",
        [symbol, trade_id],
    ).item()
    return trade_id if inside is None else int(inside) + 1


def _patiently(rest: BinanceRest, ask: Callable[[], TradesPage]) -> TradesPage:
    """Ask within the weight budget, as often as may help."""
    for attempt in range(_ATTEMPTS):
        time.sleep(rest.wait())
        try:
            return ask()
        except RateLimitedError as error:
            _LOG.warning("history.must_wait", wait_seconds=error.retry_after_seconds)
        except ExchangeError as error:
            if attempt == _ATTEMPTS - 1:
                raise
            _LOG.warning("history.asked_again", reason=str(error))
            time.sleep(2.0**attempt)
    raise ExchangeError("The exchange asked us to wait again and again; try later.")
