"""Card pages and what else may pay: one purchase has one payer at a time.

While a page is open for a purchase, auto top-up leaves that purchase alone, and no second page is
opened beside it. While a payment is being confirmed, no page is opened. When a purchase ends, its
pages are marked here as to be closed; the janitor closes them at the processor, and repeats what
fails. Called with the user locked, both sides see each other.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Text, Uuid, and_, bindparam, cast, func, or_, select, text, update
from sqlalchemy.orm import Session

from chassis.bulk import Batch, Bulk
from contracts.billing import PurchaseCompleted
from contracts.errors import Conflict
from contracts.topup import TopupKind, TopupStatus, Trigger
from services.topup import topups
from services.topup.automatic import triggers
from services.topup.models import Topup
from services.topup.policy import Policy

UNDER_WAY = (TopupStatus.CREATED, TopupStatus.PROCESSING, TopupStatus.UNKNOWN)
NEVER_BEGUN_AFTER = timedelta(hours=25)
"""A top-up whose page was never opened is cancelled: a page lives for 24 hours."""
OPENED_WITHIN = timedelta(minutes=2)
"""The same for a purchase, which nothing else pays for until then."""
NOT_USED = "The payment page was not used in time."
GONE = "The payment page is gone at the card processor."
REPLACED = "Another card page was opened for the same purchase."
PAID_OTHERWISE = "This purchase is already paid."
ENDED = "This purchase has ended: nothing is to be paid for it any more."
FROZEN = "Your wallet was frozen: credits bought now could not be spent."

# An automatic charge has a page only where its owner has to confirm it.
_CLOSABLE = (
    "topups.status IN ('created', 'processing', 'action_required')"
    " AND (topups.kind = 'manual' OR topups.status = 'action_required')"
    " AND topups.closing_reason = ''"
)
_CLOSE_PAGES = Bulk(
    "UPDATE topups SET closing_reason = reason, next_look_at = ended_at"  # noqa: S608 - our words
    " FROM {rows} WHERE topups.user_id = new.user_id AND (topups.purchase_id::text = new.reference"
    " OR (topups.trigger = 'purchase' AND topups.trigger_reference = new.reference))"
    f" AND {_CLOSABLE}",
    user_id="uuid",
    reference="text",
    reason="text",
    ended_at="timestamptz",
)


_OPEN = (
    Topup.user_id == bindparam("user_id", type_=Uuid()),
    Topup.purchase_id.is_not(None),
    Topup.kind == TopupKind.MANUAL,
    Topup.status.in_(topups.PAYABLE),
)
ANY_OPEN = select(Topup.topup_id).where(*_OPEN)
"""Pages on which any purchase of ``user_id`` may be paid."""
_OPEN_FOR = select(Topup).where(
    *_OPEN, cast(Topup.purchase_id, Text) == bindparam("purchase", type_=Text())
)
OPENED_AT = _OPEN_FOR.with_only_columns(func.max(Topup.created_at))
"""When that of ``purchase``, the id as text, was opened."""


def open_for(session: Session, user_id: UUID, reference: str) -> Topup | None:
    """The page on which a purchase may be paid, or the charge of a saved card that pays for it;
    ``reference`` is its id."""
    return session.scalar(_OPEN_FOR, {"user_id": user_id, "purchase": reference})


def refuse_second_payer(session: Session, user_id: UUID, purchase_id: UUID) -> None:
    """Raises ``Conflict`` where the purchase needs no page, or not while something else pays."""
    if triggers.is_over(session, user_id, purchase_id):
        raise Conflict("This purchase is already paid, or has ended. Nothing was charged.")
    if is_being_confirmed(session, user_id, str(purchase_id)):
        raise Conflict(
            "A payment is being confirmed, and this purchase completes by itself if it covers it."
            " Nothing more was charged. Pay by card only if it does not go through."
        )


def is_being_confirmed(session: Session, user_id: UUID, reference: str) -> bool:
    """Whether money may be on its way that closes the gap of this purchase (its id)."""
    asks_person = and_(
        Topup.status == TopupStatus.ACTION_REQUIRED, Topup.trigger_reference == reference
    )
    found = session.scalar(
        select(Topup.topup_id)
        .where(
            Topup.user_id == user_id,
            or_(
                Topup.status == TopupStatus.PAID,
                and_(Topup.kind == TopupKind.AUTO, or_(Topup.status.in_(UNDER_WAY), asks_person)),
                and_(topups.BY_SAVED_CARD, Topup.status.in_(UNDER_WAY)),
            ),
        )
        .limit(1)
    )
    return found is not None


def first_look_at(topup: Topup, now: datetime) -> datetime:
    """When a top-up is cancelled whose page was not opened by then, or that was not sent."""
    is_soon = topup.purchase_id is not None or topups.is_by_saved_card(topup)
    return now + (OPENED_WITHIN if is_soon else NEVER_BEGUN_AFTER)


def closes_at(topup: Topup, policy: Policy) -> datetime | None:
    """When the page of a purchase is closed unpaid, and the bank's question about a saved card
    is withdrawn; the processor's own time for any other."""
    is_ours = topup.purchase_id is not None or topups.is_by_saved_card(topup)
    return topup.created_at + policy.page_life if is_ours else None


def is_to_close(topup: Topup, policy: Policy, now: datetime) -> bool:
    """Whether nothing is to be paid on this page any more."""
    until = closes_at(topup, policy)
    return bool(topup.closing_reason) or (until is not None and until <= now)


def purchases_completed(
    session: Session, events: Sequence[PurchaseCompleted], now: datetime
) -> None:
    """They are paid; where they cost something, their accounts are not idle any more."""
    with Batch(session) as writes:
        _end(
            writes, {(each.user_id, str(each.purchase_id)) for each in events}, PAID_OTHERWISE, now
        )
        triggers.end_idleness(writes, {each.user_id for each in events if each.total_micros}, now)


def end_purchase(
    session: Session, user_id: UUID, reference: str, reason: str, now: datetime
) -> None:
    """A purchase needs no money any more: neither a page nor a charge is to bring any.

    A page that is being opened for it at this moment is closed, or sees that the purchase is over.
    """
    with Batch(session) as writes:
        _end(writes, {(user_id, reference)}, reason, now)


def _end(writes: Batch, purchases: set[tuple[UUID, str]], reason: str, now: datetime) -> None:
    topups.lock_users(writes, {user_id for user_id, _ in purchases})
    writes.add(_CLOSE_PAGES, [(*purchase, reason, now) for purchase in purchases])
    triggers.end(writes, Trigger.PURCHASE, purchases, now)


def close_frozen(session: Session, user_id: UUID, froze_at: datetime, now: datetime) -> None:
    """The wallet froze: credits from pages that were begun before could not be spent."""
    topups.lock_user(session, user_id)
    session.execute(
        update(Topup)
        .where(Topup.user_id == user_id, Topup.created_at <= froze_at, text(_CLOSABLE))
        .values(closing_reason=FROZEN, next_look_at=now)
        .execution_options(synchronize_session=False)
    )
