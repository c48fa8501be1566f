"""Dagster's home is made ready by a service that ends, or says what to do."""

import subprocess
import sys
import time
from pathlib import Path

from cryptotrace_dagster.settings import Settings
from cryptotrace_dagster.supervisor.dagster_home import write_home
from cryptotrace_dagster.supervisor.preflight import free_port
from cryptotrace_dagster.supervisor.services import Options, plan_system, service_environment


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


def test_the_code_server_does_not_open_the_home_while_it_is_made(tmp_path: Path) -> None:
    """Both at once have damaged a fresh home: two processes that make the same SQLite databases."""
    settings = Settings(_env_file=None, data_dir=tmp_path)
    plan = plan_system(settings, Options(), code_server_port := free_port())
    write_home(plan.dagster_home, code_server_port)
    service = next(each for each in plan.services if each.name == "code server")
    server = subprocess.Popen(
        service.command, env={**service_environment(plan), **service.environment}, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while not service.is_ready():
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        server.kill()
        server.wait()
    assert sorted(path.name for path in plan.dagster_home.rglob("*")) == ["dagster.yaml", "workspace.yaml"]
