"""The containers' health checks: one question to a service on this container's own loopback, answered by exit code.

Called every few seconds in every container, so that it imports next to nothing: a check through Dagster's own command
costs a second of CPU each time.
"""

import sys
import urllib.error
import urllib.request
from urllib.parse import urlsplit

_ANSWER_SECONDS = 5
_USAGE_ERROR = 2


def is_healthy(address: str) -> bool:
    """Return whether the service at `http://...` answers with success, or at `grpc://...` says that it serves."""
    if urlsplit(address).scheme == "grpc":
        return _grpc_serves(urlsplit(address).netloc)
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


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(_USAGE_ERROR)
    sys.exit(0 if is_healthy(sys.argv[1]) else 1)
