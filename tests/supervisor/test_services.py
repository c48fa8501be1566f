"""Which processes the system has, from settings and options alone."""

from datetime import timedelta
from pathlib import Path
from urllib.request import proxy_bypass_environment

import pytest
from pydantic import SecretStr

from cryptotrace_dagster.settings import RUNNING_FILE, Settings, load_settings, load_user_settings
from cryptotrace_dagster.supervisor.services import Options, Plan, plan_system, running_file, service_environment

WEBHOOK = "https://discord.com/api/webhooks/1/secret"


def planned(options: Options | None = None, **settings: object) -> Plan:
    return plan_system(Settings(_env_file=None, **settings), options or Options(), code_server_port=5000)


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def names(plan: Plan) -> set[str]:
    return {service.name for service in plan.services}


def test_a_demo_without_a_webhook_has_an_exchange_and_a_receiver() -> None:
    plan = planned(Options(is_demo=True))
    assert {"exchange", "receiver"} <= names(plan)
    assert plan.settings.binance_stream_url == "ws://127.0.0.1:9443"
    assert service_environment(plan)["DISCORD_WEBHOOK_URL"].startswith("http://127.0.0.1:9445/")


def test_a_demo_with_a_webhook_tells_the_real_channel() -> None:
    plan = planned(Options(is_demo=True), discord_webhook_url=SecretStr(WEBHOOK))
    assert "receiver" not in names(plan)
    assert service_environment(plan)["DISCORD_WEBHOOK_URL"] == WEBHOOK


def test_a_busier_market_has_a_shorter_past_so_that_it_starts_as_soon() -> None:
    assert Options(is_demo=True).history == timedelta(hours=1)
    assert Options(is_demo=True, trades_per_second=10).history == timedelta(hours=1)
    assert Options(is_demo=True, trades_per_second=2000).history == timedelta(seconds=200)


def test_live_operation_has_neither() -> None:
    plan = planned()
    assert not {"exchange", "receiver"} & names(plan)
    assert plan.settings.binance_stream_url.startswith("wss://")


def test_a_kafka_of_the_users_own_is_used_instead_of_the_broker_that_comes_along() -> None:
    assert "broker" in names(planned())
    plan = planned(kafka_bootstrap_servers="kafka:9092")
    assert "broker" not in names(plan)
    assert plan.settings.kafka_bootstrap_servers == "kafka:9092"


@pytest.mark.parametrize("options", [Options(is_demo=True), Options(is_demo=True, replay=(Path("day.jsonl"),))])
def test_a_demo_never_works_on_the_users_warehouse(options: Options, tmp_path: Path) -> None:
    """Guards real trades: mixed with simulated ones, nothing could tell them apart."""
    plan = planned(
        options,
        data_dir=tmp_path,
        warehouse_url="ducklake:postgres:dbname=lake password=t0psecret",
        warehouse_data_path="s3://bucket/lake",
    )
    environment = service_environment(plan)
    assert environment["WAREHOUSE_URL"] == str(tmp_path / "cryptotrace.duckdb")
    assert environment["WAREHOUSE_DATA_PATH"] == ""


def test_live_operation_works_on_the_users_warehouse() -> None:
    plan = planned(warehouse_url="ducklake:postgres:dbname=lake", warehouse_data_path="s3://bucket/lake")
    environment = service_environment(plan)
    assert environment["WAREHOUSE_URL"] == "ducklake:postgres:dbname=lake"
    assert environment["WAREHOUSE_DATA_PATH"] == "s3://bucket/lake"


def test_a_demo_has_topics_of_its_own_on_the_users_kafka() -> None:
    """Guards the real topic, whose readers would take simulated trades for real ones."""
    names = ("TICKS_TOPIC", "DEAD_LETTER_TOPIC")
    demo = service_environment(planned(Options(is_demo=True), kafka_bootstrap_servers="kafka:9092", ticks_topic="mine"))
    assert [demo[name] for name in names] == ["demo.mine", "demo.ticks.dead_letter"]
    live = service_environment(planned(kafka_bootstrap_servers="kafka:9092", ticks_topic="mine"))
    assert [live[name] for name in names] == ["mine", "ticks.dead_letter"]


def test_an_offset_moves_every_port_and_every_address() -> None:
    plain, moved = planned(Options(is_demo=True)), planned(Options(is_demo=True, port_offset=100))
    assert [port.number + 100 for port in plain.ports] == [port.number for port in moved.ports]
    assert moved.settings.kafka_bootstrap_servers == "127.0.0.1:9192"
    assert moved.settings.dashboard_url == "http://127.0.0.1:8601"
    assert moved.receiver_url == "http://127.0.0.1:9545"


