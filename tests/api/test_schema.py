"""The OpenAPI document is kept: Schemathesis asks everything that it allows, and much that it does not."""

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from pydantic import SecretStr
from schemathesis import Case, GenerationMode
from schemathesis.checks import positive_data_acceptance

from cryptotrace_dagster.api.app import create_app
from cryptotrace_dagster.settings import Settings
from cryptotrace_dagster.storage import Warehouse
from tests.api.conftest import UNLIMITED

PATHS = (
    "/symbols",
    "/ticks",
    "/bars",
    "/features",
    "/anomaly-scores",
    "/alerts",
    "/deliveries",
    "/gaps",
    "/healthz",
    "/metrics",
)
ENDLESS = {"/events"}  # held by test_events.py
WITHOUT_PARAMETERS = {"/symbols", "/healthz", "/metrics"}
# A range may be upside down or too long, a symbol unknown, a cursor foreign: no schema can say so, a 422 or 404 does.
EXCLUDED_CHECKS = [positive_data_acceptance]


def test_every_path_of_the_document_is_asked(app: FastAPI) -> None:
    """A new address must join the list above."""
    assert set(app.openapi()["paths"]) - ENDLESS == set(PATHS)


def ask_all(app: FastAPI, path: str, mode: GenerationMode) -> None:
    """Send what Schemathesis makes for a path, and check each answer against the document."""
    operation = schemathesis.openapi.from_asgi("/openapi.json", app)[path]["GET"]

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Case) -> None:
        response = case.call_and_validate(excluded_checks=EXCLUDED_CHECKS)
        assert response.status_code < 500

    ask()


@pytest.mark.parametrize("path", PATHS)
def test_whatever_the_document_allows_is_answered_as_it_promises(app: FastAPI, path: str) -> None:
    ask_all(app, path, GenerationMode.POSITIVE)


@pytest.mark.parametrize("path", [path for path in PATHS if path not in WITHOUT_PARAMETERS])
def test_whatever_the_document_forbids_is_refused_with_a_reason(app: FastAPI, path: str) -> None:
    ask_all(app, path, GenerationMode.NEGATIVE)


@pytest.mark.parametrize("path", ["/ticks", "/bars", "/features", "/anomaly-scores", "/alerts", "/gaps"])
def test_rows_are_as_the_document_describes_them(market: Warehouse, path: str) -> None:
    """With the symbol and the hour that are stored, so that pages are full; a token is asked for and given."""
    app = create_app(Settings(_env_file=None, api_token=SecretStr("token")), market, rate_limit=UNLIMITED)
    operation = schemathesis.openapi.from_asgi("/openapi.json", app)[path]["GET"]
    stored = {
        "symbol": "ETHUSDT" if path != "/alerts" else "SOLUSDT",
        "from": "2026-01-05T11:00:00Z",
        "to": "2026-01-05T12:00:00Z",
    }
    case = operation.Case(query=stored)
    response = case.call_and_validate(headers={"Authorization": "Bearer token"})
    assert response.status_code == 200
    assert response.json()["items"] or path == "/features"
