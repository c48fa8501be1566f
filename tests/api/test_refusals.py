"""What the API refuses, and that it always says why."""

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from cryptotrace_dagster.api.access import RateLimit
from cryptotrace_dagster.api.app import create_app
from cryptotrace_dagster.api.models import encode_cursor
from cryptotrace_dagster.settings import OpenWithoutTokenError, Settings, is_loopback, require_token_beyond_loopback
from cryptotrace_dagster.storage import Warehouse
from tests.api.conftest import UNLIMITED


def assert_problem(answer, status: int) -> dict[str, object]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert set(body) == {"type", "title", "status", "detail", "instance", "errors"}
    assert body["status"] == status
    assert len(body["detail"]) > 10
    return body


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/bars", 422),
        ("/bars?symbol=NOSUCH", 404),
        ("/bars?symbol=BTC'%3BDROP%20TABLE%20raw_ticks", 422),
        ("/bars?symbol=BTCUSDT&interval=7m", 422),
        ("/bars?symbol=BTCUSDT&from=yesterday", 422),
        ("/bars?symbol=BTCUSDT&from=2026-01-05&to=2026-01-04", 422),
        ("/bars?symbol=BTCUSDT&from=0001-01-01", 422),
        ("/bars?symbol=BTCUSDT&from=99999999999999999999", 422),
        ("/ticks?symbol=BTCUSDT&from=2026-01-01&to=2026-01-05", 422),
        ("/ticks?symbol=BTCUSDT&limit=0", 422),
        ("/ticks?symbol=BTCUSDT&limit=10001", 422),
        ("/ticks?symbol=BTCUSDT&cursor=abc", 422),
        ("/ticks?symbol=BTCUSDT&cursor=%27%20OR%201", 422),
        ("/alerts?severity=loud", 422),
        ("/nowhere", 404),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_reason(client: TestClient, path: str, status: int) -> None:
    assert_problem(client.get(path), status)


def test_only_reading_is_possible(client: TestClient) -> None:
    for method in ("post", "put", "delete", "patch"):
        assert_problem(getattr(client, method)("/bars"), 405)


def test_a_cursor_of_another_collection_is_refused(client: TestClient) -> None:
    for position in (("x",), ("2026-01-05T12:00:00", "BTCUSDT", "one"), ("2026-01-05T12:00:00Z", "BTCUSDT", 1)):
        assert_problem(client.get("/ticks", params={"symbol": "BTCUSDT", "cursor": encode_cursor(position)}), 422)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from(["/bars", "/ticks", "/alerts", "/gaps", "/anomaly-scores", "/features", "/deliveries"]),
    name=st.sampled_from(["symbol", "interval", "from", "to", "limit", "cursor", "detector", "rule", "alert_id"]),
    value=st.text(max_size=60)
    | st.sampled_from(["' OR '1'='1", "1; DROP TABLE alerts", "../../etc/passwd", "%00", "-1"]),
)
def test_no_text_ever_breaks_the_server(client: TestClient, path: str, name: str, value: str) -> None:
    """Whatever a parameter holds, the answer is rows or a problem with a reason, never a 5xx."""
    answer = client.get(path, params={"symbol": "BTCUSDT", name: value})
    if answer.status_code != 200:
        assert answer.status_code in {404, 422}
        assert_problem(answer, answer.status_code)


def test_a_token_is_required_beyond_this_machine() -> None:
    with pytest.raises(OpenWithoutTokenError, match="API_TOKEN"):
        require_token_beyond_loopback(Settings(_env_file=None, bind_host="0.0.0.0"))
    require_token_beyond_loopback(Settings(_env_file=None, bind_host="0.0.0.0", api_token=SecretStr("long")))
    require_token_beyond_loopback(Settings(_env_file=None, bind_host="127.0.0.1"))


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("example", False),
    ],
)
def test_loopback_is_recognised(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_a_set_token_guards_everything_but_health(market: Warehouse) -> None:
    guarded = Settings(_env_file=None, api_token=SecretStr("s3cret"))
    client = TestClient(create_app(guarded, market, rate_limit=UNLIMITED))
    for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic s3cret"}):
        for path in ("/symbols", "/bars?symbol=BTCUSDT", "/alerts", "/metrics", "/gaps"):
            answer = client.get(path, headers=header)
            assert_problem(answer, 401)
            assert answer.headers["www-authenticate"] == "Bearer"
    assert client.get("/healthz").status_code == 200
    assert client.get("/symbols", headers={"Authorization": "Bearer s3cret"}).status_code == 200


def test_a_client_that_asks_too_often_is_told_when_to_come_back(market: Warehouse) -> None:
    limited = create_app(Settings(_env_file=None), market, rate_limit=RateLimit(requests_per_second=0.5, burst=3))
    client = TestClient(limited)
    assert [client.get("/symbols").status_code for _ in range(3)] == [200] * 3
    answer = client.get("/symbols")
    assert_problem(answer, 429)
    assert int(answer.headers["retry-after"]) >= 1


def test_a_bucket_fills_again_at_its_rate() -> None:
    limit = RateLimit(requests_per_second=2, burst=2)
    assert [limit.take("a", 10.0) for _ in range(3)] == [0.0, 0.0, 0.5]
    assert limit.take("b", 10.0) == 0.0
    assert limit.take("a", 10.5) == 0.0
    assert limit.take("a", 10.5) == pytest.approx(0.5)


def test_other_origins_are_not_let_in(client: TestClient) -> None:
    answer = client.get("/symbols", headers={"Origin": "https://elsewhere.example"})
    assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_an_unexpected_error_shows_nothing_of_the_inside(market: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(Settings(_env_file=None), market, rate_limit=UNLIMITED)
    monkeypatch.setattr(app.state.reader, "read", lambda *_: 1 / 0)
    answer = TestClient(app, raise_server_exceptions=False).get("/symbols")
    assert_problem(answer, 500)
    assert "division" not in answer.text
