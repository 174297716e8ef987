"""Releases holds whose time is over."""

from datetime import datetime

from chassis.database import Connected
from services.wallet import holds, ledger

BATCH_SIZE = 500


def sweep(database: Connected, now: datetime) -> int:
    """Release every hold that is due, in batches; the number of them.

    A hold that is captured or voided meanwhile refuses its expiry, which is right.
    """
    released = 0
    while True:
        with database.begin() as session:
            due = holds.due(session, now, BATCH_SIZE)
            if due:
                ledger.post(session, now, due)
        released += len(due)
        if len(due) < BATCH_SIZE:
            return released
