"""Pages of rows: what is in them, and that following the cursor visits every row once."""

from datetime import timedelta
from decimal import Decimal

import polars as pl
import pytest
from fastapi.testclient import TestClient
from polars.testing import assert_frame_equal

from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.tables import OHLC_BARS
from tests.market import MARKET_END

HOUR = {"from": (MARKET_END - timedelta(hours=1)).isoformat(), "to": MARKET_END.isoformat()}


def pages(client: TestClient, path: str, **parameters: object) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    while True:
        answer = client.get(path, params=parameters)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        rows += body["items"]
        if body["next_cursor"] is None:
            return rows
        parameters["cursor"] = body["next_cursor"]


def test_following_the_cursor_visits_every_trade_once(client: TestClient, market: Warehouse) -> None:
    stored = market.read("SELECT trade_id FROM raw_ticks WHERE symbol = 'ETHUSDT' ORDER BY trade_time, trade_id")
    for size in (7_00, 997):
        found = pages(client, "/ticks", symbol="ETHUSDT", limit=size, **HOUR)
        assert [row["trade_id"] for row in found] == stored["trade_id"].to_list()


def test_newest_first_is_the_same_rows_backwards(client: TestClient) -> None:
    forwards = pages(client, "/bars", symbol="BTCUSDT", limit=11, **HOUR)
    backwards = pages(client, "/bars", symbol="BTCUSDT", limit=7, newest_first=True, **HOUR)
    assert len(forwards) == 60
    assert backwards == forwards[::-1]


def test_bars_have_the_columns_and_exact_decimals_of_the_warehouse(client: TestClient, market: Warehouse) -> None:
    first = pages(client, "/bars", symbol="btcusdt", interval="5m", **HOUR)[0]
    stored = market.read(
        "SELECT * FROM ohlc_bars WHERE symbol = 'BTCUSDT' AND bar_interval = '5m' ORDER BY bar_start LIMIT 1"
    ).row(0, named=True)
    assert tuple(first) == OHLC_BARS.column_names
    for name in ("open", "high", "low", "close", "volume", "quote_volume", "taker_buy_quote_volume"):
        assert isinstance(first[name], str)
        assert Decimal(first[name]) == stored[name]
        assert "E" not in first[name]
    assert first["bar_start"] == f"{stored['bar_start'].isoformat()}Z"


def test_without_a_range_the_end_of_the_stored_market_is_shown(client: TestClient) -> None:
    rows = client.get("/bars", params={"symbol": "BTCUSDT", "limit": 1, "newest_first": True}).json()["items"]
    assert rows[0]["bar_end"] == f"{MARKET_END.isoformat()}Z"


@pytest.mark.parametrize("path", ["/alerts", "/deliveries", "/gaps", "/symbols", "/anomaly-scores", "/features"])
def test_every_collection_answers(client: TestClient, path: str) -> None:
    wide = {"from": "2026-01-05T00:00:00Z", "to": "2026-01-06", "symbol": "BTCUSDT"}
    parameters = (
        {} if path == "/symbols" else {key: wide[key] for key in wide if path != "/deliveries" or key != "symbol"}
    )
    answer = client.get(path, params=parameters)
    assert answer.status_code == 200
    assert (path == "/features") == (answer.json()["items"] == []) or path == "/gaps"


def test_alerts_come_newest_first_with_their_evidence_as_an_object(client: TestClient) -> None:
    rows = client.get("/alerts").json()["items"]
    assert [row["symbol"] for row in rows] == ["SOLUSDT", "BTCUSDT"]
    assert rows[0]["evidence"]["volume_multiple"] == 14.2
    assert [row["alert_id"] for row in client.get("/alerts", params={"severity": "warning"}).json()["items"]] == [
        "b2c3d4e5"
    ]


def test_deliveries_of_an_alert_show_the_retry_and_the_success(client: TestClient) -> None:
    range_ = {"from": "2026-01-05T00:00:00Z", "to": "2026-01-06T00:00:00Z"}
    rows = client.get("/deliveries", params={"alert_id": "a1b2c3d4", **range_}).json()["items"]
    assert [row["outcome"] for row in rows] == ["delivered", "retry"]


