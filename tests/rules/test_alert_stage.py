"""When someone is told: conversations, and that no cut of the time into windows changes them."""

import itertools
import json
import math
import random
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from cryptotrace_dagster.domain.alerting import alerts_of
from cryptotrace_dagster.domain.rules import RuleBook
from cryptotrace_dagster.domain.windows import Window
from cryptotrace_dagster.pipeline.alerts import refresh_alerts
from cryptotrace_dagster.pipeline.dirty import ALLOWED_LATENESS
from cryptotrace_dagster.storage import Warehouse
from tests.builders import NOON
from tests.rules.market import SECOND, book, market, score, seconds_of, store, told, with_longer

MOVE = "kind = 'move'\nat_least_percent = 3\nwithin = '10s'\ncooldown = '2m'"
CRITICAL = "name = 'crash'\nkind = 'move'\nat_least_percent = 8\nwithin = '10s'\nseverity = 'critical'"
SHORT = "[conversations]\nend_after = '20s'\n"


def jumps(length: int, *moves: tuple[int, float]) -> list[float | None]:
    """Return prices that stand at 100 but for moves by some per cent at some seconds."""
    factors = dict(moves)
    prices, price = [], 100.0
    for second in range(length):
        price *= 1 + factors.get(second, 0.0) / 100
        prices.append(price)
    return prices


def refresh(warehouse: Warehouse, rules: RuleBook, start: int, end: int, *, watermark: int | None = None) -> int:
    """Evaluate the window between two seconds after noon, with the watermark at its end; return the new alerts."""
    until = NOON + (end if watermark is None else watermark) * SECOND
    return refresh_alerts(warehouse, rules, Window(NOON + start * SECOND, NOON + end * SECOND), until, until).rows


def test_one_event_is_one_conversation_with_an_opening_a_worsening_and_an_end(warehouse: Warehouse) -> None:
    rules = book(MOVE, CRITICAL, more=SHORT)
    store(warehouse, seconds_of(jumps(100, (30, 4), (32, 5))))

    assert refresh(warehouse, rules, 0, 100) == 3

    assert told(warehouse) == [
        (31, "rule 1", "opening", "warning"),
        (33, "crash", "worsening", "critical"),
        (62, "rule 1", "end", "critical"),
    ]
    assert warehouse.read("SELECT count(DISTINCT conversation_id) FROM alerts").item() == 1


def test_an_end_says_how_long_it_lasted_and_how_strong_it_was_however_the_time_is_cut(warehouse: Warehouse) -> None:
    """The end is decided in another window than the opening, from what the stored alerts say of it."""
    rules = book(MOVE, CRITICAL, more=SHORT)
    store(warehouse, seconds_of(jumps(100, (30, 4), (32, 5))))
    refresh(warehouse, rules, 0, 40)
    refresh(warehouse, rules, 40, 100)

    message, evidence = warehouse.read("SELECT message, evidence FROM alerts WHERE phase = 'end'").row(0)

    assert message.startswith("It lasted 11 s; at its strongest the price rose 9.2 %.")  # it rang from second 31 to 42
    assert (json.loads(evidence)["lasted_s"], round(json.loads(evidence)["peak"], 2)) == (11.0, 9.2)


@pytest.mark.parametrize("asleep", [60, 3 * 3600])
def test_a_jump_in_the_last_second_before_the_market_sleeps_is_told_when_it_wakes(
    warehouse: Warehouse, asleep: int
) -> None:
    """Its bar was open when it was last looked at; nothing closes it but the next trade, however late."""
    rules = book(MOVE, more=SHORT)
    store(warehouse, seconds_of(jumps(100, (99, 4))))
    assert refresh(warehouse, rules, 0, 100, watermark=99) == 0

    wakes = 100 + asleep
    store(warehouse, seconds_of([104.0, 104.0], start=NOON + wakes * SECOND))
    refresh(warehouse, rules, wakes, wakes + 1)

    assert (100, "rule 1", "opening", "warning") in told(warehouse)


def test_a_price_that_is_back_says_how_long_it_was_away(warehouse: Warehouse) -> None:
    store(warehouse, seconds_of(jumps(300, (30, 4), (150, -4))))
    refresh(warehouse, book("kind = 'price'\nabove = 103"), 0, 300)

    message = warehouse.read("SELECT message FROM alerts WHERE phase = 'end'").item()

    assert message.startswith("It lasted 2 min. The price is 99.84")


def test_the_same_window_twice_changes_nothing(warehouse: Warehouse) -> None:
    rules = book(MOVE, CRITICAL, more=SHORT)
    store(warehouse, seconds_of(jumps(100, (30, 4), (32, 5))))
    refresh(warehouse, rules, 0, 100)
    before = warehouse.read("FROM alerts ORDER BY alert_id")

    assert refresh(warehouse, rules, 0, 100) == 0
    assert refresh(warehouse, rules, 40, 100) == 0

    assert_frame_equal(warehouse.read("FROM alerts ORDER BY alert_id"), before)


