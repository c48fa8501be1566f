"""The stage that tells: undelivered alerts to Discord, every attempt a row of `alert_deliveries`.

Owns the outbox: what is still to be sent on which route, in which order, when to try again and when to stop. A row is
written before each sending and completed after it, so that a crash between the two repeats that one message, marked as
a repeat, and no other. Stays out: what a message looks like and how it travels (notify/).
"""

import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import duckdb
import polars as pl
import structlog

from cryptotrace_dagster.domain.rules import RuleBook, Severity, is_quiet, next_time_of_day
from cryptotrace_dagster.notify.chart import candle_chart
from cryptotrace_dagster.notify.message import MAX_EMBEDS, Message, embed_of
from cryptotrace_dagster.notify.messenger import Messenger
from cryptotrace_dagster.notify.transport import Sent
from cryptotrace_dagster.pipeline.report import StageReport
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.tables import ALERT_DELIVERIES, ALERT_RULE_VERSIONS, ALERTS, FINAL_OUTCOMES, OHLC_BARS

GIVE_UP_AFTER = timedelta(hours=24)
HISTORY_AFTER = timedelta(hours=1)  # an alert found so long after it could have rung is history, not news
FIRST_BACK_OFF, LONGEST_BACK_OFF = timedelta(seconds=1), timedelta(minutes=5)
CLOSED_PAUSE = timedelta(hours=1)  # 10,000 refused requests in ten minutes would block this address
CLOSED_STATUSES = (401, 403, 404)
REFUSED = "refused"
BACKLOG = 3  # from so many on, several alerts share a message
SEND_SECONDS = 2.0  # how long one call may go on sending; the rest is for the next call
CANDLE_SECONDS, CHART_SPAN, FEWEST_CANDLES = 10, timedelta(minutes=15), 3
BEING_SENT, QUEUED = "being sent", "waits for its turn on this route"
_LATEST_ATTEMPTS = (
    f"SELECT * FROM {ALERT_DELIVERIES.name} "
    "QUALIFY row_number() OVER (PARTITION BY alert_id, route ORDER BY attempt DESC) = 1"
)
_UNTRIED = (
    f"FROM {ALERTS.name} AS a "
    f"WHERE NOT EXISTS (SELECT 1 FROM {ALERT_DELIVERIES.name} AS d WHERE d.alert_id = a.alert_id)"
)

log = structlog.get_logger(__name__)


@dataclass
class DeliveryReport:
    """What one call did, in numbers of alerts and routes."""

    outcomes: Counter[str] = field(default_factory=Counter)
    messages: int = 0
    pending: int = 0
    stopped_routes: dict[str, str] = field(default_factory=dict)

    @property
    def delivered(self) -> int:
        """Return how many alerts Discord confirmed."""
        return self.outcomes["delivered"]

    def as_stage_report(self) -> StageReport:
        """Return the report as metadata of the asset."""
        details: dict[str, int | float | str] = {**self.outcomes, "messages": self.messages, "pending": self.pending}
        if self.stopped_routes:
            details["stopped_routes"] = "; ".join(f"{name}: {why}" for name, why in self.stopped_routes.items())
        return StageReport(ALERT_DELIVERIES.name, None, sum(self.outcomes.values()), details)


@dataclass(frozen=True)
class _Parcel:
    """One alert on one route, with what became of it so far."""

    alert: Mapping[str, Any]
    route: str
    attempt: int = 0
    outcome: str | None = None
    retry_at: datetime | None = None
    status_code: int | None = None
    reason: str | None = None
    has_sisters: bool = False  # other routes take the alert too: what is written for one must not hide this one

    @property
    def is_new(self) -> bool:
        """Return whether nothing has been written about it yet."""
        return self.outcome is None

    @property
    def is_repeat(self) -> bool:
        """Return whether it may have been seen already."""
        return self.outcome == "unknown"

    @property
    def was_refused(self) -> bool:
        """Return whether Discord refused the message that held it: then it travels alone and plain."""
        return (self.reason or "").startswith(REFUSED)


@dataclass(frozen=True)
class _Row:
    """One row of `alert_deliveries` to be written for a parcel."""

    parcel: _Parcel
    attempt: int
    outcome: str
    at: datetime
    retry_at: datetime | None = None
    status_code: int | None = None
    reason: str | None = None
    message_id: str | None = None

    def after(self) -> _Parcel:
        """Return the parcel as it is once the row is written."""
        return replace(
            self.parcel,
            attempt=self.attempt,
            outcome=self.outcome,
            retry_at=self.retry_at,
            status_code=self.status_code,
            reason=self.reason,
        )


