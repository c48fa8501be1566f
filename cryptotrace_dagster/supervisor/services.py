"""Which processes the system has on one machine: commands, addresses, readiness, order. Pure planning.

Owns the list of services and the environment they share. Stays out: starting and stopping them (child.py, system.py)
and the question whether the machine can run them (preflight.py).
"""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

from cryptotrace_dagster.dagster_client import CODE_LOCATION
from cryptotrace_dagster.domain.windows import utc_now
from cryptotrace_dagster.settings import Settings
from cryptotrace_dagster.supervisor.readiness import dagster_daemon_is_healthy, port_answers, url_answers

BROKER_PORT = 9092
EXCHANGE_STREAM_PORT = 9443
EXCHANGE_REST_PORT = 9444
RECEIVER_PORT = 9445

_ADDRESSES = (
    "_port",
    "_host",
    "dagster_url",
    "dashboard_url",
    "bootstrap_servers",
    "stream_url",
    "rest_url",
    "dump_url",
)
_DEMO_PREFIX = "demo."  # of a demo's topics on a Kafka of the user's own, which may hold real trades
_TOPICS = ("ticks_topic", "dead_letter_topic")
_THIS_MACHINE = ("127.0.0.1", "localhost")
_WATCHERS = ("dagster ui", "dagster daemon")
DEMO_HISTORY = timedelta(hours=1)
DEMO_HISTORY_TRADES = 400_000  # at most, so that a market that is asked to be busy starts as soon as a quiet one

_CRYPTOTRACE = (sys.executable, "-m", "cryptotrace_dagster.cli.main")


@dataclass(frozen=True)
class Port:
    """A port that must be free before the system starts."""

    number: int
    purpose: str
    setting: str | None = None
    host: str = "127.0.0.1"


@dataclass(frozen=True)
class Service:
    """One process: how to start it, when it may start, how to tell that it is ready, and when it stops."""

    name: str
    command: tuple[str, ...]
    is_ready: Callable[[], bool]
    after: tuple[str, ...] = ()
    stop_wave: int = 1  # lower waves stop first; a wave ends before the next begins
    address: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    runs_once: bool = False  # it is ready when it has ended well
    niceness: int = 0  # where cores are scarce, who answers questions steps back behind who takes trades to alerts


@dataclass(frozen=True)
class Options:
    """What the user asked `up` for, apart from the settings."""

    is_demo: bool = False
    seed: int = 7
    script: str = "demo"
    replay: tuple[Path, ...] = ()
    speed: str | None = None
    trades_per_second: float | None = None
    port_offset: int = 0

    @property
    def has_history(self) -> bool:
        """Return whether the simulated market has a past; a recording has none."""
        return self.is_demo and not self.replay

    @property
    def history(self) -> timedelta:
        """Return how long the simulated market's past is."""
        if self.trades_per_second is None:
            return DEMO_HISTORY
        return min(DEMO_HISTORY, timedelta(seconds=DEMO_HISTORY_TRADES / self.trades_per_second))


@dataclass(frozen=True)
class Plan:
    """Everything that is decided before anything starts."""

    settings: Settings
    options: Options
    services: tuple[Service, ...]
    ports: tuple[Port, ...]
    has_own_broker: bool
    has_receiver: bool

    @property
    def exchange_control_url(self) -> str:
        """Return the address of the simulated exchange's control API."""
        return f"{self.settings.binance_rest_url}/_control"

    @property
    def receiver_url(self) -> str:
        """Return the address of the local receiver."""
        return f"http://127.0.0.1:{RECEIVER_PORT + self.options.port_offset}"

    @property
    def dagster_home(self) -> Path:
        """Return the folder of Dagster's instance."""
        return self.settings.data_dir / "dagster_home"

    @property
    def log_folder(self) -> Path:
        """Return the folder of the services' logs."""
        return self.settings.data_dir / "logs"


def plan_system(settings: Settings, options: Options, code_server_port: int) -> Plan:
    """Return the services and ports of the system that the settings and options describe."""
    has_own_broker = "kafka_bootstrap_servers" not in settings.model_fields_set
    has_channel = settings.discord_webhook_url is not None or settings.discord_bot_token is not None
    has_receiver = options.is_demo and not has_channel
    settings = _local_settings(settings, options, has_own_broker, has_receiver)
    broker = [_broker(options)] if has_own_broker else []
    exchange = [_exchange(settings, options)] if options.is_demo else []
    history = [_history(settings, options.history)] if options.has_history else []
    receiver = [_receiver(settings, options)] if has_receiver else []
    watchers = _WATCHERS if options.is_demo else ()  # a demo's events begin with its feed: all are there to see them
    return Plan(
        settings=settings,
        options=options,
        services=(
            *broker,
            *exchange,
            *receiver,
            *history,
            _feed(settings, after=(*(service.name for service in (*broker, *exchange, *history)), *watchers)),
            *_dagster(settings, code_server_port),
            *_faces(settings),
        ),
        ports=_ports(settings, options, has_own_broker, has_receiver),
        has_own_broker=has_own_broker,
        has_receiver=has_receiver,
    )


