"""Detectors: each turns closed bars into scores, as a fold that carries its memory explicitly."""

from collections.abc import Callable
from fnmatch import fnmatchcase
from importlib import import_module

from cryptotrace_dagster.domain.detectors.base import Detector

# By name, and imported only when asked for: scientific libraries take seconds to load.
_HOMES = {
    "pump": ("pump", "PumpDetector"),
    "pump_classifier": ("pump_classifier", "PumpClassifierDetector"),
    "seasonal_trend": ("seasonal_trend", "SeasonalTrendDetector"),
    "regime_change": ("regime_change", "RegimeChangeDetector"),
    "isolation_forest": ("isolation_forest", "IsolationForestDetector"),
    "market_move": ("market", "MarketMoveDetector"),
    "market_relation": ("market", "MarketRelationDetector"),
    "data_silence": ("data_trouble", "SilenceDetector"),
    "data_clock_skew": ("data_trouble", "ClockSkewDetector"),
    "data_stale_price": ("data_trouble", "StalePriceDetector"),
}


NAMES = (*_HOMES, "combined")
"""The names under which scores are stored; `combined` is made of the others' scores (combined.py)."""


def find_detectors(*patterns: str) -> tuple[Detector, ...]:
    """Return the detectors whose names match any of the patterns (`*`, `?`), all of them without a pattern."""
    return tuple(
        _made(module, kind)
        for name, (module, kind) in _HOMES.items()
        if any(fnmatchcase(name, pattern) for pattern in patterns or ("*",))
    )


def _made(module: str, kind: str) -> Detector:
    make: Callable[[], Detector] = getattr(import_module(f"{__name__}.{module}"), kind)
    return make()
