"""The examination behind `cryptotrace doctor`: every part is asked, and each fault comes with its remedy.

Owns the checks and their judgement. Each check is a function of the settings that returns one finding and never raises;
they run side by side, because most of them wait. Stays out: how findings are printed (cli/doctor.py).
"""

import platform
import shutil
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from importlib import metadata, resources
from urllib.parse import urlsplit

import httpx

from cryptotrace_dagster.connections import without_secrets
from cryptotrace_dagster.dagster_client import DagsterClient, DagsterRequestError
from cryptotrace_dagster.domain.windows import utc_now
from cryptotrace_dagster.looks import age_text, counted
from cryptotrace_dagster.queries import Reader, data_health, open_for_reading
from cryptotrace_dagster.settings import (
    OpenWithoutTokenError,
    Settings,
    is_loopback,
    require_token_beyond_loopback,
)
from cryptotrace_dagster.storage import StorageError, WarehouseMissingError

PATIENCE_SECONDS = 5.0
STALE_AFTER = timedelta(minutes=2)
SKEW_WARNING_SECONDS, SKEW_FAULT_SECONDS = 0.5, 2.0
FREE_SPACE_WARNING, FREE_SPACE_FAULT = 5 * 10**9, 10**9
OLD_COPY = timedelta(hours=1)
_START = "start `cryptotrace up`"


