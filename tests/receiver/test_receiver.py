"""The Discord double, asked by the real client libraries over real sockets."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import requests
from discord_webhook import DiscordEmbed, DiscordWebhook

from cryptotrace_dagster.errors import UserError
from cryptotrace_dagster.receiver.faults import ReceiverFault, ReceiverFaultKind
from cryptotrace_dagster.receiver.limits import RateLimits
from cryptotrace_dagster.receiver.server import DiscordReceiver, ReceiverConfig


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[DiscordReceiver]:
    with DiscordReceiver(ReceiverConfig(data_dir=tmp_path, limits=None)) as running:
        yield running


def _send(receiver: DiscordReceiver, content: str = "hello", **options: object) -> requests.Response:
    return DiscordWebhook(receiver.webhook_url, content=content, timeout=2, **options).execute()


def test_a_webhook_message_with_embed_and_picture_is_kept_whole(receiver: DiscordReceiver, tmp_path: Path) -> None:
    webhook = DiscordWebhook(receiver.webhook_url, timeout=2)
    embed = DiscordEmbed(title="BTCUSDT", description="moved")
    embed.set_image("attachment://chart.png")
    webhook.add_embed(embed)
    webhook.add_file(b"\x89PNG picture", "chart.png")
    answer = webhook.execute()

    assert answer.status_code == 200
    [message] = receiver.messages
    assert answer.json()["id"] == message["id"]
    assert message["embeds"][0]["title"] == "BTCUSDT"
    assert Path(message["attachments"][0]["path"]).read_bytes() == b"\x89PNG picture"
    [line] = (tmp_path / "receiver" / "messages.jsonl").read_text().splitlines()
    assert json.loads(line) == message


def test_without_wait_the_answer_is_204_and_empty(receiver: DiscordReceiver) -> None:
    answer = httpx.post(receiver.webhook_url, json={"content": "hello"})
    assert (answer.status_code, answer.content) == (204, b"")
    assert receiver.messages[0]["content"] == "hello"


def test_messages_of_an_earlier_run_are_still_there(tmp_path: Path) -> None:
    config = ReceiverConfig(data_dir=tmp_path, limits=None)
    with DiscordReceiver(config) as first:
        _send(first, "one")
    with DiscordReceiver(config) as second:
        _send(second, "two")
        listed = httpx.get(f"{second.control_url}/messages").json()
    assert [message["content"] for message in listed] == ["one", "two"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"content": "x" * 2_001}, 50_035),
        ({"embeds": [{"description": "x" * 4_097}]}, 50_035),
        ({"embeds": [{"description": "x" * 4_000}] * 2}, 50_035),
        ({"embeds": [{"title": "t", "fields": [{"name": "n", "value": ""}]}]}, 50_035),
        ({}, 50_006),
    ],
)
def test_a_message_beyond_discords_sizes_is_refused(receiver: DiscordReceiver, body: object, code: int) -> None:
    answer = httpx.post(receiver.webhook_url, json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert receiver.messages == []


def test_the_sixth_message_within_two_seconds_is_told_to_wait() -> None:
    with DiscordReceiver(ReceiverConfig(limits=RateLimits())) as receiver:
        answers = [httpx.post(receiver.webhook_url, json={"content": "hello"}) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [204] * 5 + [429]
    assert answers[0].headers["X-RateLimit-Remaining"] == "4"
    assert 0 < answers[5].json()["retry_after"] <= 2
    assert int(answers[5].headers["Retry-After"]) >= 1


def test_the_limit_of_the_channel_holds_although_the_headers_do_not_tell() -> None:
    limits = RateLimits(burst=5, burst_seconds=0.001, sustained=7, sustained_seconds=60)
    with DiscordReceiver(ReceiverConfig(limits=limits)) as receiver:
        answers = [httpx.post(receiver.webhook_url, json={"content": "hello"}) for _ in range(8)]
    assert [answer.status_code for answer in answers] == [204] * 7 + [429]
    assert answers[7].json()["retry_after"] > 50


def test_a_bot_message_with_the_same_nonce_arrives_once(receiver: DiscordReceiver) -> None:
    body = {"content": "hello", "nonce": "alert-1", "enforce_nonce": True}
    url, headers = f"{receiver.api_url}/channels/7/messages", {"Authorization": "Bot secret"}
    first, second = (httpx.post(url, json=body, headers=headers) for _ in range(2))
    assert first.json()["id"] == second.json()["id"]
    assert len(receiver.messages) == 1


def test_a_bot_without_token_is_not_let_in(receiver: DiscordReceiver) -> None:
    assert httpx.post(f"{receiver.api_url}/channels/7/messages", json={"content": "x"}).status_code == 401


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (ReceiverFault(kind=ReceiverFaultKind.NOT_FOUND), 404),
        (ReceiverFault(kind=ReceiverFaultKind.UNAUTHORIZED), 401),
        (ReceiverFault(kind=ReceiverFaultKind.FORBIDDEN), 403),
        (ReceiverFault(kind=ReceiverFaultKind.SERVER_ERROR, status=500), 500),
        (ReceiverFault(kind=ReceiverFaultKind.EMPTY, status=502), 502),
        (ReceiverFault(kind=ReceiverFaultKind.RATE_LIMITED), 429),
        (ReceiverFault(kind=ReceiverFaultKind.RATE_LIMITED_BARE), 429),
        (ReceiverFault(kind=ReceiverFaultKind.RATE_LIMITED_BY_PROXY), 429),
        (ReceiverFault(kind=ReceiverFaultKind.STALL, delay_seconds=0.05), 502),
    ],
)
def test_a_fault_answers_once_and_then_all_is_well(
    receiver: DiscordReceiver, fault: ReceiverFault, status: int
) -> None:
    receiver.start_fault(fault)
    assert httpx.post(receiver.webhook_url, json={"content": "lost"}).status_code == status
    assert httpx.post(receiver.webhook_url, json={"content": "kept"}).status_code == 204
    assert [message["content"] for message in receiver.messages] == ["kept"]


def test_faults_come_in_the_order_in_which_they_were_asked_for(receiver: DiscordReceiver) -> None:
    for body in ({"kind": "rate_limited"}, {"kind": "ok"}, {"kind": "server_error", "status": 500}):
        assert httpx.post(f"{receiver.control_url}/fault", json=body).status_code == 200
    statuses = [httpx.post(receiver.webhook_url, json={"content": "hello"}).status_code for _ in range(4)]
    assert statuses == [429, 204, 500, 204]


def test_only_a_full_429_carries_the_headers_that_clients_wait_by(receiver: DiscordReceiver) -> None:
    receiver.start_fault(ReceiverFault(kind=ReceiverFaultKind.RATE_LIMITED, retry_after=1.5))
    receiver.start_fault(ReceiverFault(kind=ReceiverFaultKind.RATE_LIMITED_BARE, retry_after=1.5))
    full, bare = (httpx.post(receiver.webhook_url, json={"content": "hello"}) for _ in range(2))
    assert (full.headers["Retry-After"], full.headers["Via"]) == ("2", "1.1 google")
    assert "Retry-After" not in bare.headers
    assert "Via" not in bare.headers
    assert full.json()["retry_after"] == bare.json()["retry_after"] == 1.5


@pytest.mark.parametrize("is_stored", [False, True])
def test_a_reset_breaks_the_connection_before_or_after_the_message_arrived(
    receiver: DiscordReceiver, is_stored: bool
) -> None:
    receiver.start_fault(ReceiverFault(kind=ReceiverFaultKind.RESET, is_stored=is_stored))
    with pytest.raises(requests.ConnectionError):
        _send(receiver)
    assert len(receiver.messages) == int(is_stored)


def test_a_stalled_message_can_arrive_although_the_sender_gave_up(receiver: DiscordReceiver) -> None:
    receiver.start_fault(ReceiverFault(kind=ReceiverFaultKind.STALL, delay_seconds=1, is_stored=True))
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(receiver.webhook_url, json={"content": "hello"}, timeout=0.2)
    assert len(receiver.messages) == 1


def test_a_fault_for_some_time_ends_by_itself(receiver: DiscordReceiver) -> None:
    receiver.start_fault(ReceiverFault(kind=ReceiverFaultKind.SERVER_ERROR, seconds=0.2))
    statuses = []
    while not statuses or statuses[-1] != 204:
        statuses.append(httpx.post(receiver.webhook_url, json={"content": "hello"}).status_code)
    assert statuses[0] == 502
    assert len(receiver.messages) == 1


def test_a_message_can_be_edited(receiver: DiscordReceiver) -> None:
    webhook = DiscordWebhook(receiver.webhook_url, content="before", timeout=2)
    webhook.execute()
    webhook.content = "after"
    assert webhook.edit().status_code == 200
    assert [message["content"] for message in receiver.messages] == ["after"]


def test_messages_can_be_asked_for_from_an_id_on_and_in_number(receiver: DiscordReceiver) -> None:
    for content in ("one", "two", "three"):
        _send(receiver, content)
    url, first = f"{receiver.control_url}/messages", receiver.messages[0]["id"]

    def asked(**parameters: str) -> list[str]:
        return [message["content"] for message in httpx.get(url, params=parameters).json()]

    assert asked(after=first) == ["two", "three"]
    assert asked(limit="1") == ["three"]
    assert asked(after=receiver.messages[-1]["id"]) == []
    assert httpx.get(url, params={"limit": "many"}).status_code == 400


def test_an_unknown_fault_is_refused_with_a_reason(receiver: DiscordReceiver) -> None:
    answer = httpx.post(f"{receiver.control_url}/fault", json={"kind": "earthquake"})
    assert answer.status_code == 400
    assert "earthquake" in answer.json()["error"]


def test_a_taken_port_is_one_clear_sentence(receiver: DiscordReceiver) -> None:
    port = int(receiver.webhook_url.split(":")[2].split("/")[0])
    with (
        pytest.raises(UserError, match=f"Port {port} on 127.0.0.1 could not be opened"),
        DiscordReceiver(ReceiverConfig(port=port)),
    ):
        pass
