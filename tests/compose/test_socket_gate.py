"""The gate before Docker's socket: the launcher's own request passes; each way to more power is refused."""

import copy
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import yaml
from docker.models.containers import _create_container_args
from docker.types import ContainerConfig

from cryptotrace_dagster.containers.run_launcher import launcher_config
from cryptotrace_dagster.containers.socket_gate import RunContainer, gate_app, run_container
from tests.compose.stack import ROOT

IMAGE = "cryptotrace:1.2.3"
OURS, FOREIGN = "a" * 64, "b" * 64
LABELS = {"cryptotrace.role": "run", "cryptotrace.project": "trace"}


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the run launcher's configuration of the image."""
    monkeypatch.setenv("RUN_PROJECT", "trace")
    monkeypatch.setenv("RUN_NETWORK", "trace_pipeline")
    config: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "dagster.yaml").read_text())["run_launcher"]["config"][
        "others"
    ]["config"]
    return config


@pytest.fixture
def allowed(launcher: dict[str, Any]) -> RunContainer:
    return run_container(launcher, IMAGE)


@pytest.fixture
def request_of_the_launcher(launcher: dict[str, Any]) -> dict[str, Any]:
    """Return what `DockerRunLauncher` makes the Docker client send (see its `_launch_container_with_command`)."""
    kwargs = launcher_config(launcher)["container_kwargs"]
    labels = {**kwargs.pop("labels"), "dagster/run_id": "x", "dagster/job_name": "market_job"}
    arguments = {"image": IMAGE, "command": ["dagster", "api", "execute_run", "{}"], "detach": True, "labels": labels}
    arguments |= {"environment": {"SYMBOLS": "BTCUSDT"}, "network": "trace_pipeline", "version": "1.41", **kwargs}
    body: dict[str, Any] = json.loads(json.dumps(ContainerConfig("1.41", **_create_container_args(arguments))))
    return body


class FakeEngine:
    """An engine at the far edge: it knows a container of ours and a foreign one, and remembers what reached it."""

    def __init__(self) -> None:
        self.reached: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        door = f"{request.method} {request.url.raw_path.decode()}"
        self.reached.append(door)
        if request.url.path.endswith("/json"):
            labels = LABELS if OURS in request.url.path else {"some": "label"}
            return httpx.Response(200, json={"Config": {"Labels": labels}, "State": {"Status": "running"}})
        return httpx.Response(201, json={"Id": OURS})


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def gate(allowed: RunContainer, engine: FakeEngine) -> AsyncIterator[httpx.AsyncClient]:
    client = httpx.AsyncClient(transport=httpx.MockTransport(engine), base_url="http://docker")
    transport = httpx.ASGITransport(gate_app(allowed, client))
    async with client, httpx.AsyncClient(transport=transport, base_url="http://gate") as gate:
        yield gate


async def test_the_launchers_own_request_passes(
    gate: httpx.AsyncClient, request_of_the_launcher: dict[str, Any]
) -> None:
    answer = await gate.post("/v1.41/containers/create", json=request_of_the_launcher)
    assert (answer.status_code, answer.json()) == (201, {"Id": OURS})


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("Image",), "alpine:3"),
        (("User",), "0:0"),
        (("Entrypoint",), ["/bin/sh"]),
        (("Cmd",), ["/bin/sh", "-c", "id"]),
        (("Labels",), {"cryptotrace.role": "run"}),
        (("HostConfig", "Privileged"), True),
        (("HostConfig", "Binds"), ["/:/host"]),
        (("HostConfig", "Mounts"), [{"Type": "bind", "Source": "/", "Target": "/host"}]),
        (("HostConfig", "NetworkMode"), "host"),
        (("HostConfig", "PidMode"), "host"),
        (("HostConfig", "Devices"), [{"PathOnHost": "/dev/sda"}]),
        (("HostConfig", "CapAdd"), ["SYS_ADMIN"]),
        (("HostConfig", "CapDrop"), []),
        (("HostConfig", "SecurityOpt"), []),
        (("HostConfig", "Memory"), 0),
        (("HostConfig", "AutoRemove"), False),
        (("HostConfig", "VolumesFrom"), ["trace-postgres-1"]),
        (("NetworkingConfig",), {"bridge": None}),
    ],
)
async def test_a_container_of_another_kind_is_refused(
    gate: httpx.AsyncClient,
    engine: FakeEngine,
    request_of_the_launcher: dict[str, Any],
    place: tuple[str, ...],
    value: Any,
) -> None:
    body = copy.deepcopy(request_of_the_launcher)
    inner = body
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    answer = await gate.post("/v1.41/containers/create", json=body)
    assert answer.status_code == 403
    assert place[0] in answer.json()["message"] or place[0] in {"Cmd", "Labels"}
    assert engine.reached == []


async def test_an_own_container_can_be_seen_started_and_stopped(gate: httpx.AsyncClient, engine: FakeEngine) -> None:
    assert (await gate.get(f"/v1.41/containers/{OURS}/json")).status_code == 200
    assert (await gate.post(f"/v1.41/containers/{OURS}/start")).is_success
    assert (await gate.post(f"/v1.41/containers/{OURS}/stop?t=7")).is_success
    assert engine.reached[-1] == f"POST /containers/{OURS}/stop?t=7"


@pytest.mark.parametrize(("method", "what"), [("GET", "json"), ("POST", "start"), ("POST", "stop")])
async def test_a_foreign_container_is_out_of_reach(
    gate: httpx.AsyncClient, engine: FakeEngine, method: str, what: str
) -> None:
    assert (await gate.request(method, f"/v1.41/containers/{FOREIGN}/{what}")).status_code == 403
    assert engine.reached == [f"GET /containers/{FOREIGN}/json"]


@pytest.mark.parametrize(
    "door",
    [
        "GET /v1.41/containers/json",
        "GET /v1.41/images/json",
        "POST /v1.41/images/create?fromImage=alpine",
        "POST /v1.41/build",
        f"POST /v1.41/containers/{OURS}/exec",
        f"POST /v1.41/containers/{OURS}/kill",
        f"DELETE /v1.41/containers/{OURS}",
        f"GET /v1.41/containers/{OURS}/../json",
        f"GET /v1.41/containers/{OURS}/logs",
        f"PUT /v1.41/containers/{OURS}/archive?path=/",
        f"GET /v1.41/containers/{OURS}/start",
        f"POST /v1.41/containers/{OURS}/json",
        "GET /v1.41/volumes",
        "POST /v1.41/networks/create",
        "GET /v1.41/info",
        "GET /",
    ],
)
async def test_there_is_no_other_door(gate: httpx.AsyncClient, engine: FakeEngine, door: str) -> None:
    method, path = door.split()
    assert (await gate.request(method, path)).status_code == 403
    assert engine.reached == []


async def test_the_version_and_a_ping_are_answered(gate: httpx.AsyncClient) -> None:
    assert (await gate.get("/version")).is_success
    assert (await gate.get("/v1.41/_ping")).is_success
