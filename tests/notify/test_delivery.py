"""The outbox: nothing is lost, nothing is told twice without saying so, and the order holds."""

import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from cryptotrace_dagster.domain.rules import parse_rules
from cryptotrace_dagster.domain.windows import utc_now
from cryptotrace_dagster.notify.message import Message
from cryptotrace_dagster.notify.messenger import Messenger
from cryptotrace_dagster.notify.transport import Sent
from cryptotrace_dagster.pipeline.checks import no_route_is_stopped
from cryptotrace_dagster.pipeline.delivery import (
    BEING_SENT,
    GIVE_UP_AFTER,
    deliver_alerts,
    is_anything_unsent,
    stopped_routes,
)
from cryptotrace_dagster.receiver.faults import ReceiverFault, ReceiverFaultKind
from cryptotrace_dagster.receiver.limits import RateLimits
from cryptotrace_dagster.receiver.server import DiscordReceiver, ReceiverConfig
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.tables import ALERT_RULE_VERSIONS
from tests.builders import NOON
from tests.notify.outbox import GENEROUS, alert, ids_of, messenger, outcomes, put

Kind = ReceiverFaultKind
SOON = NOON + timedelta(seconds=60)


@pytest.fixture
def receiver() -> Iterator[DiscordReceiver]:
    with DiscordReceiver(ReceiverConfig(limits=GENEROUS)) as running:
        yield running


def test_alerts_are_delivered_once_in_the_order_in_which_they_rang(
    warehouse: Warehouse, receiver: DiscordReceiver
) -> None:
    put(warehouse, alert(2), alert(1))
    sender = messenger(receiver.webhook_url)

    assert is_anything_unsent(warehouse)
    assert deliver_alerts(warehouse, sender, SOON).delivered == 2
    assert not is_anything_unsent(warehouse)
    assert deliver_alerts(warehouse, sender, SOON).messages == 0

    assert [ids_of(each) for each in receiver.messages] == [[1], [2]]
    assert outcomes(warehouse) == [("1", 1, "delivered"), ("2", 1, "delivered")]


def test_while_somebody_else_is_sending_nothing_is_sent(warehouse: Warehouse, receiver: DiscordReceiver) -> None:
    """What the other one sends right now would look like the work of one that was killed, and be repeated."""
    put(warehouse, alert(1))
    other = Warehouse(warehouse.url, data_path=warehouse.address.data_path)
    with other.claimed("delivery"):
        assert deliver_alerts(warehouse, messenger(receiver.webhook_url), SOON).messages == 0
    assert deliver_alerts(warehouse, messenger(receiver.webhook_url), SOON).delivered == 1


def test_a_backlog_shares_messages_and_keeps_the_order(warehouse: Warehouse, receiver: DiscordReceiver) -> None:
    long = {"title": "BTCUSDT " + "x" * 300, "message": "y" * 5000, "rule": "z" * 60}
    put(warehouse, *(alert(number, **long) for number in range(1, 26)))

    report = deliver_alerts(warehouse, messenger(receiver.webhook_url), SOON, seconds=10)

    assert (report.delivered, report.messages) == (25, 3)
    assert [number for each in receiver.messages for number in ids_of(each)] == list(range(1, 26))


def test_without_a_channel_an_alert_is_skipped_once(warehouse: Warehouse) -> None:
    put(warehouse, alert(1))

    deliver_alerts(warehouse, messenger(None), SOON)
    deliver_alerts(warehouse, messenger(None), SOON)

    assert outcomes(warehouse) == [("1", 1, "skipped")]
    assert "DISCORD_WEBHOOK_URL" in warehouse.read("SELECT reason FROM alert_deliveries").item()


def test_a_server_error_is_tried_again_after_a_growing_wait_and_holds_back_the_rest(
    warehouse: Warehouse, receiver: DiscordReceiver
) -> None:
    put(warehouse, alert(1), alert(2))
    receiver.start_fault(ReceiverFault(kind=Kind.SERVER_ERROR, count=2))
    sender = messenger(receiver.webhook_url)

    for second in (0, 0.5, 4, 5, 12):
        assert is_anything_unsent(warehouse)
        deliver_alerts(warehouse, sender, SOON + timedelta(seconds=second), seconds=0)

    assert outcomes(warehouse) == [("1", 1, "retry"), ("1", 2, "retry"), ("1", 3, "delivered")]
    deliver_alerts(warehouse, sender, SOON + timedelta(seconds=13))
    assert [ids_of(each) for each in receiver.messages] == [[1], [2]]


