"""A data folder for the dashboard, and a way to run its pages without a browser."""

from collections.abc import Callable
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

import cryptotrace_dagster.dashboard.main as entry
from cryptotrace_dagster.domain.windows import utc_now
from cryptotrace_dagster.storage import Warehouse
from tests.market import fill

Show = Callable[..., AppTest]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    store = Warehouse(str(folder / "cryptotrace.duckdb"))
    store.create()
    fill(store, end=utc_now(), minutes=90)
    return folder


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch) -> Show:
    """Return a function that opens the dashboard on a data folder, at a page, with an address."""

    def opened(folder: Path, page: str | None = None, **query: str) -> AppTest:
        monkeypatch.setenv("DATA_DIR", str(folder))
        monkeypatch.setenv("WAREHOUSE_URL", "")
        st.cache_resource.clear()
        script = (
            f"from cryptotrace_dagster.dashboard.{page.rpartition('.')[0]} import {page.rpartition('.')[2]}\n{page.rpartition('.')[2]}()"
            if page
            else ""
        )
        app = (
            AppTest.from_string(script, default_timeout=60)
            if page
            else AppTest.from_file(entry.__file__, default_timeout=60)
        )
        for name, value in query.items():
            app.query_params[name] = value
        return app.run()

    return opened
