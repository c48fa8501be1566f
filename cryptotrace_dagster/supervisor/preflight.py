"""Whether this machine can run the planned system: answered before anything starts, each fault as one sentence.

Owns the checks of ports, folders, rules, broker and exchange. Stays out: repairing any of them.
"""

import contextlib
import fcntl
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from cryptotrace_dagster.errors import UserError
from cryptotrace_dagster.settings import Settings, require_token_beyond_loopback
from cryptotrace_dagster.supervisor.services import Plan, Port

_EXCHANGE_TIMEOUT_SECONDS = 10
_BROKER_TIMEOUT_SECONDS = 10


class PreflightError(UserError):
    """The system cannot start as things are; the message says what to do."""


def check_machine(plan: Plan) -> None:
    """Check everything that the planned system needs from outside.

    Raises:
        OpenWithoutTokenError: others could reach the API without a password.
        PreflightError: something is missing; the message says what to do.
    """
    require_token_beyond_loopback(plan.settings)
    for port in plan.ports:
        _check_port(port)
    if not plan.has_own_broker:
        _check_broker(plan.settings.kafka_bootstrap_servers)
    if not plan.options.is_demo:
        _check_exchange(plan.settings.binance_rest_url)


@contextlib.contextmanager
def data_folder_held(settings: Settings, *, is_demo: bool) -> Iterator[None]:
    """Make the data folder and hold it for this system alone while the block lasts.

    Raises:
        PreflightError: it cannot be written, another system uses it, or it holds the other kind of trades.
    """
    folder = settings.data_dir
    try:
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        lock = (folder / "up.lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise PreflightError(
            f"The data folder {folder} cannot be written ({error.strerror}): "
            "change its owner, or choose another with --data-dir or DATA_DIR."
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PreflightError(
                f"Another `cryptotrace up` already runs on {folder}: stop it, or choose another --data-dir."
            ) from None
        _check_same_kind(folder / "source.json", is_demo=is_demo)
        yield


def _check_same_kind(path: Path, *, is_demo: bool) -> None:
    """Never mix simulated trades with real ones in one warehouse: nothing could tell them apart later."""
    kind = "simulated" if is_demo else "real"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["trades"]
    except FileNotFoundError:
        fresh = path.with_suffix(".tmp")  # a start that is cut off leaves the whole file or none
        fresh.write_text(json.dumps({"trades": kind}), encoding="utf-8")
        fresh.replace(path)
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PreflightError(
            f"{path} should say whether the data folder holds real or simulated trades and cannot be read "
            f'({type(error).__name__}): write {{"trades": "real"}} or {{"trades": "simulated"}} into it, '
            "or choose another --data-dir."
        ) from None
    if found != kind:
        raise PreflightError(
            f"The data folder {path.parent} holds {found} trades and would get {kind} ones: "
            "choose another --data-dir, or delete the folder if you no longer need it."
        )


def _check_port(port: Port) -> None:
    try:
        family = socket.getaddrinfo(port.host, port.number, type=socket.SOCK_STREAM)[0][0]
    except socket.gaierror:
        raise PreflightError(f"BIND_HOST {port.host} is not an address of this machine: correct it.") from None
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a closed server's leftovers do not count
        try:
            probe.bind((port.host, port.number))
        except OSError as error:
            setting = f"set {port.setting} to another" if port.setting else "use another"
            raise PreflightError(
                f"Port {port.number} for {port.purpose} is not free ({_holder(port.number) or error.strerror}): "
                f"stop what uses it, {setting}, or move all ports with `--port-offset 100`."
            ) from None


def _holder(number: int) -> str | None:
    """Return which process listens on the port, where the system tells us."""
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.pid and tuple(connection.laddr)[1:2] == (number,):
                return f"{psutil.Process(connection.pid).name()}, process {connection.pid}"
    return None


def _check_broker(bootstrap_servers: str) -> None:
    client = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})
    try:
        client.list_topics(timeout=_BROKER_TIMEOUT_SECONDS)
    except KafkaException:
        raise PreflightError(
            f"Kafka does not answer at KAFKA_BOOTSTRAP_SERVERS {bootstrap_servers}: start it, correct the address, "
            "or leave the setting away to use the broker that comes with `cryptotrace up`."
        ) from None


def _check_exchange(rest_url: str) -> None:
    url = f"{rest_url}/api/v3/ping"
    try:
        answer = httpx.get(url, timeout=_EXCHANGE_TIMEOUT_SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        found = str(error) or type(error).__name__
    else:
        if answer.is_success:
            return
        found = f"status {answer.status_code}"
    raise PreflightError(
        f"The exchange does not answer at {url} ({found}): check this machine's network and BINANCE_REST_URL, "
        "or try `cryptotrace up --demo`, which needs no network."
    )


def free_port() -> int:
    """Return a port on loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number
