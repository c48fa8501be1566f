"""A real recording through the whole line: socket, Kafka, Dagster, warehouse; and the bars are the exchange's own."""

import csv
import json
import subprocess
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from cryptotrace_dagster.storage import Warehouse
from tests.ports import free_port_offset
from tests.system.running import PORTS, UP, clean_environment

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

FIRST_FULL_MINUTE = datetime(2024, 8, 8, 23, 55)
LAST_FULL_MINUTE = datetime(2024, 8, 9, 0, 4)


def test_minute_bars_of_a_recording_equal_the_exchanges_klines(recordings: Path, tmp_path: Path) -> None:
    """Across midnight, so over two of Dagster's partitions; every figure equal to the last digit."""
    command = [*UP, "--speed", "40", "--duration", "28", "--no-browser"]
    for symbol in ("btcusdt", "ethusdt"):
        command += ["--replay", str(recordings / f"{symbol}_trade_20240808T2354_20240809T0005.jsonl.gz")]
    command += ["--data-dir", str(tmp_path / "data"), "--port-offset", str(free_port_offset(PORTS))]
    done = subprocess.run(command, capture_output=True, text=True, env=clean_environment(), check=False)
    summary = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0, (summary, done.stderr)
    assert summary["trades_sent"] == summary["ticks_stored"] == 19_904 + 14_515

    bars = Warehouse(str(tmp_path / "data" / "cryptotrace.duckdb")).read(
        "SELECT bar_start, open, high, low, close, volume, quote_volume, trade_count, taker_buy_volume, "
        "taker_buy_quote_volume FROM ohlc_bars WHERE symbol = 'BTCUSDT' AND bar_interval = '1m' "
        "AND bar_start BETWEEN ? AND ? ORDER BY bar_start",
        [FIRST_FULL_MINUTE, LAST_FULL_MINUTE],
    )
    assert bars.rows() == klines(recordings / "btcusdt_klines_1m_20240808T2354_20240809T0005.csv")


def klines(path: Path) -> list[tuple[object, ...]]:
    """Return the exchange's klines of the full minutes, in the order of our columns."""
    rows: list[tuple[object, ...]] = []
    with path.open(newline="") as file:
        for row in csv.reader(file):
            if not row[0].isdigit():
                continue
            start = datetime.fromtimestamp(int(row[0]) / 1000, UTC).replace(tzinfo=None)
            if FIRST_FULL_MINUTE <= start <= LAST_FULL_MINUTE:
                prices = tuple(Decimal(text) for text in row[1:5])
                rows.append((start, *prices, Decimal(row[5]), Decimal(row[7]), int(row[8]), *map(Decimal, row[9:11])))
    assert len(rows) == (LAST_FULL_MINUTE - FIRST_FULL_MINUTE) // timedelta(minutes=1) + 1
    return rows