def service_environment(plan: Plan) -> dict[str, str]:
    """Return the environment of every service: this process's own, with each setting as it was decided."""
    decided = {name.upper(): _as_text(value) for name, value in plan.settings.model_dump().items() if value is not None}
    return {
        **os.environ,
        **_spared_by_proxies(os.environ),
        **decided,
        "DAGSTER_HOME": str(plan.dagster_home),
        "PYTHONUNBUFFERED": "1",
        "NO_COLOR": "1",  # the output goes to files
    }


def _spared_by_proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the hosts that are asked without a proxy, this machine among them: no proxy reaches a service of ours."""
    listed = ",".join((environment.get("no_proxy", ""), environment.get("NO_PROXY", ""), *_THIS_MACHINE))
    hosts = dict.fromkeys(host for part in listed.split(",") if (host := part.strip()))
    value = "*" if "*" in hosts else ",".join(hosts)  # the star, for all hosts, is understood only by itself
    return {"no_proxy": value, "NO_PROXY": value}  # some programs read the one, some the other


def running_file(plan: Plan) -> str:
    """Return the addresses of the running system as lines for commands beside it; no secret is among them."""
    others = ("symbols", *_TOPICS)
    names = [name for name in type(plan.settings).model_fields if name in others or name.endswith(_ADDRESSES)]
    lines = {name: _as_text(getattr(plan.settings, name)) for name in names}
    if plan.options.is_demo:  # empty: the file beside this one, also where .env names a warehouse
        lines |= {"warehouse_url": "", "warehouse_data_path": ""}
    if plan.has_receiver and plan.settings.discord_webhook_url is not None:  # the receiver's own, which opens nothing
        lines["discord_webhook_url"] = plan.settings.discord_webhook_url.get_secret_value()
    return "".join(f"{name.upper()}={value}\n" for name, value in lines.items())


def _as_text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    return str(value)


def _local_settings(settings: Settings, options: Options, has_own_broker: bool, has_receiver: bool) -> Settings:
    """Return the settings with absolute paths, shifted ports, and the parts that run on this machine."""
    shift = options.port_offset
    own_warehouse = str(settings.data_dir.resolve() / "cryptotrace.duckdb")
    updates: dict[str, object] = {
        "data_dir": settings.data_dir.resolve(),
        "alerts_file": settings.alerts_file.resolve(),
        "warehouse_url": settings.warehouse_url or own_warehouse,
        **{
            name: getattr(settings, name) + shift
            for name in ("dagster_port", "api_port", "dashboard_port", "feed_port")
        },
    }
    for name in ("dagster", "dashboard"):
        if f"{name}_url" not in settings.model_fields_set:
            updates[f"{name}_url"] = f"http://127.0.0.1:{updates[f'{name}_port']}"
    if has_own_broker:
        updates["kafka_bootstrap_servers"] = f"127.0.0.1:{BROKER_PORT + shift}"
    if options.is_demo:
        rest_url = f"http://127.0.0.1:{EXCHANGE_REST_PORT + shift}"
        updates |= {
            # Whatever is set: nothing could tell simulated trades from real ones in one warehouse.
            "warehouse_url": own_warehouse,
            "warehouse_data_path": "",
            "binance_stream_url": f"ws://127.0.0.1:{EXCHANGE_STREAM_PORT + shift}",
            "binance_rest_url": rest_url,
            "binance_dump_url": f"{rest_url}/dumps",
        }
        if not has_own_broker:
            updates |= {name: f"{_DEMO_PREFIX}{getattr(settings, name)}" for name in _TOPICS}
    if has_receiver:
        webhook = f"http://127.0.0.1:{RECEIVER_PORT + shift}/api/webhooks/1/local"
        updates["discord_webhook_url"] = SecretStr(webhook)
        updates["receiver_url"] = f"http://127.0.0.1:{RECEIVER_PORT + shift}"
    return settings.model_copy(update=updates)


def _ports(settings: Settings, options: Options, has_own_broker: bool, has_receiver: bool) -> tuple[Port, ...]:
    shift = options.port_offset
    host = settings.bind_host
    ports = [
        Port(settings.dagster_port, "Dagster's UI", "DAGSTER_PORT", host),
        Port(settings.api_port, "the API", "API_PORT", host),
        Port(settings.dashboard_port, "the dashboard", "DASHBOARD_PORT", host),
        Port(settings.feed_port, "the feed's health page", "FEED_PORT", host),
    ]
    if has_own_broker:
        ports.append(Port(BROKER_PORT + shift, "the broker"))
    if options.is_demo:
        ports.append(Port(EXCHANGE_STREAM_PORT + shift, "the simulated exchange's stream"))
        ports.append(Port(EXCHANGE_REST_PORT + shift, "the simulated exchange's REST interface"))
    if has_receiver:
        ports.append(Port(RECEIVER_PORT + shift, "the local receiver of alerts"))
    return tuple(ports)


def _broker(options: Options) -> Service:
    port = BROKER_PORT + options.port_offset
    return Service(
        name="broker",
        command=(*_CRYPTOTRACE, "broker", "--port", str(port)),
        is_ready=lambda: port_answers(port),
        stop_wave=3,
        address=f"127.0.0.1:{port}",
    )


def _exchange(settings: Settings, options: Options) -> Service:
    arguments = ["--seed", str(options.seed), "--symbols", ",".join(settings.symbols)]
    for path in options.replay:
        arguments += ["--replay", str(path.resolve())]
    if not options.replay:
        arguments += ["--script", options.script, "--script-waits"]
    if options.has_history:
        arguments += ["--history", f"{int(options.history.total_seconds())}s"]
    if options.speed is not None:
        arguments += ["--speed", options.speed]
    if options.trades_per_second is not None:
        arguments += ["--trades-per-second", str(options.trades_per_second)]
    stream_port = str(urlsplit(settings.binance_stream_url).port)
    rest_port = str(urlsplit(settings.binance_rest_url).port)
    return Service(
        name="exchange",
        command=(*_CRYPTOTRACE, "exchange", "--port", stream_port, "--rest-port", rest_port, *arguments),
        is_ready=lambda: url_answers(f"{settings.binance_rest_url}/api/v3/time"),
        stop_wave=2,
        address=settings.binance_rest_url,
    )


def _history(settings: Settings, length: timedelta) -> Service:
    """Bring in what the simulated exchange traded before it started, so that charts and detectors have a past."""
    first, last = (moment.date().isoformat() for moment in (utc_now() - length, utc_now()))
    return Service(
        name="history",
        command=(*_CRYPTOTRACE, "backfill", *settings.symbols, "--from", first, "--to", last),
        is_ready=lambda: True,
        after=("exchange",),
        runs_once=True,
    )


def _receiver(settings: Settings, options: Options) -> Service:
    port = RECEIVER_PORT + options.port_offset
    return Service(
        name="receiver",
        command=(*_CRYPTOTRACE, "receiver", "--port", str(port), "--data-dir", str(settings.data_dir)),
        is_ready=lambda: url_answers(f"http://127.0.0.1:{port}/_control/messages"),
        stop_wave=2,
        address=f"http://127.0.0.1:{port}/_control/messages",
    )


def _feed(settings: Settings, after: tuple[str, ...]) -> Service:
    return Service(
        name="feed",
        command=(*_CRYPTOTRACE, "feed"),
        is_ready=lambda: url_answers(f"http://127.0.0.1:{settings.feed_port}/healthz"),
        after=after,
        address=f"http://127.0.0.1:{settings.feed_port}/healthz",
    )


def _dagster(settings: Settings, code_server_port: int) -> tuple[Service, ...]:
    home = settings.data_dir / "dagster_home"
    workspace = str(home / "workspace.yaml")
    ui_url = f"http://127.0.0.1:{settings.dagster_port}"
    code_server = (sys.executable, "-m", "dagster", "api", "grpc", "--host", "127.0.0.1")
    return (
        Service(
            name="dagster home",
            command=(sys.executable, "-m", "cryptotrace_dagster.supervisor.dagster_home", str(home)),
            is_ready=lambda: True,
            runs_once=True,
        ),
        Service(
            name="code server",
            command=(
                *code_server,
                *("--port", str(code_server_port), "--module-name", "cryptotrace_dagster.definitions"),
                *("--location-name", CODE_LOCATION, "--use-python-environment-entry-point"),
            ),
            is_ready=lambda: port_answers(code_server_port),
            stop_wave=2,
            # Who calls it says which home is meant. By itself it would open one too, at the same time as who makes it.
            environment={"DAGSTER_HOME": ""},
        ),
        Service(
            name="dagster ui",
            command=(
                *(sys.executable, "-m", "dagster_webserver", "--workspace", workspace),
                *("--host", settings.bind_host, "--port", str(settings.dagster_port)),
            ),
            is_ready=lambda: url_answers(f"{ui_url}/server_info"),
            after=("code server", "dagster home"),
            stop_wave=2,
            address=settings.dagster_url,
        ),
        Service(
            name="dagster daemon",
            # Its looks at sensors and runs, thirty lines a minute, are told in the UI as ticks.
            command=(
                *(sys.executable, "-m", "dagster._daemon", "run", "--workspace", workspace),
                *("--log-level", "warning"),
            ),
            is_ready=lambda: dagster_daemon_is_healthy(ui_url),
            after=("code server", "dagster home"),
        ),
    )


def _faces(settings: Settings) -> tuple[Service, ...]:
    return (
        Service(
            name="api",
            command=(*_CRYPTOTRACE, "api"),
            niceness=10,
            is_ready=lambda: url_answers(f"http://127.0.0.1:{settings.api_port}/openapi.json"),
            address=f"http://127.0.0.1:{settings.api_port}/docs",
        ),
        Service(
            name="dashboard",
            command=(*_CRYPTOTRACE, "dashboard"),
            niceness=10,
            is_ready=lambda: url_answers(f"http://127.0.0.1:{settings.dashboard_port}/_stcore/health"),
            address=settings.dashboard_url,
        ),
    )
