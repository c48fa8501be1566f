"""What happens before the services start: bad settings and rules stop with their name, secrets are made once."""

import stat
from pathlib import Path

import pytest

from cryptotrace_dagster.containers.prepare import prepare
from cryptotrace_dagster.domain.rules import RulesError
from cryptotrace_dagster.settings import SettingsError, load_settings
from tests.compose.stack import ROOT


class Volumes:
    """The folders that `prepare` is given."""

    def __init__(self, folder: Path) -> None:
        self.rules = folder / "alerts.toml"
        self.published = folder / "config" / "alerts.toml"
        self.secrets = folder / "secrets"
        self.files = folder / "given"
        self.scrape = folder / "scrape"
        for made in (self.published.parent, self.secrets, self.scrape, self.files):
            made.mkdir()
        self.rules.write_text((ROOT / "alerts.toml").read_text())

    def prepare(self) -> None:
        prepare(self.rules, self.published, self.secrets, self.scrape, self.files)

    def secret(self, name: str) -> str:
        return (self.secrets / name).read_text()


@pytest.fixture
def volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Volumes:
    for name in (
        "DISCORD_WEBHOOK_URL",
        "DISCORD_BOT_TOKEN",
        "DISCORD_CHANNEL_ID",
        "POSTGRES_PASSWORD",
        "API_TOKEN",
        "SYMBOLS",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return Volumes(tmp_path)


def test_what_nobody_gave_is_made_once_and_kept(volumes: Volumes) -> None:
    """A new password at the second start would lock the services out of the database."""
    volumes.prepare()
    first = volumes.secret("postgres_password"), volumes.secret("api_token")
    volumes.prepare()
    assert (volumes.secret("postgres_password"), volumes.secret("api_token")) == first
    assert all(len(secret) > 30 for secret in first)
    assert volumes.secret("discord_webhook_url") == ""


def test_secrets_are_readable_by_their_owner_only(volumes: Volumes) -> None:
    """libpq ignores a password file that others may read."""
    volumes.prepare()
    assert {stat.S_IMODE(file.stat().st_mode) for file in volumes.secrets.iterdir()} == {0o600}


def test_prometheus_gets_the_token_of_the_api_and_nothing_else(volumes: Volumes) -> None:
    volumes.prepare()
    assert [file.name for file in volumes.scrape.iterdir()] == ["api_token"]
    assert (volumes.scrape / "api_token").read_text() == volumes.secret("api_token")


def test_a_secret_comes_from_a_file_and_a_variable_wins(volumes: Volumes, monkeypatch: pytest.MonkeyPatch) -> None:
    (volumes.files / "discord_webhook_url").write_text("https://discord.invalid/from-file\n")
    volumes.prepare()
    assert volumes.secret("discord_webhook_url") == "https://discord.invalid/from-file"
    monkeypatch.setenv("DISCORD_WEBHOOK_URL", "https://discord.invalid/from-variable")
    volumes.prepare()
    assert volumes.secret("discord_webhook_url") == "https://discord.invalid/from-variable"


def test_the_password_file_survives_the_characters_that_libpq_gives_a_meaning(
    volumes: Volumes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTGRES_PASSWORD", "a:b\\c")
    volumes.prepare()
    assert volumes.secret("pgpass") == "*:*:*:*:a\\:b\\\\c\n"


def test_wrong_rules_stop_and_the_published_ones_stay(volumes: Volumes) -> None:
    volumes.prepare()
    before = volumes.published.read_text()
    volumes.rules.write_text('[[rules]]\nname = "x"\nkind = "no such kind"\n')
    with pytest.raises(RulesError):
        volumes.prepare()
    assert volumes.published.read_text() == before


@pytest.mark.parametrize(
    ("name", "value"),
    [("SYMBOLS", "BTC/USDT"), ("DISCORD_BOT_TOKEN", "a token without a channel"), ("DISCORD_WEBHOOK_URL", "discord")],
)
def test_a_wrong_setting_stops_with_its_name(
    volumes: Volumes, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name):
        volumes.prepare()
    assert list(volumes.secrets.iterdir()) == []


def test_settings_read_secrets_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("API_TOKEN", raising=False)
    (tmp_path / "token").write_text("from a file\n")
    monkeypatch.setenv("API_TOKEN_FILE", str(tmp_path / "token"))
    token = load_settings().api_token
    assert token is not None
    assert token.get_secret_value() == "from a file"
    monkeypatch.setenv("API_TOKEN_FILE", str(tmp_path / "missing"))
    with pytest.raises(SettingsError, match="API_TOKEN_FILE"):
        load_settings()
