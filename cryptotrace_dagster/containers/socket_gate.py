"""The gate before Docker's socket: lets through what `DockerRunLauncher` needs to run a run, and nothing else.

Whoever may create any container is root on the host. So a container may be created only exactly as the gate's
`dagster.yaml` describes it (image, network, volumes, limits, privileges), and only containers created so may be looked
at, started and stopped. Stays out: what happens inside these containers (the product's own runs).
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx
import structlog
import uvicorn
import yaml
from docker.models.containers import _create_container_args
from docker.types import ContainerConfig
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cryptotrace_dagster.containers.run_launcher import launcher_config
from cryptotrace_dagster.log import set_up_logging

_LOG = structlog.get_logger(__name__)
_API_VERSION = "1.41"  # the engine's since Docker 20.10; the client's description of a container depends on it
_RUN_COMMAND = ["dagster", "api", "execute_run"]
_DIFFERS_FROM_RUN_TO_RUN = {"Cmd", "Env", "Labels"}
_VERSION = re.compile(r"^/v1\.\d+(?=/)")
_CONTAINER = re.compile(r"/containers/(?P<id>[0-9a-f]{12,64})/(?P<what>json|start|stop)")
_ENGINE_SECONDS = 120.0  # stopping a container waits for it to end


@dataclass(frozen=True)
class RunContainer:
    """The one kind of container that may be created: its whole description, and the labels that mark it."""

    description: dict[str, Any]
    labels: dict[str, str]

    def refusal(self, asked: dict[str, Any]) -> str | None:
        """Return why the container that is asked for may not be created, or None when it may."""
        described = _significant(asked)
        for name in sorted(described.keys() | self.description.keys()):
            if described.get(name) != self.description.get(name):
                return f"its {name} is not what the gate's dagster.yaml describes"
        if not self.owns(asked.get("Labels")):
            return f"it lacks the labels {self.labels}"
        if (asked.get("Cmd") or [])[: len(_RUN_COMMAND)] != _RUN_COMMAND:
            return f"its command is not `{' '.join(_RUN_COMMAND)}`"
        return None

    def owns(self, labels: dict[str, str] | None) -> bool:
        """Return whether a container with these labels was created through this gate."""
        return self.labels.items() <= (labels or {}).items()


def run_container(launcher: dict[str, Any], image: str) -> RunContainer:
    """Return what a launcher with this configuration (of `dagster.yaml`) asks for, as the Docker client puts it."""
    config = launcher_config(launcher)
    arguments = config["container_kwargs"]
    common = {"image": image, "command": "", "detach": True, "version": _API_VERSION, "network": config["network"]}
    created = _create_container_args({**arguments, **common})
    return RunContainer(_significant(dict(ContainerConfig(_API_VERSION, **created))), arguments["labels"])


def gate_app(allowed: RunContainer, engine: httpx.AsyncClient) -> Starlette:
    """Return the gate as a web application in front of the engine."""

    async def answer(request: Request) -> Response:
        path = _VERSION.sub("", request.url.path)
        door = (request.method, path)
        if door in {("GET", "/version"), ("GET", "/_ping"), ("HEAD", "/_ping")}:
            return _passed_on(await engine.request(request.method, path))
        if door == ("POST", "/containers/create"):
            return await create(request)
        found = _CONTAINER.fullmatch(path)
        if found and (request.method == "GET") == (found["what"] == "json"):
            return await own(request, found["id"], found["what"])
        return _refused(request, "The gate has no such door.")

    async def create(request: Request) -> Response:
        asked = json.loads(await request.body())
        reason = allowed.refusal(asked)
        if reason is not None:
            return _refused(request, f"The gate does not let this container be created: {reason}.")
        return _passed_on(await engine.post("/containers/create", json=asked))

    async def own(request: Request, container_id: str, what: str) -> Response:
        inspected = await engine.get(f"/containers/{container_id}/json")
        if inspected.is_success and not allowed.owns(inspected.json()["Config"]["Labels"]):
            return _refused(request, "The gate shows only containers that were created through it.")
        if what == "json" or not inspected.is_success:
            return _passed_on(inspected)
        patience = request.query_params.get("t", "")
        query = {"t": patience} if patience.isdigit() else {}
        return _passed_on(await engine.post(f"/containers/{container_id}/{what}", params=query))

    return Starlette(
        routes=[Route("/{path:path}", answer, methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])]
    )


def _significant(description: dict[str, Any]) -> dict[str, Any]:
    """Return what a container's description says, without what is empty and what differs from run to run."""
    return {name: value for name, value in description.items() if value and name not in _DIFFERS_FROM_RUN_TO_RUN}


def _passed_on(answer: httpx.Response) -> Response:
    return Response(answer.content, answer.status_code, media_type=answer.headers.get("content-type"))


def _refused(request: Request, reason: str) -> Response:
    _LOG.warning("gate.refused", method=request.method, path=request.url.path, reason=reason)
    return JSONResponse({"message": reason}, status_code=403)


def main() -> None:
    """Serve the gate on all of this container's addresses; it stands in a network of its own."""
    set_up_logging()
    configuration = yaml.safe_load((Path(os.environ["DAGSTER_HOME"]) / "dagster.yaml").read_text(encoding="utf-8"))
    launcher = cast(dict[str, Any], configuration["run_launcher"]["config"]["others"]["config"])
    allowed = run_container(launcher, os.environ["DAGSTER_CURRENT_IMAGE"])
    transport = httpx.AsyncHTTPTransport(uds=os.environ.get("DOCKER_SOCKET", "/var/run/docker.sock"))
    engine = httpx.AsyncClient(transport=transport, base_url="http://docker", timeout=_ENGINE_SECONDS)
    _LOG.info("gate.open", container=allowed.description, labels=allowed.labels)
    uvicorn.run(
        gate_app(allowed, engine),
        host="0.0.0.0",  # noqa: S104 - only the services of the gate's own network reach it
        port=int(os.environ.get("GATE_PORT", "2375")),
        log_level="warning",
        access_log=False,
    )


if __name__ == "__main__":
    main()