class Verdict(StrEnum):
    """How a part is."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(frozen=True)
class Finding:
    """One part, how it is, what was found, and what to do about it (empty when nothing)."""

    part: str
    verdict: Verdict
    found: str
    remedy: str = ""


Check = Callable[[Settings], Finding]


def examine(settings: Settings) -> list[Finding]:
    """Return a finding for every part, in a fixed order."""
    with ThreadPoolExecutor(max_workers=len(CHECKS)) as pool:
        return list(pool.map(lambda check: _examined(check, settings), CHECKS.values()))


def _examined(check: Check, settings: Settings) -> Finding:
    try:
        return check(settings)
    except Exception as error:
        name = next(name for name, known in CHECKS.items() if known is check)
        return Finding(name, Verdict.FAULT, f"the check itself failed: {type(error).__name__}", "report this, please")


def check_versions(settings: Settings) -> Finding:
    """Return whether the packages that only fit together do so."""
    duckdb, dagster, webserver = (metadata.version(name) for name in ("duckdb", "dagster", "dagster-webserver"))
    found = f"Python {platform.python_version()}, Dagster {dagster}, DuckDB {duckdb}"
    extension = resources.files("duckdb_extension_ducklake") / "extensions" / f"v{duckdb}"
    if dagster != webserver or not extension.is_dir():
        detail = f"{found}; dagster-webserver {webserver}" + (
            "" if extension.is_dir() else "; DuckLake of another DuckDB"
        )
        return Finding("versions", Verdict.FAULT, detail, "install from requirements.lock again (`make setup`)")
    return Finding("versions", Verdict.OK, found)


def check_rules(settings: Settings) -> Finding:
    """Return whether the alert rules can be read."""
    from cryptotrace_dagster.domain.rules import RulesError
    from cryptotrace_dagster.pipeline.rule_source import load_rules

    try:
        book = load_rules(settings.alerts_file)
    except RulesError as error:
        return Finding("alert rules", Verdict.FAULT, str(error), "correct that line; the earlier rules stay in force")
    if not book.rules:
        return Finding("alert rules", Verdict.WARNING, "no rule is set", f"add one to {settings.alerts_file}")
    source = settings.alerts_file if settings.alerts_file.exists() else "the built-in rules"
    return Finding("alert rules", Verdict.OK, f"{counted(len(book.rules), 'rule')} from {source}")


def check_exposure(settings: Settings) -> Finding:
    """Return whether the services listen where they may."""
    try:
        require_token_beyond_loopback(settings)
    except OpenWithoutTokenError:
        return Finding(
            "exposure",
            Verdict.FAULT,
            f"BIND_HOST is {settings.bind_host} and API_TOKEN is not set",
            "set API_TOKEN to a long random text, or BIND_HOST to 127.0.0.1",
        )
    if is_loopback(settings.bind_host):
        return Finding("exposure", Verdict.OK, "reachable from this machine only")
    return Finding("exposure", Verdict.OK, f"listening on {settings.bind_host}; the API asks for its token")


def check_disk(settings: Settings) -> Finding:
    """Return whether the data folder can be written and has room."""
    folder = settings.data_dir.absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    probe = existing / f".cryptotrace-doctor-{time.time_ns()}"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        return Finding(
            "disk",
            Verdict.FAULT,
            f"{existing} cannot be written ({error.strerror})",
            "change its owner, or choose another DATA_DIR",
        )
    free = shutil.disk_usage(existing).free
    found = f"{free / 1e9:.1f} GB free in {folder}"
    if free < FREE_SPACE_FAULT:
        return Finding("disk", Verdict.FAULT, found, "free some space now, or shorten TICK_RETENTION_DAYS")
    if free < FREE_SPACE_WARNING:
        return Finding("disk", Verdict.WARNING, found, "free some space soon, or shorten TICK_RETENTION_DAYS")
    return Finding("disk", Verdict.OK, found)


def check_ports(settings: Settings) -> Finding:
    """Return whether our ports are free or held by our own services."""
    ours = {
        "DAGSTER_PORT": (settings.dagster_port, "/server_info", "dagster"),
        "API_PORT": (settings.api_port, "/healthz", "status"),
        "DASHBOARD_PORT": (settings.dashboard_port, "/_stcore/health", "ok"),
        "FEED_PORT": (settings.feed_port, "/healthz", "status"),
    }
    taken = [
        f"{name} {port}"
        for name, (port, path, sign) in ours.items()
        if _is_listening("127.0.0.1", port) and not _answers_with(f"http://127.0.0.1:{port}{path}", sign)
    ]
    if taken:
        return Finding(
            "ports",
            Verdict.FAULT,
            f"held by another program: {', '.join(taken)}",
            "end that program, or choose another port in the environment or .env",
        )
    return Finding("ports", Verdict.OK, "free, or held by CryptoTrace itself")


def check_broker(settings: Settings) -> Finding:
    """Return whether Kafka answers and has the topic."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    client = AdminClient({"bootstrap.servers": settings.kafka_bootstrap_servers, "log_level": 0})
    try:
        cluster = client.list_topics(timeout=PATIENCE_SECONDS)
    except KafkaException:
        return Finding(
            "broker",
            Verdict.FAULT,
            f"no Kafka broker answers at {settings.kafka_bootstrap_servers}",
            f"{_START}, or set KAFKA_BOOTSTRAP_SERVERS to your cluster",
        )
    topic = cluster.topics.get(settings.ticks_topic)
    if topic is None:
        return Finding(
            "broker",
            Verdict.WARNING,
            f"{settings.kafka_bootstrap_servers} answers, but has no topic {settings.ticks_topic}",
            "start the feed, which makes it",
        )
    partitions = counted(len(topic.partitions), "partition")
    return Finding(
        "broker", Verdict.OK, f"{settings.kafka_bootstrap_servers}, topic {settings.ticks_topic}, {partitions}"
    )


def check_exchange(settings: Settings) -> Finding:
    """Return whether the exchange answers over REST, and how far our clock is from its clock."""
    url = f"{settings.binance_rest_url}/api/v3/time"
    before = time.time()
    try:
        answer = httpx.get(url, timeout=PATIENCE_SECONDS, trust_env=not _is_here(url)).raise_for_status().json()
    except (httpx.HTTPError, ValueError) as error:
        return Finding(
            "exchange",
            Verdict.FAULT,
            f"{settings.binance_rest_url} does not answer ({type(error).__name__})",
            "check the network and BINANCE_REST_URL; in some countries another host is needed; "
            "`cryptotrace up --demo` works offline",
        )
    after = time.time()
    skew = (before + after) / 2 - answer["serverTime"] / 1000
    uncertainty = (after - before) / 2
    found = f"{settings.binance_rest_url} answers in {after - before:.2f} s; this clock is {skew:+.2f} s off"
    remedy = "let the system keep time (NTP): latencies and alert times depend on it"
    if abs(skew) - uncertainty > SKEW_FAULT_SECONDS:
        return Finding("exchange", Verdict.FAULT, found, remedy)
    if abs(skew) - uncertainty > SKEW_WARNING_SECONDS:
        return Finding("exchange", Verdict.WARNING, found, remedy)
    return Finding("exchange", Verdict.OK, found)


