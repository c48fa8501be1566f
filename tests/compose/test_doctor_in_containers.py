"""Inside a container the doctor looks for the other services by their names, not on its own loopback."""

import httpx
import pytest

from cryptotrace_dagster.doctor import check_dagster, check_services
from cryptotrace_dagster.settings import Settings


@pytest.mark.parametrize("is_inside", [True, False])
def test_services_are_asked_where_they_are(monkeypatch: pytest.MonkeyPatch, is_inside: bool) -> None:
    asked: list[str] = []

    def silent(url: str, **_: object) -> httpx.Response:
        asked.append(httpx.URL(url).host)
        raise httpx.ConnectError("nobody there")

    monkeypatch.setattr(httpx, "get", silent)
    monkeypatch.setattr(httpx, "post", silent)
    settings = Settings(in_containers=is_inside)
    check_services(settings)
    check_dagster(settings)
    expected = ["feed", "api", "dashboard", "dagster-webserver"] if is_inside else ["127.0.0.1"] * 4
    assert asked == expected
