"""The pages that are made from the code say what the code says."""

from pathlib import Path

import pytest

from cryptotrace_dagster.reference import PAGES, environment_example
from cryptotrace_dagster.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_up_to_date(path: str) -> None:
    assert (ROOT / path).read_text() == PAGES[path](), f"run `make docs` and commit {path}"


def test_the_example_changes_nothing_until_it_is_edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards an uncommented line: KAFKA_BOOTSTRAP_SERVERS set by mere copying would switch the own broker off."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    (tmp_path / ".env").write_text(environment_example())
    monkeypatch.chdir(tmp_path)
    assert Settings().model_fields_set == set()


def test_every_line_of_the_example_is_a_readable_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    lines = environment_example().splitlines()
    settings = [line.removeprefix("# ") for line in lines if line[2:].split("=")[0].isupper() and "=" in line]
    (tmp_path / ".env").write_text("\n".join(settings))
    monkeypatch.chdir(tmp_path)
    assert len(settings) == len(Settings.model_fields)
    assert Settings() == Settings(_env_file=None)
