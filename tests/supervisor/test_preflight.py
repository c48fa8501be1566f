"""What is looked at before anything starts, and what is said when it will not do."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from cryptotrace_dagster.settings import OpenWithoutTokenError, Settings
from cryptotrace_dagster.supervisor.preflight import PreflightError, check_machine, data_folder_held
from cryptotrace_dagster.supervisor.services import Options, plan_system


def hold(folder: Path, *, is_demo: bool) -> None:
    with data_folder_held(Settings(_env_file=None, data_dir=folder), is_demo=is_demo):
        pass


def check_listening_on(bind_host: str, api_token: SecretStr | None = None) -> None:
    settings = Settings(_env_file=None, bind_host=bind_host, api_token=api_token)
    check_machine(replace(plan_system(settings, Options(is_demo=True), code_server_port=1), ports=()))


def test_a_folder_remembers_the_kind_of_its_trades_and_refuses_the_other(tmp_path: Path) -> None:
    hold(tmp_path, is_demo=False)
    hold(tmp_path, is_demo=False)
    with pytest.raises(PreflightError, match="holds real trades and would get simulated ones"):
        hold(tmp_path, is_demo=True)
    assert json.loads((tmp_path / "source.json").read_text()) == {"trades": "real"}


def test_what_the_folder_remembers_is_written_once_so_that_no_later_start_can_lose_it(tmp_path: Path) -> None:
    """Guards a power loss while the file is rewritten, which would leave it empty and block every start after it."""
    hold(tmp_path, is_demo=True)
    written = (tmp_path / "source.json").stat()
    hold(tmp_path, is_demo=True)
    now = (tmp_path / "source.json").stat()
    assert (now.st_mtime_ns, now.st_ino) == (written.st_mtime_ns, written.st_ino)


@pytest.mark.parametrize("content", [b"", b'{"trades": ', b"[]", b"{}", b"\xff\xfe"])
def test_a_file_that_tells_no_kind_of_trades_is_named_with_a_way_out(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "source.json").write_bytes(content)
    with pytest.raises(PreflightError, match=r"source\.json .* cannot be read .*: write .*--data-dir") as refusal:
        hold(tmp_path, is_demo=True)
    assert "\n" not in str(refusal.value)
    assert (tmp_path / "source.json").read_bytes() == content


def test_whoever_listens_beyond_this_machine_needs_a_token() -> None:
    with pytest.raises(OpenWithoutTokenError, match="API_TOKEN"):
        check_listening_on("0.0.0.0")
    check_listening_on("0.0.0.0", SecretStr("long"))


@pytest.mark.parametrize("bind_host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_every_loopback_address_stays_on_this_machine(bind_host: str) -> None:
    check_listening_on(bind_host)
