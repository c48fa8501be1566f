"""The figures of a bounded run come from where they are known, and a broken promise shows."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import polars as pl
import pytest

from cryptotrace_dagster.settings import Settings
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.supervisor import services
from cryptotrace_dagster.supervisor.services import Options, plan_system
from cryptotrace_dagster.supervisor.summary import Accountant, Summary
from cryptotrace_dagster.tables import ALERT_DELIVERIES, ALERTS, RAW_TICKS
from tests.builders import ticks

STARTED = datetime(2026, 1, 1, 12)
CLEAN = Summary(
    trades_sent=3,
    ticks_stored=3,
    ticks_missing=0,
    ticks_doubled=0,
    bars=1,
    features=1,
    anomaly_scores=0,
    alerts=1,
    alerts_delivered=1,
    alert_latency_p50_s=1.0,
    alert_latency_p95_s=1.0,
    runs_failed=0,
    checks_failed=0,
)


@pytest.mark.parametrize(
    "broken",
    [{"ticks_missing": 1}, {"ticks_doubled": 1}, {"runs_failed": 1}, {"checks_failed": 1}, {"alerts_delivered": 0}],
)
def test_a_summary_is_clean_only_without_a_broken_promise(broken: dict[str, int]) -> None:
    assert CLEAN.is_clean
    assert not replace(CLEAN, **broken).is_clean


def test_an_alert_without_any_channel_to_send_it_to_breaks_no_promise() -> None:
    assert replace(CLEAN, alerts_delivered=0, alerts_skipped=1).is_clean


def test_the_fields_of_the_json_are_what_users_rely_on() -> None:
    assert " ".join(CLEAN.as_dict()) == (
        "trades_sent ticks_stored ticks_missing ticks_doubled bars features anomaly_scores alerts alerts_delivered "
        "alert_latency_p50_s alert_latency_p95_s runs_failed checks_failed"
    )


class Outside(BaseHTTPRequestHandler):
    """Exchange, receiver and Dagster in one: answers what a test put there."""

    answers: dict[str, object]

    def do_GET(self) -> None:
        self._answer(self.answers[self.path])

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["query"]
        self._answer({"data": next(answer for name, answer in self.answers.items() if name in query)})

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self, content: object) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())


@contextmanager
def outside(**answers: object) -> Iterator[int]:
    """Answer on a port while the block lasts."""
    handler = type("Handler", (Outside,), {"answers": answers})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()


def alert(alert_id: str, event_time: datetime) -> dict[str, object]:
    values: dict[str, object] = dict.fromkeys(ALERTS.column_names)
    texts = ("rule", "symbol", "severity", "phase", "conversation_id", "bar_interval", "title", "message", "evidence")
    times = {"bar_start": event_time, "event_time": event_time, "available_at": event_time, "raised_at": STARTED}
    return values | dict.fromkeys(texts, "x") | times | {"alert_id": alert_id, "symbol": "BTCUSDT"}


def delivery(alert_id: str, message_id: str) -> dict[str, object]:
    values: dict[str, object] = dict.fromkeys(ALERT_DELIVERIES.column_names)
    return values | {
        "alert_id": alert_id,
        "route": "default",
        "attempt": 1,
        "outcome": "delivered",
        "attempted_at": STARTED,
        "message_id": message_id,
    }


def test_figures_are_counted_at_the_exchange_the_warehouse_the_receiver_and_dagster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids 11 to 15 were sent; 13 is missing and 14 is doubled. One of two alerts arrived, 2.5 s after its trade."""
    store = Warehouse(str(tmp_path / "cryptotrace.duckdb"))
    store.create()
    stored = ticks(*({"trade_id": trade_id} for trade_id in (11, 12, 14, 14, 15)))
    with store.transaction() as transaction:
        transaction.append(RAW_TICKS, stored)
        rows = [alert("heard", STARTED), alert("unheard", STARTED)]
        transaction.append(ALERTS, pl.DataFrame(rows, schema_overrides=ALERTS.polars_schema))
        sent = [delivery("heard", "m1"), delivery("unheard", "m2")]
        transaction.append(ALERT_DELIVERIES, pl.DataFrame(sent, schema_overrides=ALERT_DELIVERIES.polars_schema))
    arrived = (STARTED + timedelta(seconds=2.5)).isoformat() + "Z"
    timing = {"creationTime": 4e9, "startTime": 4e9, "endTime": None, "assetSelection": None}
    answers = {
        "/_control/sent": {"symbols": {"BTCUSDT": {"first_id": 1, "first_heard_id": 11, "last_id": 15}}},
        "/_control/messages": [{"id": "m1", "arrived_at": arrived}],
        "runsOrError": {
            "runsOrError": {
                "results": [
                    {"runId": "1", "jobName": "live_job", "status": "SUCCESS"} | timing,
                    {"runId": "2", "jobName": "live_job", "status": "FAILURE"} | timing,
                ]
            }
        },
        "assetNodes": {
            "assetNodes": [{"assetKey": {"path": ["alerts"]}, "assetChecksOrError": {"checks": [{"name": "fine"}]}}]
        },
        "check0": {
            "check0": [
                {"status": "FAILED", "timestamp": 4e9, "evaluation": None},
                {"status": "SUCCEEDED", "timestamp": 4e9, "evaluation": None},
                {"status": "FAILED", "timestamp": 1.0, "evaluation": None},
            ]
        },
    }
    with outside(**answers) as port:
        monkeypatch.setattr(services, "RECEIVER_PORT", port)
        settings = Settings(_env_file=None, data_dir=tmp_path, dagster_port=port)
        plan = plan_system(settings, Options(is_demo=True), code_server_port=1)
        here = plan.settings.model_copy(update={"binance_rest_url": f"http://127.0.0.1:{port}"})
        summary = Accountant(replace(plan, settings=here), STARTED).count()
    assert (summary.trades_sent, summary.ticks_stored) == (5, 5)
    assert (summary.ticks_missing, summary.ticks_doubled) == (1, 1)
    assert (summary.alerts, summary.alerts_delivered) == (2, 1)
    assert (summary.alert_latency_p50_s, summary.alert_latency_p95_s) == (2.5, 2.5)
    assert (summary.runs_failed, summary.checks_failed) == (1, 1)
