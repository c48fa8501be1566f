"""Where to connect and what is secret: environment variables, their defaults and their meaning.

Owns every environment name, and the refusal to listen beyond this machine without a token. What a number means (intervals, lookbacks, detector parameters) is code; what the user
wants to be told is `alerts.toml`. `.env.example` and `docs/settings.md` are made from this file.
"""

import ipaddress
import os
from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from cryptotrace_dagster.errors import UserError

RUNNING_FILE = "running.env"


class SettingsError(UserError):
    """A setting is missing or malformed; the message names it and says what to do."""


class OpenWithoutTokenError(SettingsError):
    """The API was asked to listen beyond this machine without a token."""


class Settings(BaseSettings):
    """All settings of all processes. Names in the environment are the upper-case field names."""

    model_config = SettingsConfigDict(env_file=".env", env_file_encoding="utf-8", extra="ignore", frozen=True)

    symbols: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("BTCUSDT", "ETHUSDT", "SOLUSDT", "BNBUSDT", "XRPUSDT"),
        description="Symbols to watch, separated by commas.",
    )
    data_dir: Path = Field(default=Path("data"), description="Folder for the warehouse, logs and Dagster's home.")
    warehouse_url: str = Field(
        default="",
        description="The store: a DuckDB file, or ducklake:postgres:... ; empty means DATA_DIR/cryptotrace.duckdb.",
    )
    warehouse_data_path: str = Field(
        default="", description="Folder or object store of DuckLake's Parquet files; unused with a DuckDB file."
    )
    kafka_bootstrap_servers: str = Field(default="127.0.0.1:9092", description="Kafka brokers, host:port, by commas.")
    ticks_topic: str = Field(default="ticks", description="Topic of the trades, keyed by symbol.")
    dead_letter_topic: str = Field(default="ticks.dead_letter", description="Topic of unreadable messages.")
    binance_stream_url: str = Field(
        default="wss://data-stream.binance.vision", description="WebSocket host of the exchange's market data."
    )
    binance_rest_url: str = Field(
        default="https://data-api.binance.vision", description="REST host of the exchange's market data."
    )
    binance_dump_url: str = Field(default="https://data.binance.vision", description="Host of the public dump files.")
    alerts_file: Path = Field(default=Path("alerts.toml"), description="The alert rules.")
    discord_webhook_url: SecretStr | None = Field(default=None, description="Discord webhook; empty sends nothing.")
    discord_bot_token: SecretStr | None = Field(default=None, description="Discord bot token, instead of a webhook.")
    discord_channel_id: str | None = Field(default=None, description="Channel the bot writes to.")
    discord_api_url: str = Field(default="https://discord.com/api/v10", description="Discord's API, pinned version.")
    bind_host: str = Field(default="127.0.0.1", description="Address that the web services listen on.")
    dagster_port: int = Field(default=3000, ge=1, le=65535, description="Port of Dagster's UI.")
    api_port: int = Field(default=8000, ge=1, le=65535, description="Port of the API.")
    dashboard_port: int = Field(default=8501, ge=1, le=65535, description="Port of the dashboard.")
    feed_port: int = Field(default=9101, ge=1, le=65535, description="Port of the feed's /metrics and /healthz.")
    api_token: SecretStr | None = Field(
        default=None, description="Bearer token of the API; required as soon as BIND_HOST is not loopback."
    )
    dagster_url: str = Field(default="http://127.0.0.1:3000", description="Dagster's UI, for links.")
    dashboard_url: str = Field(default="http://127.0.0.1:8501", description="The dashboard, for links in alerts.")
    receiver_url: str = Field(
        default="", description="The local receiver in place of Discord, for the dashboard; `up --demo` sets it."
    )
    in_containers: bool = Field(
        default=False, description="Whether the services are containers that find each other by name; compose sets it."
    )
    start_fill_minutes: int = Field(
        default=60,
        ge=0,
        description="After a start, fill a hole in the ids up to this age; older holes are for `backfill`.",
    )
    feed_shard: str = Field(
        default="1/1", description="Which feed this is of how many that share the symbols, e.g. 1/2 and 2/2."
    )
    feed_connections: int = Field(
        default=1, ge=1, le=100, description="Connections to spread the symbols over, the busy ones evenly."
    )
    feed_rollover_hours: float = Field(
        default=23.0, gt=0, lt=24, description="Age at which a connection is replaced; the exchange ends it at 24 h."
    )
    feed_silence_seconds: float = Field(
        default=15.0, ge=1, description="Silence after which a connection is replaced, however slow its symbols are."
    )
    tick_retention_days: int = Field(
        default=30, ge=1, description="Days of raw ticks to keep, counted back from the newest trade, as all of these."
    )
    bar_retention_days: int = Field(default=365, ge=1, description="Days of bars of 1 minute and above to keep.")
    fine_bar_retention_days: int = Field(
        default=7, ge=1, description="Days of bars, features and scores below a minute."
    )
    event_retention_days: int = Field(
        default=365, ge=1, description="Days of alerts, deliveries, closed gaps and unreadable messages to keep."
    )
    report_days: int = Field(
        default=7, ge=1, le=60, description="Whole UTC days that the weekly report on the detectors replays."
    )
    report_ticks: int = Field(
        default=10_000_000,
        ge=1,
        description="Trades that this report replays at most, the days to warm up on included; busy markets get fewer days.",
    )
    run_retention_days: int = Field(default=7, ge=1, description="Days of Dagster's run history to keep.")

    @field_validator("symbols", mode="before")
    @classmethod
    def _split_symbols(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(dict.fromkeys(part.strip().upper() for part in value.split(",") if part.strip()))
        return value

    @field_validator("symbols")
    @classmethod
    def _some_symbols(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        bad = [symbol for symbol in value if not symbol.isalnum()]
        if not value or bad:
            raise ValueError(f"write symbols such as BTCUSDT,ETHUSDT; not readable: {', '.join(bad) or '(none given)'}")
        return value

    @field_validator("feed_shard")
    @classmethod
    def _readable_shard(cls, value: str) -> str:
        number, _, count = value.partition("/")
        if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
            raise ValueError(f"write the number of this feed and the number of feeds, as 1/2 or 2/2, not {value!r}")
        return value

    @field_validator("discord_webhook_url", "discord_bot_token", "discord_channel_id", "api_token", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return None if value == "" else value

    @model_validator(mode="before")
    @classmethod
    def _secrets_from_files(cls, values: dict[str, object]) -> dict[str, object]:
        from_files = {name: secret_from_file(name.upper()) for name in SECRET_FIELDS if not values.get(name)}
        return values | {name: value for name, value in from_files.items() if value}

    @property
    def resolved_warehouse_url(self) -> str:
        """Return the store, with the default filled in."""
        return self.warehouse_url or str(self.data_dir / "cryptotrace.duckdb")

    @property
    def dagster_reached_at(self) -> str:
        """Return where a process asks Dagster's UI, which people may know by another address."""
        return "http://dagster-webserver:3000" if self.in_containers else self.dagster_url

    @property
    def snapshot_path(self) -> Path:
        """Return where the published read-only copy of the warehouse lives."""
        return self.data_dir / "published" / "cryptotrace.duckdb"


SECRET_FIELDS = ("discord_webhook_url", "discord_bot_token", "api_token")


def secret_from_file(name: str) -> str | None:
    """Return a secret from the file that `<name>_FILE` names, as containers get it; None where none is named, or empty.

    Raises:
        SettingsError: the file cannot be read.
    """
    path = os.environ.get(f"{name}_FILE")
    if not path:
        return None
    try:
        return Path(path).read_text(encoding="utf-8").strip() or None
    except OSError as error:
        raise SettingsError(
            f"{name}_FILE names {path}, which cannot be read ({error.strerror}): correct it."
        ) from error


def is_loopback(host: str) -> bool:
    """Return whether an address is reachable from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def require_token_beyond_loopback(settings: Settings) -> None:
    """Refuse to serve beyond loopback without a token.

    Raises:
        OpenWithoutTokenError: BIND_HOST is not loopback and API_TOKEN is not set.
    """
    if settings.api_token is None and not is_loopback(settings.bind_host):
        raise OpenWithoutTokenError(
            f"The API was asked to listen on {settings.bind_host}, which others can reach, without a token: "
            "set API_TOKEN to a long random text, or BIND_HOST to 127.0.0.1."
        )


def load_settings(**overrides: object) -> Settings:
    """Read the settings from the environment, from `.env`, and from what a running `cryptotrace up` decided.

    A system under way writes its addresses into DATA_DIR, so that a command beside it needs no more than that folder.

    Raises:
        SettingsError: a value is malformed; the message names the variable and what is wrong with it.
    """
    settings = load_user_settings(**overrides)
    running = settings.data_dir / RUNNING_FILE
    return _read_settings((".env", str(running)), overrides) if running.is_file() else settings


def load_user_settings(**overrides: object) -> Settings:
    """Read the settings from the environment and `.env` alone, whatever may be running.

    Raises:
        SettingsError: a value is malformed; the message names the variable and what is wrong with it.
    """
    return _read_settings((".env",), overrides)


def _read_settings(files: tuple[str, ...], overrides: dict[str, object]) -> Settings:
    try:
        return Settings(_env_file=files, **overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        problems = "; ".join(
            f"{'_'.join(str(part) for part in item['loc'][:1]).upper()}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors()
        )
        raise SettingsError(f"Settings could not be read: {problems}. Correct it in the environment or .env.") from None


def export_defaults() -> None:
    """Put the addresses that are not set into the environment, with their defaults.

    Dagster's resources name environment variables, so that its UI shows names instead of values; on a bare checkout
    (`dagster dev`) these must exist.
    """
    settings = load_settings()
    defaults = {
        "WAREHOUSE_URL": settings.resolved_warehouse_url,
        "WAREHOUSE_DATA_PATH": settings.warehouse_data_path,
        "KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers,
        "TICKS_TOPIC": settings.ticks_topic,
        "BINANCE_REST_URL": settings.binance_rest_url,
        "BINANCE_DUMP_URL": settings.binance_dump_url,
        "ALERTS_FILE": str(settings.alerts_file),
        "DATA_DIR": str(settings.data_dir),
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
