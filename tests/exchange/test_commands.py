"""The commands `exchange` and `receiver` as processes."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from typer.testing import CliRunner

from cryptotrace_dagster.cli.exchange import register
from cryptotrace_dagster.errors import UserError

COMMAND = [sys.executable, "-m", "cryptotrace_dagster.cli.main"]


@contextmanager
def _running(*arguments: str) -> Iterator[tuple[dict[str, Any], subprocess.Popen[str]]]:
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline()), process
    finally:
        process.kill()
        process.wait()


def test_the_exchange_says_when_it_is_ready_and_ends_cleanly() -> None:
    with _running("exchange", "--port", "0", "--rest-port", "0", "--script", "demo") as (ready, process):
        assert ready["event"] == "exchange_ready"
        assert ready["stream_url"].startswith("ws://127.0.0.1:")
        assert ready["dump_url"] == ready["rest_url"] + "/dumps"
        assert httpx.get(f"{ready['rest_url']}/api/v3/ping").json() == {}
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_the_receiver_says_when_it_is_ready_and_keeps_messages(tmp_path: Path) -> None:
    with _running("receiver", "--port", "0", "--data-dir", str(tmp_path)) as (ready, process):
        assert ready["event"] == "receiver_ready"
        assert httpx.post(ready["webhook_url"], json={"content": "hello"}).status_code == 204
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert json.loads((tmp_path / "receiver" / "messages.jsonl").read_text())["content"] == "hello"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--script", "nothing.toml"], "The script nothing.toml could not be read"),
        (["--replay", "nothing.jsonl"], "The recording nothing.jsonl could not be read"),
        (["--history", "a while"], "write 30m or 6h"),
        (["--speed", "fast"], "above 0, or max"),
    ],
)
def test_a_wrong_wish_is_told_in_one_sentence_before_anything_starts(arguments: list[str], problem: str) -> None:
    app = typer.Typer()
    register(app)
    ended = CliRunner().invoke(app, ["exchange", "--port", "0", "--rest-port", "0", *arguments])
    told = str(ended.exception) if isinstance(ended.exception, UserError) else ended.stderr
    assert isinstance(ended.exception, UserError) or ended.exit_code == 2
    assert problem in " ".join(told.replace("│", " ").split())
    assert ended.stdout == ""
