"""The API's Prometheus metrics: its own requests, and the state of the data it serves.

Owns one registry per application, so that tests and several applications in a process do not meet.
"""

import time
from collections.abc import Awaitable, Callable

from fastapi import Request, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from cryptotrace_dagster.domain.windows import EPOCH
from cryptotrace_dagster.queries import DataHealth


class ApiMetrics:
    """Counts requests and mirrors the data's health."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "cryptotrace_api_requests", "Requests by route and status.", ("route", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "cryptotrace_api_request_seconds", "Time to answer, by route.", ("route",), registry=self.registry
        )
        self._gauges = {
            name: Gauge(f"cryptotrace_{name}", text, registry=self.registry)
            for name, text in {
                "last_trade_timestamp_seconds": "Time of the newest stored trade.",
                "last_commit_timestamp_seconds": "When trades were last committed.",
                "open_gaps": "Holes in the trade ids that are still open.",
                "missing_trades": "Trades inside open holes.",
                "dead_letters": "Messages that could not be read.",
                "undelivered_alerts": "Alerts without a final delivery.",
            }.items()
        }
        self._lag = Gauge(
            "cryptotrace_stage_lag_seconds",
            "How far a stage is behind the newest trade.",
            ("stage",),
            registry=self.registry,
        )

    async def observe(self, request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        """Time one request; the route's template is the label, never the path as it came."""
        started = time.perf_counter()
        response = await call_next(request)
        route = getattr(request.scope.get("route"), "path", "unmatched")
        self._requests.labels(route, str(response.status_code)).inc()
        self._seconds.labels(route).observe(time.perf_counter() - started)
        return response

    def exposition(self, health: DataHealth | None) -> bytes:
        """Return all metrics as text, with the data's health as it is now."""
        if health is not None:
            for name, instant in (
                ("last_trade_timestamp_seconds", health.last_trade_time),
                ("last_commit_timestamp_seconds", health.last_commit_at),
            ):
                self._gauges[name].set((instant - EPOCH).total_seconds() if instant else 0)
            for name in ("open_gaps", "missing_trades", "dead_letters", "undelivered_alerts"):
                self._gauges[name].set(getattr(health, name))
            for stage, lag in health.stage_lags().items():
                self._lag.labels(stage).set(lag.total_seconds())
        return generate_latest(self.registry)
