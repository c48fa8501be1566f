"""The live run: killed between any two stages, cut anywhere, fed late: it ends in the same rows."""

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from cryptotrace_dagster.domain.bars import bars_of
from cryptotrace_dagster.domain.windows import day_window, utc_now
from cryptotrace_dagster.notify.messenger import Messenger
from cryptotrace_dagster.pipeline import live
from cryptotrace_dagster.pipeline.alerts import refresh_alerts
from cryptotrace_dagster.pipeline.bars import refresh_bars
from cryptotrace_dagster.pipeline.detection import Detection
from cryptotrace_dagster.pipeline.dirty import market_watermark, pending_dirty, until_newest_trade
from cryptotrace_dagster.pipeline.live import MarketFollower
from cryptotrace_dagster.pipeline.rule_source import RuleSource
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.stream import TickStream
from tests.broker import NOON_MS, Topic, trade
from tests.builders import NOON

RULES = """
[[rules]]
name = "above"
kind = "price"
above = 105
severity = "warning"

[[rules]]
name = "fast"
kind = "move"
at_least_percent = 2.0
within = "30s"
severity = "critical"
"""
TABLES = {
    "raw_ticks": "* EXCLUDE (received_at)",
    "ohlc_bars": "*",
    "features": "*",
    "anomaly_scores": "*",
    "alerts": "* EXCLUDE (raised_at)",
}
Stage = tuple[Any, str]
STAGES: dict[str, Stage] = {
    "ticks": (live, "store_batch"),
    "bars": (live, "refresh_bars"),
    "features": (Detection, "refresh_features"),
    "scores": (Detection, "refresh_scores"),
    "alerts": (live, "refresh_alerts"),
    "deliveries": (live, "deliver_alerts"),
}


class Killed(BaseException):
    """What `kill -9` is to the code: nothing after it happens."""


@pytest.fixture(autouse=True)
def _the_clock_closes_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause of the test must not close bars, or its length would show in the rows."""
    monkeypatch.setattr(live.MarketFollower, "idle_seconds", 0.0)


def market() -> list[bytes]:
    """Return 150 s of trades, four a second, whose price jumps from 100 to 106 after a minute and a half."""
    return [
        trade(n, p=f"{(106 if n > 360 else 100) + n % 5 * 0.01:.8f}", E=NOON_MS + n * 250, T=NOON_MS + n * 250)
        for n in range(1, 601)
    ]


class Line:
    """A topic, a warehouse, and the live runs that follow the one into the other."""

    def __init__(self, folder: Path, cluster: str) -> None:
        folder.mkdir()
        self.warehouse = Warehouse(str(folder / "store.duckdb"))
        self.warehouse.create()
        self._topic = Topic(cluster)
        self._topic.make()
        self.rules_path = folder / "alerts.toml"
        self.rules_path.write_text(RULES)
        self._sent = 0

    def send(self, trades: Sequence[bytes]) -> None:
        self._topic.send(*trades)
        self._sent += len(trades)

    def follow(self, *chunks: Sequence[bytes], pace_seconds: float = 0.0) -> None:
        """Start a live run, send it chunk after chunk, and end it."""
        with TickStream(self._topic.bootstrap_servers, self._topic.name) as stream:
            follower = MarketFollower(
                self.warehouse, stream, RuleSource(self.rules_path), Messenger(lambda _name: None), pace_seconds
            )
            follower.start()
            for chunk in chunks or [()]:
                self.send(chunk)
                while self._stored_messages() < self._sent:
                    follower.step(1.0)
            follower.finish()

    def _stored_messages(self) -> int:
        read: int = self.warehouse.read("SELECT coalesce(max(next_offset), 0) FROM ingested_offsets").item()
        return read

    def rows(self) -> dict[str, pl.DataFrame]:
        return {name: self.warehouse.read(f"SELECT {what} FROM {name} ORDER BY ALL") for name, what in TABLES.items()}


def assert_same(one: Line, other: Line) -> None:
    for name, rows in one.rows().items():
        assert_frame_equal(rows, other.rows()[name])


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, cluster: str) -> dict[str, pl.DataFrame]:
    """Return what one live run makes of the market when it gets all of it at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live.MarketFollower, "idle_seconds", 0.0)
        line = Line(tmp_path_factory.mktemp("undisturbed") / "line", cluster)
        line.follow(market())
    return line.rows()


def assert_undisturbed(line: Line, undisturbed: dict[str, pl.DataFrame]) -> None:
    for name, rows in line.rows().items():
        assert_frame_equal(rows, undisturbed[name])


def test_the_market_rings_and_its_bars_are_those_of_its_ticks(
    undisturbed: dict[str, pl.DataFrame], tmp_path: Path, cluster: str
) -> None:
    """Guards the comparisons below against comparing nothing with nothing."""
    assert undisturbed["raw_ticks"].height == 600
    assert {"above", "fast"} <= set(undisturbed["alerts"]["rule"])
    assert undisturbed["features"].height > 20
    ticks = undisturbed["raw_ticks"].with_columns(received_at="trade_time")
    expected = bars_of(ticks).sort("symbol", "bar_interval", "bar_start")
    assert_frame_equal(undisturbed["ohlc_bars"].sort("symbol", "bar_interval", "bar_start"), expected)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_cuts_between_micro_batches_do_not_show(
    undisturbed: dict[str, pl.DataFrame], tmp_path: Path, cluster: str, seed: int
) -> None:
    trades, chance = market(), random.Random(seed)
    cuts = [0, *sorted(chance.sample(range(1, 600), 5)), 600]
    line = Line(tmp_path / "line", cluster)
    line.follow(*(trades[start:end] for start, end in itertools.pairwise(cuts)))
    assert_undisturbed(line, undisturbed)


