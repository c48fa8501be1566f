"""How a message travels to Discord, and what came of it: a webhook, or a bot in a channel.

Owns the HTTP exchange and its classification. `discord-webhook` builds the request; its `execute` is not used, because
it raises on empty bodies and on 429 without a `Via` header, and waits for ever (facts: docs/alerts.md). Stays out: when
to try again (pipeline/delivery.py). An address or a token is never part of an error, a log line or a `repr`.
"""

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import requests
from discord_webhook import DiscordWebhook
from pydantic import SecretStr

from cryptotrace_dagster.notify.message import CHART_NAME, Message

CONNECT_SECONDS, READ_SECONDS, WHOLE_SECONDS = 3.05, 5.0, 10.0
MAX_ANSWER_BYTES = 1_000_000
DEFAULT_RETRY_AFTER, LONGEST_RETRY_AFTER = 5.0, 3600.0
USER_AGENT = "DiscordBot (https://github.com/cryptotrace/cryptotrace-dagster, 0.1)"
_CLOSED = frozenset({401, 403, 404})

# urllib3 logs every path at DEBUG, and a webhook's path is its secret.
logging.getLogger("urllib3").setLevel(logging.INFO)

Outcome = Literal["delivered", "limited", "failed", "unknown", "rejected", "closed"]


@dataclass(frozen=True)
class Sent:
    """What came of sending one message.

    `delivered`; `limited`: wait `retry_after` seconds; `failed`: not accepted, try again; `unknown`: it may have
    arrived, the answer did not; `rejected`: this message will never be accepted as it is; `closed`: the channel is gone
    or forbidden. `pause` is how long the limits ask to wait before the next message.
    """

    outcome: Outcome
    status: int | None = None
    reason: str | None = None
    message_id: str | None = None
    retry_after: float | None = None
    pause: float = 0.0


class Channel(Protocol):
    """Where messages go."""

    def send(self, message: Message) -> Sent:
        """Send one message once, within a bounded time, and tell what came of it. Raises nothing."""


class WebhookChannel:
    """A Discord webhook."""

    def __init__(self, url: SecretStr, read_seconds: float = READ_SECONDS) -> None:
        self._url = url
        self._read_seconds = read_seconds
        self._session = requests.Session()

    def send(self, message: Message) -> Sent:
        """Send one message, and wait for Discord to confirm it."""
        webhook = _built(self._url.get_secret_value(), message)
        return exchange(
            session=self._session,
            url=self._url.get_secret_value(),
            webhook=webhook,
            query={"wait": "true"},
            headers={},
            extra={},
            read_seconds=self._read_seconds,
        )


class BotChannel:
    """A channel that a bot may write to. Discord drops a second message with the same nonce within a few minutes."""

    def __init__(self, token: SecretStr, channel_id: str, api_url: str, read_seconds: float = READ_SECONDS) -> None:
        self._token = token
        self._url = f"{api_url.rstrip('/')}/channels/{channel_id}/messages"
        self._read_seconds = read_seconds
        self._session = requests.Session()

    def send(self, message: Message) -> Sent:
        """Send one message with its nonce."""
        headers = {"Authorization": f"Bot {self._token.get_secret_value()}", "User-Agent": USER_AGENT}
        extra = {"nonce": message.nonce[:25], "enforce_nonce": True}
        webhook = _built(self._url, message)
        webhook.username = None
        return exchange(
            session=self._session,
            url=self._url,
            webhook=webhook,
            query={},
            headers=headers,
            extra=extra,
            read_seconds=self._read_seconds,
        )


def _built(url: str, message: Message) -> DiscordWebhook:
    webhook = DiscordWebhook(
        url=url,
        username="CryptoTrace",
        allowed_mentions={"parse": []},  # the name of a rule must not wake a whole server
        embeds=[],  # the library's default list is shared by nobody, but its default dict of files below is spelled out
        files={},
    )
    for embed in message.embeds:
        webhook.add_embed(embed)
    if message.picture is not None:
        webhook.add_file(message.picture, CHART_NAME)
    return webhook


