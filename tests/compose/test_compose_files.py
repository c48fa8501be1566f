"""The compose files as they stand: valid, and with every service bounded, watched, unprivileged and on loopback."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cryptotrace_dagster.settings import Settings
from tests.compose.engine import compose_client
from tests.compose.stack import ROOT

OVERRIDES = ["docker-compose.demo.yml", "docker-compose.standins.yml", "docker-compose.feeds.yml"]
ONE_SHOT = {"prepare", "migrate"}
DECIDED_BY_COMPOSE = {  # inside containers these are addresses and ports of the compose network, not the user's business
    "bind_host", "dagster_port", "api_port", "dashboard_port", "feed_port", "discord_webhook_url", "discord_bot_token",
    "api_token", "receiver_url",
}  # fmt: skip


def compose_config(*arguments: str, files: tuple[str, ...] = (), **variables: str) -> subprocess.CompletedProcess[str]:
    options = [option for file in ("docker-compose.yml", *files) for option in ("--file", str(ROOT / file))]
    command = [compose_client(), *options, "--env-file", "/dev/null", "--profile", "*", "config", *arguments]
    return subprocess.run(
        command, env={"PATH": "/usr/bin:/bin", **variables}, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    done = compose_config("--format", "json")
    assert done.returncode == 0, done.stderr
    services: dict[str, Any] = json.loads(done.stdout)["services"]
    return services


@pytest.mark.parametrize("files", [(), *[(file,) for file in OVERRIDES], tuple(OVERRIDES)])
def test_compose_accepts_the_files_without_a_word(files: tuple[str, ...]) -> None:
    done = compose_config("--quiet", files=files)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_services_of_the_issue_are_there(services: dict[str, Any]) -> None:
    wanted = {"kafka", "kafka-ui", "postgres", "feed", "code-location", "dagster-webserver", "dagster-daemon", "api"}
    assert wanted | {"dashboard", "prometheus", "grafana"} <= services.keys()


def test_every_service_is_bounded_watched_and_unprivileged(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert int(service["mem_limit"]) > 0, name
        assert service["logging"]["options"] == {"max-size": "10m", "max-file": "3"}, name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert "privileged" not in service, name
        if name in ONE_SHOT:
            assert service["restart"] == "no", name
        else:
            assert service["restart"] == "unless-stopped", name
            assert service["healthcheck"]["test"], name


def test_every_port_is_published_on_loopback_unless_the_user_says_otherwise(services: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in services.items() if service.get("ports")}
    hosts = {port["host_ip"] for ports in published.values() for port in ports}
    assert hosts == {"127.0.0.1"}
    by_service = {name: [port["published"] for port in ports] for name, ports in published.items()}
    assert by_service == {
        "dagster-webserver": ["3000"],
        "api": ["8000"],
        "kafka-ui": ["8081"],
        "dashboard": ["8501"],
        "prometheus": ["9090"],
        "grafana": ["3001"],
    }
    opened = json.loads(compose_config("--format", "json", BIND_HOST="0.0.0.0").stdout)["services"]["api"]["ports"]
    assert opened[0]["host_ip"] == "0.0.0.0"


def test_only_the_gate_holds_the_docker_socket_and_it_publishes_nothing(services: dict[str, Any]) -> None:
    holders = [
        name
        for name, service in services.items()
        if any("docker.sock" in volume.get("source", "") for volume in service.get("volumes", []))
    ]
    assert holders == ["socket-gate"]
    gate = services["socket-gate"]
    assert "ports" not in gate
    assert list(gate["networks"]) == ["gate"]
    assert gate["read_only"] is True


def test_what_depends_on_a_service_waits_until_it_is_healthy_or_done(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            expected = "service_completed_successfully" if needed in ONE_SHOT else "service_healthy"
            assert how["condition"] == expected, f"{name} -> {needed}"


def test_images_are_pinned_to_a_version(services: dict[str, Any]) -> None:
    for name, service in services.items():
        tag = service["image"].rpartition(":")[2]
        assert re.search(r"\d+\.\d+", tag), f"{name}: {service['image']}"


def test_every_setting_reaches_the_containers(services: dict[str, Any]) -> None:
    """A new setting that the compose file does not know would silently keep its default in production."""
    settings = {name.upper() for name in Settings.model_fields if name not in DECIDED_BY_COMPOSE}
    assert settings - services["feed"]["environment"].keys() == set()


def test_a_run_container_gets_every_setting_that_the_daemon_has(services: dict[str, Any]) -> None:
    launcher = yaml.safe_load((ROOT / "deploy" / "dagster.yaml").read_text())["run_launcher"]["config"]["others"][
        "config"
    ]
    of_the_feed_only = {"START_FILL_MINUTES", "BIND_HOST", "DOCKER_HOST"}
    wanted = {
        name
        for name in services["dagster-daemon"]["environment"]
        if not name.startswith("FEED_") and name not in of_the_feed_only
    }
    assert wanted - set(launcher["env_vars"]) == set()


def test_no_secret_stands_in_a_long_lived_containers_environment(services: dict[str, Any]) -> None:
    variables = {
        "DISCORD_WEBHOOK_URL": "https://hook.invalid/secret",
        "POSTGRES_PASSWORD": "secret",
        "API_TOKEN": "secret",
    }
    given = json.loads(compose_config("--format", "json", **variables).stdout)["services"]
    for name, service in given.items():
        if name != "prepare":
            assert "secret" not in json.dumps(service.get("environment", {})).replace("/secrets/", "/"), name


def test_two_feeds_share_the_symbols() -> None:
    done = compose_config("--format", "json", files=("docker-compose.feeds.yml",))
    services = json.loads(done.stdout)["services"]
    shards = {name: each["environment"]["FEED_SHARD"] for name, each in services.items() if name.startswith("feed")}
    assert shards == {"feed": "1/2", "feed-2": "2/2"}
    assert services["feed-2"]["healthcheck"] == services["feed"]["healthcheck"]


def test_every_variable_of_the_compose_files_is_explained() -> None:
    files = [ROOT / name for name in ("docker-compose.yml", *OVERRIDES)]
    used = set(re.findall(r"\$\{([A-Z_]+)", "".join(file.read_text() for file in files)))
    pages = (ROOT / "docs" / "containers.md").read_text() + (ROOT / "docs" / "settings.md").read_text()
    assert used - {"COMPOSE_PROJECT_NAME"} - set(re.findall(r"`([A-Z0-9_]+)`", pages)) == set()


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_last_stage_has_no_root_no_compiler_and_no_installer() -> None:
    stages = re.split(r"(?m)^FROM ", (ROOT / "Dockerfile").read_text())[1:]
    assert len(stages) == 2
    assert re.search(r"(?m)^USER 10001:10001$", stages[-1])
    assert not re.search(r"apt-get|pip install|gcc|build-essential", stages[-1])
    assert "--require-hashes" in stages[0]