def test_a_rate_limit_is_waited_for(warehouse: Warehouse, receiver: DiscordReceiver) -> None:
    put(warehouse, alert(1))
    receiver.start_fault(ReceiverFault(kind=Kind.RATE_LIMITED, retry_after=0.4))
    began = time.monotonic()

    deliver_alerts(warehouse, messenger(receiver.webhook_url), SOON)

    assert outcomes(warehouse) == [("1", 1, "retry"), ("1", 2, "delivered")]
    assert time.monotonic() - began >= 0.4


def test_the_limits_told_in_headers_are_kept_without_ever_being_refused(warehouse: Warehouse) -> None:
    put(warehouse, *(alert(number) for number in range(1, 61)))
    with DiscordReceiver(ReceiverConfig(limits=RateLimits(burst=2, burst_seconds=0.4, sustained=1000))) as receiver:
        report = deliver_alerts(warehouse, messenger(receiver.webhook_url), SOON, seconds=20)

    assert (report.delivered, report.messages, receiver.requests) == (60, 6, 6)


def test_a_lost_answer_is_unknown_and_the_repeat_says_so(warehouse: Warehouse, receiver: DiscordReceiver) -> None:
    put(warehouse, alert(1))
    receiver.start_fault(ReceiverFault(kind=Kind.RESET, is_stored=True))
    receiver.start_fault(ReceiverFault(kind=Kind.SERVER_ERROR))

    deliver_alerts(warehouse, messenger(receiver.webhook_url), SOON, seconds=8)

    assert outcomes(warehouse) == [("1", 1, "unknown"), ("1", 2, "unknown"), ("1", 3, "delivered")]
    titles = [each["embeds"][0]["title"] for each in receiver.messages]
    assert [title.startswith("Repeat: ") for title in titles] == [False, True]


def test_a_crash_between_sending_and_recording_repeats_that_message_alone(
    warehouse: Warehouse, receiver: DiscordReceiver
) -> None:
    put(warehouse, alert(1), alert(2))

    class Dying(Messenger):
        def send(self, route: str, message: Message, webhook_variable: str | None = None) -> Sent:
            super().send(route, message, webhook_variable)
            raise KeyboardInterrupt

    known = {"DISCORD_WEBHOOK_URL": receiver.webhook_url}
    with pytest.raises(KeyboardInterrupt):
        deliver_alerts(warehouse, Dying(known.get), SOON)
    assert warehouse.read("SELECT reason FROM alert_deliveries").item() == BEING_SENT
    deliver_alerts(warehouse, messenger(receiver.webhook_url), SOON)

    assert [ids_of(each) for each in receiver.messages] == [[1], [1], [2]]
    titles = [each["embeds"][0]["title"].startswith("Repeat: ") for each in receiver.messages]
    assert titles == [False, True, False]


@pytest.mark.parametrize("kind", [Kind.NOT_FOUND, Kind.UNAUTHORIZED, Kind.FORBIDDEN])
def test_a_closed_channel_stops_its_route_and_loses_nothing(
    warehouse: Warehouse, receiver: DiscordReceiver, kind: ReceiverFaultKind
) -> None:
    """Ten thousand refused requests in ten minutes would block the whole address."""
    put(warehouse, alert(1), alert(2))
    receiver.start_fault(ReceiverFault(kind=kind, count=1))
    sender = messenger(receiver.webhook_url)

    report = deliver_alerts(warehouse, sender, SOON)
    for second in range(1, 100, 10):
        again = deliver_alerts(warehouse, sender, SOON + timedelta(seconds=second))
        assert "default" in again.stopped_routes

    assert "default" in report.stopped_routes
    assert receiver.requests == 1
    assert list(stopped_routes(warehouse)) == ["default"]
    assert not no_route_is_stopped(warehouse).passed
    deliver_alerts(warehouse, sender, SOON + timedelta(hours=1, minutes=1))
    assert no_route_is_stopped(warehouse).passed
    assert [ids_of(each) for each in receiver.messages] == [[1], [2]]


def test_one_message_that_discord_refuses_does_not_take_the_others_with_it(
    warehouse: Warehouse, receiver: DiscordReceiver
) -> None:
    put(warehouse, *(alert(number) for number in range(1, 5)))
    receiver.start_fault(ReceiverFault(kind=Kind.SERVER_ERROR, status=400, count=2))

    deliver_alerts(warehouse, messenger(receiver.webhook_url), SOON, seconds=5)

    assert [row for row in outcomes(warehouse) if row[2] != "retry"] == [
        ("1", 2, "given_up"),
        ("2", 2, "delivered"),
        ("3", 2, "delivered"),
        ("4", 2, "delivered"),
    ]


