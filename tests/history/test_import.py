"""Files at hand become ticks and bars: whatever their form, once, and none that is damaged."""

import csv
import gzip
import hashlib
import io
import json
import zipfile
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cryptotrace_dagster.binance.dumps import DumpError, sha256_of, symbol_of
from cryptotrace_dagster.binance.rest import BinanceRest, Kline
from cryptotrace_dagster.cli import history
from cryptotrace_dagster.domain.exchange_times import instant_of
from cryptotrace_dagster.domain.windows import Window
from cryptotrace_dagster.pipeline.history import HistoryError, HistoryReport, import_file
from cryptotrace_dagster.pipeline.klines import compare_with_klines
from cryptotrace_dagster.storage import Warehouse

SECONDS = 1_735_689_600  # 2025-01-01
HEADER = "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker,is_best_match\n"


def lines(*trade_ids: int, unit: int = 1_000_000, true: str = "True") -> str:
    """Return dump lines, a trade a second."""
    return "".join(
        f"{i},{100 + i}.50000000,0.10000000,{10 * i},{10 * i + 1},{(SECONDS + i) * unit},{true if i % 2 else 'False'},{true}\n"
        for i in trade_ids
    )


def imported(warehouse: Warehouse, path: Path, symbol: str | None = None) -> HistoryReport:
    """Import a file without showing progress."""
    return import_file(warehouse, path, symbol, lambda _: None)


