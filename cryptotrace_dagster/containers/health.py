"""The containers' health checks: one question to the service of this container, answered by exit code.

Called every few seconds in every container, so that it imports next to nothing: a check through Dagster's own commands
costs two seconds of CPU each time, which a busy machine does not have.
"""

import sys
import urllib.error
import urllib.request
from urllib.parse import urlsplit

_ANSWER_SECONDS = 5
_HEARTBEAT_SECONDS = 300  # each loop writes one every 30 s, but not while it is at work
_USAGE_ERROR = 2


def is_healthy(address: str) -> bool:
    """Return whether the service is well: what that means depends on the address.

    Args:
        address: `http://...` has to answer with success, a code server at `grpc://...` has to say that it serves, and
            at `postgresql://...`, Dagster's storage, every one of the daemon's loops must have been heard of lately.
    """
    scheme = urlsplit(address).scheme
    if scheme == "grpc":
        return _grpc_serves(urlsplit(address).netloc)
    if scheme == "postgresql":
        return _daemon_is_alive(address)
    try:
        with urllib.request.urlopen(address, timeout=_ANSWER_SECONDS) as answer:  # noqa: S310 - an address of ours
            return bool(answer.status < 400)
    except (OSError, urllib.error.URLError):
        return False


def _grpc_serves(target: str) -> bool:
    import grpc
    from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
    from grpc_health.v1.health_pb2_grpc import HealthStub

    with grpc.insecure_channel(target) as channel:
        try:
            answer = HealthStub(channel).Check(HealthCheckRequest(service="DagsterApi"), timeout=_ANSWER_SECONDS)
        except grpc.RpcError:
            return False
    return bool(answer.status == HealthCheckResponse.SERVING)


def _daemon_is_alive(storage: str) -> bool:
    import psycopg2

    try:
        connection = psycopg2.connect(storage, connect_timeout=_ANSWER_SECONDS)
    except psycopg2.OperationalError:
        return False
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT extract(epoch FROM now() AT TIME ZONE 'utc' - min(timestamp)) FROM daemon_heartbeats"
            )
            (oldest_seconds,) = cursor.fetchone() or (None,)
    except psycopg2.Error:
        return False
    finally:
        connection.close()
    return oldest_seconds is not None and oldest_seconds < _HEARTBEAT_SECONDS


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(_USAGE_ERROR)
    sys.exit(0 if is_healthy(sys.argv[1]) else 1)
