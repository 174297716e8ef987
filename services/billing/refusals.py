"""Why no top-up came: told on the purchases that wait for one.

They keep waiting, and any credit completes them: what was refused to the card can be paid
by hand.
"""

from sqlalchemy.orm import Session

from contracts.topup import AutoTopupPaused, AutoTopupRefused, RefusalCode, TopupFailed
from services.billing.purchases import explain


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
