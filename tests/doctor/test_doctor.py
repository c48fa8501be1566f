"""The examination finds each fault, names its remedy, and never shows a secret."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import SecretStr
from typer.testing import CliRunner

from cryptotrace_dagster import doctor
from cryptotrace_dagster.cli.doctor import register
from cryptotrace_dagster.doctor import Finding, Verdict
from cryptotrace_dagster.domain.windows import utc_now
from cryptotrace_dagster.settings import Settings
from cryptotrace_dagster.storage import Warehouse
from tests.market import fill
from tests.postgres_server import PostgresServer


class Neighbour:
    """A small web server that answers each path with what a test puts there."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, Any]] = {}
        neighbour = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = neighbour.answers.get(self.path, (404, "nothing here"))
                data = (
                    (body() if callable(body) else body)
                    if isinstance(body, str) or callable(body)
                    else json.dumps(body)
                )
                payload = (data if isinstance(data, str) else json.dumps(data)).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            do_POST = do_GET

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def neighbour() -> Iterator[Neighbour]:
    server = Neighbour()
    yield server
    server.close()


def settings(**values: Any) -> Settings:
    return Settings(_env_file=None, **values)


@pytest.mark.parametrize(
    ("offset_seconds", "verdict"), [(0.0, Verdict.OK), (1.2, Verdict.WARNING), (-30.0, Verdict.FAULT)]
)
def test_a_clock_that_is_off_is_found(neighbour: Neighbour, offset_seconds: float, verdict: Verdict) -> None:
    neighbour.answers["/api/v3/time"] = (200, lambda: {"serverTime": int((time.time() + offset_seconds) * 1000)})
    finding = doctor.check_exchange(settings(binance_rest_url=neighbour.url))
    assert finding.verdict is verdict
    assert (verdict is Verdict.OK) == (finding.remedy == "")


@pytest.mark.parametrize(("healthy", "verdict"), [(True, Verdict.OK), (False, Verdict.FAULT)])
def test_a_daemon_without_heartbeat_is_found(neighbour: Neighbour, healthy: bool, verdict: Verdict) -> None:
    daemon = {"daemonType": "SENSOR", "required": True, "healthy": healthy, "lastHeartbeatTime": 1.0}
    answer = {"data": {"instance": {"daemonHealth": {"allDaemonStatuses": [daemon]}}}}
    neighbour.answers["/graphql"] = (200, answer)
    finding = doctor.check_dagster(settings(dagster_url=neighbour.url))
    assert finding.verdict is verdict
    assert healthy or "sensor" in finding.found


def test_who_answers_as_dagster_does_not_is_no_dagster(neighbour: Neighbour) -> None:
    for answer in ({"errors": [{"message": "no such field"}]}, {"data": None}, "no JSON"):
        neighbour.answers["/graphql"] = (200, answer)
        finding = doctor.check_dagster(settings(dagster_url=neighbour.url))
        assert (finding.verdict, "does not answer" in finding.found) == (Verdict.FAULT, True)


def test_what_runs_on_this_machine_is_asked_without_the_proxy(
    neighbour: Neighbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards a machine behind a proxy, which answers for 127.0.0.1 with an error, whatever runs there."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    neighbour.answers = {
        "/graphql": (200, {"data": {"instance": {"daemonHealth": {"allDaemonStatuses": []}}}}),
        "/healthz": (200, {"status": "ok"}),
        "/_stcore/health": (200, "ok"),
        "/server_info": (200, {"dagster_version": "1"}),
        "/api/v3/time": (200, lambda: {"serverTime": int(time.time() * 1000)}),
        "/api/webhooks/1/local": (200, {}),
    }
    ports = dict.fromkeys(("dagster_port", "api_port", "dashboard_port", "feed_port"), neighbour.port)
    here = settings(
        dagster_url=neighbour.url,
        binance_rest_url=neighbour.url,
        discord_webhook_url=SecretStr(f"{neighbour.url}/api/webhooks/1/local"),
        **ports,
    )
    checks = (doctor.check_dagster, doctor.check_ports, doctor.check_services, doctor.check_exchange)
    findings = [check(here) for check in (*checks, doctor.check_discord)]
    assert {finding.verdict for finding in findings} == {Verdict.OK}, findings


@pytest.mark.parametrize(("status", "verdict"), [(200, Verdict.OK), (404, Verdict.FAULT), (503, Verdict.WARNING)])
def test_a_webhook_is_asked_and_never_shown(neighbour: Neighbour, status: int, verdict: Verdict) -> None:
    neighbour.answers["/api/webhooks/1/t0psecret"] = (status, {})
    finding = doctor.check_discord(settings(discord_webhook_url=SecretStr(f"{neighbour.url}/api/webhooks/1/t0psecret")))
    assert finding.verdict is verdict
    assert "t0psecret" not in finding.found + finding.remedy


