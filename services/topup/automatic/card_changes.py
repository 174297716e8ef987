"""Cards that come and go, and what that does to automatic top-up.

The processor says what it keeps, and each change of that is written down here: by a notice, by
the return of a person from a page, or by their word that a card is to go.
"""

from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Session

from contracts.topup import ListPaymentMethods, PaymentMethodList, RemovePaymentMethod
from services.topup.automatic import pauses
from services.topup.cards import customers, saved_cards
from services.topup.models import AutoTopupSettings, Card
from services.topup.processor import Object
from services.topup.till import Till


def keep_of(session: Session, payment: Object, now: datetime) -> str | None:
    """Keep the card of a payment if its owner wanted that: then it belongs to the customer."""
    method = payment.get("payment_method")
    if not isinstance(method, dict) or not method.get("customer"):
        return None
    keep(session, method, now)
    return str(method["id"])


def keep(session: Session, payment_method: Object, now: datetime) -> None:
    """Store a card as the processor describes it. A new one ends pauses that an old one caused.

    A card without a customer, or of one that is not ours, is marked as removed if we knew it.
    """
    user_id = customers.user_of(session, payment_method.get("customer"))
    details = payment_method.get("card")
    settings = saved_cards.lock_owner(session, user_id) if user_id is not None else None
    card = session.get(Card, payment_method["id"], populate_existing=True)
    if user_id is None or details is None:
        if card is not None:
            _mark_removed(session, card, now)
            card.detached_at = now
        return
    is_new = card is None
    if card is None:
        card = Card(payment_method_id=payment_method["id"], user_id=user_id, added_at=now)
    saved_cards.describe(card, details)
    if is_new:
        _replace_same(session, card, settings, now)
        session.add(card)
    session.flush()
    if is_new and settings is not None:
        pauses.card_added(session, settings, card.payment_method_id, now)


def _replace_same(
    session: Session, new: Card, settings: AutoTopupSettings | None, now: datetime
) -> None:
    """One card is one entry: saved again it takes the place of the entry that it had before.

    The old entry is detached at the processor like any that was removed.
    """
    old = saved_cards.same_card(session, new.user_id, new.fingerprint)
    new.is_default = old.is_default if old else saved_cards.default_of(session, new.user_id) is None
    if old is None:
        return
    old.removed_at, old.is_default = now, False
    session.flush()
    if settings is None:
        return
    for role in ("payment_method_id", "backup_payment_method_id", "declined_payment_method_id"):
        if getattr(settings, role) == old.payment_method_id:
            setattr(settings, role, new.payment_method_id)


def remove_by_hand(till: Till, command: RemovePaymentMethod) -> PaymentMethodList:
    """Forget a card, and have the processor forget it; the first page of what is left.

    Raises ``NotFound``.
    """
    with till.database.begin() as session:
        remove(session, command.user_id, command.payment_method_id, till.clock())
    till.later(saved_cards.detach, till, command.payment_method_id, owner=command.user_id)
    with till.database.read() as session:
        return saved_cards.page(session, ListPaymentMethods(user_id=command.user_id), till.clock())


def remove(session: Session, user_id: UUID, payment_method_id: str, now: datetime) -> None:
    """Forget a card; the processor is told afterwards. Raises ``NotFound``."""
    _mark_removed(session, saved_cards.get(session, user_id, payment_method_id), now)


def _mark_removed(session: Session, card: Card, now: datetime) -> None:
    settings = saved_cards.lock_owner(session, card.user_id)
    # Another card may have been removed meanwhile, and have left this one as the default.
    session.refresh(card)
    if card.removed_at is not None:
        return
    was_default = card.is_default
    card.removed_at = now
    card.is_default = False
    session.flush()
    if was_default:
        others = saved_cards.of_user(session, card.user_id)
        if others:
            others[0].is_default = True
    if settings is not None:
        _leave_auto_topup(session, settings, card.payment_method_id, now)


def forget_customer(session: Session, customer_id: str, now: datetime) -> None:
    """The processor has deleted this customer, and the cards with it."""
    user_id = customers.user_of(session, customer_id)
    if user_id is None:
        return
    saved_cards.lock_owner(session, user_id)
    customers.forget(session, customer_id, now)
    for card in saved_cards.of_user(session, user_id):
        _mark_removed(session, card, now)
        card.detached_at = now


def _leave_auto_topup(
    session: Session, settings: AutoTopupSettings, payment_method_id: str, now: datetime
) -> None:
    """Automatic top-up goes on with the backup card, or pauses and says so."""
    if settings.backup_payment_method_id == payment_method_id:
        settings.backup_payment_method_id = None
    if settings.payment_method_id != payment_method_id:
        return
    settings.payment_method_id = settings.backup_payment_method_id
    settings.backup_payment_method_id = None
    if settings.payment_method_id is None:
        reason = "The card for auto top-up was removed. Add or choose another one."
        pauses.pause(session, settings, pauses.CARD_REMOVED, reason, now)