def zipped(path: Path, text: str) -> Path:
    """Write a zip as the exchange does, with its checksum beside it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(path.with_suffix(".csv").name, text)
    path.write_bytes(buffer.getvalue())
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    path.with_name(path.name + ".CHECKSUM").write_text(f"{digest}  {path.name}\n")
    return path


@pytest.mark.parametrize("unit", [1_000, 1_000_000], ids=["milliseconds", "microseconds"])
@pytest.mark.parametrize("header", ["", HEADER], ids=["plain", "header"])
@pytest.mark.parametrize("true", ["True", "true"])
def test_every_form_of_dump_gives_the_same_ticks(
    warehouse: Warehouse, tmp_path: Path, unit: int, header: str, true: str
) -> None:
    path = zipped(tmp_path / "BTCUSDT-aggTrades-2025-01-01.zip", header + lines(1, 2, 3, unit=unit, true=true))
    assert imported(warehouse, path).stored == 3
    row = warehouse.read("SELECT * EXCLUDE received_at FROM raw_ticks ORDER BY trade_id").row(2)
    at = datetime(2025, 1, 1, 0, 0, 3)
    assert row == ("BTCUSDT", 3, Decimal("103.5"), Decimal("0.1"), 30, 31, at, True)


def test_an_id_that_a_file_holds_twice_is_stored_once(warehouse: Warehouse, tmp_path: Path) -> None:
    path = tmp_path / "BTCUSDT-aggTrades-2025-01-01.csv"
    path.write_text(lines(1, 2, 2, 3, 1))
    report = imported(warehouse, path)
    assert (report.stored, report.repeated) == (3, 2)


def test_importing_twice_changes_nothing_and_bars_are_there_after_the_first(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    path = tmp_path / "BTCUSDT-aggTrades-2025-01-01.csv"
    path.write_text(lines(1, 2, 3))
    imported(warehouse, path)
    bars = warehouse.read("SELECT * FROM ohlc_bars ORDER BY ALL")
    assert imported(warehouse, path).stored == 0
    assert warehouse.read("SELECT * FROM ohlc_bars ORDER BY ALL").equals(bars)
    daily = warehouse.read("SELECT open, close, volume, trade_count FROM ohlc_bars WHERE bar_interval = '1d'").row(0)
    assert daily == (Decimal("101.5"), Decimal("103.5"), Decimal("0.3"), 6)


def test_an_import_that_was_killed_before_its_bars_makes_them_the_next_time(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "BTCUSDT-aggTrades-2025-01-01.csv"
    path.write_text(lines(1, 2, 3))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(
            "cryptotrace_dagster.pipeline.history.refresh_bars", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        imported(warehouse, path)
    assert warehouse.read("SELECT count(*) FROM ohlc_bars").item() == 0
    assert imported(warehouse, path).stored == 0
    assert warehouse.read("SELECT count(*) FROM ohlc_bars WHERE bar_interval = '1s'").item() == 3


def test_a_file_larger_than_a_chunk_loses_no_line_at_the_cuts(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cryptotrace_dagster.pipeline.history._CHUNK_BYTES", 5_000)
    path = zipped(tmp_path / "BTCUSDT-aggTrades-2025-01-01.zip", lines(*range(1, 200)).rstrip("\n"))
    assert imported(warehouse, path).stored == 199
    assert warehouse.read("SELECT first_id, last_id FROM trade_id_ranges").rows() == [(1, 199)]


def test_a_damaged_file_is_refused_before_anything_is_stored(warehouse: Warehouse, tmp_path: Path) -> None:
    path = zipped(tmp_path / "BTCUSDT-aggTrades-2025-01-01.zip", lines(1, 2, 3))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DumpError, match="sha256"):
        imported(warehouse, path)
    assert warehouse.read("SELECT count(*) FROM raw_ticks").item() == 0


@pytest.mark.parametrize(
    ("name", "content", "error", "says"),
    [
        ("trades.csv", lines(1).encode(), HistoryError, "--symbol"),
        ("BTCUSDT-aggTrades-2025-01-01.zip", b"no zip", HistoryError, "could not be read"),
        ("BTCUSDT-aggTrades-2025-01-01.csv", b"1,2\n", DumpError, "columns"),
        ("BTCUSDT-aggTrades-2025-01-01.csv", b"1,x,1,1,1,1735689600000,True,True\n", DumpError, "not a dump"),
        ("prices.jsonl.gz", b"no gzip", HistoryError, "could not be read"),
        ("rotten.jsonl.gz", b"\x1f\x8b\x08\0\0\0\0\0\0\x03" + b"\xff" * 20, HistoryError, "could not be read"),
    ],
)
def test_what_is_no_dump_is_refused_with_a_sentence(
    warehouse: Warehouse, tmp_path: Path, name: str, content: bytes, error: type[Exception], says: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(error, match=says):
        imported(warehouse, path)


def test_a_missing_file_is_named(warehouse: Warehouse, tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match="nowhere"):
        imported(warehouse, tmp_path / "nowhere.zip")


def test_the_symbol_is_read_from_the_name() -> None:
    assert symbol_of("/x/1000SATSUSDT-aggTrades-2025-01.zip") == "1000SATSUSDT"
    assert symbol_of("BTCUSDT-1m-2025-01-01.zip") is None


def test_a_checksum_file_without_a_checksum_is_refused() -> None:
    with pytest.raises(DumpError):
        sha256_of("<html>")


def test_lines_of_a_recording_that_are_no_trade_are_counted(warehouse: Warehouse, tmp_path: Path) -> None:
    trade = {
        "e": "aggTrade",
        "s": "BTCUSDT",
        "a": 1,
        "p": "1.5",
        "q": "2",
        "f": 1,
        "l": 1,
        "T": SECONDS * 1000,
        "m": True,
    }
    path = tmp_path / "recording.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write(
            f"{SECONDS}000000001 {json.dumps({'stream': 'btcusdt@aggTrade', 'data': trade}, separators=(',', ':'))}\n"
        )
        file.write(f"{SECONDS}000000002 {json.dumps({**trade, 'a': 2})}\n")
        file.write(f'{SECONDS}000000003 {{"half\n')
        file.write("neither time nor trade\n")
    report = imported(warehouse, path)
    assert (report.stored, report.unreadable) == (2, 2)


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")], ids=["compact", "spaced"])
def test_a_recording_may_do_without_the_times_of_receipt(
    warehouse: Warehouse, tmp_path: Path, separators: tuple[str, str]
) -> None:
    trade = {"e": "trade", "s": "BTCUSDT", "t": 7, "p": "1.5", "q": "2", "T": SECONDS * 1000, "m": True}
    path = tmp_path / "recording.jsonl"
    path.write_text(json.dumps(trade, separators=separators) + "\n")
    report = imported(warehouse, path)
    assert (report.stored, report.unreadable) == (1, 0)


def test_gaps_and_repeats_in_a_real_recording_are_reported_gap_by_gap(
    warehouse: Warehouse, recordings: Path, tmp_path: Path
) -> None:
    with gzip.open(recordings / "btcusdt_trade_20240808T2354_20240809T0005.jsonl.gz", "rt") as file:
        trades = file.read().splitlines()
    path = tmp_path / "torn.jsonl"
    path.write_text("\n".join(trades[:1000] + trades[1005:5000] + trades[4990:9000] + trades[9001:]))
    report = imported(warehouse, path)
    assert (report.stored, report.repeated) == (len(trades) - 6, 10)
    first_id = json.loads(trades[0].partition(" ")[2])["data"]["t"]
    found = report.gaps.select("first_missing_id", "last_missing_id").rows()
    assert found == [(first_id + 1000, first_id + 1004), (first_id + 9000, first_id + 9000)]
    assert imported(warehouse, path).gaps.height == 2, "they are told as long as they are open"
    assert imported(warehouse, recordings / "btcusdt_trade_20240808T2354_20240809T0005.jsonl.gz").gaps.is_empty()


class RecordedKlines(BinanceRest):
    """Answers with the exchange's own klines from a file."""

    def __init__(self, path: Path) -> None:
        super().__init__("http://127.0.0.1:9")
        with path.open() as file:
            self._rows = list(csv.reader(file))

    def klines(self, symbol: str, interval: str, start: datetime, end: datetime) -> list[Kline]:
        rows = [[int(row[0]), *row[1:6], int(row[6]), row[7], int(row[8]), *row[9:]] for row in self._rows]
        return [row for row in rows if start <= instant_of(row[0]) < end]


