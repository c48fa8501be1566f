"""The feed's state as others see it: Prometheus metrics, `/healthz`, and the judgement whether data flows.

Everything is counted where it happens, as plain numbers, and only gathered here when somebody asks; no trade pays for
a metric. Stays out: what is counted.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

PREFIX = "cryptotrace_feed_"
_LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@dataclass(frozen=True)
class SymbolFigures:
    """One symbol's counts since the start."""

    symbol: str
    received: int
    repeated: int
    missed: int
    filled: int
    open_gaps: int
    open_gap_trades: int
    last_trade_id: int
    seconds_since_trade: float


@dataclass(frozen=True)
class Figures:
    """All counts since the start."""

    symbols: tuple[SymbolFigures, ...]
    published: int
    lag: int
    dead_letters: dict[str, int]
    reconnects: dict[str, int]
    pauses: int
    repaired: int
    failed_requests: int
    used_weight: int
    clock_skew_seconds: float
    connections_open: int
    connections: int
    problems: tuple[str, ...]


class FeedCollector(Collector):
    """Turns the figures into metrics at the moment of a scrape."""

    def __init__(self, source: "FiguresSource") -> None:
        self._source = source

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of this moment."""
        figures = self._source.figures()
        yield from _by_symbol(figures.symbols)
        yield _labelled("dead_letters", "Frames that were no trade, set aside.", "reason", figures.dead_letters)
        yield _labelled(
            "reconnects", "Sockets opened anew, by what ended the one before.", "reason", figures.reconnects
        )
        yield _counter("published", "Trades that the broker has acknowledged.", figures.published)
        yield _counter("pauses", "Times that reading stopped because the broker took no more.", figures.pauses)
        yield _counter("repaired", "Trades found missing in the warehouse and fetched again.", figures.repaired)
        yield _counter("failed_requests", "REST requests that failed.", figures.failed_requests)
        yield _gauge("lag", "Trades handed to the producer and not acknowledged yet.", figures.lag)
        yield _gauge("used_weight", "REST weight used in this minute, of 6000.", figures.used_weight)
        yield _gauge("clock_skew_seconds", "The exchange's clock less this machine's.", figures.clock_skew_seconds)
        yield _gauge("connections_open", "Connections with an open socket.", figures.connections_open)
        yield _gauge("connections", "Connections that there should be.", figures.connections)
        yield _gauge("healthy", "1 when data flows.", 0 if figures.problems else 1)


class FiguresSource(Protocol):
    """Something that can be asked for its figures."""

    def figures(self) -> Figures:
        """Return the counts of this moment."""
        ...


def latency_histogram(registry: CollectorRegistry) -> Histogram:
    """Return the histogram of the time from trade to receipt, corrected by the clocks' difference."""
    return Histogram(
        PREFIX + "receive_latency_seconds",
        "From the trade at the exchange to its receipt here, sampled, corrected by the clock skew.",
        buckets=_LATENCY_BUCKETS,
        registry=registry,
    )


def web_app(source: FiguresSource, registry: CollectorRegistry) -> Starlette:
    """Return the app that answers `/metrics` and `/healthz` (503 when data does not flow)."""

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    async def health(_: Request) -> Response:
        figures = source.figures()
        body = {
            "status": "failing" if figures.problems else "ok",
            "problems": list(figures.problems),
            "received": sum(each.received for each in figures.symbols),
            "published": figures.published,
            "lag": figures.lag,
            "open_gaps": sum(each.open_gaps for each in figures.symbols),
            "open_gap_trades": sum(each.open_gap_trades for each in figures.symbols),
        }
        return JSONResponse(body, status_code=503 if figures.problems else 200)

    return Starlette(routes=[Route("/metrics", metrics), Route("/healthz", health)])


def _by_symbol(symbols: Iterable[SymbolFigures]) -> Iterator[Metric]:
    rows = tuple(symbols)
    for name, description in (
        ("received", "Trades received from the stream, repeats not counted."),
        ("repeated", "Trades that came again and were dropped."),
        ("missed", "Trade ids that the stream jumped over."),
        ("filled", "Missing trades fetched from REST and published."),
    ):
        family = CounterMetricFamily(PREFIX + name, description, labels=["symbol"])
        for row in rows:
            family.add_metric([row.symbol], getattr(row, name))
        yield family
    for name, description in (
        ("open_gaps", "Gaps in the trade ids that are not filled yet."),
        ("open_gap_trades", "Trades in these gaps."),
        ("last_trade_id", "Newest trade id."),
        ("seconds_since_trade", "Time since the newest trade was received."),
    ):
        gauge = GaugeMetricFamily(PREFIX + name, description, labels=["symbol"])
        for row in rows:
            gauge.add_metric([row.symbol], getattr(row, name))
        yield gauge


def _labelled(name: str, description: str, label: str, values: dict[str, int]) -> Metric:
    family = CounterMetricFamily(PREFIX + name, description, labels=[label])
    for key, value in sorted(values.items()):
        family.add_metric([key], value)
    return family


def _counter(name: str, description: str, value: float) -> Metric:
    return CounterMetricFamily(PREFIX + name, description, value=value)


def _gauge(name: str, description: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, description, value=value)