def test_what_is_not_accepted_within_a_day_is_given_up(warehouse: Warehouse, receiver: DiscordReceiver) -> None:
    put(warehouse, alert(1))
    receiver.start_fault(ReceiverFault(kind=Kind.SERVER_ERROR, count=100))
    sender = messenger(receiver.webhook_url)
    now = SOON
    while now < NOON + GIVE_UP_AFTER + timedelta(hours=2):
        deliver_alerts(warehouse, sender, now, seconds=0)
        now += timedelta(hours=1)

    final = outcomes(warehouse)[-1]
    assert final[2] == "given_up"
    assert receiver.messages == []


ROUTES = """
[[rules]]
name = "fast move"
kind = "move"
at_least_percent = 3

[[routes]]
name = "urgent"
webhook_variable = "URGENT_URL"
severities = ["critical"]

[[routes]]
name = "ether"
webhook_variable = "ETHER_URL"
symbols = ["ETH*"]
"""


def test_routes_are_chosen_by_severity_and_symbol(warehouse: Warehouse) -> None:
    """One route that is down does not hold back another; a variable that is not set is said."""
    put(
        warehouse,
        alert(1),
        alert(2, severity="critical"),
        alert(3, severity="critical", symbol="ETHUSDT"),
    )
    book = parse_rules(ROUTES, "alerts.toml")
    generous = ReceiverConfig(limits=GENEROUS)
    with DiscordReceiver(generous) as default, DiscordReceiver(generous) as urgent:
        urgent.start_fault(ReceiverFault(kind=Kind.SERVER_ERROR))
        sender = messenger(default.webhook_url, URGENT_URL=urgent.webhook_url)
        deliver_alerts(warehouse, sender, SOON, book, seconds=0)
        assert [ids_of(each) for each in default.messages] == [[1]]
        assert urgent.messages == []
        deliver_alerts(warehouse, sender, SOON + timedelta(seconds=10), book, seconds=10)
        assert [ids_of(each) for each in urgent.messages] == [[2], [3]]

    assert outcomes(warehouse, "urgent")[-2:] == [("3", 0, "held"), ("3", 1, "delivered")]
    assert outcomes(warehouse, "ether") == [("3", 1, "skipped")]
    reason = warehouse.read("SELECT reason FROM alert_deliveries WHERE route = 'ether'").item()
    assert reason == "ETHER_URL is not set"


def test_quiet_hours_hold_what_can_wait_and_tell_it_together_afterwards(
    warehouse: Warehouse, receiver: DiscordReceiver
) -> None:
    book = parse_rules('[quiet_hours]\nstart = "11:00"\nend = "13:00"\n', "alerts.toml")
    put(warehouse, alert(1), alert(2, severity="critical"), *(alert(number) for number in (3, 4, 5)))
    sender = messenger(receiver.webhook_url)

    deliver_alerts(warehouse, sender, SOON, book)
    assert [ids_of(each) for each in receiver.messages] == [[2]]
    deliver_alerts(warehouse, sender, SOON + timedelta(minutes=30), book)
    deliver_alerts(warehouse, sender, NOON + timedelta(hours=1), book)

    assert [ids_of(each) for each in receiver.messages] == [[2], [1, 3, 4, 5]]
    assert outcomes(warehouse)[:2] == [("1", 0, "held"), ("1", 1, "delivered")]


def test_a_digest_gathers_the_alerts_of_its_rules(warehouse: Warehouse, receiver: DiscordReceiver) -> None:
    text = ROUTES.split("[[routes]]", maxsplit=1)[0] + 'digest = true\n\n[digest]\nat = "14:00"\n'
    book = parse_rules(text, "alerts.toml")
    put(warehouse, *(alert(number) for number in range(1, 4)), alert(4, rule="other"))
    sender = messenger(receiver.webhook_url)

    deliver_alerts(warehouse, sender, SOON, book)
    deliver_alerts(warehouse, sender, NOON + timedelta(hours=2), book)

    assert [ids_of(each) for each in receiver.messages] == [[4], [1, 2, 3]]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (alert(1, raised_at=NOON + timedelta(hours=2)), "history"),
        (alert(1, retracted_at=NOON), "late data"),
        (alert(1, phase="end"), "ends are not told"),
        (alert(1, evidence=json.dumps({"rule_fingerprint": "new"})), "not in force yet"),
    ],
)
def test_old_news_are_recorded_but_not_told(
    warehouse: Warehouse, receiver: DiscordReceiver, row: dict[str, object], words: str
) -> None:
    versions = [("fast move", "new", "{}", NOON + timedelta(minutes=5), NOON)]
    with warehouse.transaction() as transaction:
        transaction.append(
            ALERT_RULE_VERSIONS, pl.DataFrame(versions, schema=ALERT_RULE_VERSIONS.polars_schema, orient="row")
        )
    put(warehouse, row)
    book = parse_rules("[conversations]\ntell_end = false\n", "alerts.toml")

    deliver_alerts(warehouse, messenger(receiver.webhook_url), NOON + timedelta(hours=2), book)

    assert outcomes(warehouse) == [("1", 1, "skipped")]
    assert words in warehouse.read("SELECT reason FROM alert_deliveries").item()
    assert receiver.messages == []


