"""One service's process: started, looked at, restarted after a death, stopped.

Owns the process group, the log file and the back-off between restarts. Stays out: which services there are
(services.py) and in which order they start and stop (system.py).
"""

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

import structlog

from cryptotrace_dagster.supervisor.guardian import Guardian, signal_group
from cryptotrace_dagster.supervisor.services import Service

log = structlog.get_logger(__name__)

_FIRST_BACK_OFF_SECONDS = 0.5
_LONGEST_BACK_OFF_SECONDS = 30.0
_STABLE_AFTER_SECONDS = 60.0
_LOG_LIMIT_BYTES = 20_000_000


class State(Enum):
    """What a service is doing, in the words of the status display."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    DEAD = "restarting"
    STOPPED = "stopped"


class Child:
    """The process of one service over its restarts."""

    def __init__(self, service: Service, environment: Mapping[str, str], log_path: Path, guardian: Guardian) -> None:
        self.service = service
        self.state = State.WAITING
        self.restarts = 0
        self.log_path = log_path
        self._environment = {**environment, **service.environment}
        self._guardian = guardian
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._retry_at = 0.0
        self._deaths_in_a_row = 0

    @property
    def pid(self) -> int | None:
        """Return the number of the running process."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def deaths_in_a_row(self) -> int:
        """Return how often the process died since it last ran for a while."""
        return self._deaths_in_a_row

    @property
    def seconds_running(self) -> float:
        """Return how long ago the process was started."""
        return time.monotonic() - self._started_at

    def start(self) -> None:
        """Start the process in a group of its own, its output appended to its log."""
        self._keep_log_small()
        with self.log_path.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own command lines
                self.service.command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # a Ctrl-C at the terminal reaches the supervisor alone, which keeps the order
            )
        if self.service.niceness:
            os.setpriority(os.PRIO_PROCESS, self._process.pid, self.service.niceness)
        self._guardian.watch(self._process.pid)
        self._started_at = time.monotonic()
        self.state = State.STARTING
        log.info("service_started", service=self.service.name, pid=self._process.pid, restarts=self.restarts)

    def look(self) -> None:
        """Bring the state up to date: ready, dead, or started again after its back-off."""
        if self.state in (State.WAITING, State.STOPPED):
            return
        if self.state is State.DEAD:
            if time.monotonic() >= self._retry_at:
                self.restarts += 1
                self.start()
            return
        if self._has_done_its_work():
            self.state = State.READY
        elif self.pid is None:
            self._note_death()
        elif self.state is State.STARTING and not self.service.runs_once and self.service.is_ready():
            self.state = State.READY
            log.info("service_ready", service=self.service.name, seconds=round(self.seconds_running, 1))
        elif self.state is State.READY and self.seconds_running > _STABLE_AFTER_SECONDS:
            self._deaths_in_a_row = 0
            self._keep_log_small()

    def ask_to_stop(self) -> None:
        """Send the polite signal; the process may take its time, see `finish_stopping`."""
        self.state = State.STOPPED
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def finish_stopping(self, deadline: float) -> None:
        """Wait for the process until the deadline (monotonic seconds), then kill whatever its group still holds."""
        if self._process is None:
            return
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.warning("service_killed", service=self.service.name, reason="it did not end in time")
        self._end_group()
        self._process.wait()

    def last_line(self) -> str:
        """Return the last line of the log that says something, for an error message."""
        try:
            lines = self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:  # it was never started
            return "(no log yet)"
        return next((line.strip() for line in reversed(lines) if line.strip()), "(the log is empty)")

    def _has_done_its_work(self) -> bool:
        return self.service.runs_once and self._process is not None and self._process.poll() == 0

    def _note_death(self) -> None:
        assert self._process is not None  # noqa: S101 - only a started process dies
        self._end_group()  # a run worker must not outlive the code server that would have to report it
        self._deaths_in_a_row += 1
        back_off = back_off_seconds(self._deaths_in_a_row)
        self._retry_at = time.monotonic() + back_off
        self.state = State.DEAD
        log.warning(
            "service_died",
            service=self.service.name,
            exit_code=self._process.returncode,
            retry_in_seconds=back_off,
            log=str(self.log_path),
        )

    def _end_group(self) -> None:
        assert self._process is not None  # noqa: S101 - only a started process has a group
        signal_group(self._process.pid, signal.SIGKILL)
        self._guardian.forget(self._process.pid)

    def _keep_log_small(self) -> None:
        """Move a large log's content aside; the process goes on writing, for it appends to the same file."""
        if not self.log_path.exists() or self.log_path.stat().st_size < _LOG_LIMIT_BYTES:
            return
        self.log_path.with_suffix(".log.1").write_bytes(self.log_path.read_bytes())
        os.truncate(self.log_path, 0)


def back_off_seconds(deaths: int) -> float:
    """Return the wait before the next start after so many deaths in a row: it doubles up to half a minute."""
    # Left to grow, the power leaves the range of floats after a night of deaths, and takes the supervisor with it.
    return min(_FIRST_BACK_OFF_SECONDS * 2.0 ** min(deaths - 1, 16), _LONGEST_BACK_OFF_SECONDS)
