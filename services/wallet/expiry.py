"""Releases holds whose time is over."""

import logging
from datetime import datetime

from chassis.database import Connected
from contracts.errors import ServiceError
from contracts.keys import expiry_key
from services.wallet import ledger
from services.wallet.book import holds
from services.wallet.rules.holding import ExpireHold

log = logging.getLogger(__name__)

BATCH_SIZE = 500


def sweep(database: Connected, now: datetime) -> int:
    """Release every hold that is due, in batches; the number of them.

    A hold that is captured or voided meanwhile refuses its expiry, which is right.
    """
    released = 0
    with database.read() as session:
        if not holds.is_any_due(session, now):
            return released
    while True:
        with database.begin() as session:
            due = [
                ExpireHold(idempotency_key=expiry_key(hold_id), user_id=user_id, hold_id=hold_id)
                for user_id, hold_id in holds.due(session, now, BATCH_SIZE)
            ]
            outcomes = ledger.post(session, now, due) if due else []
        refusals = [outcome for outcome in outcomes if isinstance(outcome, ServiceError)]
        for refusal in refusals:
            log.warning("a hold was not released", extra={"error": str(refusal)})
        released += len(due) - len(refusals)
        if len(due) < BATCH_SIZE or len(refusals) == len(due):
            return released
