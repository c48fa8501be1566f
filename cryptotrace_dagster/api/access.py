"""Who may ask, and how often: the bearer token and the rate limit.

Stays out: what is asked, and whether the API may listen without a token at all (settings.py).
"""

import hmac
import threading
import time
from collections import OrderedDict
from typing import Annotated

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import SecretStr

from cryptotrace_dagster.api.problems import Problem

REQUESTS_PER_SECOND = 50.0
BURST = 200.0
_REMEMBERED_CLIENTS = 10_000

_bearer = HTTPBearer(auto_error=False, description="API_TOKEN; needed as soon as the API listens beyond this machine.")


class TokenGuard:
    """A dependency that lets a request pass when it brings the token."""

    def __init__(self, token: SecretStr) -> None:
        self._token = token.get_secret_value().encode()

    def __call__(self, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]) -> None:
        """Let the request pass, or raise the 401."""
        given = credentials.credentials.encode() if credentials else b""
        if not hmac.compare_digest(given, self._token):
            raise Problem(
                401,
                "unauthorized",
                "Unauthorized",
                "Send `Authorization: Bearer` with the API_TOKEN of this server.",
                {"WWW-Authenticate": "Bearer"},
            )


class RateLimit:
    """A dependency that holds each client address to a steady rate with a burst, by a token bucket."""

    def __init__(self, requests_per_second: float = REQUESTS_PER_SECOND, burst: float = BURST) -> None:
        self._rate = requests_per_second
        self._burst = burst
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> None:
        """Let the request pass, or raise the 429 with the time to wait."""
        client = request.client.host if request.client else ""
        wait = self.take(client, time.monotonic())
        if wait > 0:
            raise Problem(
                429,
                "too-many-requests",
                "Too many requests",
                f"At most {self._rate:g} requests a second and client; wait {wait:.1f} s.",
                {"Retry-After": str(max(1, round(wait)))},
            )

    def take(self, client: str, now: float) -> float:
        """Take one request from a client's bucket and return 0, or return how many seconds to wait."""
        with self._lock:
            left, since = self._buckets.pop(client, (self._burst, now))
            left = min(self._burst, left + (now - since) * self._rate)
            allowed = left >= 1
            self._buckets[client] = (left - 1 if allowed else left, now)
            while len(self._buckets) > _REMEMBERED_CLIENTS:
                self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - left) / self._rate
