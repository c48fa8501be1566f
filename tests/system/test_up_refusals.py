"""What `cryptotrace up` says when it cannot start: one sentence with a remedy, exit code 2, nothing left running."""

import socket
import subprocess
from pathlib import Path

import pytest

from tests.ports import free_port, free_port_offset
from tests.system.running import PORTS, UP, clean_environment

pytestmark = [pytest.mark.timeout(120)]


def refusal(tmp_path: Path, *arguments: str, **environment: str) -> str:
    """Return the one sentence with which `up` refuses."""
    command = [*UP, "--no-browser", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, env=clean_environment(**environment), cwd=tmp_path, check=False
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def demo_arguments(tmp_path: Path) -> list[str]:
    return ["--demo", "--data-dir", str(tmp_path / "data"), "--port-offset", str(free_port_offset(PORTS))]


def test_a_taken_port_is_named_with_its_setting_and_a_way_out(tmp_path: Path) -> None:
    offset = free_port_offset(PORTS)
    with socket.create_server(("127.0.0.1", 3000 + offset)):
        said = refusal(tmp_path, "--demo", "--data-dir", str(tmp_path / "data"), "--port-offset", str(offset))
    assert f"Port {3000 + offset} for Dagster's UI is not free" in said
    assert "DAGSTER_PORT" in said
    assert "--port-offset" in said


def test_a_bad_setting_is_named(tmp_path: Path) -> None:
    assert "API_PORT" in refusal(tmp_path, *demo_arguments(tmp_path), API_PORT="many")


def test_a_bad_rule_names_its_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "alerts.toml").write_text("[[rule]\n")
    said = refusal(tmp_path, *demo_arguments(tmp_path))
    assert "alerts.toml" in said
    assert "line 1" in said


def test_a_data_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file stands where the folder should be")
    said = refusal(tmp_path, *demo_arguments(tmp_path))
    assert f"The data folder {tmp_path / 'data'} cannot be written" in said
    assert "--data-dir" in said


def test_an_exchange_that_does_not_answer_is_named(tmp_path: Path) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    said = refusal(tmp_path, *demo_arguments(tmp_path)[1:], BINANCE_REST_URL=address)
    assert f"The exchange does not answer at {address}" in said
    assert "--demo" in said


def test_a_kafka_that_does_not_answer_is_named(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    assert address in refusal(tmp_path, *demo_arguments(tmp_path), KAFKA_BOOTSTRAP_SERVERS=address)


def test_simulated_trades_are_never_mixed_with_real_ones(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "source.json").write_text('{"trades": "real"}')
    assert "holds real trades" in refusal(tmp_path, *demo_arguments(tmp_path))


def test_an_open_door_needs_a_password(tmp_path: Path) -> None:
    assert "API_TOKEN" in refusal(tmp_path, *demo_arguments(tmp_path), BIND_HOST="0.0.0.0")


def test_a_recording_that_is_not_there_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing.jsonl"
    assert str(missing) in refusal(tmp_path, *demo_arguments(tmp_path), "--replay", str(missing))
