"""What a message looks like: an alert as a Discord embed, within Discord's limits.

Owns colours, fields, links and the marking of repeats. Stays out: the words (domain/wording.py) and the sending.
"""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from discord_webhook import DiscordEmbed

from cryptotrace_dagster.domain.wording import how_often, number
from cryptotrace_dagster.looks import DARK, SEVERITIES, STEADY_SIGN

MAX_EMBEDS = 10
TITLE_LIMIT, DESCRIPTION_LIMIT, FOOTER_LIMIT = 256, 4096, 2048
# All embeds of a message together may have 6000 characters, so that each of ten may have a tenth of them.
SHARED_TITLE_LIMIT, SHARED_DESCRIPTION_LIMIT = 120, 220
# The strip beside an embed stands on Discord's dark background; the sign in the title says the same without colour.
COLOURS = {
    name: int(colour.removeprefix("#"), 16)
    for name, colour in (("info", DARK.info), ("warning", DARK.warning), ("critical", DARK.critical))
}
END_COLOUR = int(DARK.faint.removeprefix("#"), 16)
CHART_NAME = "chart.png"
REPEAT_NOTE = "The first sending of this was not confirmed, so you may have seen it."


@dataclass(frozen=True)
class Message:
    """One message: embeds, and perhaps a picture that the first of them shows. `nonce` names it for the bot API."""

    embeds: tuple[DiscordEmbed, ...]
    nonce: str
    picture: bytes | None = None


def embed_of(
    alert: Mapping[str, Any], *, dashboard_url: str, is_repeat: bool, is_alone: bool = True, has_picture: bool = False
) -> DiscordEmbed:
    """Return one row of `alerts` as an embed; the alert's id stands in the footer.

    One that shares its message with others is kept short enough for ten to fit.
    """
    title_limit, description_limit = (
        (TITLE_LIMIT, DESCRIPTION_LIMIT - len(REPEAT_NOTE) - 1)
        if is_alone
        else (SHARED_TITLE_LIMIT, SHARED_DESCRIPTION_LIMIT)
    )
    evidence = json.loads(alert["evidence"])
    is_end = alert["phase"] == "end"
    sign = STEADY_SIGN if is_end else SEVERITIES[alert["severity"]].sign
    note = f"\n{REPEAT_NOTE}" if is_repeat else ""
    embed = DiscordEmbed(
        title=clipped(f"{'Repeat: ' if is_repeat else ''}{sign} {alert['title']}", title_limit),
        description=clipped(alert["message"], description_limit) + note,
        url=link_of(alert, dashboard_url),
        color=END_COLOUR if is_end else COLOURS[alert["severity"]],
        fields=_fields(alert, evidence),
        timestamp=_zoned(alert["event_time"]),
    )
    embed.set_footer(
        clipped(
            f"{alert['severity']} · {alert['phase']} · rule {alert['rule']} · alert {alert['alert_id']}", FOOTER_LIMIT
        )
    )
    if has_picture:
        embed.set_image(f"attachment://{CHART_NAME}")
    return embed


def note(title: str, text: str, *, name: str) -> Message:
    """Return a message about the system itself rather than the market; `name` keeps the bot API from doubling it."""
    embed = DiscordEmbed(
        title=clipped(title, TITLE_LIMIT), description=clipped(text, DESCRIPTION_LIMIT), color=COLOURS["warning"]
    )
    return Message((embed,), name)


def test_message(dashboard_url: str) -> Message:
    """Return the message that `cryptotrace alerts test` sends."""
    embed = DiscordEmbed(
        title="CryptoTrace can reach you here",
        description="This is a test. Alerts will look like this, with what happened and how unusual it is.",
        url=dashboard_url,
        color=COLOURS["info"],
    )
    embed.set_footer("test · no alert")
    return Message((embed,), nonce=secrets.token_hex(8))


def link_of(alert: Mapping[str, Any], dashboard_url: str) -> str:
    """Return the dashboard's address for the alert's symbol at the alert's time."""
    query = urlencode({"symbol": alert["symbol"], "alert": alert["alert_id"]})
    return f"{dashboard_url.rstrip('/')}/?{query}"


def clipped(text: str, limit: int) -> str:
    """Return the text, shortened with an ellipsis where it is too long."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _fields(alert: Mapping[str, Any], evidence: Mapping[str, Any]) -> list[dict[str, Any]]:
    pairs: list[tuple[str, str]] = []
    if alert["price"] is not None:
        before = evidence.get("price_before")
        price = number(float(alert["price"]))
        pairs.append(("Price now / before", f"{price} / {number(before)}" if before is not None else price))
    volume, usual = evidence.get("quote_volume_60s"), evidence.get("usual_quote_volume_60s")
    if volume is not None:
        pairs.append(("Volume in 60 s / usually", f"{number(volume)} / {number(usual)}"))
    if evidence.get("times_a_day") is not None:
        pairs.append(("How often", how_often(evidence["times_a_day"])))
    return [{"name": name, "value": value, "inline": True} for name, value in pairs]


def _zoned(instant: datetime) -> str:
    return instant.isoformat() + "Z"
