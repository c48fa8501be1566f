"""The API as one application: which question has which address.

Owns the routes and assembles parameters, queries and responses. `create_app` takes what it needs, so a test gives it
a small warehouse. Stays out: SQL (queries.py), spelling of values (formats.py), errors (problems.py).
"""

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from typing import Annotated, Any, Literal, TypeVar

import duckdb
from fastapi import Depends, FastAPI, Header, Query, Request, Response
from fastapi.responses import PlainTextResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST

from cryptotrace_dagster.api import models
from cryptotrace_dagster.api.access import RateLimit, TokenGuard
from cryptotrace_dagster.api.events import EventKind, EventSource, Listeners, event_examples, resume_point
from cryptotrace_dagster.api.metrics import ApiMetrics
from cryptotrace_dagster.api.parameters import (
    Interval,
    OptionalSymbol,
    PageRequest,
    Pages,
    Symbol,
    bar_interval,
    stored_symbol,
)
from cryptotrace_dagster.api.problems import (
    PROBLEM_TYPE,
    install_problem_handlers,
    invalid_parameter,
)
from cryptotrace_dagster.api.responses import page_response, rows_response
from cryptotrace_dagster.domain.bars import BAR_INTERVALS
from cryptotrace_dagster.domain.windows import utc_now
from cryptotrace_dagster.queries import (
    DataHealth,
    Page,
    Reader,
    data_health,
    market_now,
    order_columns,
    read_page,
    watch_list,
)
from cryptotrace_dagster.settings import Settings
from cryptotrace_dagster.storage import StorageError, Warehouse, WarehouseMissingError
from cryptotrace_dagster.tables import (
    ALERT_DELIVERIES,
    ALERTS,
    ANOMALY_SCORES,
    FEATURES,
    OHLC_BARS,
    RAW_TICKS,
    TRADE_ID_GAPS,
    Table,
)

Severity = Literal["info", "warning", "critical"]
_Route = TypeVar("_Route", bound=Callable[..., Any])
_DAY = timedelta(days=1)
_LONG = timedelta(days=400)
_STALE_AFTER = timedelta(minutes=2)
_DESCRIPTION = """
What CryptoTrace knows about the market, read-only: trades, bars, anomaly scores, alerts and their deliveries, and how
complete all of it is.

* **Times** are ISO-8601 or seconds, milliseconds or microseconds since 1970; ranges are half-open, `[from, to)`.
* **Pages**: follow `next_cursor` (JSON) or the `Link` header (every format) until it is gone.
* **Formats** by the `Accept` header: JSON, CSV, Arrow stream, Parquet. Decimals are exact; in JSON and CSV they are strings.
* **Events**: `/events` tells of new alerts and bars as they come.
* **Errors** are problem details (RFC 9457) that say what to do.
"""


def create_app(settings: Settings, warehouse: Warehouse, *, rate_limit: RateLimit | None = None) -> FastAPI:
    """Return the API over a warehouse; nothing is opened before the first request."""
    app = FastAPIOffline(
        title="CryptoTrace",
        version="1",
        description=_DESCRIPTION,
        openapi_tags=[
            {"name": "market", "description": "Trades, and what follows from them."},
            {"name": "alerts", "description": "What was worth telling, and whether it arrived."},
            {"name": "data", "description": "How fresh and how whole the data is."},
        ],
    )
    reader = Reader(warehouse)
    metrics = ApiMetrics()
    app.state.reader = reader
    install_problem_handlers(app)
    app.middleware("http")(metrics.observe)
    guards = [Depends(rate_limit or RateLimit())]
    if settings.api_token is not None:
        guards.append(Depends(TokenGuard(settings.api_token)))
    _add_market_routes(app, reader, guards)
    _add_alert_routes(app, reader, guards)
    _add_event_route(app, reader, guards)
    _add_data_routes(app, reader, guards, metrics)
    return app


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    content = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}}
    names = {
        401: "The token is missing or wrong.",
        404: "Nothing is stored of this symbol, or no such alert.",
        406: "None of our formats is accepted.",
        422: "A parameter cannot be accepted; `errors` and `detail` say why.",
        429: "Too many requests; `Retry-After` says when to come back.",
        503: "The warehouse is not there yet or is busy; ask again.",
    }
    return {status: {"description": names[status], "content": content} for status in statuses}


