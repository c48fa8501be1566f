"""What is done once before the services start: settings and rules checked, secrets and rules put into their volumes.

Services and run containers mount these volumes by name, so that no container needs a path of the host, and a secret
stands in no container's environment. Stays out: databases (migrate.py).
"""

import os
import secrets
import sys
import tempfile
from pathlib import Path

import structlog

from cryptotrace_dagster.errors import UserError
from cryptotrace_dagster.log import masked_text, set_up_logging
from cryptotrace_dagster.pipeline.rule_source import load_rules
from cryptotrace_dagster.settings import SettingsError, load_settings

_LOG = structlog.get_logger(__name__)
_GIVEN = ("DISCORD_WEBHOOK_URL", "DISCORD_BOT_TOKEN")  # empty when the user gives none
_MADE_WHEN_NOT_GIVEN = ("POSTGRES_PASSWORD", "API_TOKEN")
_USER_ERROR_EXIT_CODE = 2


def prepare(
    rules_source: Path, rules_target: Path, secrets_folder: Path, scrape_folder: Path, files_folder: Path
) -> None:
    """Check what the user wrote, and publish it for the services.

    Args:
        rules_source: the user's `alerts.toml`.
        rules_target: where the services read it; it is exchanged as a whole, and only for valid rules.
        secrets_folder: gets one file for each secret, named in lower case, and libpq's `pgpass`.
        scrape_folder: gets the API's token alone, for Prometheus, which runs as another user.
        files_folder: holds the secrets that were given as files; a variable of the same name in upper case wins.

    Raises:
        SettingsError: a setting or a secret is malformed; the message names it.
        RulesError: the rules cannot be used; the message names the line.
    """
    settings = load_settings()
    _check_channel(settings.discord_channel_id, files_folder)
    rules = load_rules(rules_source)
    for name in _GIVEN:
        _put(secrets_folder / name.lower(), _given(name, files_folder))
    for name in _MADE_WHEN_NOT_GIVEN:
        target = secrets_folder / name.lower()
        value = _given(name, files_folder) or (target.read_text(encoding="utf-8") if target.exists() else "")
        _put(target, value or secrets.token_urlsafe(32))
    password = (secrets_folder / "postgres_password").read_text(encoding="utf-8")
    escaped = password.replace("\\", "\\\\").replace(":", "\\:")
    _put(secrets_folder / "pgpass", f"*:*:*:*:{escaped}\n")
    _put(scrape_folder / "api_token", (secrets_folder / "api_token").read_text(encoding="utf-8"), mode=0o644)
    _put(rules_target, rules_source.read_text(encoding="utf-8"))
    _LOG.info("containers.prepared", rules=len(rules.rules), symbols=settings.symbols)


def _check_channel(channel_id: str | None, files_folder: Path) -> None:
    if _given("DISCORD_BOT_TOKEN", files_folder) and not channel_id:
        raise SettingsError("DISCORD_BOT_TOKEN is set without DISCORD_CHANNEL_ID: name the channel in .env.")
    webhook = _given("DISCORD_WEBHOOK_URL", files_folder)
    if webhook and not webhook.startswith(("https://", "http://")):
        raise SettingsError(
            "DISCORD_WEBHOOK_URL is not an address: copy it whole from Discord, it begins with https://."
        )


def _given(name: str, files_folder: Path) -> str:
    """Return a secret that the user gave as a variable or as a file; empty where none was given."""
    file = files_folder / name.lower()
    return os.environ.get(name) or (file.read_text(encoding="utf-8").strip() if file.exists() else "")


def _put(target: Path, content: str, mode: int = 0o600) -> None:
    """Exchange a file as a whole, readable by its owner only unless told otherwise."""
    descriptor, fresh = tempfile.mkstemp(dir=target.parent)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(content)
    Path(fresh).chmod(mode)
    Path(fresh).replace(target)


def main() -> None:
    """Prepare the volumes of docker-compose.yml; one sentence and exit code 2 where the user has to correct something."""
    set_up_logging()
    try:
        prepare(
            rules_source=Path("/project/alerts.toml"),
            rules_target=Path("/config/alerts.toml"),
            secrets_folder=Path("/secrets"),
            scrape_folder=Path("/scrape"),
            files_folder=Path("/run/secrets"),
        )
    except UserError as error:
        print(f"cryptotrace: {masked_text(str(error))}", file=sys.stderr)  # noqa: T201 - for the person at the terminal
        sys.exit(_USER_ERROR_EXIT_CODE)


if __name__ == "__main__":
    main()