def deliver_alerts(
    warehouse: Warehouse,
    messenger: Messenger,
    now: datetime,
    book: RuleBook | None = None,
    *,
    seconds: float = SEND_SECONDS,
) -> DeliveryReport:
    """Send what is still to be sent, for about so many seconds, and return what came of it.

    On each route alerts leave in the order in which they rang; what fails holds back the rest of its route until it may
    be tried again. Nothing but the warehouse remembers anything, so any process may go on where another was killed;
    while another one is sending, nothing is done here: what it sends right now would look like a killed one's work.
    """
    clock = _Clock(now, seconds)
    outbox = _Outbox(warehouse, messenger, book or RuleBook(), clock)
    with warehouse.claimed("delivery") as is_ours:
        if is_ours:
            _send_what_is_due(outbox, seconds)
    return outbox.report


def is_anything_unsent(warehouse: Warehouse) -> bool:
    """Return whether an alert is without any attempt, or the latest one on a route was not the last; cheap to ask."""
    with warehouse.reading() as connection:
        row = connection.execute(
            f"SELECT EXISTS (FROM ({_LATEST_ATTEMPTS}) WHERE outcome NOT IN {FINAL_OUTCOMES}) OR EXISTS ({_UNTRIED})"
        ).fetchone()
    return row is not None and bool(row[0])


def _send_what_is_due(outbox: "_Outbox", seconds: float) -> None:
    due = outbox.due()
    outbox.clock.starts_sending(seconds)  # to find out what is due may take as long as all of the time for sending
    for route, parcels in due.items():
        _send_route(outbox, route, parcels)


def stopped_routes(warehouse: Warehouse) -> dict[str, str]:
    """Return the routes that Discord has closed to us (401, 403, 404) and why, by the latest attempt on each."""
    latest = warehouse.read(
        f"SELECT route, arg_max(status_code, attempted_at) AS status_code, arg_max(reason, attempted_at) AS reason "
        f"FROM {ALERT_DELIVERIES.name} WHERE status_code IS NOT NULL GROUP BY route ORDER BY route"
    )
    return {row["route"]: row["reason"] or "" for row in latest.to_dicts() if row["status_code"] in CLOSED_STATUSES}


def latest_alerts(warehouse: Warehouse, symbol: str | None, limit: int) -> pl.DataFrame:
    """Return the newest alerts, each with its latest delivery (`delivered`, or `retry: reason` and the like)."""
    return warehouse.read(
        f"""
        SELECT a.*, d.delivery FROM {ALERTS.name} AS a LEFT JOIN (
            SELECT alert_id, string_agg(outcome || coalesce(': ' || reason, ''), '; ' ORDER BY route) AS delivery
            FROM ({_LATEST_ATTEMPTS}) GROUP BY alert_id
        ) AS d USING (alert_id)
        WHERE $symbol IS NULL OR symbol = $symbol ORDER BY available_at DESC, alert_id LIMIT $limit
        """,
        {"symbol": symbol, "limit": limit},
    )


class _Clock:
    """The caller's instant, moved on by the time that sending takes."""

    def __init__(self, now: datetime, seconds: float) -> None:
        self.started_at = now
        self.until = now + timedelta(seconds=seconds)
        self._began = time.monotonic()

    def now(self) -> datetime:
        """Return the instant as it is by now."""
        return self.started_at + timedelta(seconds=time.monotonic() - self._began)

    def starts_sending(self, seconds: float) -> None:
        """Count the time for sending from now on."""
        self.until = self.now() + timedelta(seconds=seconds)

    def can_wait_for(self, instant: datetime) -> bool:
        """Wait for an instant and return true, or return false at once where it lies beyond the time for sending."""
        if instant > self.until or self.now() > self.until:
            return False
        time.sleep(max(0.0, (instant - self.now()).total_seconds()))
        return True


