"""One message over the wire: every answer that Discord can give, and every crash of the library, ends as a `Sent`."""

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from http.client import HTTPException

import pytest
from discord_webhook import DiscordWebhook
from pydantic import SecretStr

from cryptotrace_dagster.notify.message import CHART_NAME, Message, embed_of
from cryptotrace_dagster.notify.transport import BotChannel, WebhookChannel, classify
from cryptotrace_dagster.receiver.faults import ReceiverFault, ReceiverFaultKind
from cryptotrace_dagster.receiver.limits import RateLimits
from cryptotrace_dagster.receiver.server import DiscordReceiver, ReceiverConfig
from tests.notify.outbox import GENEROUS, alert

Kind = ReceiverFaultKind


@pytest.fixture
def receiver() -> Iterator[DiscordReceiver]:
    with DiscordReceiver(ReceiverConfig(limits=GENEROUS)) as running:
        yield running


def message(number: int = 1, *, picture: bytes | None = None) -> Message:
    embed = embed_of(alert(number), dashboard_url="http://dashboard", is_repeat=False, has_picture=picture is not None)
    return Message((embed,), nonce=f"{number:016x}", picture=picture)


def channel(receiver: DiscordReceiver, **more: float) -> WebhookChannel:
    return WebhookChannel(SecretStr(receiver.webhook_url), **more)


def test_a_delivered_message_carries_the_id_that_discord_gave_it(receiver: DiscordReceiver) -> None:
    sent = channel(receiver).send(message())

    assert (sent.outcome, sent.status) == ("delivered", 200)
    assert sent.message_id == receiver.messages[0]["id"]
    embed = receiver.messages[0]["embeds"][0]
    assert embed["title"] == "▲ BTCUSDT rose 3.2 % within 60 s"
    assert {field["name"]: field["value"] for field in embed["fields"]} == {
        "Price now / before": "103.2 / 100",
        "Volume in 60 s / usually": "1,234.5 / -",
        "How often": "about once in 40 days",
    }
    assert embed["url"].startswith("http://dashboard/?symbol=BTCUSDT")
    assert embed["footer"]["text"].endswith("alert 0000000000000001")


def test_a_picture_travels_as_an_attachment_that_the_embed_shows(receiver: DiscordReceiver) -> None:
    sent = channel(receiver).send(message(picture=b"\x89PNG not really"))

    assert sent.outcome == "delivered"
    assert receiver.messages[0]["attachments"] == [{"filename": CHART_NAME, "size": 15}]
    assert receiver.messages[0]["embeds"][0]["image"]["url"] == f"attachment://{CHART_NAME}"


@pytest.mark.parametrize(
    ("fault", "outcome", "status"),
    [
        (ReceiverFault(kind=Kind.RATE_LIMITED, retry_after=0.7), "limited", 429),
        (ReceiverFault(kind=Kind.RATE_LIMITED_BARE, retry_after=0.7), "limited", 429),
        (ReceiverFault(kind=Kind.RATE_LIMITED_BY_PROXY), "limited", 429),
        (ReceiverFault(kind=Kind.SERVER_ERROR, status=503), "failed", 503),
        (ReceiverFault(kind=Kind.EMPTY, status=502), "failed", 502),
        (ReceiverFault(kind=Kind.EMPTY, status=204), "delivered", 204),
        (ReceiverFault(kind=Kind.STALL, delay_seconds=1.5), "unknown", None),
        (ReceiverFault(kind=Kind.RESET), "unknown", None),
        (ReceiverFault(kind=Kind.NOT_FOUND), "closed", 404),
        (ReceiverFault(kind=Kind.UNAUTHORIZED), "closed", 401),
        (ReceiverFault(kind=Kind.FORBIDDEN), "closed", 403),
        (ReceiverFault(kind=Kind.SERVER_ERROR, status=400), "rejected", 400),
        (ReceiverFault(kind=Kind.SERVER_ERROR, status=307), "failed", 307),
    ],
)
def test_every_answer_is_told_apart(
    receiver: DiscordReceiver, fault: ReceiverFault, outcome: str, status: int | None
) -> None:
    receiver.start_fault(fault)
    patience_seconds = 0.5 if fault.kind is Kind.STALL else 20.0  # a busy machine answers late, but answers

    sent = channel(receiver, read_seconds=patience_seconds).send(message())

    assert (sent.outcome, sent.status) == (outcome, status)


