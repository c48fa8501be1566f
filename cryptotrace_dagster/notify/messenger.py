"""The door to all channels: which secret belongs to which route, opened when it is first needed.

Owns looking up addresses and tokens by the names of environment variables. Stays out: which alert takes which route
(domain/rules.py) and what is still to be sent (pipeline/delivery.py).
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from dotenv import dotenv_values
from pydantic import SecretStr

from cryptotrace_dagster.notify.message import Message
from cryptotrace_dagster.notify.transport import BotChannel, Channel, Sent, WebhookChannel
from cryptotrace_dagster.settings import secret_from_file

DEFAULT_ROUTE = "default"


@dataclass(frozen=True)
class ChannelNames:
    """The environment variables of the default route, and Discord's API for a bot."""

    webhook_url: str = "DISCORD_WEBHOOK_URL"
    bot_token: str = "DISCORD_BOT_TOKEN"  # noqa: S105 - the name of a variable
    channel_id: str = "DISCORD_CHANNEL_ID"
    api_url: str = "https://discord.com/api/v10"


class Messenger:
    """Sends messages on routes. `secret_of` returns the value of an environment variable, or None where it is unset."""

    def __init__(
        self,
        secret_of: Callable[[str], str | None],
        *,
        dashboard_url: str = "http://127.0.0.1:8501",
        names: ChannelNames | None = None,
        channels: Mapping[str, Channel] | None = None,
    ) -> None:
        self._secret_of = secret_of
        self._names = names or ChannelNames()
        self._channels: dict[str, Channel | None] = dict(channels or {})
        self._pauses: dict[str, float] = {}
        self.dashboard_url = dashboard_url

    def has_channel(self, route: str, webhook_variable: str | None = None) -> bool:
        """Return whether a route leads anywhere: its variable is set."""
        return self._channel(route, webhook_variable) is not None

    def missing_words(self, webhook_variable: str | None = None) -> str:
        """Return what to set so that a route leads somewhere."""
        if webhook_variable is not None:
            return f"{webhook_variable} is not set"
        return f"neither {self._names.webhook_url} nor {self._names.bot_token} with {self._names.channel_id} is set"

    def send(self, route: str, message: Message, webhook_variable: str | None = None) -> Sent:
        """Send one message on a route, once."""
        channel = self._channel(route, webhook_variable)
        if channel is None:
            return Sent("failed", reason=self.missing_words(webhook_variable))
        sent = channel.send(message)
        self._pauses[route] = time.monotonic() + sent.pause
        return sent

    def ready_at(self, route: str, now: datetime) -> datetime:
        """Return when the limits that Discord told of let the next message on a route go out; `now` if at once."""
        wait = self._pauses.get(route, 0.0) - time.monotonic()
        return now + timedelta(seconds=max(0.0, wait))

    def _channel(self, route: str, webhook_variable: str | None) -> Channel | None:
        if route not in self._channels:
            self._channels[route] = self._open(webhook_variable)
        return self._channels[route]

    def _open(self, webhook_variable: str | None) -> Channel | None:
        url = self._secret_of(webhook_variable or self._names.webhook_url)
        if url:
            return WebhookChannel(SecretStr(url))
        if webhook_variable is not None:
            return None
        token, channel_id = self._secret_of(self._names.bot_token), self._secret_of(self._names.channel_id)
        return BotChannel(SecretStr(token), channel_id, self._names.api_url) if token and channel_id else None


def secret_from_environment(name: str) -> str | None:
    """Return a variable's value from the environment, the file that `<name>_FILE` names, or `.env`; None where unset."""
    return os.environ.get(name) or secret_from_file(name) or dotenv_values(Path(".env")).get(name) or None
