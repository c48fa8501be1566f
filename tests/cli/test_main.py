"""The command line says what is wrong in one sentence, and what it can do."""

import pytest
import typer

from cryptotrace_dagster.cli import main as command_line
from cryptotrace_dagster.errors import UserError


def app_that_raises(error: Exception) -> typer.Typer:
    app = typer.Typer()

    @app.command()
    def only() -> None:
        raise error

    return app


def test_a_user_error_is_one_masked_sentence_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = UserError("Port 3000 is taken:\n  stop it. See http://x/webhooks/1/hidden")
    monkeypatch.setattr(command_line, "build_app", lambda: app_that_raises(error))
    monkeypatch.setattr("sys.argv", ["cryptotrace"])
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert printed.err == "cryptotrace: Port 3000 is taken: stop it. See http://x/webhooks/***\n"
    assert printed.out == ""


def test_an_error_of_ours_is_not_dressed_up_as_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_line, "build_app", lambda: app_that_raises(KeyError("bug")))
    monkeypatch.setattr("sys.argv", ["cryptotrace"])
    with pytest.raises(KeyError):
        command_line.main()
