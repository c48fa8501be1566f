"""The scan before each commit finds what it is there for, and nothing in this repository."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCAN = [sys.executable, str(ROOT / "scripts" / "find_secrets.py")]


@pytest.mark.parametrize(
    "secret",
    [
        "https://discord.com/api/webhooks/" + "1" * 18 + "/" + "a" * 68,
        "token = M" + "a" * 24 + ".Xy12ab." + "b" * 30,
        "-----BEGIN " + "PRIVATE KEY-----",
        "AKIA" + "ABCDEFGH23456789",
    ],
)
def test_a_secret_is_found_and_not_repeated(secret: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text(f"first line\n{secret}\n")
    done = subprocess.run([*SCAN, str(tmp_path / "notes.txt")], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "notes.txt:2:" in done.stdout
    assert secret not in done.stdout


def test_this_repository_holds_no_secret() -> None:
    done = subprocess.run(SCAN, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
