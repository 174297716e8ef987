"""Why no top-up came: told on the purchases that wait for one.

They keep waiting, and any credit completes them: what was refused to the card can be paid
by hand.
"""

from datetime import datetime
from uuid import UUID

from sqlalchemy import Text, cast, or_, select
from sqlalchemy.orm import Session

from chassis.locks import for_update
from contracts.billing import PurchaseStatus
from contracts.topup import AutoTopupPaused, AutoTopupRefused, RefusalCode, TopupFailed
from services.billing.models import PurchaseRow


def explain_failure(session: Session, event: TopupFailed) -> None:
    """A charge was declined or given up."""
    code = event.failure_code or "topup_failed"
    reason = event.message or "The payment for your top-up did not go through."
    explain(session, event.occurred_at, event.user_id, code, reason, event.trigger_reference)


def explain_refusal(session: Session, event: AutoTopupRefused) -> bool:
    """An automatic top-up was due and not made. True when the wallet has enough after all."""
    if event.refusal_code is RefusalCode.NOT_NEEDED:
        return True
    # A payment that is on its way, or a card page that is open for it, will end what waits, or
    # it is said then why not.
    if event.refusal_code not in (RefusalCode.IN_FLIGHT, RefusalCode.CARD_PAGE_OPEN):
        explain(
            session,
            event.occurred_at,
            event.user_id,
            event.refusal_code.value,
            event.reason,
            event.trigger_reference,
        )
    return False


def explain_pause(session: Session, event: AutoTopupPaused) -> None:
    """Auto top-up stopped by itself until the person acts."""
    explain(session, event.occurred_at, event.user_id, event.code, event.reason)


def explain(
    session: Session,
    said_at: datetime,
    user_id: UUID,
    code: str,
    reason: str,
    reference: str | None = None,
) -> None:
    """Tell the buyer why no top-up came for what waits; it keeps waiting.

    Events come in any order: what was said later stands, and what was said before a
    purchase was made is not about it, unless ``reference`` names it.
    """
    rows = session.scalars(
        for_update(
            select(PurchaseRow)
            .where(
                PurchaseRow.user_id == user_id,
                PurchaseRow.status == PurchaseStatus.AWAITING_FUNDS,
                or_(
                    PurchaseRow.created_at <= said_at,
                    cast(PurchaseRow.purchase_id, Text) == (reference or ""),
                ),
                or_(PurchaseRow.explained_at.is_(None), PurchaseRow.explained_at <= said_at),
            )
            .order_by(PurchaseRow.purchase_id)
        )
    )
    for row in rows:
        row.status_code, row.status_reason = code, reason
        row.explained_at = row.updated_at = said_at
