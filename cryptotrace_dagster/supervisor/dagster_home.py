"""Dagster's home on one machine, made ready before any service opens it.

Owns the home's files, its migration by exactly one process (two that open a fresh SQLite home together can corrupt
it), and the closing of runs that an earlier, killed system left under way. Runs as a service of its own, because the
supervisor itself stays free of Dagster. Stays out: what Dagster runs (definitions) and talking to it (dagster_client).
"""

import sys
import traceback
from importlib import resources
from pathlib import Path

from cryptotrace_dagster.dagster_client import CODE_LOCATION


def write_home(home: Path, code_server_port: int) -> Path:
    """Write `dagster.yaml` and the workspace that names our code server; return the workspace file."""
    home.mkdir(parents=True, exist_ok=True)
    template = resources.files(__package__).joinpath("dagster.yaml").read_text(encoding="utf-8")
    (home / "dagster.yaml").write_text(template, encoding="utf-8")
    workspace = home / "workspace.yaml"
    workspace.write_text(
        "load_from:\n"
        "  - grpc_server:\n"
        "      host: 127.0.0.1\n"
        f"      port: {code_server_port}\n"
        f"      location_name: {CODE_LOCATION}\n",
        encoding="utf-8",
    )
    return workspace


def _migrate_and_close_left_runs(home: Path) -> None:
    from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

    unfinished = [
        DagsterRunStatus.QUEUED,
        DagsterRunStatus.NOT_STARTED,
        DagsterRunStatus.STARTING,
        DagsterRunStatus.STARTED,
        DagsterRunStatus.CANCELING,
    ]
    with DagsterInstance.from_config(str(home)) as instance:
        instance.upgrade()
        for run in instance.get_runs(RunsFilter(statuses=unfinished)):
            instance.report_run_canceled(run, message="The system was stopped while this run was under way.")


def main(home: Path) -> None:
    """Bring the home's databases to this release's schema, and close runs that nobody works on any more.

    Raises:
        SystemExit: Dagster could not open its home; the last line printed says what to do.
    """
    try:
        _migrate_and_close_left_runs(home)
    except Exception:
        traceback.print_exc()
        sys.exit(
            f"Dagster could not open its home {home}: if the databases in it are damaged, move the folder away and "
            "start again (trades are not kept there)."
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
