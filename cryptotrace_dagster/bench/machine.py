"""What the figures came from: the machine, its load, and the versions that matter."""

import os
import platform
from importlib import metadata

import psutil

_PACKAGES = ("dagster", "duckdb", "polars", "confluent-kafka", "websockets", "msgspec")


def describe_machine() -> dict[str, str | int | float]:
    """Return cores, memory, system, versions, and how busy the machine was just now (one minute's load)."""
    versions = {name: metadata.version(name) for name in _PACKAGES}
    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
        **versions,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123 - a file of the kernel's
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.machine()
