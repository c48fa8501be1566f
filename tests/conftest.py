"""Fixtures that several rooms of the tests share."""

from pathlib import Path

import pytest

from cryptotrace_dagster.storage import Warehouse

RECORDINGS = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    """Return an empty warehouse with all its tables, as a real DuckDB file."""
    store = Warehouse(str(tmp_path / "warehouse" / "cryptotrace.duckdb"))
    store.create()
    return store


@pytest.fixture
def recordings() -> Path:
    """Return the folder of real recordings, or skip where this machine does not have it."""
    if not RECORDINGS.is_dir():
        pytest.skip(f"the real recordings are not on this machine ({RECORDINGS})")
    return RECORDINGS
