"""Whether a service on this machine answers yet. Quick, quiet questions that can be asked five times a second."""

import socket

import httpx

from cryptotrace_dagster.dagster_client import DagsterClient, DagsterRequestError

_TIMEOUT_SECONDS = 1.0


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
        return not DagsterClient(ui_url, _TIMEOUT_SECONDS).daemons_without_heartbeat()
    except (httpx.HTTPError, DagsterRequestError):
        return False