def _pages(model: Any, *statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the documented responses of a collection: the page in every format, and what can go wrong."""
    other_formats: dict[str, Any] = {
        "text/csv": {"schema": {"type": "string"}},
        "application/vnd.apache.arrow.stream": {"schema": {"type": "string", "format": "binary"}},
        "application/vnd.apache.parquet": {"schema": {"type": "string", "format": "binary"}},
    }
    page: dict[int | str, dict[str, Any]] = {
        200: {"model": model, "description": "A page, in the format that `Accept` asks for.", "content": other_formats},
        304: {"description": "Nothing changed since the `ETag` in `If-None-Match`."},
    }
    return page | _problems(401, 406, 422, 429, 503, *statuses)


def _collection(
    app: FastAPI, guards: Sequence[Any], path: str, tag: str, summary: str, model: Any, *statuses: int
) -> Callable[[_Route], _Route]:
    """Return the decorator of a route that answers with pages of rows, in every format."""
    responses = _pages(models.page_of(model), *statuses)
    return app.get(path, tags=[tag], summary=summary, dependencies=guards, responses=responses)


def _read(reader: Reader, table: Table, page: PageRequest, **only: object) -> Page:
    try:
        after = models.decode_cursor(table, order_columns(table), page.cursor) if page.cursor else None
    except ValueError as error:
        raise invalid_parameter("cursor", str(error)) from error
    return read_page(
        reader, table, page.window, limit=page.limit, only=only, after=after, newest_first=page.newest_first
    )


def _add_market_routes(app: FastAPI, reader: Reader, guards: Sequence[Any]) -> None:
    @_collection(app, guards, "/symbols", "market", "The watch list: one row per symbol", models.WatchedSymbol)
    def symbols(request: Request) -> Response:
        """Last price, change and volume of 24 hours, anomaly state, and whether trades are missing."""
        return rows_response(request, watch_list(reader))

    @_collection(app, guards, "/ticks", "market", "Every trade of a symbol", models.Tick, 404)
    def ticks(
        request: Request,
        *,
        symbol: Symbol,
        pages: Pages,
    ) -> Response:
        """Aggregate trades with their consecutive ids; by default the last 5 minutes, at most 24 hours at a time."""
        page = pages.within(market_now(reader), default_range=timedelta(minutes=5), max_range=_DAY)
        return page_response(request, _read(reader, RAW_TICKS, page, symbol=stored_symbol(reader, symbol)))

    @_collection(app, guards, "/bars", "market", "Open, high, low, close, volume", models.Bar, 404)
    def bars(
        request: Request,
        *,
        symbol: Symbol,
        interval: Interval = "1m",
        pages: Pages,
    ) -> Response:
        """Bars of one symbol and interval; by default the last 500 intervals. An interval without trades has no bar."""
        length = BAR_INTERVALS[bar_interval(interval)]
        page = pages.within(
            market_now(reader), default_range=min(500 * length, _LONG), max_range=min(100_000 * length, 10 * _LONG)
        )
        name = stored_symbol(reader, symbol)
        return page_response(request, _read(reader, OHLC_BARS, page, symbol=name, bar_interval=interval))

    @_collection(app, guards, "/anomaly-scores", "market", "How unusual each closed bar is", models.AnomalyScore, 404)
    def anomaly_scores(
        request: Request,
        *,
        symbol: OptionalSymbol = None,
        detector: Annotated[str | None, Query(max_length=80, description="Only this detector.")] = None,
        pages: Pages,
    ) -> Response:
        """Scores by detector, with their evidence; by default the last hour, at most 7 days at a time."""
        page = pages.within(market_now(reader), default_range=timedelta(hours=1), max_range=7 * _DAY)
        name = stored_symbol(reader, symbol) if symbol is not None else None
        return page_response(request, _read(reader, ANOMALY_SCORES, page, symbol=name, detector=detector))

    @_collection(app, guards, "/features", "market", "The numbers that detectors look at", models.FeatureRow, 404)
    def features(
        request: Request,
        *,
        symbol: Symbol,
        pages: Pages,
    ) -> Response:
        """Features per bar; null while a feature warms up. By default the last hour, at most 7 days at a time."""
        page = pages.within(market_now(reader), default_range=timedelta(hours=1), max_range=7 * _DAY)
        return page_response(request, _read(reader, FEATURES, page, symbol=stored_symbol(reader, symbol)))


def _add_alert_routes(app: FastAPI, reader: Reader, guards: Sequence[Any]) -> None:
    @_collection(app, guards, "/alerts", "alerts", "What was worth telling", models.Alert, 404)
    def alerts(
        request: Request,
        *,
        symbol: OptionalSymbol = None,
        rule: Annotated[str | None, Query(max_length=80, description="Only this rule.")] = None,
        severity: Annotated[Severity | None, Query(description="Only this severity.")] = None,
        pages: Pages,
    ) -> Response:
        """Alerts with their evidence, newest first; by default the last 7 days."""
        page = pages.within(market_now(reader), newest_first=True, default_range=7 * _DAY, max_range=10 * _LONG)
        name = stored_symbol(reader, symbol) if symbol is not None else None
        return page_response(request, _read(reader, ALERTS, page, symbol=name, rule=rule, severity=severity))

    @_collection(app, guards, "/deliveries", "alerts", "Every attempt to send an alert", models.AlertDelivery)
    def deliveries(
        request: Request,
        *,
        alert_id: Annotated[str | None, Query(max_length=80, description="Only this alert.")] = None,
        pages: Pages,
    ) -> Response:
        """Attempts with their outcome, newest first; by default the last 7 days."""
        page = pages.within(utc_now(), newest_first=True, default_range=7 * _DAY, max_range=10 * _LONG)
        return page_response(request, _read(reader, ALERT_DELIVERIES, page, alert_id=alert_id))


def _add_event_route(app: FastAPI, reader: Reader, guards: Sequence[Any]) -> None:
    listeners = Listeners()

    def source(
        *,
        symbol: OptionalSymbol = None,
        kind: Annotated[EventKind | None, Query(description="Only alerts, or only bars.")] = None,
        interval: Interval = "1m",
        last_event_id: Annotated[str | None, Header(max_length=60, description="Sent by browsers to resume.")] = None,
    ) -> EventSource:
        listeners.check()
        name = stored_symbol(reader, symbol) if symbol is not None else None
        kinds: tuple[EventKind, ...] = (kind,) if kind else ("alert", "bar")
        return EventSource(reader, kinds, name, bar_interval(interval), resume_point(last_event_id, utc_now()))

    @app.get(
        "/events",
        tags=["alerts"],
        summary="New alerts and bars as they come (server-sent events)",
        dependencies=guards,
        response_class=EventSourceResponse,
        responses={
            **{200: {"description": "A stream without end.", "content": event_examples()}},
            **_problems(401, 404, 422, 429, 503),
        },
    )
    async def events(source: Annotated[EventSource, Depends(source)]) -> AsyncIterator[ServerSentEvent]:
        """Event `alert` once per alert; event `bar` whenever the newest bar of a symbol has grown or a new one began."""
        async for event in source.follow(listeners):
            yield event


def _add_data_routes(app: FastAPI, reader: Reader, guards: Sequence[Any], metrics: ApiMetrics) -> None:
    @_collection(app, guards, "/gaps", "data", "Holes in the trade ids, open and closed", models.TradeIdGap, 404)
    def gaps(
        request: Request,
        *,
        symbol: OptionalSymbol = None,
        pages: Pages,
    ) -> Response:
        """Every hole that was ever seen and when it was closed; by default of the last 7 days."""
        page = pages.within(market_now(reader), newest_first=True, default_range=7 * _DAY, max_range=10 * _LONG)
        name = stored_symbol(reader, symbol) if symbol is not None else None
        return page_response(request, _read(reader, TRADE_ID_GAPS, page, symbol=name))

    @app.get("/healthz", tags=["data"], summary="Is all well?", responses=_problems(503))
    def healthz() -> models.Health:
        """Answers without a token. 200 while the API can read (`status` tells how it is), 503 when it cannot."""
        try:
            return _health(data_health(reader))
        except WarehouseMissingError:
            return models.Health.waiting("There is no warehouse yet: ingestion has not started.")

    @app.get(
        "/metrics",
        tags=["data"],
        summary="The same for Prometheus",
        dependencies=guards,
        response_class=PlainTextResponse,
        responses=_problems(401, 429),
    )
    def prometheus_metrics() -> PlainTextResponse:
        """Requests of the API, and freshness and completeness of the data, in Prometheus' text format."""
        try:
            health = data_health(reader)
        except (StorageError, duckdb.CatalogException):
            health = None  # the API's own numbers matter most when the warehouse cannot be read
        return PlainTextResponse(metrics.exposition(health), media_type=CONTENT_TYPE_LATEST)


def _health(health: DataHealth) -> models.Health:
    now = utc_now()
    problems = []
    if health.last_received_at is None:
        return models.Health.waiting("No trade is stored yet.")
    if now - health.last_received_at > _STALE_AFTER:
        problems.append(f"No trade has arrived since {health.last_received_at:%Y-%m-%d %H:%M:%S} UTC.")
    if health.missing_trades:
        problems.append(f"{health.missing_trades} trades are missing in {health.open_gaps} open gaps.")
    if health.overdue_alerts:
        problems.append(f"{health.overdue_alerts} alerts are older than a minute and not delivered.")
    return models.Health(
        status="attention" if problems else "ok",
        problems=problems,
        last_trade_time=models.as_utc(health.last_trade_time),
        last_received_at=models.as_utc(health.last_received_at),
        last_commit_at=models.as_utc(health.last_commit_at),
        stage_lag_seconds={stage: lag.total_seconds() for stage, lag in health.stage_lags().items()},
        open_gaps=health.open_gaps,
        missing_trades=health.missing_trades,
        dead_letters=health.dead_letters,
        undelivered_alerts=health.undelivered_alerts,
    )
