"""The running system: starts the services in order, heals what dies, and stops everything in order.

Owns the life of the children as a whole. Stays out: what the services are (services.py), one process (child.py),
and what is shown (display.py).
"""

import signal
import time
from collections.abc import Callable, Iterable
from types import FrameType, TracebackType

import httpx
import structlog

from cryptotrace_dagster.dagster_client import DagsterClient
from cryptotrace_dagster.errors import UserError
from cryptotrace_dagster.supervisor.child import Child, State
from cryptotrace_dagster.supervisor.display import Display
from cryptotrace_dagster.supervisor.guardian import Guardian
from cryptotrace_dagster.supervisor.services import Plan, service_environment

log = structlog.get_logger(__name__)

_TICK_SECONDS = 0.2
_START_SECONDS = 180.0
_DEATHS_AT_START = 4  # a service that cannot even start is the user's to look at; later it is restarted for ever
_WAVE_SECONDS = 6.0
_RUN_END_SECONDS = 6.0


class StartError(UserError):
    """A service did not come up; the message names it, its last words and its log."""


class StopRequested(Exception):
    """The user (Ctrl-C) or the machine (SIGTERM) asked the system to stop."""


class StopSignals:
    """Turns SIGINT and SIGTERM into a request. The second Ctrl-C no longer waits for anybody.

    Having handlers also resets both signals in the children: a shell that starts us in the background has them
    ignored, and ignored signals would be inherited.
    """

    def __init__(self) -> None:
        self.count = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1


class System:
    """All services of a plan. Use as a context manager: leaving it stops them, whatever happened."""

    def __init__(self, plan: Plan, display: Display, signals: StopSignals) -> None:
        self.plan = plan
        self._display = display
        self._signals = signals
        self._guardian = Guardian()
        environment = service_environment(plan)
        self.children = {
            service.name: Child(
                service, environment, plan.log_folder / f"{service.name.replace(' ', '_')}.log", self._guardian
            )
            for service in plan.services
        }

    def __enter__(self) -> "System":
        """Hand out the system; nothing is started yet."""
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Stop everything, in order."""
        self._stop()

    def start(self) -> None:
        """Start every service as soon as those it needs are ready, and return when all are.

        Raises:
            StartError: a service keeps dying, or is not ready in time.
            StopRequested: the user changed their mind.
        """
        if not self.watch(lambda: all(child.state is State.READY for child in self.children.values()), _START_SECONDS):
            slow = slowest(self.children.values())
            raise StartError(_start_failure(slow, f"is not ready after {_START_SECONDS:.0f} s"))

    def watch(self, until: Callable[[], bool], seconds: float) -> bool:
        """Keep the system alive until the condition holds (True) or the time is over (False).

        Raises:
            StopRequested: the user or the machine asked for the end.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._tick()
            if until():
                return True
            time.sleep(_TICK_SECONDS)
        return False

    def stop_service(self, name: str) -> None:
        """Stop one service for good, while the others go on."""
        self.children[name].ask_to_stop()
        self.children[name].finish_stopping(time.monotonic() + _WAVE_SECONDS)

    def _tick(self) -> None:
        if self._signals.count:
            raise StopRequested
        for child in self.children.values():
            if child.state is State.WAITING:
                if all(self.children[name].state is State.READY for name in child.service.after):
                    child.start()
                continue
            child.look()
            if child.state is State.DEAD and child.deaths_in_a_row >= _DEATHS_AT_START and not self._display.is_up:
                raise StartError(_start_failure(child, f"ended {child.deaths_in_a_row} times"))
        self._display.show(self.children.values())

    def _stop(self) -> None:
        asked = self._signals.count
        for wave in sorted({service.stop_wave for service in self.plan.services}):
            members = [child for child in self.children.values() if child.service.stop_wave == wave]
            for child in members:
                child.ask_to_stop()
            if wave == 1 and self._signals.count <= max(asked, 1):
                self._end_runs()
            hurried = self._signals.count > max(asked, 1)
            deadline = time.monotonic() + (0.0 if hurried else _WAVE_SECONDS)
            for child in members:
                child.finish_stopping(deadline)
            self._display.show(self.children.values())
        self._guardian.close()

    def _end_runs(self) -> None:
        """End the runs under way, so that Dagster's history says so and the next start finds a clean house."""
        if self.children["dagster ui"].pid is None or self.children["code server"].pid is None:
            return
        client = DagsterClient(f"http://127.0.0.1:{self.plan.settings.dagster_port}", timeout_seconds=3.0)
        deadline = time.monotonic() + _RUN_END_SECONDS
        try:
            if runs := client.unfinished_runs():
                client.terminate(runs)
            while time.monotonic() < deadline and client.unfinished_runs():
                time.sleep(_TICK_SECONDS)
        except httpx.HTTPError as error:
            log.warning("runs_not_ended", reason=str(error), remedy="they are closed at the next start")


def slowest(children: Iterable[Child]) -> Child:
    """Return who keeps the start from its end: one that tries, rather than one that waits for it."""
    unready = [child for child in children if child.state is not State.READY]
    return next((child for child in unready if child.state in (State.STARTING, State.DEAD)), unready[0])


def _start_failure(child: Child, what: str) -> str:
    return f"The {child.service.name} {what}: {child.last_line()[:300]} (all of it in {child.log_path})."