class _Outbox:
    """What the warehouse says is still to be sent, and what it is told about the sending."""

    def __init__(self, warehouse: Warehouse, messenger: Messenger, book: RuleBook, clock: _Clock) -> None:
        self._warehouse = warehouse
        self._book = book
        self._variables = {route.name: route.webhook_variable for route in book.routes}
        self.messenger = messenger
        self.clock = clock
        self.report = DeliveryReport()
        self._completed: list[_Row] = []

    def variable_of(self, route: str) -> str | None:
        """Return the environment variable of a named route's webhook; none for the default route."""
        return self._variables.get(route)

    def due(self) -> dict[str, deque[_Parcel]]:
        """Return what may be sent now on each route, in order; write down what never will be, or only later."""
        started, fresh, in_force = self._read()
        rows: list[_Row] = []
        due: list[_Parcel] = []
        for parcel in [*started, *(parcel for alert in fresh for parcel in self._addressed(alert))]:
            row = self._set_aside(parcel, in_force)
            if row is not None:
                rows.append(row)
            elif parcel.outcome == "held" and parcel.retry_at is not None and parcel.retry_at > self.clock.until:
                self.report.pending += 1
            else:
                due.append(parcel)
                if parcel.is_new and parcel.has_sisters:
                    rows.append(_Row(parcel, 0, "held", self.clock.started_at, self.clock.started_at, reason=QUEUED))
        if rows:
            self.write(rows)
        queues: dict[str, deque[_Parcel]] = defaultdict(deque)
        for parcel in sorted(due, key=lambda each: (each.route, each.alert["available_at"], each.alert["alert_id"])):
            queues[parcel.route].append(parcel)
        return queues

    def write(self, rows: Sequence[_Row]) -> None:
        """Commit rows of `alert_deliveries`, in the place of those of the same attempt."""
        rows, self._completed = [*self._completed, *rows], []
        values = [
            (
                row.parcel.alert["alert_id"],
                row.parcel.route,
                row.attempt,
                row.outcome,
                row.at,
                row.retry_at,
                row.status_code,
                row.reason,
                row.message_id,
            )
            for row in rows
        ]
        with self._warehouse.transaction() as transaction:
            transaction.merge(
                ALERT_DELIVERIES, pl.DataFrame(values, schema=ALERT_DELIVERIES.polars_schema, orient="row")
            )
        self.report.outcomes.update(row.outcome for row in rows if row.reason not in (BEING_SENT, QUEUED))

    def complete(self, rows: Sequence[_Row]) -> None:
        """Take rows that the next `write` commits along with its own, so that a message costs one commit, not two."""
        self._completed.extend(rows)

    def flush(self) -> None:
        """Commit the completed rows now, because nothing is sent right away."""
        if self._completed:
            self.write([])

    def _read(self) -> tuple[list[_Parcel], list[dict[str, Any]], dict[tuple[str, str], datetime]]:
        columns = ", ".join(f"a.{name}" for name in ALERTS.column_names)
        fingerprint = "json_extract_string(a.evidence, '$.rule_fingerprint') AS fingerprint"
        with self._warehouse.reading() as connection:
            started = connection.execute(
                f"""
                SELECT {columns}, {fingerprint}, d.route, d.attempt, d.outcome, d.retry_at, d.status_code, d.reason
                FROM ({_LATEST_ATTEMPTS}) AS d JOIN {ALERTS.name} AS a USING (alert_id)
                WHERE d.outcome NOT IN {FINAL_OUTCOMES}
                """
            ).pl()
            fresh = connection.execute(f"SELECT {columns}, {fingerprint} {_UNTRIED}").pl().to_dicts()
            versions = connection.execute(
                f"SELECT rule, fingerprint, in_force_from FROM {ALERT_RULE_VERSIONS.name}"
            ).fetchall()
            for row in fresh[: BACKLOG - 1]:
                row["candles"] = _candles(connection, row) if row["phase"] == "opening" else None
        state = ("route", "attempt", "outcome", "retry_at", "status_code", "reason")
        parcels = [_Parcel(row, **{name: row[name] for name in state}) for row in started.to_dicts()]
        return parcels, fresh, {(rule, print_): instant for rule, print_, instant in versions}

    def _addressed(self, alert: Mapping[str, Any]) -> Iterator[_Parcel]:
        routes = self._book.routes_of(alert["rule"], alert["symbol"], Severity[alert["severity"]])
        for route in routes:
            yield _Parcel(alert, route, has_sisters=len(routes) > 1)

    def _set_aside(self, parcel: _Parcel, in_force: Mapping[tuple[str, str], datetime]) -> _Row | None:
        """Return the row of a parcel that is not to be sent now, and None for one that is."""
        now, alert = self.clock.started_at, parcel.alert
        reason = self._never(parcel, in_force)
        if reason is not None:
            return _Row(parcel, parcel.attempt + 1, "skipped", now, reason=reason)
        is_old = alert["raised_at"] < now - GIVE_UP_AFTER
        if is_old and parcel.outcome in ("retry", "unknown"):
            reason = f"not accepted within {GIVE_UP_AFTER // timedelta(hours=1)} hours; last: {parcel.reason}"
            return _Row(parcel, parcel.attempt + 1, "given_up", now, reason=reason)
        if not parcel.is_new:
            return None
        later = self._later(alert)
        return None if later is None else _Row(parcel, 0, "held", now, retry_at=later[1], reason=later[0])

    def _never(self, parcel: _Parcel, in_force: Mapping[tuple[str, str], datetime]) -> str | None:
        """Return why an alert is not to be sent at all, if so."""
        alert, variable = parcel.alert, self.variable_of(parcel.route)
        if not self.messenger.has_channel(parcel.route, variable):
            return self.messenger.missing_words(variable)
        if alert["retracted_at"] is not None and not parcel.is_repeat:
            return "late data showed that it would not ring"
        return self._old_news(alert, in_force) if parcel.is_new else None

    def _old_news(self, alert: Mapping[str, Any], in_force: Mapping[tuple[str, str], datetime]) -> str | None:
        """Return why a new alert is nothing to tell, if so."""
        if alert["raised_at"] - alert["available_at"] > HISTORY_AFTER:
            return "history: found more than an hour after it could have rung"
        in_force_from = in_force.get((alert["rule"], alert["fingerprint"] or ""))
        if in_force_from is not None and alert["available_at"] < in_force_from:
            return "the rule was not in force yet when this happened"
        if alert["phase"] == "end" and not self._book.conversations.tell_end:
            return "ends are not told (tell_end = false)"
        return None

    def _later(self, alert: Mapping[str, Any]) -> tuple[str, datetime] | None:
        """Return why and until when an alert waits, if it does."""
        now, rule, hours = self.clock.started_at, self._book.rule(alert["rule"]), self._book.quiet_hours
        if rule is not None and rule.digest:
            digest = self._book.digest
            return "waits for the digest", next_time_of_day(now, digest.at, digest.time_zone)
        if hours is not None and Severity[alert["severity"]] < hours.below and is_quiet(hours, now):
            return "quiet hours", next_time_of_day(now, hours.end, hours.time_zone)
        return None