def check_stream(settings: Settings) -> Finding:
    """Return whether the exchange's WebSocket can be opened."""
    from websockets.exceptions import WebSocketException
    from websockets.sync.client import connect

    stream = f"{settings.symbols[0].lower()}@aggTrade"
    try:
        with connect(
            f"{settings.binance_stream_url}/ws/{stream}",
            open_timeout=PATIENCE_SECONDS,
            close_timeout=1,
            max_size=2**20,
            proxy=None if _is_here(settings.binance_stream_url) else True,
        ):
            return Finding("stream", Verdict.OK, f"{settings.binance_stream_url} accepts {stream}")
    except (OSError, WebSocketException, TimeoutError) as error:
        return Finding(
            "stream",
            Verdict.FAULT,
            f"{settings.binance_stream_url} cannot be opened ({type(error).__name__})",
            "check the network, a proxy that blocks WebSockets, and BINANCE_STREAM_URL",
        )


def check_warehouse(settings: Settings) -> Finding:
    """Return whether the store can be read, is whole and is fresh."""
    try:
        health = data_health(Reader(open_for_reading(settings)))
    except WarehouseMissingError:
        address = without_secrets(settings.resolved_warehouse_url)
        return Finding("warehouse", Verdict.FAULT, f"no store at {address} yet", _START)
    except StorageError as error:
        return Finding("warehouse", Verdict.FAULT, str(error), "follow what it says, then ask again")
    if health.last_received_at is None:
        return Finding("warehouse", Verdict.WARNING, "empty", "wait for the first trades, and look at the feed below")
    age = utc_now() - health.last_received_at
    troubles, remedies = [], []
    if age > STALE_AFTER:
        troubles.append(f"the newest trade came {age_text(age.total_seconds())} ago")
        remedies.append(f"{_START}, or look at the feed and at Dagster's runs")
    if health.missing_trades:
        troubles.append(f"{counted(health.missing_trades, 'trade')} missing in {counted(health.open_gaps, 'open gap')}")
        remedies.append("fill them with `cryptotrace backfill SYMBOL --from --to`")
    if health.overdue_alerts:
        troubles.append(f"{counted(health.overdue_alerts, 'alert')} not delivered for over a minute")
        remedies.append("look at `cryptotrace alerts list`")
    if troubles:
        return Finding("warehouse", Verdict.FAULT, "; ".join(troubles), "; ".join(remedies))
    return Finding("warehouse", Verdict.OK, f"complete, newest trade {age_text(age.total_seconds())} ago")


def check_published_copy(settings: Settings) -> Finding:
    """Return how old the copy for notebooks is."""
    path = settings.snapshot_path
    if not path.exists():
        return Finding(
            "published copy", Verdict.WARNING, f"none at {path} yet", "it comes with the first scheduled run"
        )
    age = timedelta(seconds=max(time.time() - path.stat().st_mtime, 0))
    found = f"{age_text(age.total_seconds())} old"
    if age > OLD_COPY:
        return Finding("published copy", Verdict.WARNING, found, "look at the scheduled runs in Dagster")
    return Finding("published copy", Verdict.OK, found)


def check_dagster(settings: Settings) -> Finding:
    """Return whether Dagster's UI answers and its daemon's heart beats."""
    url = settings.dagster_reached_at
    try:
        asleep = [name.lower() for name in DagsterClient(url, PATIENCE_SECONDS).daemons_without_heartbeat()]
    except (httpx.HTTPError, DagsterRequestError, ValueError, KeyError, TypeError):
        return Finding("dagster", Verdict.FAULT, f"its UI does not answer at {url}", _START)
    if asleep:
        return Finding(
            "dagster",
            Verdict.FAULT,
            f"no heartbeat of the daemon: {', '.join(asleep)}",
            "start `dagster-daemon run` (or `cryptotrace up`) again, and see its log in DATA_DIR/logs",
        )
    return Finding("dagster", Verdict.OK, f"{url}, daemon heartbeat fresh")


