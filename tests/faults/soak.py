"""A soak: the whole system under load and random faults, and whether the memory of every process stays flat.

    python -m tests.faults.soak [--seconds 1800] [--trades-per-second 2000] [--seed S] [--port-offset N]

Runs `cryptotrace up --demo --script storm` and samples the resident memory of its processes. Prints a table and, as the
last line, one JSON object; exits with 1 when the system's own summary complains or when a process grew: when its median
in the last third of the time is above that of the middle third by more than a tenth. Processes that come and go (runs
of Dagster) count as one process, the largest of them at each sample.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from statistics import median

import psutil

SAMPLE_SECONDS = 5.0
WARM_UP_SECONDS = 60.0
ALLOWED_GROWTH = 1.10
FAKES = {"exchange", "receiver"}  # the simulated exchange keeps every trade that it made, to be compared with
NAMES = {
    "dagster_webserver": "dagster ui",
    "dagster._daemon": "dagster daemon",
    "execute_run": "runs",
    "grpc": "code server",
    "streamlit": "dashboard",
}


def name_of(command: list[str]) -> str:
    """Return the name under which a process is listed, from its command line."""
    text = " ".join(command)
    if "cryptotrace_dagster.cli.main" in command:
        return command[command.index("cryptotrace_dagster.cli.main") + 1]
    return next((name for mark, name in NAMES.items() if mark in text), "helpers of python")


def resident_bytes(root: psutil.Process) -> dict[str, int]:
    """Return the largest resident memory among the processes of each name below `root`."""
    largest: dict[str, int] = defaultdict(int)
    for process in root.children(recursive=True):
        try:
            name = name_of(process.cmdline())
            largest[name] = max(largest[name], process.memory_info().rss)
        except psutil.Error:
            continue  # it ended between the two looks
    return largest


def thirds(samples: list[tuple[float, int]], seconds: float) -> tuple[float, float, float]:
    """Return the medians over the first (without the warm-up), middle and last third of the time, in MB."""
    bounds = [WARM_UP_SECONDS, seconds / 3, seconds * 2 / 3, float("inf")]
    parts = [[size for at, size in samples if low <= at < high] for low, high in pairwise(bounds)]
    first, middle, last = (median(part) / 1e6 if part else 0.0 for part in parts)
    return first, middle, last


def soak(arguments: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Run the system for the time, and return its summary together with the memory of its processes."""
    command = [
        sys.executable,
        "-m",
        "cryptotrace_dagster.cli.main",
        "up",
        "--demo",
        "--no-browser",
        "--script",
        "storm",
    ]
    command += ["--duration", str(arguments.seconds), "--trades-per-second", str(arguments.trades_per_second)]
    command += ["--seed", str(arguments.seed), "--data-dir", str(folder), "--port-offset", str(arguments.port_offset)]
    samples: dict[str, list[tuple[float, int]]] = defaultdict(list)
    began = time.monotonic()
    with (folder / "up.out").open("w+") as output:
        system = subprocess.Popen(command, stdout=output)
        while system.poll() is None:
            at = time.monotonic() - began
            if at < arguments.seconds:
                for name, size in resident_bytes(psutil.Process(system.pid)).items():
                    samples[name].append((at, size))
            time.sleep(SAMPLE_SECONDS)
        output.seek(0)
        lines = output.read().strip().splitlines()
    summary = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    memory = {name: thirds(found, arguments.seconds) for name, found in sorted(samples.items())}
    return {"exit_code": system.returncode, "summary": summary, "memory_mb": memory}


def complaints(result: dict[str, object]) -> list[str]:
    """Return what was promised and did not hold."""
    found = [] if result["exit_code"] == 0 else [f"`cryptotrace up` ended with {result['exit_code']}"]
    memory: dict[str, tuple[float, float, float]] = result["memory_mb"]  # type: ignore[assignment]
    for name, (_, middle, last) in memory.items():
        if name not in FAKES and last > middle * ALLOWED_GROWTH:
            found.append(f"{name} grew from {middle:.0f} to {last:.0f} MB")
    return found


def main() -> int:
    """Soak from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--trades-per-second", type=float, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--port-offset", type=int, default=21_000)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="cryptotrace-soak-"))
    result = soak(arguments, folder)
    result["complaints"] = complaints(result)
    if result["complaints"]:
        print(f"What is left of it is in {folder}.")
    else:
        shutil.rmtree(folder)
    print(f"{'process':<20}{'first third':>12}{'middle':>10}{'last':>10}  MB, median")
    for name, (first, middle, last) in result["memory_mb"].items():  # type: ignore[attr-defined]
        print(f"{name:<20}{first:>12.0f}{middle:>10.0f}{last:>10.0f}")
    print(json.dumps(result))
    return 1 if result["complaints"] else 0


if __name__ == "__main__":
    sys.exit(main())
