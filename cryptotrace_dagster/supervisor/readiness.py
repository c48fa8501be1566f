"""Whether a service on this machine answers yet. Quick, quiet questions that can be asked five times a second."""

import socket

import httpx

_TIMEOUT_SECONDS = 1.0
_DAEMON_QUERY = "{ instance { daemonHealth { allDaemonStatuses { daemonType required healthy } } } }"


def port_answers(port: int, host: str = "127.0.0.1") -> bool:
    """Return whether something accepts connections on the port."""
    try:
        with socket.create_connection((host, port), timeout=_TIMEOUT_SECONDS):
            return True
    except OSError:
        return False


def url_answers(url: str) -> bool:
    """Return whether the address answers with success."""
    try:
        return httpx.get(url, timeout=_TIMEOUT_SECONDS, trust_env=False).is_success
    except httpx.TransportError:
        return False


def dagster_daemon_is_healthy(ui_url: str) -> bool:
    """Return whether Dagster itself says that every daemon it needs is alive."""
    try:
        answer = httpx.post(
            f"{ui_url}/graphql", json={"query": _DAEMON_QUERY}, timeout=_TIMEOUT_SECONDS, trust_env=False
        )
    except httpx.TransportError:
        return False
    if not answer.is_success:
        return False
    statuses = answer.json()["data"]["instance"]["daemonHealth"]["allDaemonStatuses"]
    return all(status["healthy"] for status in statuses if status["required"])