def _send_route(outbox: _Outbox, route: str, queue: deque[_Parcel]) -> None:
    """Send a route's parcels in order until they are gone, the time is over, or one is to be tried again later."""
    tried = [each.retry_at for each in queue if each.outcome != "held" and each.retry_at is not None]
    not_before = max(tried, default=None)
    is_first = True
    while queue:
        ready_at = outbox.messenger.ready_at(route, outbox.clock.now())
        ready_at = max(ready_at, not_before or ready_at)
        if ready_at > outbox.clock.now():
            outbox.flush()
        is_ready = is_first and ready_at <= outbox.clock.now()  # however little time is left, each call sends something
        if not is_ready and not outbox.clock.can_wait_for(ready_at):
            break
        is_first = False
        rows = _send(outbox, route, _take(queue))
        queue.extendleft(row.after() for row in reversed(rows) if row.outcome not in FINAL_OUTCOMES)
        not_before = max((row.retry_at for row in rows if row.retry_at is not None), default=None)
    outbox.flush()
    outbox.report.pending += len(queue)
    closed = next((each for each in queue if each.status_code in CLOSED_STATUSES), None)
    if closed is not None:
        outbox.report.stopped_routes[route] = closed.reason or ""


def _take(queue: deque[_Parcel]) -> list[_Parcel]:
    """Take the next message's parcels: one, or several where there is a backlog."""
    batch = [queue.popleft()]
    if batch[0].was_refused or len(queue) + 1 < BACKLOG:
        return batch
    while queue and len(batch) < MAX_EMBEDS and not queue[0].was_refused:
        batch.append(queue.popleft())
    return batch


