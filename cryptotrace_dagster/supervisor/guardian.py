"""Leaves no process behind, even when the supervisor itself is killed and cannot clean up.

A process of its own, in a session of its own, that holds one end of a pipe. The supervisor writes `+<process group>`
and `-<process group>` into it as children come and go. When the pipe closes, the supervisor is gone, and the guardian
ends every group that is left. Works wherever there are pipes; Linux's parent-death signal would miss grandchildren.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from typing import IO

_GRACE_SECONDS = 5.0


class Guardian:
    """The supervisor's end of the pipe."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cryptotrace_dagster.supervisor.guardian"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )

    def watch(self, process_group: int) -> None:
        """Make sure that this process group ends when the supervisor does."""
        self._tell(f"+{process_group}")

    def forget(self, process_group: int) -> None:
        """Take note that this process group has ended, so that its number may be anybody's."""
        self._tell(f"-{process_group}")

    def close(self) -> None:
        """End whatever is still watched, and the guardian itself."""
        pipe = self._pipe
        with contextlib.suppress(BrokenPipeError):
            pipe.close()
        self._process.wait()

    @property
    def _pipe(self) -> IO[str]:
        assert self._process.stdin is not None  # noqa: S101 - it was opened with PIPE
        return self._process.stdin

    def _tell(self, line: str) -> None:
        # A guardian that was killed can no longer help; the supervisor's own clean stop still works without it.
        with contextlib.suppress(BrokenPipeError):
            print(line, file=self._pipe, flush=True)


def end_groups(groups: Iterable[int], grace_seconds: float = _GRACE_SECONDS) -> None:
    """Ask each process group to end, and kill what has not ended after the grace time."""
    left = [group for group in groups if signal_group(group, signal.SIGTERM)]
    deadline = time.monotonic() + grace_seconds
    while left and time.monotonic() < deadline:
        time.sleep(0.1)
        left = [group for group in left if signal_group(group, 0)]
    for group in left:
        signal_group(group, signal.SIGKILL)


def signal_group(group: int, number: int) -> bool:
    """Send a signal to a process group and return whether the group was there; signal 0 only asks."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS says so of a group of zombies
        return False
    return True


def _guard(lines: Iterable[str]) -> None:
    watched: set[int] = set()
    for line in lines:
        group = int(line[1:])
        if line.startswith("+"):
            watched.add(group)
        else:
            watched.discard(group)
    end_groups(watched)


if __name__ == "__main__":
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    _guard(sys.stdin)
