"""Saved cards: a mirror of what the processor keeps, one of them the default."""

import logging
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Integer, bindparam, or_, select, tuple_, update
from sqlalchemy.orm import Session

from chassis.cursors import decode_cursor, encode_cursor
from chassis.database import Connected
from chassis.identifiers import new_id
from chassis.locks import for_update, locked_or_none
from chassis.outbox import publish
from contracts.errors import NotFound
from contracts.topup import CardExpiring, ListPaymentMethods, PaymentMethod, PaymentMethodList
from services.topup import topups
from services.topup.models import AutoTopupSettings, Card, Customer
from services.topup.processor import Missing, Object, ProcessorError
from services.topup.till import Till

log = logging.getLogger(__name__)

EXPIRES_SOON_MONTHS = 2
LEASE = timedelta(minutes=5)


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


def lock_owner(session: Session, user_id: UUID) -> AutoTopupSettings | None:
    """The owner's settings. Holds all the owner's cards to the end of the transaction.

    A notice and the person's own return tell of the same card at the same moment. The settings
    are locked first, as everywhere, so that nobody waits in a circle.
    """
    settings = topups.lock_settings(session, user_id)
    locked_or_none(session, Customer, user_id)
    return settings


def describe(card: Card, details: Object) -> None:
    """Write down what the processor says of a card."""
    expiry = (details["exp_month"], details["exp_year"])
    if (card.exp_month, card.exp_year) != expiry:
        card.expiry_warned_at = None
    card.exp_month, card.exp_year = expiry
    card.brand = details["brand"]
    card.last4 = details["last4"]
    card.fingerprint = details.get("fingerprint") or ""


def of_user(session: Session, user_id: UUID) -> list[Card]:
    """The user's cards, the default first, then the newest."""
    return list(session.scalars(_SAVED, {"user_id": user_id}))


# Made once: putting a query together takes longer than asking it.
_SAVED = (
    select(Card)
    .where(Card.user_id == bindparam("user_id"), Card.removed_at.is_(None))
    .order_by(Card.is_default.desc(), Card.added_at.desc(), Card.payment_method_id.desc())
)
_SAVED_PAGE = _SAVED.limit(bindparam("limit", type_=Integer))


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
    lock_owner(session, user_id)
    card = get(session, user_id, payment_method_id)
    _clear_default(session, user_id)
    card.is_default = True


def _clear_default(session: Session, user_id: UUID) -> None:
    session.execute(
        update(Card)
        .where(Card.user_id == user_id, Card.is_default, Card.removed_at.is_(None))
        .values(is_default=False)
    )


def detach(till: Till, payment_method_id: str) -> None:
    """Tell the processor to forget a removed card; a timer repeats what fails."""
    try:
        till.processor.detach_payment_method(payment_method_id)
    except Missing:
        pass
    except ProcessorError as error:
        if "not attached" not in error.message:
            log.warning(
                "the card processor did not detach a removed card",
                extra={"card": payment_method_id, "reason": error.message},
            )
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
        for_update(
            select(Card)
            .where(
                Card.removed_at.is_not(None),
                Card.detached_at.is_(None),
                or_(Card.detach_at.is_(None), Card.detach_at <= now),
            )
            .limit(limit),
            skip_locked=True,
        )
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
        for_update(
            select(Card).where(
                Card.removed_at.is_(None),
                Card.expiry_warned_at.is_(None),
                Card.exp_year * 12 + Card.exp_month <= horizon,
            ),
            skip_locked=True,
        ).limit(limit)
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


def page(session: Session, request: ListPaymentMethods, now: datetime) -> PaymentMethodList:
    """Saved cards as other services see them, in the order of :func:`of_user`."""
    query = _SAVED_PAGE
    if request.cursor is not None:
        is_default, added_at, last_id = decode_cursor(request.cursor, int, datetime, str)
        place = tuple_(Card.is_default, Card.added_at, Card.payment_method_id)
        query = query.where(place < (bool(is_default), added_at, last_id))
    asked = {"user_id": request.user_id, "limit": request.limit + 1}
    rows = session.scalars(query, asked).all()
    shown = rows[: request.limit]
    last = shown[-1] if len(rows) > len(shown) else None
    settings = session.get(AutoTopupSettings, request.user_id)
    return PaymentMethodList(
        payment_methods=[reply(card, settings, now) for card in shown],
        next_cursor=encode_cursor(int(last.is_default), last.added_at, last.payment_method_id)
        if last
        else None,
    )


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
