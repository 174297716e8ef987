"""Disputes: what the processor's words for one mean, and what an open one stops."""

from uuid import UUID

from sqlalchemy import Uuid, bindparam, select
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
AWAITS_EVIDENCE = ("needs_response", "appeal_needs_response", "warning_needs_response")
CLOSED = (*RETURNS, "lost", "warning_closed")
REASON = "A payment was disputed with your bank. Write to support to settle it."


OPEN = select(Reversal.reversal_id).where(
    Reversal.user_id == bindparam("user_id", type_=Uuid()),
    Reversal.is_dispute,
    Reversal.status.in_(UNDECIDED),
)


def has_open(session: Session, user_id: UUID) -> bool:
    """Whether the bank has yet to decide about a payment of this user's."""
    return bool(session.scalar(select(OPEN.exists()), {"user_id": user_id}))
