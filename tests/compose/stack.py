"""One running compose project of the test: its commands, its addresses, and what is asked of its services.

Owns the project's name, its settings and its end. Stays out: what is to come out (compose_test.py).
"""

import csv
import io
import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from tests.compose.engine import ComposeTestError, Engine, compose_client, docker_client, run
from tests.ports import free_port

Answer = TypeVar("Answer")
ROOT = Path(__file__).resolve().parents[2]
PORTS = ("DAGSTER_PORT", "API_PORT", "DASHBOARD_PORT", "DEMO_EXCHANGE_PORT", "DEMO_RECEIVER_PORT", "KAFKA_UI_PORT")


class Stack:
    """The compose file, the demo's override and, where needed, the stand-ins' override, as one project."""

    def __init__(self, engine: Engine, name: str, folder: Path, settings: dict[str, str], has_standins: bool) -> None:
        self.engine = engine
        self.name = name
        self._log = folder / f"{name}.log"
        self._settings = folder / f"{name}.env"
        self.ports = {port: free_port() for port in PORTS}
        given = {**settings, **{name: str(port) for name, port in self.ports.items()}}
        given |= {"DOCKER_SOCKET": str(engine.socket)}
        self._settings.write_text("".join(f"{key}={value}\n" for key, value in given.items()), encoding="utf-8")
        files = ["docker-compose.yml", "docker-compose.demo.yml"]
        files += ["docker-compose.standins.yml"] if has_standins else []
        self._options = [option for file in files for option in ("--file", str(ROOT / file))]

    @property
    def _command(self) -> list[str]:
        return [compose_client(), "--project-name", self.name, "--env-file", str(self._settings), *self._options]

    def script(self, *arguments: str, seconds: float = 600) -> str:
        """Run `deploy/compose.sh` on this project and return what it prints."""
        folder = str(Path(docker_client()).parent)
        environment = self.engine.environment | {"COMPOSE": " ".join(self._command)}
        environment["PATH"] = f"{folder}:{environment['PATH']}"
        return run([str(ROOT / "deploy" / "compose.sh"), *arguments], environment, seconds=seconds, log=self._log)

    def compose(self, *arguments: str, check: bool = True, seconds: float = 600) -> str:
        """Run a compose command on this project."""
        return run([*self._command, *arguments], self.engine.environment, check=check, seconds=seconds, log=self._log)

    def wait_until_healthy(self, seconds: float) -> dict[str, str]:
        """Return the health of every service that stays, once all are healthy."""

        def healths() -> dict[str, str] | None:
            found = [json.loads(line) for line in self.compose("ps", "--format", "json").splitlines()]
            states = {each["Service"]: each["Health"] or each["State"] for each in found}
            return states if set(states.values()) == {"healthy"} else None

        return wait_for(healths, seconds, "all services healthy", lambda: self.compose("ps", "--all"))

    def address(self, port: str, path: str) -> str:
        """Return the URL of a service on this machine."""
        return f"http://127.0.0.1:{self.ports[port]}{path}"

    def execute(self, service: str, *command: str, check: bool = True, seconds: float = 120) -> str:
        """Run a command inside a service's container."""
        return self.compose("exec", "--no-TTY", service, *command, check=check, seconds=seconds)

    def rows(self, sql: str) -> list[dict[str, str]]:
        """Return the rows of a query of the warehouse."""
        said = self.execute("code-location", "cryptotrace", "sql", "--format", "csv", "--timeout", "60", sql)
        return list(csv.DictReader(io.StringIO(said)))

    def graphql(self, query: str, **variables: Any) -> dict[str, Any]:
        """Return what Dagster's API answers."""
        answer = ask(self.address("DAGSTER_PORT", "/graphql"), {"query": query, "variables": variables})
        if "errors" in answer:
            raise ComposeTestError(f"Dagster refused a query: {answer['errors']}")
        return dict(answer["data"])

    def container(self, service: str) -> str:
        """Return the id of a service's container."""
        return self.compose("ps", "--quiet", service).strip()

    def kill(self, service: str) -> None:
        """End a service's container as a crash would: its restart policy, not we, has to bring it back."""
        container = self.container(service)
        process = int(self.engine.docker("inspect", "--format", "{{.State.Pid}}", container))
        if process <= 0:
            raise ComposeTestError(f"The container of {service} is not running.")
        os.kill(process, signal.SIGKILL)

    def run_containers(self) -> list[str]:
        """Return the containers that the run launcher created for this project."""
        labels = ["--filter", "label=cryptotrace.role=run", "--filter", f"label=cryptotrace.project={self.name}"]
        return self.engine.docker("ps", "--all", "--quiet", *labels).split()

    def down(self) -> None:
        """End the project, with its volumes, and the containers of its runs."""
        self.compose("stop", "dagster-daemon", check=False)
        for container in self.run_containers():
            self.engine.docker("rm", "--force", container, check=False)
        self.compose("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "20", check=False)

    def leftovers(self) -> list[str]:
        """Return what is still there of this project."""
        label = ["--filter", f"label=com.docker.compose.project={self.name}"]
        found = [*self.run_containers()]
        for kind in (["ps", "--all"], ["volume", "ls"], ["network", "ls"]):
            found += self.engine.docker(*kind, "--quiet", *label).split()
        return found

    def logs(self) -> str:
        """Return the end of every service's log, for the one who has to find out why something failed."""
        return self.compose("logs", "--no-color", "--tail", "40", check=False)


def ask(url: str, body: Any = None, seconds: float = 30) -> Any:
    """Return the JSON that a URL answers; with a body it is a POST."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=seconds) as answer:
        return json.loads(answer.read() or b"null")


def wait_for(
    question: Callable[[], Answer | None], seconds: float, what: str, explain: Callable[[], str] = lambda: ""
) -> Answer:
    """Return the first answer that is neither None nor empty; services that do not answer yet are asked again."""
    deadline = time.monotonic() + seconds
    last = ""
    while time.monotonic() < deadline:
        try:
            found = question()
        except (OSError, urllib.error.URLError, ComposeTestError, ValueError) as error:
            found, last = None, str(error)
        if found:
            return found
        time.sleep(2)
    raise ComposeTestError(f"Waited {seconds:.0f} s in vain for: {what}. {last}\n{explain()}")