def test_an_address_that_the_user_set_for_links_stays() -> None:
    plan = planned(Options(port_offset=100), dashboard_url="https://crypto.example.org")
    assert plan.settings.dashboard_url == "https://crypto.example.org"


def test_services_get_absolute_paths_for_they_may_work_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    environment = service_environment(planned())
    assert environment["DATA_DIR"] == str(tmp_path / "data")
    assert environment["WAREHOUSE_URL"] == str(tmp_path / "data" / "cryptotrace.duckdb")
    assert environment["ALERTS_FILE"] == str(tmp_path / "alerts.toml")
    assert environment["DAGSTER_HOME"] == str(tmp_path / "data" / "dagster_home")


@pytest.mark.parametrize(
    ("set_here", "expected"),
    [
        ({}, "127.0.0.1,localhost"),
        ({"NO_PROXY": "example.org, localhost"}, "example.org,localhost,127.0.0.1"),
        ({"no_proxy": "a.example", "NO_PROXY": "b.example"}, "a.example,b.example,127.0.0.1,localhost"),
        ({"NO_PROXY": "*"}, "*"),
    ],
)
def test_services_ask_each_other_without_the_proxy(
    monkeypatch: pytest.MonkeyPatch, set_here: dict[str, str], expected: str
) -> None:
    """Guards an offline demo behind a proxy, which cannot reach the exchange on this machine for the feed."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in set_here.items():
        monkeypatch.setenv(name, value)
    environment = service_environment(planned())
    assert (environment["no_proxy"], environment["NO_PROXY"]) == (expected, expected)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, environment[name])
    assert proxy_bypass_environment("127.0.0.1:9444")


@pytest.mark.parametrize("options", [Options(), Options(is_demo=True)])
def test_services_wait_only_for_services_that_there_are_and_never_in_a_circle(options: Options) -> None:
    waiting = {service.name: set(service.after) for service in planned(options).services}
    started: set[str] = set()
    while len(started) < len(waiting):
        able = {name for name, needs in waiting.items() if needs <= started} - started
        assert able, f"these wait for ever: {waiting.keys() - started}"
        started |= able


def test_the_feed_ends_before_the_broker_that_it_still_has_to_flush_to() -> None:
    wave = {service.name: service.stop_wave for service in planned(Options(is_demo=True)).services}
    assert wave["feed"] < wave["broker"]
    assert wave["dagster daemon"] < wave["code server"]


def test_a_recording_is_played_without_a_script(tmp_path: Path) -> None:
    exchange = next(
        s for s in planned(Options(is_demo=True, replay=(tmp_path / "r.jsonl",))).services if s.name == "exchange"
    )
    assert str(tmp_path / "r.jsonl") in exchange.command
    assert "--script" not in exchange.command


def test_commands_beside_a_demo_look_at_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards `DATA_DIR=data/demo cryptotrace alerts list` where .env names the warehouse of live operation."""
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text("WAREHOUSE_URL=ducklake:postgres:dbname=lake\nKAFKA_BOOTSTRAP_SERVERS=kafka:9092\n")
    plan = plan_system(load_user_settings(data_dir=tmp_path), Options(is_demo=True), code_server_port=5000)
    (tmp_path / RUNNING_FILE).write_text(running_file(plan))
    beside = load_settings(data_dir=tmp_path)
    assert beside.resolved_warehouse_url == str(tmp_path / "cryptotrace.duckdb")
    assert beside.ticks_topic == "demo.ticks"


def test_commands_beside_a_running_system_learn_its_addresses_and_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(
        Options(is_demo=True, port_offset=100), discord_webhook_url=SecretStr(WEBHOOK), api_token=SecretStr("hidden")
    )
    (tmp_path / RUNNING_FILE).write_text(running_file(plan))
    monkeypatch.chdir(tmp_path)
    settings = load_settings(data_dir=tmp_path)
    for name in ("symbols", "dagster_port", "api_port", "kafka_bootstrap_servers", "binance_rest_url", "dashboard_url"):
        assert getattr(settings, name) == getattr(plan.settings, name), name
    assert "secret" not in running_file(plan)
    assert "lake" not in running_file(planned(warehouse_url="ducklake:postgres:dbname=lake password=hidden"))
    assert "hidden" not in running_file(plan)
    assert load_user_settings(data_dir=tmp_path).api_port == 8000