def exchange(
    *,
    session: requests.Session,
    url: str,
    webhook: DiscordWebhook,
    query: Mapping[str, str],
    headers: Mapping[str, str],
    extra: Mapping[str, Any],
    read_seconds: float,
) -> Sent:
    """Post what the library built, once and within WHOLE_SECONDS, and classify the answer."""
    payload = {**webhook.json, **extra}
    files = {**webhook.files, "payload_json": (None, json.dumps(payload))} if webhook.files else None
    deadline = time.monotonic() + WHOLE_SECONDS
    try:
        with session.post(
            url,
            params=dict(query),
            headers=dict(headers),
            json=None if files else payload,
            files=files,
            timeout=(CONNECT_SECONDS, read_seconds),
            allow_redirects=False,  # a redirected POST becomes a GET and would look delivered
            stream=True,
        ) as response:
            body, is_whole = _read(response, deadline)
    except requests.exceptions.ConnectTimeout:
        return Sent("failed", reason="no connection within the time limit")
    except requests.exceptions.RequestException as error:
        was_sent = not _never_connected(error)
        return Sent("unknown" if was_sent else "failed", reason=_kind_of(error))
    return classify(response.status_code, response.headers, body, is_whole)


def _read(response: requests.Response, deadline: float) -> tuple[bytes, bool]:
    """Return the body, and whether it came whole within the time; the status line alone already tells most."""
    body = b""
    try:
        for piece in response.iter_content(8192):
            body += piece
            if time.monotonic() > deadline or len(body) > MAX_ANSWER_BYTES:
                return body, False
    except requests.exceptions.RequestException:
        return body, False
    return body, True


def classify(status: int, headers: Mapping[str, str], body: bytes, is_whole: bool = True) -> Sent:
    """Return what an answer means. A body that is empty, cut or not JSON is no error: the status decides."""
    answer = _parsed(body)
    if 200 <= status < 300:
        message_id = answer.get("id")
        return Sent("delivered", status, None, str(message_id) if message_id else None, pause=_pause(headers))
    if status == 429:
        return Sent("limited", status, "rate limit", retry_after=_retry_after(headers, answer))
    if status in _CLOSED:
        reason = {401: "the address or token is not valid", 403: "sending here is forbidden", 404: "it does not exist"}
        return Sent("closed", status, f"Discord answered {status}: {reason[status]}")
    if 400 <= status < 500 and status != 408:
        return Sent("rejected", status, f"Discord answered {status} (code {answer.get('code', 'none')})")
    return Sent("failed", status, f"Discord answered {status}{'' if is_whole else ', cut off'}")


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _retry_after(headers: Mapping[str, str], answer: Mapping[str, Any]) -> float:
    candidates = (answer.get("retry_after"), headers.get("Retry-After"), headers.get("X-RateLimit-Reset-After"))
    seconds = next((value for value in map(_seconds, candidates) if value is not None), DEFAULT_RETRY_AFTER)
    return min(max(seconds, 0.05), LONGEST_RETRY_AFTER)


def _pause(headers: Mapping[str, str]) -> float:
    """Return how long to wait before the next message, where the headers say that the bucket is empty."""
    remaining, reset = _seconds(headers.get("X-RateLimit-Remaining")), _seconds(headers.get("X-RateLimit-Reset-After"))
    if remaining is None or remaining >= 1 or reset is None:
        return 0.0
    return min(reset, LONGEST_RETRY_AFTER)


def _seconds(value: object) -> float | None:
    if not isinstance(value, str | int | float):
        return None
    try:
        seconds = float(value)
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None


def _never_connected(error: requests.exceptions.RequestException) -> bool:
    """Return whether the error came before a byte was sent, so that nothing can have arrived."""
    if isinstance(
        error, requests.exceptions.InvalidURL | requests.exceptions.MissingSchema | requests.exceptions.InvalidSchema
    ):
        return True
    cause: BaseException | None = error.args[0] if error.args and isinstance(error.args[0], BaseException) else None
    names: set[str] = set()
    while cause is not None and len(names) < 10:
        names.add(type(cause).__name__)
        cause = getattr(cause, "reason", None) or cause.__cause__
        cause = cause if isinstance(cause, BaseException) else None
    return bool(names & {"NewConnectionError", "NameResolutionError", "ConnectTimeoutError", "ProxyError"})


def _kind_of(error: requests.exceptions.RequestException) -> str:
    """Return what went wrong in a few words. The text of the error itself holds the address, so it is left out."""
    if isinstance(error, requests.exceptions.Timeout):
        return "no answer within the time limit"
    if _never_connected(error):
        return "no connection"
    return f"connection lost ({type(error).__name__})"
