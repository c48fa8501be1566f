"""Detectors: each turns closed bars into scores, as a fold that carries its memory explicitly."""

from cryptotrace_dagster.domain.detectors.base import Detector
from cryptotrace_dagster.domain.detectors.pump import PumpDetector
from cryptotrace_dagster.domain.detectors.seasonal_trend import SeasonalTrendDetector

DETECTORS: tuple[Detector, ...] = (PumpDetector(), SeasonalTrendDetector())
