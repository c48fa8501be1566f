"""Discord as a Dagster resource: the names of the environment variables that hold the secrets, never the secrets."""

import dagster as dg

from cryptotrace_dagster.notify.messenger import ChannelNames, Messenger, secret_from_environment
from cryptotrace_dagster.settings import load_settings


class Discord(dg.ConfigurableResource[None]):
    """Where alerts are told. The UI shows names of variables; their values are read when a message is sent."""

    webhook_url_variable: str = "DISCORD_WEBHOOK_URL"
    bot_token_variable: str = "DISCORD_BOT_TOKEN"  # noqa: S105 - the name of a variable
    channel_id_variable: str = "DISCORD_CHANNEL_ID"

    def messenger(self) -> Messenger:
        """Return a sender over the webhook, or the bot, that is set now."""
        settings = load_settings()
        names = ChannelNames(
            self.webhook_url_variable, self.bot_token_variable, self.channel_id_variable, settings.discord_api_url
        )
        return Messenger(secret_from_environment, dashboard_url=settings.dashboard_url, names=names)
