"""Labels: what is known to have happened, from people's answers about alerts and from imported lists.

Owns what an answer or a line of a file becomes in `event_labels`. Stays out: reading label files (trade_files.py), and
what is learned from labels (pipeline/models.py).
"""

from datetime import datetime
from pathlib import Path

import polars as pl

from cryptotrace_dagster.domain.evaluation import Event, normal_symbol
from cryptotrace_dagster.pipeline.trade_files import TradeFileError, read_labels
from cryptotrace_dagster.storage import Transaction, Warehouse
from cryptotrace_dagster.tables import ALERTS, EVENT_LABELS

PUMP = "pump"
FEEDBACK, FILE = "feedback", "file"


def label_alert(transaction: Transaction, alert_id: str, is_event: bool, note: str | None, at: datetime) -> int:
    """Store an answer about an alert as a label of its symbol and event time, and return whether the alert is known.

    The newest answer takes the place of the one before. Alerts of detectors with `pump` in their name label pumps.
    """
    found = transaction.query(
        f"SELECT symbol, event_time, coalesce(detector, rule) AS about FROM {ALERTS.name} WHERE alert_id = ?",
        [alert_id],
    )
    rows = found.select(
        "symbol",
        "event_time",
        pl.when(pl.col("about").str.contains(PUMP)).then(pl.lit(PUMP)).otherwise("about").alias("kind"),
        is_event=pl.lit(is_event),
        source=pl.lit(FEEDBACK),
        origin=pl.lit(alert_id),
        note=pl.lit(note, dtype=pl.String),
        recorded_at=pl.lit(at),
        examples=pl.lit(None, dtype=pl.Binary),
    )
    return transaction.merge(EVENT_LABELS, rows)


def import_labels(warehouse: Warehouse, path: Path, kind: str, at: datetime) -> int:
    """Store the events of a label file, and return how many; importing a file again changes nothing else.

    Raises:
        TradeFileError: the file cannot be read, or an event has no symbol.
    """
    events = read_labels(path)
    nameless = [event for event in events if not normal_symbol(event.symbol)]
    if nameless:
        raise TradeFileError(f"{path}: the event of {nameless[0].time} has no symbol; give the file a symbol column.")
    rows = pl.DataFrame(
        [
            {
                "symbol": normal_symbol(event.symbol),
                "event_time": event.time,
                "kind": kind,
                "is_event": True,
                "source": FILE,
                "origin": path.name,
                "note": None,
                "recorded_at": at,
                "examples": None,
            }
            for event in events
        ],
        schema=EVENT_LABELS.polars_schema,
    ).unique(EVENT_LABELS.key, maintain_order=True)
    with warehouse.transaction() as transaction:
        return transaction.merge(EVENT_LABELS, rows)


def labelled_events(warehouse: Warehouse, start: datetime, end: datetime, kind: str = PUMP) -> list[Event]:
    """Return the events of a kind that are known to lie in a stretch of time."""
    rows = warehouse.read(
        f"SELECT DISTINCT symbol, event_time FROM {EVENT_LABELS.name} "
        "WHERE kind = ? AND is_event AND event_time >= ? AND event_time < ? ORDER BY ALL",
        [kind, start, end],
    )
    return [Event(symbol, time) for symbol, time in rows.iter_rows()]