def test_without_a_channel_the_doctor_says_how_to_get_one() -> None:
    finding = doctor.check_discord(settings())
    assert finding.verdict is Verdict.WARNING
    assert "DISCORD_WEBHOOK_URL" in finding.remedy


def test_a_port_held_by_another_program_is_named(neighbour: Neighbour) -> None:
    free = {"dagster_port": 1, "dashboard_port": 2, "feed_port": 3}  # nobody listens on these
    finding = doctor.check_ports(settings(api_port=neighbour.port, **free))
    assert (finding.verdict, f"API_PORT {neighbour.port}" in finding.found) == (Verdict.FAULT, True)
    neighbour.answers["/healthz"] = (200, {"status": "ok"})
    assert doctor.check_ports(settings(api_port=neighbour.port, **free)).verdict is Verdict.OK


def test_a_service_says_itself_what_troubles_it(neighbour: Neighbour) -> None:
    neighbour.answers["/healthz"] = (503, {"problems": ["BTCUSDT has been silent for 40 s"]})
    neighbour.answers["/_stcore/health"] = (200, "ok")
    port = neighbour.port
    finding = doctor.check_services(settings(feed_port=port, api_port=port, dashboard_port=port))
    assert finding.verdict is Verdict.FAULT
    assert "feed: BTCUSDT has been silent for 40 s" in finding.found


def test_nobody_at_the_broker_s_address_is_a_fault() -> None:
    finding = doctor.check_broker(settings(kafka_bootstrap_servers="127.0.0.1:1"))
    assert (finding.verdict, "cryptotrace up" in finding.remedy) == (Verdict.FAULT, True)


def test_an_open_door_without_a_token_is_a_fault() -> None:
    assert doctor.check_exposure(settings(bind_host="0.0.0.0")).verdict is Verdict.FAULT
    assert doctor.check_exposure(settings(bind_host="0.0.0.0", api_token=SecretStr("x"))).verdict is Verdict.OK


def test_a_wrong_rule_is_named_with_its_line(tmp_path: Path) -> None:
    rules = tmp_path / "alerts.toml"
    rules.write_text('[[rules]]\nname = "x"\nkind = "move"\nat_least_percent = "much"\nwithin = "60s"\n')
    finding = doctor.check_rules(settings(alerts_file=rules))
    assert (finding.verdict, "line 4" in finding.found) == (Verdict.FAULT, True)


def test_the_store_is_whole_and_fresh_or_says_what_is_missing(tmp_path: Path) -> None:
    here = settings(data_dir=tmp_path)
    assert doctor.check_warehouse(here).verdict is Verdict.FAULT
    store = Warehouse(here.resolved_warehouse_url)
    store.create()
    assert doctor.check_warehouse(here).verdict is Verdict.WARNING
    fill(store, end=utc_now(), minutes=20)
    finding = doctor.check_warehouse(here)
    assert finding.verdict is Verdict.FAULT
    assert "20 trades missing in 1 open gap" in finding.found
    assert "backfill" in finding.remedy


def test_a_store_that_is_not_there_is_named_without_its_password(postgres: PostgresServer) -> None:
    url = f"{postgres.create_database('lake_of_the_doctor')} password=t0psecret"
    finding = doctor.check_warehouse(settings(warehouse_url=url))
    assert (finding.verdict, "dbname=lake_of_the_doctor" in finding.found) == (Verdict.FAULT, True)
    assert "t0psecret" not in finding.found + finding.remedy


def test_a_full_disk_is_noticed_before_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 2 * 10**9})()
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage)
    assert doctor.check_disk(settings(data_dir=tmp_path / "new")).verdict is Verdict.WARNING
    usage.free = 10**8
    assert doctor.check_disk(settings(data_dir=tmp_path / "new")).verdict is Verdict.FAULT


def test_a_check_that_breaks_is_a_finding_and_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CHECKS", {"broken": lambda _: 1 / 0})
    finding = doctor.examine(settings())[0]
    assert (finding.part, finding.verdict) == ("broken", Verdict.FAULT)


@pytest.mark.parametrize(("verdict", "exit_code"), [(Verdict.WARNING, 0), (Verdict.FAULT, 1)])
def test_the_exit_code_and_the_json_tell_a_monitor(
    monkeypatch: pytest.MonkeyPatch, verdict: Verdict, exit_code: int
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda _: [Finding("part", verdict, "found", "do this")])
    app = typer.Typer()
    register(app)
    shown = CliRunner().invoke(app, ["--json"])
    assert shown.exit_code == exit_code
    assert json.loads(shown.stdout) == {
        "healthy": exit_code == 0,
        "findings": [{"part": "part", "verdict": verdict.value, "found": "found", "remedy": "do this"}],
    }
    assert "do this" in CliRunner().invoke(app, []).stdout
