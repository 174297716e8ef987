"""Refunds to cards: what each may become, whatever tells of it.

::

    requested ─▶ held ─▶ sent ─▶ pending ─▶ succeeded ─▶ failed
        │         │       ├─────────────────▶
        │         └───────┴─▶ refused            the processor said no: the credit is free again
        └─▶ declined                             the wallet had not got it

The processor's answer and its webhook end in the same place, :func:`follow`. Money that it proves
to have moved counts, also after we had given up.
"""

from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from chassis.cursors import page_by
from chassis.identifiers import new_id
from chassis.locks import locked_or_none
from chassis.outbox import publish
from contracts.errors import Conflict, NotFound
from contracts.topup import (
    CardRefund,
    CardRefundPage,
    CardRefundRefused,
    CardRefundStatus,
    ListCardRefunds,
)
from services.topup.models import CardRefundRow, Topup
from services.topup.processor import REFUND_ID, Object

S = CardRefundStatus
_PROVED = frozenset({S.PENDING, S.SUCCEEDED})
TRANSITIONS: dict[CardRefundStatus, frozenset[CardRefundStatus]] = {
    S.REQUESTED: frozenset({S.HELD, S.DECLINED}),
    S.HELD: frozenset({S.SENT, S.REFUSED}),
    S.SENT: frozenset({S.REFUSED}) | _PROVED,
    S.PENDING: frozenset({S.SUCCEEDED, S.FAILED}),
    S.SUCCEEDED: frozenset({S.PENDING, S.FAILED}),
    S.FAILED: _PROVED,
    S.REFUSED: _PROVED,
    S.DECLINED: frozenset(),
}
BEING_MADE = (S.REQUESTED, S.HELD, S.SENT)
NOT_TAKEN = "Your bank did not take it, and sent the money back."

_WORDS = {
    "pending": S.PENDING,
    "requires_action": S.PENDING,
    "succeeded": S.SUCCEEDED,
    "failed": S.FAILED,
    "canceled": S.FAILED,
}
"""The processor's words for a refund."""


def move(row: CardRefundRow, now: datetime, to: CardRefundStatus) -> None:
    """Change a locked refund's status. Raises ``Conflict`` for a move that the table lacks."""
    status = CardRefundStatus(row.status)
    if to not in TRANSITIONS[status]:
        raise Conflict(f"This refund is {status}: it cannot become {to}.")
    row.status = to
    row.updated_at = now


def named_by(session: Session, source: Object) -> CardRefundRow | None:
    """The refund that its owner asked for, locked; None for one that was made otherwise."""
    refund_id = id_in(source)
    return lock(session, refund_id) if refund_id is not None else None


def id_in(source: Object) -> UUID | None:
    """The refund that the processor's one names. Its library says that metadata may be null."""
    try:
        return UUID((source.get("metadata") or {}).get(REFUND_ID, ""))
    except ValueError:
        return None


def lock(session: Session, refund_id: UUID) -> CardRefundRow | None:
    """The refund, locked to the end of the transaction."""
    return locked_or_none(session, CardRefundRow, refund_id)


def follow(session: Session, source: Object, now: datetime) -> None:
    """What the processor says of a refund, or its own answer when it was asked for it."""
    row, status = named_by(session, source), _WORDS.get(source["status"])
    if row is None or status is None or row.status == status:
        return
    if status is S.FAILED and row.status not in _PROVED:
        # It failed before anybody saw it succeed: the credit was never taken.
        if row.status in BEING_MADE:
            refuse(session, row, now, S.REFUSED, "payment_failed", NOT_TAKEN)
        return
    move(row, now, status)
    row.code, row.reason = "", NOT_TAKEN if status is S.FAILED else ""
    row.due_at = None


def refuse(
    session: Session,
    row: CardRefundRow,
    now: datetime,
    status: CardRefundStatus,
    code: str,
    reason: str,
) -> None:
    """Nothing moves: what was set aside is released, and its owner notified."""
    move(row, now, status)
    row.code, row.reason, row.due_at = code, reason[:500], None
    publish(
        session,
        CardRefundRefused(
            event_id=new_id(),
            occurred_at=now,
            user_id=row.user_id,
            refund_id=row.refund_id,
            topup_id=row.topup_id,
            amount_micros=row.amount_micros,
            reason=reason[:200],
            hold_id=row.hold_id,
        ),
    )


def being_made(session: Session, user_id: UUID) -> CardRefundRow | None:
    """The one refund of this user's that is under way to the processor."""
    return session.scalar(
        select(CardRefundRow).where(
            CardRefundRow.user_id == user_id, CardRefundRow.status.in_(BEING_MADE)
        )
    )


def get(session: Session, user_id: UUID, refund_id: UUID) -> CardRefund:
    """The user's refund. Raises ``NotFound``, also for somebody else's."""
    row = session.get(CardRefundRow, refund_id)
    if row is None or row.user_id != user_id:
        raise NotFound("There is no such refund.")
    return reply(session, row)


def page(session: Session, request: ListCardRefunds) -> CardRefundPage:
    """Newest first."""
    query = select(CardRefundRow).where(CardRefundRow.user_id == request.user_id)
    shown, next_cursor = page_by(
        session, query, CardRefundRow.refund_id, request.cursor, request.limit, newest_first=True
    )
    return CardRefundPage(refunds=[reply(session, row) for row in shown], next_cursor=next_cursor)


def reply(session: Session, row: CardRefundRow, *, replayed: bool = False) -> CardRefund:
    """The refund as other services see it."""
    topup = session.get_one(Topup, row.topup_id)
    return CardRefund(
        refund_id=row.refund_id,
        user_id=row.user_id,
        topup_id=row.topup_id,
        amount_micros=row.amount_micros,
        status=CardRefundStatus(row.status),
        reason=row.reason,
        card_brand=topup.card_brand,
        card_last4=topup.card_last4,
        created_at=row.created_at,
        updated_at=row.updated_at,
        replayed=replayed,
    )
