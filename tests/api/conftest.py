"""A small market behind the API."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from cryptotrace_dagster.api.access import RateLimit
from cryptotrace_dagster.api.app import create_app
from cryptotrace_dagster.settings import Settings
from cryptotrace_dagster.storage import Warehouse
from tests.market import fill
from tests.stores import chosen_store

UNLIMITED = RateLimit(requests_per_second=1e9, burst=1e9)


@pytest.fixture(scope="module")
def market(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """Return a warehouse with an hour of three symbols that nobody writes to."""
    store = chosen_store(request, tmp_path_factory.mktemp("market"))
    fill(store, minutes=60)
    return store


@pytest.fixture(scope="module")
def app(market: Warehouse) -> FastAPI:
    return create_app(Settings(_env_file=None), market, rate_limit=UNLIMITED)


@pytest.fixture(scope="module")
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, raise_server_exceptions=False) as opened:
        yield opened


@pytest.fixture
def empty_client(tmp_path: Path) -> TestClient:
    """Return a client of an API whose warehouse does not exist yet."""
    missing = Warehouse(str(tmp_path / "none.duckdb"))
    return TestClient(
        create_app(Settings(_env_file=None), missing, rate_limit=UNLIMITED), raise_server_exceptions=False
    )
