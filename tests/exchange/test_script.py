"""Scripts: when what happens, and what a wrong one is told."""

import json
from pathlib import Path

import pytest

from cryptotrace_dagster.errors import UserError
from cryptotrace_dagster.exchange.events import EventKind, MarketEvent
from cryptotrace_dagster.exchange.faults import FaultKind
from cryptotrace_dagster.exchange.script import Schedule, ScriptError, ScriptStep, demo_script, load_script
from cryptotrace_dagster.exchange.simulated import DEFAULT_SYMBOLS, SimulatedExchange
from tests.exchange.reader import config, until

SYMBOLS = ("BTCUSDT", "ETHUSDT")


def test_a_script_file_gives_events_and_faults_in_the_order_of_their_time(tmp_path: Path) -> None:
    path = tmp_path / "script.toml"
    path.write_text(
        '[[event]]\nat = 30\nevery = 60\nkind = "pump"\nsymbol = "ETHUSDT"\ngain = 0.2\n'
        '[[fault]]\nat = 10.5\nkind = "gap"\nseconds = 2\n'
    )
    schedule = Schedule(load_script(str(path), SYMBOLS))
    assert schedule.due(10) == []
    [gap] = schedule.due(11)
    assert gap.kind is FaultKind.GAP
    [pump] = schedule.due(40)
    assert (pump.kind, pump.gain) == (EventKind.PUMP, 0.2)
    assert schedule.due(89) == []
    assert schedule.due(90) == [pump]


def test_a_script_can_be_json(tmp_path: Path) -> None:
    path = tmp_path / "script.json"
    path.write_text(json.dumps({"event": [{"at": 1, "kind": "crash"}]}))
    assert load_script(str(path), SYMBOLS) == [ScriptStep(1.0, MarketEvent(kind=EventKind.CRASH))]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[[event]]\nat = 1\nkind = "party"\n', r"\[\[event\]\] number 1 is wrong: Invalid enum value 'party'"),
        ('[[event]]\nkind = "pump"\n', "missing required field `at`"),
        ('[[event]]\nat = 1\nkind = "pump"\nsymbol = "DOGEUSDT"\n', "DOGEUSDT, which is not traded"),
        ('[[fault]]\nat = -1\nkind = "gap"\n', "`at` is 0 or later"),
        ('[[fault]]\nat = 1\nkind = "gap"\nmood = 1\n', "mood"),
        ("[[weather]]\nat = 1\n", "unknown table weather"),
        ("at = [", "could not be read"),
    ],
)
def test_a_wrong_script_is_told_where_and_why(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "script.toml"
    path.write_text(text)
    with pytest.raises(ScriptError, match=problem) as refused:
        load_script(str(path), SYMBOLS)
    assert str(path) in str(refused.value)


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(ScriptError, match="one of demo, storm, calm"):
        load_script("opera", SYMBOLS)


@pytest.mark.parametrize("symbols", [DEFAULT_SYMBOLS, ("BTCUSDT",)])
def test_the_demo_pumps_within_a_minute_and_never_runs_dry(symbols: tuple[str, ...]) -> None:
    schedule = Schedule(demo_script(symbols))
    first = schedule.due(50)
    assert [step.kind for step in first] == [EventKind.PUMP]
    for start in range(50, 7_200, 300):
        assert schedule.due(start + 300), f"nothing to see in the five minutes from {start} s"


def test_a_storm_has_every_fault_and_is_the_same_for_the_same_seed() -> None:
    storm = load_script("storm", SYMBOLS, seed=3)
    assert storm == load_script("storm", SYMBOLS, seed=3)
    assert storm != load_script("storm", SYMBOLS, seed=4)
    assert {step.step.kind for step in storm} == {kind for kind in FaultKind if not kind.name.startswith("DUMP_")}


def test_a_recording_takes_no_market_events(tmp_path: Path) -> None:
    dump = tmp_path / "BTCUSDT-aggTrades-2026-01-05.csv"
    dump.write_text("7,1.50000000,2.00000000,70,71,1767614400123456,True,True\n")
    with pytest.raises(UserError, match="which a recording cannot have"):
        SimulatedExchange(config(replay=(dump,), script="demo"))


async def test_a_scripted_step_happens_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "script.toml"
    path.write_text('[[fault]]\nat = 0.2\nkind = "gap"\nseconds = 60\n')
    async with SimulatedExchange(config(script=str(path))) as exchange:
        assert exchange.faults() == []
        await until(exchange.faults)
        assert exchange.elapsed >= 0.2