def test_the_wait_of_a_rate_limit_is_read_from_the_body_the_headers_or_guessed() -> None:
    body = b'{"retry_after": 1.25}'
    assert classify(429, {"Retry-After": "2"}, body).retry_after == 1.25
    assert classify(429, {"Retry-After": "2"}, b"<html>").retry_after == 2.0
    assert classify(429, {"X-RateLimit-Reset-After": "3.5"}, b"").retry_after == 3.5
    assert classify(429, {}, b"").retry_after == 5.0
    assert classify(429, {"Retry-After": "soon"}, b'{"retry_after": "NaN"}').retry_after == 5.0


def test_an_empty_bucket_asks_for_a_pause() -> None:
    with DiscordReceiver(ReceiverConfig(limits=RateLimits(burst=2, burst_seconds=2.0))) as receiver:
        sender = channel(receiver)
        assert sender.send(message(1)).pause == 0.0
        assert 1.0 < sender.send(message(2)).pause <= 2.0


def test_a_server_that_trickles_its_answer_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A read limit alone starts anew with every byte."""
    monkeypatch.setattr("cryptotrace_dagster.notify.transport.WHOLE_SECONDS", 0.5)
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/api/webhooks/1/secret"

    def trickle() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
            for _ in range(30):
                try:
                    connection.sendall(b"x")
                except OSError:
                    return
                time.sleep(0.1)

    thread = threading.Thread(target=trickle)
    thread.start()
    began = time.monotonic()
    sent = WebhookChannel(SecretStr(url)).send(message())
    thread.join()
    listener.close()

    assert (sent.outcome, sent.status) == ("delivered", 200)  # the status line says that it was taken
    assert time.monotonic() - began < 5


def test_no_connection_is_a_failure_that_cannot_have_arrived() -> None:
    sent = WebhookChannel(SecretStr("http://127.0.0.1:1/api/webhooks/1/secret")).send(message())

    assert (sent.outcome, sent.reason) == ("failed", "no connection")


def test_the_bot_sends_a_nonce_so_that_discord_drops_the_second_one(receiver: DiscordReceiver) -> None:
    bot = BotChannel(SecretStr("a.bot.token"), "42", receiver.api_url)

    first, second = bot.send(message(7)), bot.send(message(7))

    assert (first.outcome, second.outcome) == ("delivered", "delivered")
    assert first.message_id == second.message_id
    assert [each["nonce"] for each in receiver.messages] == [f"{7:016x}"]
    assert receiver.messages[0]["channel_id"] == "42"


@pytest.mark.parametrize("kind", [Kind.RESET, Kind.STALL, Kind.SERVER_ERROR, Kind.NOT_FOUND])
def test_the_address_is_in_no_log_reason_or_repr(
    receiver: DiscordReceiver, kind: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    """A webhook's path is its password, and both urllib3 and the library like to log it."""
    caplog.set_level(logging.DEBUG)
    receiver.start_fault(ReceiverFault(kind=kind, delay_seconds=1))
    sender = channel(receiver, read_seconds=0.3)

    sent = sender.send(message())

    ours = [record.getMessage() for record in caplog.records if record.name != "uvicorn.access"]  # that is the double's
    for text in (*ours, repr(sent), repr(sender), str(vars(sender))):
        assert "/webhooks/1/local" not in text


class TestTheLibrarysOwnSending:
    """Why `DiscordWebhook.execute` is not used: each of these would lose an alert or stop the run."""

    def post(self, receiver: DiscordReceiver, **options: object) -> object:
        return DiscordWebhook(url=receiver.webhook_url, content="x", **options).execute()

    def test_it_raises_on_an_empty_answer(self, receiver: DiscordReceiver) -> None:
        for fault in (ReceiverFault(kind=Kind.EMPTY, status=204), ReceiverFault(kind=Kind.EMPTY, status=502)):
            receiver.start_fault(fault)
            with pytest.raises(json.JSONDecodeError):
                self.post(receiver, timeout=5)

    def test_it_raises_on_a_rate_limit_without_a_via_header(self, receiver: DiscordReceiver) -> None:
        receiver.start_fault(ReceiverFault(kind=Kind.RATE_LIMITED_BARE))
        with pytest.raises(HTTPException):
            self.post(receiver, timeout=5, rate_limit_retry=True)

    def test_it_raises_on_a_rate_limit_that_a_server_error_follows(self, receiver: DiscordReceiver) -> None:
        receiver.start_fault(ReceiverFault(kind=Kind.RATE_LIMITED, retry_after=0.01))
        receiver.start_fault(ReceiverFault(kind=Kind.SERVER_ERROR, status=500))
        with pytest.raises(AttributeError):
            self.post(receiver, timeout=5, rate_limit_retry=True)

    def test_it_waits_for_ever_unless_told_otherwise(self) -> None:
        assert DiscordWebhook(url="http://127.0.0.1/", content="x").timeout is None