def test_between_two_micro_batches_the_warehouse_is_left_to_readers(tmp_path: Path, cluster: str) -> None:
    trades, line, began = market(), Line(tmp_path / "line", cluster), time.monotonic()
    line.follow(trades[:4], trades[4:8], pace_seconds=4.0)
    assert time.monotonic() - began >= 4.0


@pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_run_that_is_killed_leaves_its_work_to_the_next_one(
    undisturbed: dict[str, pl.DataFrame],
    tmp_path: Path,
    cluster: str,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    is_done: bool,
) -> None:
    # Every micro-batch has all stages, however fast it is and whether or not there is something to send.
    monkeypatch.setattr(live, "DELIVERIES_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(live, "is_anything_unsent", lambda _warehouse: True)
    trades = market()
    line = Line(tmp_path / "line", cluster)
    with pytest.raises(Killed), monkeypatch.context() as patch:
        patch.setattr(*STAGES[stage], killing(STAGES[stage], call=3, is_done=is_done))
        line.follow(trades[:200], trades[200:362], trades[362:420], trades[420:500], trades[500:])
    line.follow()
    line.follow(trades[line.warehouse.read("SELECT max(next_offset) FROM ingested_offsets").item() :])
    assert_undisturbed(line, undisturbed)
    delivered = line.warehouse.read("SELECT alert_id FROM alert_deliveries WHERE outcome = 'skipped'")["alert_id"]
    assert sorted(delivered) == sorted(undisturbed["alerts"]["alert_id"])


def killing(stage: Stage, *, call: int, is_done: bool) -> Callable[..., Any]:
    """Return the stage, which at its n-th call ends everything, before or after its work."""
    real, calls = getattr(*stage), 0

    def killed(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls < call:
            return real(*args, **kwargs)
        if is_done:
            real(*args, **kwargs)
        raise Killed

    return killed


def test_the_stages_of_a_day_made_beside_the_live_run_do_not_show(
    undisturbed: dict[str, pl.DataFrame], tmp_path: Path, cluster: str
) -> None:
    """No pool keeps them apart: each stage reads and writes while it alone has the warehouse."""
    trades, line = market(), Line(tmp_path / "line", cluster)
    with making_the_day(line) as days_made:
        line.follow(*(trades[start : start + 50] for start in range(0, 600, 50)))
    assert days_made() >= 2
    line.follow()
    assert_undisturbed(line, undisturbed)


@contextmanager
def making_the_day(line: Line) -> Iterator[Callable[[], int]]:
    """Make all stages of the day, as the scheduled job does, again and again while the block lasts."""
    stop, day, made, failures = threading.Event(), day_window(NOON.date()), itertools.count(), []

    def make() -> None:
        store = Warehouse(line.warehouse.url)
        book = RuleSource(line.rules_path).current()
        try:
            while not stop.is_set():
                watermark = market_watermark(store)
                if watermark is None:
                    continue
                refresh_bars(store, day)
                Detection(store).refresh_features(until_newest_trade(store, day))
                Detection(store).refresh_scores(day, watermark)
                refresh_alerts(store, book, day, watermark, utc_now())
                next(made)
        except Exception as error:  # the test is to fail, not the thread
            failures.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    try:
        yield lambda: next(made)
    finally:
        stop.set()
        thread.join()
    assert not failures


def test_late_and_disordered_trades_land_where_they_belong(
    undisturbed: dict[str, pl.DataFrame], tmp_path: Path, cluster: str
) -> None:
    """Bars are made again to the last digit; what rings is decided on what has come, so alerts are not compared."""
    trades, chance = market(), random.Random(3)
    late = set(chance.sample(range(600), 60))
    punctual = [value for index, value in enumerate(trades) if index not in late]
    for start in range(0, len(punctual), 20):  # and no order among neighbours
        part = punctual[start : start + 20]
        chance.shuffle(part)
        punctual[start : start + 20] = part
    line = Line(tmp_path / "line", cluster)
    line.follow(punctual[:300], punctual[300:], [trades[index] for index in sorted(late)])
    for name in ("raw_ticks", "ohlc_bars", "features"):
        assert_frame_equal(line.rows()[name], undisturbed[name])
    assert line.warehouse.read("SELECT count(*) FROM trade_id_gaps WHERE closed_at IS NULL").item() == 0


def test_what_the_watermark_has_not_closed_stays_stale(tmp_path: Path, cluster: str) -> None:
    line = Line(tmp_path / "line", cluster)
    line.follow(market()[:400])  # 100 s: the second minute is open
    stale = pending_dirty(line.warehouse)
    assert stale
    line.follow(market()[400:])
    line.follow([trade(601, T=NOON_MS + 400_000)])  # minutes later
    line.follow([trade(602, T=NOON_MS + 401_000)])
    left = pending_dirty(line.warehouse)
    assert left
    assert left[0].start > stale[-1].end


def test_prices_stay_exact_through_all_stages(undisturbed: dict[str, pl.DataFrame]) -> None:
    volume = undisturbed["ohlc_bars"].filter(pl.col("bar_interval") == "1d")["volume"].sum()
    assert volume == Decimal("0.25") * 600