def test_the_watch_list_counts_what_is_missing(client: TestClient) -> None:
    rows = {row["symbol"]: row for row in client.get("/symbols").json()["items"]}
    assert rows["ETHUSDT"]["missing_trades"] == 20
    assert rows["BTCUSDT"]["missing_trades"] == 0
    assert rows["SOLUSDT"]["change_pct"] > 3


def test_the_watch_list_names_the_gravest_alert_of_the_last_quarter_of_an_hour(client: TestClient) -> None:
    rows = {row["symbol"]: row["alert_severity"] for row in client.get("/symbols").json()["items"]}
    assert rows == {"SOLUSDT": "critical", "BTCUSDT": None, "ETHUSDT": None}  # Bitcoin's is of 50 minutes ago


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("2026-01-05T11:30:00Z", "2026-01-05T12:30:00+01:00"),
        ("2026-01-05T11:30:00Z", "1767612600"),
        ("2026-01-05T11:30:00Z", "1767612600000"),
        ("2026-01-05T11:30:00Z", "1767612600000000"),
        ("2026-01-05T11:30:00Z", "2026-01-05T11:30:00"),
    ],
)
def test_a_time_may_be_written_in_many_ways(client: TestClient, text: str, same: str) -> None:
    one, other = (client.get("/bars", params={"symbol": "BTCUSDT", "from": start}).json() for start in (text, same))
    assert one["items"]
    assert one == other


def test_health_says_what_is_missing_and_undelivered(client: TestClient) -> None:
    body = client.get("/healthz").json()
    assert body["status"] == "attention"
    assert body["missing_trades"] == 20
    assert any("20 trades are missing" in problem for problem in body["problems"])
    assert body["undelivered_alerts"] == 1


def test_metrics_show_the_data_and_the_requests(client: TestClient) -> None:
    client.get("/symbols")
    text = client.get("/metrics").text
    assert "cryptotrace_missing_trades 20.0" in text
    assert 'cryptotrace_api_requests_total{route="/symbols",status="200"}' in text


def test_before_the_first_trade_health_waits_and_the_rest_says_come_back(empty_client: TestClient) -> None:
    assert empty_client.get("/healthz").json()["status"] == "waiting"
    answer = empty_client.get("/bars", params={"symbol": "BTCUSDT"})
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert answer.json()["type"].endswith("no-warehouse-yet")


def test_rows_of_the_store_are_what_comes_out_as_arrow_parquet_and_csv(client: TestClient, market: Warehouse) -> None:
    import io

    stored = market.read("SELECT * FROM ohlc_bars WHERE symbol = 'BTCUSDT' AND bar_interval = '1m' ORDER BY bar_start")
    expected = stored.with_columns(pl.col("bar_start", "bar_end", "last_trade_time").dt.replace_time_zone("UTC"))
    for accept, read in (
        ("application/vnd.apache.arrow.stream", pl.read_ipc_stream),
        ("application/vnd.apache.parquet", pl.read_parquet),
    ):
        answer = client.get("/bars", params={"symbol": "BTCUSDT", **HOUR}, headers={"Accept": accept})
        assert answer.headers["content-type"] == accept
        assert_frame_equal(read(io.BytesIO(answer.content)), expected)
    text = client.get("/bars", params={"symbol": "BTCUSDT", **HOUR}, headers={"Accept": "text/csv"}).text
    assert pl.read_csv(text.encode(), schema_overrides={"close": pl.String})["close"].to_list() == [
        str(value) for value in stored["close"]
    ]


@pytest.mark.parametrize(
    ("accept", "status", "content_type"),
    [
        ("*/*", 200, "application/json"),
        ("text/html, text/csv;q=0.9, */*;q=0.1", 200, "text/csv; charset=utf-8"),
        ("application/*", 200, "application/json"),
        ("application/json;q=0, text/csv", 200, "text/csv; charset=utf-8"),
        ("image/png", 406, "application/problem+json"),
    ],
)
def test_the_accept_header_chooses_the_format(client: TestClient, accept: str, status: int, content_type: str) -> None:
    answer = client.get("/symbols", headers={"Accept": accept})
    assert (answer.status_code, answer.headers["content-type"]) == (status, content_type)


def test_a_client_that_has_the_answer_gets_304(client: TestClient) -> None:
    first = client.get("/symbols")
    again = client.get("/symbols", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = client.get("/symbols", headers={"If-None-Match": '"something-else"'})
    assert other.status_code == 200
