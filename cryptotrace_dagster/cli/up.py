"""`cryptotrace up`: the whole system on this machine, from the exchange's trades to alerts on Discord."""

import json
import os
import shutil
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cryptotrace_dagster.settings import Settings
    from cryptotrace_dagster.supervisor.display import Display
    from cryptotrace_dagster.supervisor.services import Options, Plan
    from cryptotrace_dagster.supervisor.summary import Summary
    from cryptotrace_dagster.supervisor.system import StopSignals

_FOR_EVER_SECONDS = 1e12
# What a demo leaves behind; the next one starts from nothing, because the simulated exchange does, too.
_DEMO_LEFTOVERS = ("cryptotrace.duckdb", "cryptotrace.duckdb.wal", "published", "dagster_home", "receiver")


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(up)


def up(
    demo: Annotated[bool, typer.Option("--demo", help="Use the simulated exchange; needs no network.")] = False,
    duration: Annotated[
        float | None, typer.Option(min=1, help="End after so many seconds, with a summary as JSON on the last line.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder for all data, instead of DATA_DIR.")] = None,
    browser: Annotated[bool, typer.Option(help="Open the dashboard in a browser.")] = True,
    seed: Annotated[int, typer.Option(help="Demo: the same seed makes the same market.")] = 7,
    script: Annotated[str, typer.Option(help="Demo: events and faults, `demo` or a file.")] = "demo",
    trades_per_second: Annotated[
        float | None, typer.Option(min=0.01, help="Demo: trades a second, all symbols.")
    ] = None,
    replay: Annotated[list[Path] | None, typer.Option(help="Demo: play recordings; may be given repeatedly.")] = None,
    speed: Annotated[str | None, typer.Option(help="Demo: pace of a recording: 1, 10, or max.")] = None,
    port_offset: Annotated[int, typer.Option(min=0, max=50000, help="Add this to every port.")] = 0,
) -> None:
    """Run the whole system on this machine until Ctrl-C: broker, feed, Dagster, API and dashboard.

    Examples: cryptotrace up --demo
              cryptotrace up --demo --duration 120 --no-browser --data-dir /tmp/try
    """
    from cryptotrace_dagster.supervisor.services import Options

    is_demo = demo or bool(replay)
    options = Options(
        is_demo=is_demo,
        seed=seed,
        script=script,
        replay=tuple(replay or ()),
        speed=speed,
        trades_per_second=trades_per_second,
        port_offset=port_offset,
    )
    summary = _run(_settings(data_dir, options), options, duration, opens_browser=browser and duration is None)
    if summary is not None:
        print(json.dumps(summary.as_dict()))
    if duration is not None:  # stopped before its time is over, there is no summary, and nothing was shown to hold
        raise typer.Exit(0 if summary is not None and summary.is_clean else 1)


def _settings(data_dir: Path | None, options: "Options") -> "Settings":
    """Return the settings; a demo has a folder and, for a recording, symbols of its own."""
    from cryptotrace_dagster.settings import load_user_settings

    folder: dict[str, object] = {"data_dir": data_dir, "warehouse_url": ""} if data_dir else {}
    settings = load_user_settings(**folder)
    updates: dict[str, object] = {}
    if options.is_demo and "data_dir" not in settings.model_fields_set:
        updates["data_dir"] = settings.data_dir / "demo"
    if options.replay:
        from cryptotrace_dagster.exchange.replay import load_recordings

        updates["symbols"] = tuple(load_recordings(options.replay))
    return settings.model_copy(update=updates)


def _run(settings: "Settings", options: "Options", duration: float | None, *, opens_browser: bool) -> "Summary | None":
    """Run the system; return a summary when it had an end, None when it was asked to stop."""
    from cryptotrace_dagster.log import set_up_logging
    from cryptotrace_dagster.pipeline.rule_source import load_rules
    from cryptotrace_dagster.settings import RUNNING_FILE
    from cryptotrace_dagster.storage import warehouse_of
    from cryptotrace_dagster.supervisor.dagster_home import write_home
    from cryptotrace_dagster.supervisor.display import Display
    from cryptotrace_dagster.supervisor.preflight import check_machine, data_folder_held, free_port
    from cryptotrace_dagster.supervisor.services import plan_system, running_file
    from cryptotrace_dagster.supervisor.system import StopRequested, StopSignals

    code_server_port = free_port()
    plan = plan_system(settings, options, code_server_port)
    load_rules(plan.settings.alerts_file)
    with (
        data_folder_held(plan.settings, is_demo=options.is_demo),
        (plan.log_folder / "supervisor.log").open("a", encoding="utf-8") as log_file,
    ):
        check_machine(plan)
        set_up_logging(stream=log_file)  # the display says on the terminal what the user needs to know
        signals = StopSignals()
        with Display(plan) as display:
            display.say(f"Starting in {plan.settings.data_dir} ...")
            if options.is_demo:
                _clear_last_demo(plan)
            warehouse_of(plan.settings).create()
            write_home(plan.dagster_home, code_server_port)
            running = plan.settings.data_dir / RUNNING_FILE
            running.write_text(running_file(plan), encoding="utf-8")
            try:
                return _supervise(plan, display, signals, duration, opens_browser=opens_browser)
            except StopRequested:
                display.say("Stopped.")
                return None
            finally:
                running.unlink(missing_ok=True)


def _supervise(
    plan: "Plan", display: "Display", signals: "StopSignals", duration: float | None, *, opens_browser: bool
) -> "Summary | None":
    from cryptotrace_dagster.domain.windows import utc_now
    from cryptotrace_dagster.supervisor.summary import Accountant
    from cryptotrace_dagster.supervisor.system import System

    started_at = utc_now()
    with System(plan, display, signals) as system:
        system.start()
        display.announce_addresses()
        if opens_browser and _has_screen():
            webbrowser.open(plan.settings.dashboard_url)
        system.watch(lambda: False, duration or _FOR_EVER_SECONDS)
        display.say("The time is over: no more trades; waiting until all of them have gone the whole way ...")
        accountant = Accountant(plan, started_at)
        accountant.bring_to_rest(system.watch, stop_feed=lambda: system.stop_service("feed"))
        return accountant.count()


def _clear_last_demo(plan: "Plan") -> None:
    """Remove what an earlier demo left: the simulated exchange begins anew, with the same ids at other times."""
    for name in _DEMO_LEFTOVERS:
        path = plan.settings.data_dir / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    if not plan.has_own_broker:
        from cryptotrace_dagster.stream import empty_topic

        empty_topic(plan.settings.kafka_bootstrap_servers, plan.settings.ticks_topic)


def _has_screen() -> bool:
    return sys.stderr.isatty() and (sys.platform == "darwin" or bool(os.environ.get("DISPLAY")))
