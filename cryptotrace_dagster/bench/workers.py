"""Measuring in a process of its own: its CPU time and memory are then the work's alone.

Owns starting such a process and reading its one line of JSON. A worker is a module of this package that is run with
arguments and prints its result last.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

WORKER_SECONDS = 1800.0
_STOP_SECONDS = 20.0


class WorkerError(Exception):
    """A worker ended badly; its last words are in the message."""


def run_worker(module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run a module of this package and return the JSON object on its last line."""
    done = subprocess.run(  # noqa: S603 - our own module
        [sys.executable, "-m", f"cryptotrace_dagster.bench.{module}", *arguments],
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WORKER_SECONDS,
        check=False,
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        raise WorkerError(f"{module} {' '.join(arguments)}: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(lines[-1])
    return result


@contextmanager
def background(
    command: list[str], environment: Mapping[str, str] | None = None
) -> Iterator[tuple["subprocess.Popen[str]", dict[str, Any]]]:
    """Run a process while the block lasts, and lend it with the JSON object of the line that says it is ready."""
    process = subprocess.Popen(  # noqa: S603 - our own commands
        command,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        line = process.stdout.readline()
        if not line:
            raise WorkerError(f"{' '.join(command[:6])} ended with {process.wait()} before it was ready")
        yield process, json.loads(line)
    finally:
        end(process)


def end(process: "subprocess.Popen[str]", seconds: float = _STOP_SECONDS) -> None:
    """Ask a process to end, and make it."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