def check_services(settings: Settings) -> Finding:
    """Return whether feed, API and dashboard run and call themselves well."""

    def host(container: str) -> str:
        return container if settings.in_containers else "127.0.0.1"

    addresses = {
        "feed": f"http://{host('feed')}:{settings.feed_port}/healthz",
        "API": f"http://{host('api')}:{settings.api_port}/healthz",
        "dashboard": f"http://{host('dashboard')}:{settings.dashboard_port}/_stcore/health",
    }
    troubles = [trouble for name, url in addresses.items() if (trouble := _trouble_of(name, url))]
    if troubles:
        return Finding("services", Verdict.FAULT, "; ".join(troubles), f"{_START}; logs are in DATA_DIR/logs")
    return Finding("services", Verdict.OK, "feed, API and dashboard answer")


def check_discord(settings: Settings) -> Finding:
    """Return whether the channel for alerts exists; nothing is sent."""
    headers: dict[str, str] = {}
    if settings.discord_webhook_url is not None:
        url = settings.discord_webhook_url.get_secret_value()
    elif settings.discord_bot_token is not None and settings.discord_channel_id is not None:
        url = f"{settings.discord_api_url}/channels/{settings.discord_channel_id}"
        headers = {"Authorization": f"Bot {settings.discord_bot_token.get_secret_value()}"}
    else:
        return Finding(
            "discord",
            Verdict.WARNING,
            "no channel is set: alerts are stored and shown, but sent nowhere",
            "set DISCORD_WEBHOOK_URL (Discord: channel settings, Integrations, Webhooks)",
        )
    try:
        status = httpx.get(url, headers=headers, timeout=PATIENCE_SECONDS, trust_env=not _is_here(url)).status_code
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Finding("discord", Verdict.FAULT, f"not reachable ({type(error).__name__})", "check network and address")
    if status in {401, 403, 404}:
        return Finding(
            "discord", Verdict.FAULT, f"Discord answers {status}: it does not know the address", "make a new webhook"
        )
    if status >= 400:
        return Finding("discord", Verdict.WARNING, f"Discord answers {status}", "try `cryptotrace alerts test` later")
    return Finding("discord", Verdict.OK, "the channel exists; `cryptotrace alerts test` sends a message")


CHECKS: dict[str, Check] = {
    "versions": check_versions,
    "exposure": check_exposure,
    "alert rules": check_rules,
    "disk": check_disk,
    "ports": check_ports,
    "exchange": check_exchange,
    "stream": check_stream,
    "broker": check_broker,
    "services": check_services,
    "dagster": check_dagster,
    "warehouse": check_warehouse,
    "published copy": check_published_copy,
    "discord": check_discord,
}


def _is_listening(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def _is_here(url: str) -> bool:
    """Return whether an address is on this machine, as a demo's are: no proxy could reach it for us."""
    try:
        return is_loopback(urlsplit(url).hostname or "")
    except ValueError:  # who asks there will say what is wrong with it
        return False


def _answers_with(url: str, sign: str) -> bool:
    try:
        return sign in httpx.get(url, timeout=PATIENCE_SECONDS, trust_env=False).text
    except httpx.HTTPError:
        return False


def _trouble_of(name: str, url: str) -> str:
    try:
        answer = httpx.get(url, timeout=PATIENCE_SECONDS, trust_env=False)
    except httpx.HTTPError:
        return f"{name} does not answer at {urlsplit(url).netloc}"
    if answer.status_code == 200:
        return ""
    try:
        problems = answer.json().get("problems", [])
    except ValueError:
        problems = []
    return f"{name}: {'; '.join(map(str, problems)) or f'status {answer.status_code}'}"