def test_cooldown_counts_across_windows_and_only_something_clearly_stronger_breaks_it(warehouse: Warehouse) -> None:
    """The second move comes within the cooldown, the third is half as strong again, the last one comes after it."""
    rules = book(MOVE, more=SHORT)
    store(warehouse, seconds_of(jumps(400, (30, 4), (80, 4), (110, 7), (290, 4))))
    for start in range(0, 400, 10):
        refresh(warehouse, rules, start, start + 10)

    openings = [(at, phase) for at, _, phase, _ in told(warehouse) if phase == "opening"]
    assert openings == [(31, "opening"), (111, "opening"), (291, "opening")]


def test_a_price_level_rings_again_only_after_a_return(warehouse: Warehouse) -> None:
    rules = book("kind = 'price'\nabove = 105\nhysteresis_percent = 1\ncooldown = '1s'")
    store(warehouse, seconds_of([100, 105, 104.5, 106, 104.5, 103, 104, 105]))
    for second in range(8):
        refresh(warehouse, rules, second, second + 1)

    assert told(warehouse) == [
        (2, "rule 1", "opening", "warning"),
        (6, "rule 1", "end", "warning"),
        (8, "rule 1", "opening", "warning"),
    ]


def test_late_trades_take_an_alert_back_and_bring_it_again(warehouse: Warehouse) -> None:
    """The alert stays as a row with `retracted_at`: what was told can always be explained."""
    rules = book(MOVE, more=SHORT)
    spike, calm = seconds_of(jumps(200, (120 + 30, 4))), seconds_of(jumps(200))
    for bars in (spike, calm, spike):
        store(warehouse, bars)
        refresh(warehouse, rules, 0, 200)
        expected = [(151, "rule 1", "opening", "warning"), (180, "rule 1", "end", "warning")] if bars is spike else []
        assert told(warehouse) == expected
    assert warehouse.read("SELECT count(*) FROM alerts").item() == 2


def test_a_late_window_corrects_what_follows_it(warehouse: Warehouse) -> None:
    """A jump found late opens the conversation earlier, so the one that was told first belongs to it."""
    rules = book(MOVE, more=SHORT)
    store(warehouse, seconds_of(jumps(400, (200, 4))))
    refresh(warehouse, rules, 0, 400)
    assert told(warehouse)[0] == (201, "rule 1", "opening", "warning")

    store(warehouse, seconds_of(jumps(400, (180, 5), (200, 4))))
    refresh(warehouse, rules, 180, 181, watermark=400)

    expected = alerts_of(
        rules,
        market(seconds_of(jumps(400, (180, 5), (200, 4)))),
        until=NOON + 400 * SECOND,
        lateness=ALLOWED_LATENESS,
        raised_at=NOON,
    )
    assert [(row[1], row[2]) for row in told(warehouse)] == list(expected.select("rule", "phase").iter_rows())
    assert told(warehouse)[0] == (181, "rule 1", "opening", "warning")


def test_deleted_bars_take_nothing_back(warehouse: Warehouse) -> None:
    """Bars of a second are kept for a week; making an old day anew must not call its alerts wrong."""
    rules = book(MOVE, more=SHORT)
    store(warehouse, seconds_of(jumps(200, (150, 4))))
    refresh(warehouse, rules, 0, 200)
    with warehouse.transaction() as transaction:
        transaction.execute("DELETE FROM ohlc_bars WHERE bar_start < ?", [NOON + 190 * SECOND])

    refresh(warehouse, rules, 0, 200)

    assert len(told(warehouse)) == 2


def test_a_changed_rule_takes_nothing_back(warehouse: Warehouse) -> None:
    store(warehouse, seconds_of(jumps(200, (150, 4))))
    refresh(warehouse, book(MOVE, more=SHORT), 0, 200)

    refresh(warehouse, book(MOVE.replace("= 3", "= 5"), more=SHORT), 0, 200)

    assert len(told(warehouse)) == 2


