"""`cryptotrace alerts`: a test message, the list, and a check of the rules."""

import json
from pathlib import Path

import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from cryptotrace_dagster.cli import alerts as commands
from cryptotrace_dagster.connections import StoreAddress
from cryptotrace_dagster.errors import UserError
from cryptotrace_dagster.pipeline import delivery
from cryptotrace_dagster.receiver.faults import ReceiverFault, ReceiverFaultKind
from cryptotrace_dagster.receiver.server import DiscordReceiver, ReceiverConfig
from cryptotrace_dagster.storage import Warehouse
from tests.notify.outbox import GENEROUS, alert, put


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, with no secret of this machine in reach."""
    monkeypatch.chdir(tmp_path)
    for name in ("DISCORD_WEBHOOK_URL", "DISCORD_BOT_TOKEN", "DISCORD_CHANNEL_ID", "WAREHOUSE_URL", "ALERTS_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    return tmp_path


def run(*arguments: str) -> str:
    """Return what a command prints; a `UserError` reaches the caller, as `main` would get it."""
    app = typer.Typer()
    app.callback()(lambda: None)
    commands.register(app)
    result = CliRunner().invoke(app, ["alerts", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_a_test_message_is_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    with DiscordReceiver(ReceiverConfig(limits=GENEROUS)) as receiver:
        monkeypatch.setenv("DISCORD_WEBHOOK_URL", receiver.webhook_url)

        assert run("test").startswith("Delivered on route default")
        assert receiver.messages[0]["embeds"][0]["title"] == "CryptoTrace can reach you here"

        receiver.start_fault(ReceiverFault(kind=ReceiverFaultKind.NOT_FOUND))
        with pytest.raises(UserError, match="404: it does not exist"):
            run("test")


def test_without_a_channel_the_command_says_what_to_set() -> None:
    with pytest.raises(UserError, match="neither DISCORD_WEBHOOK_URL nor DISCORD_BOT_TOKEN"):
        run("test")
    with pytest.raises(UserError, match="There is no route 'urgent'"):
        run("test", "--route", "urgent")


def test_the_list_shows_what_became_of_each_alert(folder: Path) -> None:
    warehouse = Warehouse(str(folder / "data" / "cryptotrace.duckdb"))
    warehouse.create()
    assert run("list").strip() == "No alert has rung yet."
    put(warehouse, alert(1), alert(2, symbol="ETHUSDT"))

    rows = json.loads(run("list", "--json", "--symbol", "ethusdt"))

    assert [(row["symbol"], row["delivery"]) for row in rows] == [("ETHUSDT", None)]


def test_the_list_is_read_where_the_lake_keeps_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards WAREHOUSE_DATA_PATH, without which a lake on S3 cannot be opened."""
    asked: list[Warehouse] = []

    def latest(warehouse: Warehouse, *_: object) -> pl.DataFrame:
        asked.append(warehouse)
        return pl.DataFrame()

    monkeypatch.setattr(delivery, "latest_alerts", latest)
    monkeypatch.setenv("WAREHOUSE_URL", "ducklake:postgres:dbname=lake")
    monkeypatch.setenv("WAREHOUSE_DATA_PATH", "s3://bucket/lake")
    run("list")
    assert [warehouse.address for warehouse in asked] == [
        StoreAddress("ducklake:postgres:dbname=lake", "s3://bucket/lake")
    ]


def test_a_check_counts_the_rules_and_names_the_line_of_an_error(folder: Path) -> None:
    assert "rules and 0 routes are valid (the built-in rules" in run("check")

    (folder / "alerts.toml").write_text("[[rules]]\nname = 'a'\nkind = 'prize'\n")

    with pytest.raises(UserError, match="line 3: kind 'prize' is not known"):
        run("check")