def _send(outbox: _Outbox, route: str, batch: list[_Parcel]) -> list[_Row]:
    """Send one message, with a row for each parcel that says so before it leaves; return the rows that complete them."""
    is_alone = len(batch) == 1
    picture = _picture_of(batch[0].alert) if is_alone and not batch[0].was_refused else None
    embeds = tuple(
        embed_of(
            each.alert,
            dashboard_url=outbox.messenger.dashboard_url,
            is_repeat=each.is_repeat,
            is_alone=is_alone,
            has_picture=picture is not None,
        )
        for each in batch
    )
    now = outbox.clock.now()
    outbox.write([_Row(each, each.attempt + 1, "unknown", now, reason=BEING_SENT) for each in batch])
    message = Message(embeds, nonce=batch[0].alert["alert_id"], picture=picture)
    sent = outbox.messenger.send(route, message, outbox.variable_of(route))
    outbox.report.messages += 1
    log_method = log.info if sent.outcome == "delivered" else log.warning
    log_method(
        "alerts.sent",
        route=route,
        alerts=len(batch),
        first_alert_id=batch[0].alert["alert_id"],
        outcome=sent.outcome,
        status=sent.status,
        reason=sent.reason,
    )
    rows = _rows_after(outbox, batch, sent)
    outbox.complete(rows)
    return rows


def _candles(connection: duckdb.DuckDBPyConnection, alert: Mapping[str, Any]) -> pl.DataFrame:
    """Return the candles up to an alert, for its chart."""
    return connection.execute(
        f"SELECT time_bucket(INTERVAL '{CANDLE_SECONDS} seconds', bar_start) AS start, "
        "arg_min(open, bar_start)::DOUBLE AS open, max(high)::DOUBLE AS high, min(low)::DOUBLE AS low, "
        "arg_max(close, bar_start)::DOUBLE AS close, sum(quote_volume)::DOUBLE AS volume "
        f"FROM {OHLC_BARS.name} WHERE symbol = ? AND bar_interval = '1s' AND bar_start >= ? AND bar_start < ? "
        "GROUP BY start ORDER BY start",
        [alert["symbol"], alert["available_at"] - CHART_SPAN, alert["available_at"]],
    ).pl()


def _picture_of(alert: Mapping[str, Any]) -> bytes | None:
    """Return the chart of an alert that opens an event; none where there are no candles, or drawing them fails."""
    candles = alert.get("candles")
    if candles is None or candles.height < FEWEST_CANDLES:
        return None
    try:
        title = f"{alert['symbol']}, candles of {CANDLE_SECONDS} seconds"
        return candle_chart(candles, title, alert["event_time"], CANDLE_SECONDS)
    except Exception as error:  # an alert without its picture is worth more than none
        log.warning("alerts.chart_failed", alert_id=alert["alert_id"], error=f"{type(error).__name__}: {error}")
        return None


def _rows_after(outbox: _Outbox, batch: list[_Parcel], sent: Sent) -> list[_Row]:
    """Return what is to be written about each parcel of a message after sending it."""
    now = outbox.clock.now()
    rows = []
    for parcel in batch:
        attempt = parcel.attempt + 1
        outcome, wait, reason = _judged(sent, parcel, attempt)
        retry_at = None if wait is None else now + wait
        rows.append(_Row(parcel, attempt, outcome, now, retry_at, sent.status, reason, sent.message_id))
    return rows


def _judged(sent: Sent, parcel: _Parcel, attempt: int) -> tuple[str, timedelta | None, str | None]:
    """Return (outcome of the row, how long to wait before the next attempt, reason)."""
    if sent.outcome == "delivered":
        return "delivered", None, None
    if sent.outcome == "rejected":
        is_hopeless = parcel.was_refused
        reason = f"{REFUSED}: {sent.reason}"
        return ("given_up", None, reason) if is_hopeless else (_still(parcel), timedelta(0), reason)
    waits = {"limited": timedelta(seconds=sent.retry_after or 0.0), "closed": CLOSED_PAUSE}
    outcome = "unknown" if sent.outcome == "unknown" else _still(parcel)
    return outcome, waits.get(sent.outcome, back_off(attempt)), sent.reason


def _still(parcel: _Parcel) -> str:
    """Return the outcome of an attempt that was not accepted: what may have arrived before may still have."""
    return "unknown" if parcel.is_repeat else "retry"


def back_off(attempt: int) -> timedelta:
    """Return how long to wait after an attempt: doubling from a second to five minutes."""
    doubled: int = 1 << min(attempt - 1, 20)
    return min(FIRST_BACK_OFF * doubled, LONGEST_BACK_OFF)
