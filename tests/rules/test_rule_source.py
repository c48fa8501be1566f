"""Which rules are in force: the file's, its last valid content while it is wrong, or the built-in ones."""

from pathlib import Path

import pytest

from cryptotrace_dagster.domain.rules import RulesError
from cryptotrace_dagster.pipeline.rule_source import RuleSource, load_rules

GOOD = "[[rules]]\nname = '{}'\nkind = 'price'\nabove = 1\n"


def names(source: RuleSource) -> list[str]:
    return [rule.name for rule in source.current().rules]


def test_a_changed_file_is_picked_up_without_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "alerts.toml"
    path.write_text(GOOD.format("one"))
    source = RuleSource(path)
    assert names(source) == ["one"]

    path.write_text(GOOD.format("two"))

    assert names(source) == ["two"]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("abov = 2", "line 5: abov is not known"),
        ("cooldown = '99999999999999d'", "at most ten years"),  # once an OverflowError, which ended the evaluation
    ],
)
def test_the_old_rules_stay_in_force_while_the_file_is_wrong(tmp_path: Path, line: str, fault: str) -> None:
    """The error is there to be seen, and goes when the file is right again."""
    path = tmp_path / "alerts.toml"
    path.write_text(GOOD.format("one"))
    source = RuleSource(path)
    source.current()

    path.write_text(GOOD.format("two") + f"{line}\n")
    assert names(source) == ["one"]
    assert source.error is not None and fault in source.error

    path.write_text(GOOD.format("one"))
    assert names(source) == ["one"]
    assert source.error is None


def test_the_last_valid_rules_outlive_a_restart(tmp_path: Path) -> None:
    """Every live run is a process of its own; an editor's half-written file must not stop the next one."""
    path = tmp_path / "alerts.toml"
    path.write_text(GOOD.format("one"))
    RuleSource(path, remembered_in=tmp_path / "data").current()
    path.write_text("[[rules]")

    fresh = RuleSource(path, remembered_in=tmp_path / "data")

    assert names(fresh) == ["one"]
    assert fresh.error is not None


def test_a_wrong_file_without_a_past_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "alerts.toml"
    path.write_bytes(b"\xff\xfe")

    with pytest.raises(RulesError, match="could not be read"):
        RuleSource(path, remembered_in=tmp_path).current()


def test_without_a_file_the_built_in_rules_are_in_force(tmp_path: Path) -> None:
    assert "fast move" in [rule.name for rule in load_rules(tmp_path / "alerts.toml").rules]
