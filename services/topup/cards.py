"""Saved cards: a mirror of what the processor keeps, one of them the default."""

import logging
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from chassis.database import Connected
from chassis.identifiers import new_id
from chassis.outbox import publish
from contracts.errors import NotFound
from contracts.topup import CardExpiring, PaymentMethod, PaymentMethodList
from services.topup import auto_topup, customers, pauses
from services.topup.models import AutoTopupSettings, Card, Customer
from services.topup.processor import Missing, Object, ProcessorError
from services.topup.till import Till

log = logging.getLogger(__name__)

EXPIRES_SOON_MONTHS = 2
LEASE = timedelta(minutes=5)


def keep_of(session: Session, payment: Object, now: datetime) -> str | None:
    """Keep the card of a payment if its owner wanted that: then it belongs to the customer."""
    method = payment.get("payment_method")
    if not isinstance(method, dict) or not method.get("customer"):
        return None
    keep(session, method, now)
    return str(method["id"])


def keep(session: Session, payment_method: Object, now: datetime) -> None:
    """Store a card as the processor describes it. A new one ends pauses that an old one caused.

    A card of nobody's, or of a customer that is not ours, is marked as removed if we knew it.
    """
    user_id = customers.user_of(session, payment_method.get("customer"))
    details = payment_method.get("card")
    settings = _lock_owner(session, user_id) if user_id is not None else None
    card = session.get(Card, payment_method["id"], populate_existing=True)
    if user_id is None or details is None:
        if card is not None:
            _mark_removed(session, card, now)
            card.detached_at = now
        return
    is_new = card is None
    if card is None:
        card = Card(payment_method_id=payment_method["id"], user_id=user_id, added_at=now)
        _describe(card, details)
        _replace_same(session, card, settings, now)
        session.add(card)
    _describe(card, details)
    session.flush()
    if not is_new or settings is None or settings.paused_code not in pauses.A_NEW_CARD_HELPS:
        return
    settings.payment_method_id = card.payment_method_id
    pauses.resume(session, settings, "You added a card.", now)


def _replace_same(
    session: Session, new: Card, settings: AutoTopupSettings | None, now: datetime
) -> None:
    """One card is one entry: saved again it takes the place of the entry that it had before.

    The old entry is detached at the processor like any that was removed.
    """
    old = same_card(session, new.user_id, new.fingerprint)
    new.is_default = old.is_default if old else default_of(session, new.user_id) is None
    if old is None:
        return
    old.removed_at, old.is_default = now, False
    session.flush()
    if settings is None:
        return
    for role in ("payment_method_id", "backup_payment_method_id", "declined_payment_method_id"):
        if getattr(settings, role) == old.payment_method_id:
            setattr(settings, role, new.payment_method_id)


def same_card(session: Session, user_id: UUID, fingerprint: str) -> Card | None:
    """The user's saved entry of this card, if it is saved. One without a fingerprint is no other's
    equal."""
    if not fingerprint:
        return None
    return session.scalar(
        select(Card).where(
            Card.user_id == user_id, Card.fingerprint == fingerprint, Card.removed_at.is_(None)
        )
    )


def _lock_owner(session: Session, user_id: UUID) -> AutoTopupSettings | None:
    """The owner's settings. Holds all the owner's cards to the end of the transaction.

    A notice and the person's own return tell of the same card at the same moment. The settings
    are locked first, as everywhere, so that nobody waits in a circle.
    """
    settings = auto_topup.lock_settings(session, user_id)
    session.get(Customer, user_id, with_for_update=True)
    return settings


def _describe(card: Card, details: Object) -> None:
    expiry = (details["exp_month"], details["exp_year"])
    if (card.exp_month, card.exp_year) != expiry:
        card.expiry_warned_at = None
    card.exp_month, card.exp_year = expiry
    card.brand = details["brand"]
    card.last4 = details["last4"]
    card.fingerprint = details.get("fingerprint") or ""


def saved(session: Session, user_id: UUID) -> list[Card]:
    """The user's cards, the default first, then the newest."""
    return list(
        session.scalars(
            select(Card)
            .where(Card.user_id == user_id, Card.removed_at.is_(None))
            .order_by(Card.is_default.desc(), Card.added_at.desc())
        )
    )


def default_of(session: Session, user_id: UUID) -> Card | None:
    """The default card, if any card is saved."""
    return session.scalar(
        select(Card).where(Card.user_id == user_id, Card.is_default, Card.removed_at.is_(None))
    )


def get(session: Session, user_id: UUID, payment_method_id: str) -> Card:
    """The user's card. Raises ``NotFound``, also for somebody else's."""
    card = session.get(Card, payment_method_id)
    if card is None or card.user_id != user_id or card.removed_at is not None:
        raise NotFound("There is no such card among your saved cards.")
    return card


def set_default(session: Session, user_id: UUID, payment_method_id: str) -> None:
    """Make it the default one. Raises ``NotFound``."""
    _lock_owner(session, user_id)
    card = get(session, user_id, payment_method_id)
    _clear_default(session, user_id)
    card.is_default = True


