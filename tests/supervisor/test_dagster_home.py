"""Dagster's home is made ready by a service that ends, or says what to do."""

import subprocess
import sys
from pathlib import Path

from cryptotrace_dagster.supervisor.dagster_home import write_home


def prepared(home: Path) -> subprocess.CompletedProcess[str]:
    """Run the service on a home."""
    command = [sys.executable, "-m", "cryptotrace_dagster.supervisor.dagster_home", str(home)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_a_home_whose_databases_are_damaged_is_named_with_what_to_do(tmp_path: Path) -> None:
    write_home(tmp_path, code_server_port=1)
    assert prepared(tmp_path).returncode == 0
    databases = [path for path in tmp_path.rglob("*.db") if path.stat().st_size]
    assert databases
    for path in databases:
        path.write_bytes(b"not a database " * 1000)
    failed = prepared(tmp_path)
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith(f"Dagster could not open its home {tmp_path}: if the databases")
