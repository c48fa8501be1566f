"""What the user sees while the system runs: a live table on a terminal, plain lines elsewhere. On standard error.

Standard output is left to the summary, so that a script can read it.
"""

import time
from collections.abc import Iterable
from types import TracebackType

import psutil
from rich.console import Console
from rich.live import Live
from rich.table import Table

from cryptotrace_dagster.supervisor.child import Child, State
from cryptotrace_dagster.supervisor.services import Plan

_STYLES = {
    State.WAITING: "dim",
    State.STARTING: "yellow",
    State.READY: "green",
    State.DEAD: "red",
    State.STOPPED: "dim",
}
_REFRESH_SECONDS = 1.0


class Display:
    """Shows the children's states, and a few sentences between them."""

    def __init__(self, plan: Plan) -> None:
        self.is_up = False
        self._plan = plan
        self._console = Console(stderr=True, highlight=False)
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        self._shown: dict[str, State] = {}
        self._next_refresh = 0.0

    def __enter__(self) -> "Display":
        """Begin the live table, where there is a terminal."""
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Leave the last state of the table on the screen."""
        if self._live is not None:
            self._live.stop()

    def say(self, sentence: str) -> None:
        """Print one sentence."""
        self._console.print(sentence, soft_wrap=True)

    def announce_addresses(self) -> None:
        """Say where everything is, once everything is ready."""
        self.is_up = True
        settings = self._plan.settings
        rows = [
            ("Dagster", settings.dagster_url),
            ("API", f"http://127.0.0.1:{settings.api_port}/docs"),
            ("Dashboard", settings.dashboard_url),
            ("Kafka", settings.kafka_bootstrap_servers),
        ]
        if self._plan.options.is_demo:
            rows.append(("Exchange", f"{settings.binance_rest_url} (simulated)"))
        if self._plan.has_receiver:
            rows.append(("Alerts", f"{self._plan.receiver_url}/_control/messages (in place of Discord)"))
        rows.append(("Data, logs", str(settings.data_dir)))
        self.say("CryptoTrace is up. Ctrl-C stops it.")
        for name, address in rows:
            self.say(f"  {name:<11} {address}")

    def show(self, children: Iterable[Child]) -> None:
        """Show the states: all of them in the table, only changes as lines."""
        if self._live is None:
            for child in children:
                if child.state is not self._shown.get(child.service.name, State.WAITING):
                    self.say(_line(child))
                self._shown[child.service.name] = child.state
        elif time.monotonic() >= self._next_refresh:
            self._live.update(_table(children), refresh=True)
            self._next_refresh = time.monotonic() + _REFRESH_SECONDS


def _line(child: Child) -> str:
    pid = f" (process {child.pid})" if child.pid else ""
    return f"{child.service.name}: {child.state.value}{pid}"


def _table(children: Iterable[Child]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), title_justify="left")
    for heading in ("service", "state", "up for", "restarts", "memory", "address"):
        table.add_column(heading, justify="right" if heading in ("up for", "restarts", "memory") else "left")
    for child in children:
        is_running = child.pid is not None
        table.add_row(
            child.service.name,
            f"[{_STYLES[child.state]}]{child.state.value}[/]",
            _duration(child.seconds_running) if is_running else "",
            str(child.restarts) if child.restarts else "",
            _memory(child.pid) if child.pid is not None else "",
            child.service.address,
        )
    return table


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _memory(pid: int) -> str:
    try:
        return f"{psutil.Process(pid).memory_info().rss / 1e6:.0f} MB"
    except psutil.Error:  # it ended a moment ago
        return ""