def _clear_default(session: Session, user_id: UUID) -> None:
    session.execute(
        update(Card)
        .where(Card.user_id == user_id, Card.is_default, Card.removed_at.is_(None))
        .values(is_default=False)
    )


def remove(session: Session, user_id: UUID, payment_method_id: str, now: datetime) -> None:
    """Forget a card; the processor is told afterwards. Raises ``NotFound``."""
    _mark_removed(session, get(session, user_id, payment_method_id), now)


def _mark_removed(session: Session, card: Card, now: datetime) -> None:
    settings = _lock_owner(session, card.user_id)
    # Another card may have been removed meanwhile, and have left this one as the default.
    session.refresh(card)
    if card.removed_at is not None:
        return
    was_default = card.is_default
    card.removed_at = now
    card.is_default = False
    session.flush()
    if was_default:
        others = saved(session, card.user_id)
        if others:
            others[0].is_default = True
    if settings is not None:
        _leave_auto_topup(session, settings, card.payment_method_id, now)


def forget_customer(session: Session, customer_id: str, now: datetime) -> None:
    """The processor has deleted this customer, and the cards with it."""
    user_id = customers.user_of(session, customer_id)
    if user_id is None:
        return
    _lock_owner(session, user_id)
    customers.forget(session, customer_id, now)
    for card in saved(session, user_id):
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


def detach(till: Till, payment_method_id: str) -> None:
    """Tell the processor to forget a removed card; a timer repeats what fails."""
    try:
        till.processor.detach_payment_method(payment_method_id)
    except Missing:
        pass
    except ProcessorError as error:
        if "not attached" not in error.message:
            log.warning("a card could not be detached", extra={"reason": error.message})
            return
    with till.database.begin() as session:
        session.execute(
            update(Card)
            .where(Card.payment_method_id == payment_method_id)
            .values(detached_at=till.clock())
        )


def to_detach(session: Session, now: datetime, limit: int = 50) -> dict[str, UUID]:
    """Removed cards that the processor still keeps, each leased for a while; whose each was."""
    rows = session.scalars(
        select(Card)
        .where(
            Card.removed_at.is_not(None),
            Card.detached_at.is_(None),
            or_(Card.detach_at.is_(None), Card.detach_at <= now),
        )
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    for card in rows:
        card.detach_at = now + LEASE
    return {card.payment_method_id: card.user_id for card in rows}


def warn_of_expiry(database: Connected, now: datetime, limit: int = 200) -> int:
    """Tell each owner once that a card expires within two months; how many were told.

    In batches, each in a transaction of its own.
    """
    told = 0
    while True:
        with database.begin() as session:
            count = _warn_some(session, now, limit)
        told += count
        if count < limit:
            return told


def _warn_some(session: Session, now: datetime, limit: int) -> int:
    horizon = now.year * 12 + now.month + EXPIRES_SOON_MONTHS - 1
    expiring = session.scalars(
        select(Card)
        .where(
            Card.removed_at.is_(None),
            Card.expiry_warned_at.is_(None),
            Card.exp_year * 12 + Card.exp_month <= horizon,
        )
        .with_for_update(skip_locked=True)
        .limit(limit)
    ).all()
    for card in expiring:
        settings = session.get(AutoTopupSettings, card.user_id)
        card.expiry_warned_at = now
        publish(
            session,
            CardExpiring(
                event_id=new_id(),
                occurred_at=now,
                user_id=card.user_id,
                payment_method_id=card.payment_method_id,
                brand=card.brand,
                last4=card.last4,
                exp_month=card.exp_month,
                exp_year=card.exp_year,
                is_auto_topup=_is_auto(card, settings),
            ),
        )
    return len(expiring)


def reply_list(session: Session, user_id: UUID, now: datetime) -> PaymentMethodList:
    """All saved cards as other services see them."""
    settings = session.get(AutoTopupSettings, user_id)
    cards = [reply(card, settings, now) for card in saved(session, user_id)]
    return PaymentMethodList(payment_methods=cards)


def reply(card: Card, settings: AutoTopupSettings | None, now: datetime) -> PaymentMethod:
    """One card as other services see it."""
    months_left = (card.exp_year - now.year) * 12 + card.exp_month - now.month
    return PaymentMethod(
        payment_method_id=card.payment_method_id,
        brand=card.brand,
        last4=card.last4,
        exp_month=card.exp_month,
        exp_year=card.exp_year,
        is_default=card.is_default,
        is_auto_topup=_is_auto(card, settings),
        is_backup=settings is not None
        and settings.backup_payment_method_id == card.payment_method_id,
        expires_soon=months_left < EXPIRES_SOON_MONTHS,
    )


def _is_auto(card: Card, settings: AutoTopupSettings | None) -> bool:
    return settings is not None and settings.payment_method_id == card.payment_method_id