def test_the_bars_of_a_real_recording_equal_the_exchanges_klines(warehouse: Warehouse, recordings: Path) -> None:
    report = imported(warehouse, recordings / "btcusdt_trade_20240808T2354_20240809T0005.jsonl.gz")
    assert (report.stored, report.unreadable) == (19_904, 0)
    rest = RecordedKlines(recordings / "btcusdt_klines_1m_20240808T2354_20240809T0005.csv")
    full_minutes = Window(datetime(2024, 8, 8, 23, 54), datetime(2024, 8, 9, 0, 5))
    comparison = compare_with_klines(warehouse, rest, full_minutes, ["BTCUSDT"])
    assert (comparison.minutes_compared, comparison.mismatches) == (10, ())
    one_more = Window(full_minutes.start, datetime(2024, 8, 9, 0, 6))
    cut = compare_with_klines(warehouse, rest, one_more, ["BTCUSDT"])
    assert {each.minute for each in cut.mismatches} == {datetime(2024, 8, 9, 0, 5)}, "the recording ends inside it"


def test_the_command_imports_several_files_and_says_what_it_did(tmp_path: Path) -> None:
    app = typer.Typer()
    history.register(app)
    files = []
    for day in (1, 2):
        file = tmp_path / f"BTCUSDT-aggTrades-2025-01-0{day}.csv"
        file.write_text(lines(day))
        files.append(str(file))
    files.append(str(tmp_path / "BTCUSDT-aggTrades-2025-01-03.csv"))
    Path(files[-1]).write_text(lines(4, 5))
    outcome = CliRunner().invoke(app, ["import", *files, "--data-dir", str(tmp_path / "data")])
    assert outcome.exit_code == 0, outcome.output
    assert outcome.output.count("1 trades stored, 0 were there") == 2
    assert "BTCUSDT: ids 3 to 3 are missing (1)" in outcome.output
    stored = Warehouse(str(tmp_path / "data" / "cryptotrace.duckdb")).read("SELECT count(*) FROM raw_ticks").item()
    assert stored == 4
