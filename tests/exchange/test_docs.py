"""The page about the exchange says what there is."""

import re
from pathlib import Path

from cryptotrace_dagster.exchange.events import EventKind
from cryptotrace_dagster.exchange.faults import FaultKind
from cryptotrace_dagster.exchange.script import load_script
from cryptotrace_dagster.receiver.faults import ReceiverFaultKind

PAGE = (Path(__file__).parents[2] / "docs" / "exchange.md").read_text()


def test_every_fault_stands_in_the_table_and_no_other() -> None:
    table = PAGE.partition("### Faults")[2].partition("### Control")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == set(FaultKind)


def test_every_fault_of_the_receiver_is_named() -> None:
    assert {kind for kind in ReceiverFaultKind if f"`{kind}`" not in PAGE} == set()


def test_the_example_script_can_be_played(tmp_path: Path) -> None:
    [example] = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    path = tmp_path / "script.toml"
    path.write_text(example)
    event, fault = load_script(str(path), ("SOLUSDT",))
    assert (event.at, event.every, event.step.kind) == (60, 600, EventKind.PUMP)
    assert fault.step.kind is FaultKind.SILENCE
