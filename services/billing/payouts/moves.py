"""What a payout may become."""

from datetime import datetime

from contracts.billing import PayoutStatus
from contracts.errors import Conflict
from services.billing.models import PayoutRow

TRANSITIONS: dict[PayoutStatus, frozenset[PayoutStatus]] = {
    PayoutStatus.REQUESTED: frozenset({PayoutStatus.HELD, PayoutStatus.DECLINED}),
    PayoutStatus.HELD: frozenset({PayoutStatus.PAYING, PayoutStatus.REFUSING}),
    PayoutStatus.PAYING: frozenset({PayoutStatus.PAID}),
    PayoutStatus.REFUSING: frozenset({PayoutStatus.REFUSED}),
    PayoutStatus.PAID: frozenset(),
    PayoutStatus.REFUSED: frozenset(),
    PayoutStatus.DECLINED: frozenset(),
}

NOT_PAID = (PayoutStatus.REFUSED, PayoutStatus.DECLINED)
"""The ends at which the money stayed where it was."""


def move(row: PayoutRow, now: datetime, to: PayoutStatus) -> None:
    """Change a locked payout's status. Raises ``Conflict`` for a move that the table lacks."""
    status = PayoutStatus(row.status)
    if to not in TRANSITIONS[status]:
        raise Conflict(f"This payout is {status}: it cannot become {to}.")
    row.status = to
    row.changed_at = now
