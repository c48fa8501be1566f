"""`cryptotrace alerts`: send a test message, list what rang and what became of it, check the rules."""

import typer

from cryptotrace_dagster.errors import UserError


class TestMessageError(UserError):
    """A test message could not be delivered; the message says why and what to do."""


def register(app: typer.Typer) -> None:
    """Add the `alerts` commands."""
    alerts = typer.Typer(help="Alerts: send a test, list them, check the rules.", no_args_is_help=True)
    alerts.command("test")(send_test)
    alerts.command("list")(list_alerts)
    alerts.command("check")(check_rules)
    app.add_typer(alerts, name="alerts")


def send_test(
    route: str = typer.Option("default", help="Route of alerts.toml to send on."),
) -> None:
    """Send a test message the way an alert would go.

    Example: cryptotrace alerts test --route default
    """
    from cryptotrace_dagster.notify.message import test_message
    from cryptotrace_dagster.notify.messenger import ChannelNames, Messenger, secret_from_environment
    from cryptotrace_dagster.pipeline.rule_source import load_rules
    from cryptotrace_dagster.settings import load_settings

    settings = load_settings()
    variables = {each.name: each.webhook_variable for each in load_rules(settings.alerts_file).routes}
    if route != "default" and route not in variables:
        raise TestMessageError(
            f"There is no route {route!r} in {settings.alerts_file}: use one of {_named(variables)}."
        )
    messenger = Messenger(
        secret_from_environment,
        dashboard_url=settings.dashboard_url,
        names=ChannelNames(api_url=settings.discord_api_url),
    )
    variable = variables.get(route)
    if not messenger.has_channel(route, variable):
        raise TestMessageError(f"No test message was sent: {messenger.missing_words(variable)}. Set it and try again.")
    sent = messenger.send(route, test_message(settings.dashboard_url), variable)
    if sent.outcome != "delivered":
        raise TestMessageError(
            f"The test message on route {route!r} was not delivered: {sent.reason}. "
            "Check the address or token, and that this machine reaches Discord."
        )
    print(f"Delivered on route {route}" + (f", message {sent.message_id}." if sent.message_id else "."))


def list_alerts(
    symbol: str = typer.Option("", help="Only this symbol."),
    limit: int = typer.Option(20, min=1, help="How many, the newest first."),
    as_json: bool = typer.Option(False, "--json", help="One JSON array."),
) -> None:
    """List the newest alerts with their latest delivery.

    Example: cryptotrace alerts list --symbol BTCUSDT --limit 5
    """
    from rich.console import Console
    from rich.table import Table

    from cryptotrace_dagster.formats import plain, to_json
    from cryptotrace_dagster.pipeline.delivery import latest_alerts
    from cryptotrace_dagster.queries import open_for_reading
    from cryptotrace_dagster.settings import load_settings

    settings = load_settings()
    frame = latest_alerts(open_for_reading(settings), symbol.upper() or None, limit)
    if as_json:
        print(to_json(frame).decode())
        return
    if frame.is_empty():
        print("No alert has rung yet.")
        return
    columns = ("event_time", "symbol", "severity", "phase", "title", "delivery")
    table = Table(*(name.replace("_", " ") for name in columns))
    for row in plain(frame.select(columns)).iter_rows():
        table.add_row(*("-" if value is None else str(value) for value in row))
    Console().print(table)


def check_rules() -> None:
    """Check the alert rules, and say which are in force.

    Example: cryptotrace alerts check
    """
    from cryptotrace_dagster.pipeline.rule_source import load_rules
    from cryptotrace_dagster.settings import load_settings

    path = load_settings().alerts_file
    book = load_rules(path)
    where = str(path) if path.exists() else f"the built-in rules, for there is no {path}"
    print(f"{len(book.rules)} rules and {len(book.routes)} routes are valid ({where}).")
    for rule in book.rules:
        print(f"  {rule.name}: {rule.kind}, {rule.severity.name}, {', '.join(rule.symbols)}")


def _named(variables: dict[str, str]) -> str:
    return ", ".join(["default", *variables])
