"""Server-sent events: each alert once, bars as they grow, and a place for so many listeners."""

import asyncio
import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import polars as pl
import pytest
import uvicorn

from cryptotrace_dagster.api.app import create_app
from cryptotrace_dagster.api.events import EventSource, Listeners, resume_point
from cryptotrace_dagster.api.problems import Problem
from cryptotrace_dagster.domain.windows import utc_now
from cryptotrace_dagster.queries import Reader
from cryptotrace_dagster.settings import Settings
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.tables import ALERTS, OHLC_BARS
from tests.api.conftest import UNLIMITED
from tests.market import MARKET_END, alert, fill


@pytest.fixture
def own_market(tmp_path: Path) -> Warehouse:
    store = Warehouse(str(tmp_path / "own.duckdb"))
    store.create()
    fill(store, minutes=10)
    return store


def add_alert(store: Warehouse, alert_id: str, **values: object) -> None:
    row = alert(alert_id, MARKET_END, raised_at=utc_now(), **values)
    with store.transaction() as transaction:
        transaction.append(ALERTS, pl.DataFrame([row], schema=ALERTS.polars_schema))


def source(store: Warehouse, **values: object) -> EventSource:
    defaults = {"kinds": ("alert", "bar"), "symbol": None, "interval": "1m", "since": utc_now() - timedelta(seconds=1)}
    return EventSource(Reader(store, fresh_for=0.0), **(defaults | values))  # type: ignore[arg-type]


def test_an_alert_is_told_once(own_market: Warehouse) -> None:
    listener = source(own_market, kinds=("alert",))
    assert listener.news() == []
    add_alert(own_market, "new")
    assert [event.data["alert_id"] for event in listener.news()] == ["new"]
    assert listener.news() == []


def test_an_alert_that_was_committed_late_is_told_all_the_same(own_market: Warehouse) -> None:
    """Two stages may commit out of order; the id decides what is new, not the time."""
    listener = source(own_market, kinds=("alert",), since=utc_now() - timedelta(hours=1))
    add_alert(own_market, "first")
    listener.news()
    row = alert("late", MARKET_END, raised_at=utc_now() - timedelta(seconds=30))
    with own_market.transaction() as transaction:
        transaction.append(ALERTS, pl.DataFrame([row], schema=ALERTS.polars_schema))
    assert [event.data["alert_id"] for event in listener.news()] == ["late"]


def test_more_alerts_at_once_than_one_look_takes_are_all_told(own_market: Warehouse) -> None:
    rows = [alert(f"{number:04}", MARKET_END, raised_at=utc_now()) for number in range(2_500)]
    listener = source(own_market, kinds=("alert",))
    with own_market.transaction() as transaction:
        transaction.append(ALERTS, pl.DataFrame(rows, schema=ALERTS.polars_schema))
    told = [event.data["alert_id"] for _ in range(4) for event in listener.news()]
    assert sorted(told) == [row["alert_id"] for row in rows]


def test_only_the_wanted_symbol_is_told(own_market: Warehouse) -> None:
    listener = source(own_market, symbol="BTCUSDT")
    assert {event.data["symbol"] for event in listener.news()} == {"BTCUSDT"}
    add_alert(own_market, "other", symbol="SOLUSDT")
    assert listener.news() == []


def test_a_bar_is_told_again_when_it_has_grown(own_market: Warehouse) -> None:
    listener = source(own_market, kinds=("bar",))
    assert {event.data["bar_start"] for event in listener.news()} == {"2026-01-05T11:58:00Z", "2026-01-05T11:59:00Z"}
    assert listener.news() == []
    with own_market.transaction() as transaction:
        grown = transaction.query(
            "SELECT * REPLACE (tick_count + 1 AS tick_count) FROM ohlc_bars "
            "WHERE symbol = 'BTCUSDT' AND bar_interval = '1m' ORDER BY bar_start DESC LIMIT 1"
        )
        transaction.merge(OHLC_BARS, grown)
    assert [event.data["symbol"] for event in listener.news()] == ["BTCUSDT"]


def test_a_returning_client_resumes_where_it_was() -> None:
    now = utc_now()
    assert resume_point(None, now) == now
    assert resume_point("nonsense", now) == now
    an_hour_ago = now - timedelta(hours=1)
    assert resume_point(an_hour_ago.isoformat(), now) == an_hour_ago
    assert resume_point("1970-01-01", now) == now - timedelta(days=1)


def test_more_listeners_than_places_are_refused() -> None:
    listeners = Listeners(limit=1)
    with listeners.one_more(), pytest.raises(Problem, match="1 clients already listen"):
        listeners.check()
    listeners.check()


def test_a_place_is_free_again_when_the_client_leaves(own_market: Warehouse) -> None:
    async def listen_and_leave() -> None:
        listeners = Listeners(limit=1)
        stream = source(own_market).follow(listeners)
        await anext(stream)
        with pytest.raises(Problem):
            listeners.check()
        await stream.aclose()
        listeners.check()

    asyncio.run(listen_and_leave())


@pytest.fixture
def served(own_market: Warehouse) -> Iterator[str]:
    app = create_app(Settings(_env_file=None), own_market, rate_limit=UNLIMITED)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        threading.Event().wait(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


def test_a_browser_hears_of_a_new_alert_while_it_listens(served: str, own_market: Warehouse) -> None:
    with httpx.stream("GET", f"{served}/events", params={"kind": "alert"}, timeout=20) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        assert next(lines) == ": listening"
        add_alert(own_market, "heard")
        told = next(line for line in lines if line.startswith("data:"))
        assert json.loads(told.removeprefix("data:"))["alert_id"] == "heard"
