"""What people say about alerts: stored beside them, so that rules and detectors can be judged by it.

Owns the one write that a face may make, in a transaction of milliseconds. Stays out: how the question is put.
"""

import polars as pl

from cryptotrace_dagster.domain.windows import utc_now
from cryptotrace_dagster.pipeline.labels import label_alert
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.tables import ALERT_FEEDBACK

LONGEST_NOTE = 500


def record_feedback(warehouse: Warehouse, alert_id: str, was_right: bool, note: str = "") -> None:
    """Append one person's word about an alert, and label what the alert was about with it."""
    words, now = note.strip()[:LONGEST_NOTE] or None, utc_now()
    row = pl.DataFrame([(alert_id, was_right, words, now)], schema=ALERT_FEEDBACK.polars_schema, orient="row")
    with warehouse.transaction() as transaction:
        transaction.append(ALERT_FEEDBACK, row)
        label_alert(transaction, alert_id, was_right, words, now)
