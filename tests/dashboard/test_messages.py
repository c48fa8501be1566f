"""The Messages page shows what the receiver really sends, and asks it for no more than it shows."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from cryptotrace_dagster.receiver.server import DiscordReceiver, ReceiverConfig
from tests.dashboard.conftest import Show

SHOWN = 20


def test_the_newest_messages_are_shown_newest_first(
    tmp_path: Path, show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards a page that fetches a day's messages every two seconds, over a proxy at that."""
    asked: list[httpx.URL] = []
    get = httpx.get

    def watched(*arguments: Any, **options: Any) -> httpx.Response:
        answer = get(*arguments, **options)
        asked.append(answer.url)
        return answer

    with DiscordReceiver(ReceiverConfig(limits=None)) as receiver:
        for number in range(SHOWN + 2):
            httpx.post(receiver.webhook_url, json={"content": f"message {number}"})
        embed = {"title": "pump in *SOLUSDT*", "description": "rose", "footer": {"text": "rule pump"}}
        httpx.post(receiver.webhook_url, json={"embeds": [embed]})
        monkeypatch.setenv("RECEIVER_URL", receiver.control_url.removesuffix("/_control"))
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        monkeypatch.setattr(httpx, "get", watched)
        page = show(tmp_path, "messages.messages")

    assert not page.exception
    assert [text.value for text in page.text] == ["rose", *(f"message {n}" for n in range(SHOWN + 1, 2, -1))]
    assert page.markdown[0].value == r"**pump in \*SOLUSDT\***"
    assert {url.params["limit"] for url in asked} == {str(SHOWN)}
