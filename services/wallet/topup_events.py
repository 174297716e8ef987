"""What the wallet does when the top-up service tells it something."""

import logging
from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Session

from chassis.outbox import publish
from contracts.errors import Conflict
from contracts.keys import (
    card_refund_key,
    opened_key,
    released_key,
    restored_key,
    reversal_key,
    topup_key,
)
from contracts.topup import (
    AutoTopupSettingsChanged,
    CardRefundRefused,
    TopupKind,
    TopupPaid,
    TopupRestored,
    TopupReversed,
    brand_name,
)
from contracts.wallet import (
    CloseKey,
    Credit,
    HouseAccount,
    Noted,
    Reverse,
    Transaction,
    TransactionKind,
    Unfreeze,
    VoidHold,
)
from services.wallet import ledger, statements
from services.wallet.book import accounts, keys
from services.wallet.book.book import credited
from services.wallet.rules import alerts, reclaims
from services.wallet.rules.reclaims import TakeBack

log = logging.getLogger(__name__)


def credit(session: Session, now: datetime, event: TopupPaid) -> None:
    """Credit a paid top-up, once for each top-up, and say what triggered an automatic one."""
    is_auto = event.kind is TopupKind.AUTO
    card = (
        f"{brand_name(event.card_brand)} ending in {event.card_last4}"
        if event.card_last4
        else "a card"
    )
    answer = ledger.post_one(
        session,
        now,
        Credit(
            idempotency_key=topup_key(event.topup_id),
            user_id=event.user_id,
            amount_micros=event.amount_micros,
            kind=TransactionKind.AUTO_TOPUP if is_auto else TransactionKind.TOPUP,
            origin=HouseAccount.CARD_RECEIPTS,
            description=f"{'Automatic top-up' if is_auto else 'Top-up'} from {card}"[:200],
            metadata=_metadata(event),
        ),
    )
    if isinstance(answer, Transaction) and answer.replayed:
        # The top-up service tells again of what it never heard was credited: so do we.
        wallet = statements.get_wallet(session, event.user_id)
        moved = (answer.transaction_id, answer.kind, answer.amount_micros, answer.metadata)
        number = statements.entry_number(session, wallet.account_id, answer.transaction_id)
        publish(session, credited(now, wallet, *moved, number))
    # A refund may have come first, or left a debt that this pays.
    _open_if_settled(session, now, event.user_id, str(event.topup_id), "Nothing is owed any more")


def _metadata(event: TopupPaid) -> dict[str, str]:
    known = {
        Noted.TOPUP_ID: event.topup_id,
        Noted.PAYMENT_ID: event.payment_id,
        Noted.TRIGGER: event.trigger,
        Noted.TRIGGER_REFERENCE: event.trigger_reference,
        Noted.THRESHOLD_MICROS: event.threshold_micros,
        Noted.CARD_BRAND: event.card_brand,
        Noted.CARD_LAST4: event.card_last4,
    }
    return {name: str(value)[:500] for name, value in known.items() if value not in (None, "")}


def take_back(session: Session, now: datetime, event: TopupReversed) -> None:
    """Take the credit of a reversed top-up back, once for each refund or dispute."""
    taking = TakeBack(
        idempotency_key=reversal_key(event.reversal_id),
        user_id=event.user_id,
        amount_micros=event.amount_micros,
        is_dispute=event.is_dispute,
        description=event.description,
        metadata={Noted.TOPUP_ID: str(event.topup_id), Noted.REVERSAL_ID: event.reversal_id},
        hold_id=event.hold_id,
    )
    # The reversal may come before the credit that it takes back: then it opens the wallet.
    accounts.open_missing(session, now, event.user_id)
    ledger.post_one(session, now, taking)


def release(session: Session, now: datetime, event: CardRefundRefused) -> None:
    """Free what was set aside for a refund to a card that is not made, once.

    A refund that was declined knows of no hold: somebody else may have asked for one with more
    success, and who asks later sets nothing aside. Another refund, which found too little, may have
    frozen the wallet meanwhile: it owes nothing then.
    """
    hold_id = event.hold_id
    if hold_id is None:
        key = card_refund_key(event.refund_id)
        ledger.post_one(session, now, CloseKey(idempotency_key=key))
        placed = keys.find(session, key)
        hold_id = placed.hold_id if placed else None
    if hold_id is None:
        return
    void = VoidHold(
        idempotency_key=released_key(event.refund_id), user_id=event.user_id, hold_id=hold_id
    )
    try:
        ledger.post_one(session, now, void)
    except Conflict as refusal:
        log.warning("a hold had ended before it was released", extra={"error": str(refusal)})
    _open_if_settled(session, now, event.user_id, str(event.refund_id), "Nothing is owed any more")


def restore(session: Session, now: datetime, event: TopupRestored) -> None:
    """Give back what a reversal took, once, and open the wallet where nothing else speaks against.

    Raises ``Conflict`` while the reversal itself has not arrived: the event is tried again.
    """
    taken = keys.find(session, reversal_key(event.reversal_id))
    if taken is None or taken.transaction_id is None:
        raise Conflict("What is to be restored has not been taken back yet.")
    ledger.post_one(
        session,
        now,
        Reverse(
            idempotency_key=restored_key(event.reversal_id),
            user_id=event.user_id,
            transaction_id=taken.transaction_id,
            reason=event.description,
            actor=reclaims.ACTOR,
            metadata={Noted.TOPUP_ID: str(event.topup_id), Noted.REVERSAL_ID: event.reversal_id},
        ),
    )
    _open_if_settled(session, now, event.user_id, event.reversal_id, event.description)


def _open_if_settled(
    session: Session, now: datetime, user_id: UUID, settled_by: str, reason: str
) -> None:
    if reclaims.may_open(session, user_id):
        ledger.post_one(
            session,
            now,
            Unfreeze(
                idempotency_key=opened_key(settled_by),
                user_id=user_id,
                reason=reason,
                actor=reclaims.ACTOR,
            ),
        )


def arm_level(session: Session, now: datetime, event: AutoTopupSettingsChanged) -> None:
    """Arm the ``auto_topup`` level at the new threshold, or drop it."""
    alerts.arm_auto_topup(
        session,
        now,
        event.user_id,
        event.threshold_micros,
        event.settings_version,
    )
