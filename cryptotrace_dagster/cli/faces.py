"""`cryptotrace api` and `cryptotrace dashboard`: one process each.

Owns how the two web servers are started. Stays out: what they show.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from cryptotrace_dagster.cli.options import DataDir, settings_of


def register(app: typer.Typer) -> None:
    """Add `api` and `dashboard` to the command line."""

    @app.command()
    def api(
        data_dir: DataDir = None,
        port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port, instead of API_PORT.")] = None,
    ) -> None:
        """Serve the HTTP API on BIND_HOST and API_PORT; its documentation is at /docs.

        Example: cryptotrace api --port 8000
        """
        import uvicorn

        from cryptotrace_dagster.api.app import create_app
        from cryptotrace_dagster.queries import open_for_reading
        from cryptotrace_dagster.settings import require_token_beyond_loopback

        settings = settings_of(data_dir, api_port=port)
        require_token_beyond_loopback(settings)
        application = create_app(settings, open_for_reading(settings, shares_opening=True))
        uvicorn.run(application, host=settings.bind_host, port=settings.api_port, log_level="warning", access_log=False)

    @app.command()
    def dashboard(
        data_dir: DataDir = None,
        port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port, instead of DASHBOARD_PORT.")] = None,
    ) -> None:
        """Serve the dashboard on BIND_HOST and DASHBOARD_PORT.

        Example: cryptotrace dashboard --port 8501
        """
        settings = settings_of(data_dir, dashboard_port=port)
        script = Path(__file__).parents[1] / "dashboard" / "main.py"
        command = [sys.executable, "-m", "streamlit", "run", str(script)]
        command += ["--server.address", settings.bind_host, "--server.port", str(settings.dashboard_port)]
        command += ["--server.headless", "true"]
        environment = os.environ | {
            "DATA_DIR": str(settings.data_dir),
            "WAREHOUSE_URL": settings.resolved_warehouse_url,
        }
        if os.name == "posix":
            os.execve(sys.executable, command, environment)  # noqa: S606 -- the server takes our place, and our signals
        sys.exit(subprocess.run(command, env=environment, check=False).returncode)  # noqa: S603 -- our own command