def test_no_row_and_no_log_line_holds_the_address(
    warehouse: Warehouse,
    receiver: DiscordReceiver,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    put(warehouse, alert(1))
    for kind in (Kind.RESET, Kind.SERVER_ERROR, Kind.NOT_FOUND):
        receiver.start_fault(ReceiverFault(kind=kind))
    for minute in range(3):
        deliver_alerts(warehouse, messenger(receiver.webhook_url), SOON + timedelta(minutes=minute), seconds=0)

    rows = warehouse.read("FROM alert_deliveries").write_csv()
    printed = capsys.readouterr()
    ours = [record.getMessage() for record in caplog.records if record.name != "uvicorn.access"]
    for text in (rows, printed.out, printed.err, *ours):
        assert "/webhooks/1/local" not in text


SENDER = """
import sys, time
from cryptotrace_dagster.domain.windows import utc_now
from cryptotrace_dagster.pipeline.delivery import deliver_alerts
from cryptotrace_dagster.storage import Warehouse
from tests.notify.outbox import messenger
url, webhook = sys.argv[1:]
warehouse, sender = Warehouse(url), messenger(webhook)
print("started", flush=True)
sys.stdout = sys.stderr  # the log goes there: nobody empties the pipe that told of the start
while True:
    report = deliver_alerts(warehouse, sender, utc_now(), seconds=5)
    if report.pending == 0 and report.messages == 0:
        break
    time.sleep(0.05)
"""


def test_thousands_of_alerts_arrive_in_spite_of_faults_and_kills(tmp_path: Path, warehouse: Warehouse) -> None:
    """Each at least once, in order per symbol, and each kill of the sender repeats at most one message."""
    count, kills = int(os.environ.get("DELIVERY_TEST_ALERTS", "1000")), 3
    now = utc_now()
    rows = [
        alert(number, symbol=f"S{number % 7}USDT", raised_at=now, available_at=now + timedelta(milliseconds=number))
        for number in range(count)
    ]
    put(warehouse, *rows)
    with DiscordReceiver(ReceiverConfig(limits=RateLimits(burst=50, burst_seconds=0.5, sustained=10**6))) as receiver:
        for fault in _storm():
            receiver.start_fault(fault)
        for kill in range(kills + 1):
            process = subprocess.Popen(
                [sys.executable, "-c", SENDER, warehouse.url, receiver.webhook_url],
                cwd=Path(__file__).resolve().parents[2],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            assert process.stdout is not None
            process.stdout.readline()
            if kill == kills:
                assert process.wait(60 + count / 10) == 0
                break
            arrived = len(receiver.messages)
            while len(receiver.messages) < arrived + 15 and process.poll() is None:
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        messages = receiver.messages

    arrivals = [(number, each["embeds"][0]["title"]) for each in messages for number in ids_of(each)]
    firsts = list(dict.fromkeys(number for number, _ in arrivals))
    assert sorted(firsts) == list(range(count))
    assert firsts == sorted(firsts)
    times = Counter(tuple(ids_of(each)) for each in messages)
    lost_answers = sum(1 for fault in _storm() if fault.is_stored)
    assert sum(many - 1 for many in times.values()) <= kills + lost_answers
    seen: set[int] = set()
    for each in messages:
        for embed, number in zip(each["embeds"], ids_of(each), strict=True):
            assert number not in seen or embed["title"].startswith("Repeat: ")
            seen.add(number)


def _storm() -> list[ReceiverFault]:
    """Return faults one after another, with calm between them."""
    faults = [
        ReceiverFault(kind=Kind.RATE_LIMITED, retry_after=0.2, count=2),
        ReceiverFault(kind=Kind.RATE_LIMITED_BARE, retry_after=0.2),
        ReceiverFault(kind=Kind.SERVER_ERROR),
        ReceiverFault(kind=Kind.EMPTY, status=502),
        ReceiverFault(kind=Kind.RESET),
        ReceiverFault(kind=Kind.RESET, is_stored=True),
        ReceiverFault(kind=Kind.EMPTY, status=204, is_stored=True),
    ]
    calm = itertools.repeat(ReceiverFault(kind=Kind.OK, count=12))
    return [each for pair in zip(calm, faults, strict=False) for each in pair]
