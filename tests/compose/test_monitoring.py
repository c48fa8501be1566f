"""The provisioned dashboard and Prometheus' configuration speak of metrics and targets that exist."""

import json
import re

import yaml
from prometheus_client import CollectorRegistry

from cryptotrace_dagster.api.metrics import ApiMetrics
from cryptotrace_dagster.feed.metrics import FeedCollector, Figures, SymbolFigures, latency_histogram
from tests.compose.stack import ROOT


class StillFeed:
    """A feed with one symbol, as its metrics see it."""

    def figures(self) -> Figures:
        symbol = SymbolFigures(
            symbol="BTCUSDT", received=1, repeated=0, missed=0, filled=0, open_gaps=0, open_gap_trades=0,
            last_trade_id=1, seconds_since_trade=0.0,
        )  # fmt: skip
        return Figures(
            symbols=(symbol,), published=1, lag=0, dead_letters={"json": 1}, reconnects={"closed": 1}, pauses=0,
            repaired=0, failed_requests=0, used_weight=0, clock_skew_seconds=0.0, connections_open=1, connections=1,
            problems=(),
        )  # fmt: skip


def exposed_names() -> set[str]:
    registry = CollectorRegistry()
    registry.register(FeedCollector(StillFeed()))
    latency_histogram(registry)
    api = ApiMetrics().registry
    families = [family for each in (registry, api) for family in each.collect()]
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
    return {family.name + suffix for family in families for suffix in suffixes[family.type]}


def test_every_metric_of_the_dashboard_is_exposed() -> None:
    dashboard = json.loads((ROOT / "deploy/grafana/dashboards/cryptotrace.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    named = set(re.findall(r"cryptotrace_\w+", " ".join(expressions)))
    assert len(named) > 10
    assert named - exposed_names() == set()


def test_prometheus_scrapes_services_that_exist() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    jobs = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    targets = {
        target.partition(":")[0] for job in jobs for config in job["static_configs"] for target in config["targets"]
    }
    assert targets == {"feed", "api"}
    assert targets <= services.keys()
