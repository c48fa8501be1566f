"""Every command is documented, with an example that its own parser accepts."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cryptotrace_dagster.reference import commands, examples_of

COMMANDS = commands()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_what_it_does_and_shows_an_example(name: str) -> None:
    command = COMMANDS[name]
    assert len((command.help or "").splitlines()[0]) > 20
    assert examples_of(command)
    for example in map(shlex.split, examples_of(command)):
        assert example[: 1 + len(name.split())] == ["cryptotrace", *name.split()]
        command.make_context(name, example[1 + len(name.split()) :])  # refuses an option that is not there


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained(name: str) -> None:
    unexplained = [each.name for each in COMMANDS[name].params if not getattr(each, "help", None)]
    assert unexplained == []


def test_a_shell_can_complete_commands() -> None:
    completed = subprocess.run(
        [Path(sys.executable).with_name("cryptotrace")],
        env=os.environ | {"_CRYPTOTRACE_COMPLETE": "complete_bash", "COMP_WORDS": "cryptotrace ba", "COMP_CWORD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert set(completed.stdout.split()) == {"backfill", "backtest", "backup", "bars"}
