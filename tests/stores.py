"""Both stores under one contract: a DuckDB file, and a DuckLake whose PostgreSQL catalog the tests start.

Fixtures for every room; `conftest.py` lends them.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cryptotrace_dagster.storage import Warehouse
from tests.postgres_server import PostgresServer, postgres_server

NewStore = Callable[[], Warehouse]
_numbers = itertools.count()
of_a_file = pytest.mark.skipif(os.environ.get("TEST_STORE", "file") == "lake", reason="what only a DuckDB file does")


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Return a PostgreSQL that all tests of the session share."""
    with postgres_server() as server:
        yield server


def chosen_store(request: pytest.FixtureRequest, folder: Path) -> Warehouse:
    """Return an empty warehouse with all its tables, of the kind that TEST_STORE names: `file`, or `lake`.

    The tests of whole rooms run on a file; with TEST_STORE=lake the same ones run on DuckLake.
    """
    if os.environ.get("TEST_STORE", "file") == "lake":
        server: PostgresServer = request.getfixturevalue("postgres")
        warehouse = Warehouse(server.create_database(f"lake{next(_numbers)}"), data_path=f"{folder / 'lake'}/")
    else:
        warehouse = Warehouse(str(folder / "warehouse" / "cryptotrace.duckdb"))
    warehouse.create()
    return warehouse


@pytest.fixture(params=["file", "lake"])
def new_store(request: pytest.FixtureRequest, tmp_path: Path) -> NewStore:
    """Return what makes the address of a store that does not exist yet, on either kind of store."""
    if request.param == "file":
        return lambda: Warehouse(str(tmp_path / f"store{next(_numbers)}" / "cryptotrace.duckdb"))
    server: PostgresServer = request.getfixturevalue("postgres")

    def lake() -> Warehouse:
        name = f"lake{next(_numbers)}"
        return Warehouse(server.create_database(name), data_path=f"{tmp_path / name}/")

    return lake


@pytest.fixture
def store(new_store: NewStore) -> Warehouse:
    """Return an empty warehouse with all its tables."""
    warehouse = new_store()
    warehouse.create()
    return warehouse


@pytest.fixture
def lake(postgres: PostgresServer, tmp_path: Path) -> Warehouse:
    """Return an empty DuckLake with all its tables."""
    warehouse = Warehouse(postgres.create_database(f"lake{next(_numbers)}"), data_path=f"{tmp_path / 'lake'}/")
    warehouse.create()
    return warehouse