def test_a_market_wide_event_is_told_once_and_not_for_every_symbol(warehouse: Warehouse) -> None:
    """Only what is more urgent than the market's own alert is told besides."""
    anomaly = "name = 'market'\nkind = 'anomaly'\ndetector = 'market*'\nat_most_a_day = 0.1"
    rules = book(anomaly, MOVE, CRITICAL, more=SHORT)
    falling = [seconds_of(jumps(100, (30, -4)), symbol) for symbol in ("AUSDT", "BUSDT")]
    crashing = seconds_of(jumps(100, (32, -9)), "CUSDT")
    wide = score(NOON + 25 * SECOND, 0.01, symbol="MARKET", detector="market_move")
    store(warehouse, pl.concat([*falling, crashing]), [wide])

    refresh(warehouse, rules, 0, 100)

    openings = warehouse.read("SELECT symbol, title FROM alerts WHERE phase = 'opening' ORDER BY available_at").rows()
    assert openings == [
        ("MARKET", "The whole market is behaving unusually (market move)"),
        ("CUSDT", "CUSDT fell 9.0 % within 10 s"),
    ]


EVERY_KIND = book(
    MOVE,
    CRITICAL,
    "kind = 'price'\nabove = 103\nhysteresis_percent = 1\nsymbols = ['A*']",
    "kind = 'volume'\nat_least_times = 8\nwithin = '3s'\ncompared_with = '30s'\ncooldown = '1m'",
    "kind = 'anomaly'\ndetector = '*pump*'\nat_most_a_day = 0.1\ncooldown = '1m'\nseverity = 'critical'",
    "kind = 'record'\ndays = 1\ncooldown = '1m'",
    "kind = 'data'\ntrouble = 'silence'\nafter = '15s'",
    more=SHORT,
)


def eventful(seed: int) -> tuple[pl.DataFrame, list[dict[str, object]]]:
    """Return five minutes of two symbols in which every kind of rule finds something, after two days of history."""
    chance = random.Random(seed)
    frames, scores = [], []
    for symbol in ("AUSDT", "BUSDT"):
        price, prices, volumes = 100.0, [], []
        silent_until = 0
        for second in range(300):
            if chance.random() < 0.01:
                silent_until = second + chance.randint(1, 30)
            price *= math.exp(chance.gauss(0, 0.002) + (chance.choice([-0.05, 0.05]) if chance.random() < 0.02 else 0))
            prices.append(None if second < silent_until else round(price, 4))
            volumes.append(round(math.exp(chance.gauss(5, 0.5)) * (50 if chance.random() < 0.02 else 1), 2))
            if second % 5 == 0 and chance.random() < 0.06:
                rarity = 10 ** chance.uniform(-3, 0.5)
                scores.append(
                    score(NOON + second * SECOND, rarity, symbol=symbol, detector=chance.choice(["pump", "x"]))
                )
        frames.append(seconds_of(prices, symbol, volumes=volumes))
        frames.extend(seconds_of([100.0, 101.0], symbol, start=NOON - timedelta(days=day)) for day in (1, 2))
    return with_longer(pl.concat(frames)), scores


@settings(max_examples=4, deadline=None, phases=[Phase.explicit, Phase.generate])  # shrinking takes minutes
@given(seed=st.integers(0, 10_000), cuts=st.lists(st.integers(1, 299), min_size=3, max_size=7, unique=True))
def test_any_cut_of_the_time_tells_the_same(
    tmp_path_factory: pytest.TempPathFactory, seed: int, cuts: Sequence[int]
) -> None:
    """Micro-batches, one window, and the pure function of the backtest must decide alike, to the last word."""
    bars, scores = eventful(seed)
    edges = [0, *sorted(cuts), 300]
    frames = []
    for windows in (
        list(itertools.pairwise(edges)),
        [(0, 300)],
        [(0, 300), *itertools.pairwise(edges)],
    ):
        warehouse = Warehouse(str(tmp_path_factory.mktemp("cut") / "w.duckdb"))
        warehouse.create()
        store(warehouse, bars, scores)
        for start, end in windows:
            refresh(warehouse, EVERY_KIND, start, end)
        frames.append(warehouse.read("SELECT * EXCLUDE (raised_at) FROM alerts ORDER BY available_at, alert_id"))
    pure = alerts_of(
        EVERY_KIND, market(bars, scores), until=NOON + 300 * SECOND, lateness=ALLOWED_LATENESS, raised_at=NOON
    ).drop("raised_at")
    since_noon = pl.col("available_at") > NOON + ALLOWED_LATENESS
    assert frames[0].filter(pl.col("retracted_at").is_null()).height == frames[0].height
    assert_frame_equal(frames[0], frames[1])
    assert_frame_equal(frames[2], frames[1])
    assert pure.filter(since_noon).height > 0
    assert_frame_equal(pure.filter(since_noon).sort("available_at", "alert_id"), frames[1].filter(since_noon))


def test_the_rules_that_come_with_the_package_are_those_at_the_top_level() -> None:
    """Without a file the built-in rules are in force; a newcomer must find the same ones in the checkout."""
    root = Path(__file__).resolve().parents[2]

    assert (root / "alerts.toml").read_text() == (root / "cryptotrace_dagster" / "default_alerts.toml").read_text()
