"""Logs never show a secret, whoever wrote the line and however deep the secret lies."""

import json
import logging
import subprocess
import sys

import pytest

from cryptotrace_dagster.log import MASK, masked, masked_text

WEBHOOK = "https://discord.com/api/webhooks/123456789/AbC-dEf_ghi"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"POST {WEBHOOK}?wait=true failed", "AbC-dEf_ghi"),
        ("http://127.0.0.1:9702/api/webhooks/1/local", "local"),
        ("Authorization: Bot MTk4NjIyNDgzNDcxOTI1MjQ4.Cl2FMQ.x", "MTk4NjIyNDgzNDcxOTI1MjQ4"),
        ("ducklake:postgres:host=db password=hunter2 user=x", "hunter2"),
        ("postgresql://dagster:hunter2@db:5432/dagster", "hunter2"),
    ],
)
def test_a_secret_inside_a_text_is_masked(text: str, secret: str) -> None:
    assert secret not in masked_text(text)
    assert MASK in masked_text(text)


def test_a_secret_is_masked_by_its_name_at_any_depth() -> None:
    event = {"event": "sent", "request": {"headers": [{"api_token": "abc"}], "url": WEBHOOK}}
    assert "abc" not in str(masked(event)["request"]["headers"])
    assert "AbC" not in str(masked(event))
    assert masked(event)["event"] == "sent"


def test_ordinary_text_is_left_as_it_is() -> None:
    text = "BTCUSDT rose 3.2 % in 60 s: http://127.0.0.1:8501/?symbol=BTCUSDT"
    assert masked_text(text) == text


def test_lines_of_other_libraries_and_tracebacks_are_json_and_masked() -> None:
    """httpx and uvicorn log through the standard library; a traceback may hold the address that failed."""
    program = f"""
import logging
from cryptotrace_dagster.log import set_up_logging
set_up_logging()
try:
    raise RuntimeError("cannot reach {WEBHOOK}")
except RuntimeError:
    logging.getLogger("elsewhere").exception("request to %s failed", "{WEBHOOK}")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    line = json.loads(done.stderr)
    assert line["level"] == logging.getLevelName(logging.ERROR).lower()
    assert "RuntimeError" in line["exception"]
    assert "AbC-dEf" not in done.stderr
