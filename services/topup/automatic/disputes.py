"""Disputes: what the processor's words for one mean, and what an open one stops."""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from services.topup.models import Reversal

UNDECIDED = (
    "needs_response",
    "under_review",
    "appeal_needs_response",
    "appeal_under_review",
)
TAKES = (*UNDECIDED, "lost")
RETURNS = ("won", "prevented")
"""An inquiry (``warning_…``) moves no money: it is neither."""
REASON = "A payment was disputed with your bank. Write to support to settle it."


def has_open(session: Session, user_id: UUID) -> bool:
    """Whether the bank has yet to decide about a payment of this user's."""
    return (
        session.scalar(
            select(Reversal.reversal_id)
            .where(
                Reversal.user_id == user_id,
                Reversal.is_dispute,
                Reversal.status.in_(UNDECIDED),
            )
            .limit(1)
        )
        is not None
    )
