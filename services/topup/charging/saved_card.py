"""A saved card pays at once, because its owner presses a button and waits for what comes of it.

::

    begin    store it, with nothing else of the user's under way (one transaction)
    send     mark it sent ▸ call the processor, outside any transaction ▸ record the outcome

The bank may ask the card's owner to confirm: then the top-up waits for that on a page of the
processor's, for half an hour. What was interrupted after it was sent is found out by the janitor
and never sent again: its owner has gone, and may have paid otherwise.
"""

import logging
from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from chassis.crash_points import crash_point
from chassis.money import format_usd, to_cents
from contracts.errors import Conflict
from contracts.topup import StartTopup, TopupStatus
from contracts.topup import Topup as TopupReply
from services.topup import topups
from services.topup.automatic import card_changes, pages, triggers
from services.topup.cards import saved_cards
from services.topup.charging import outcomes
from services.topup.models import Customer, Topup
from services.topup.policy import Policy
from services.topup.processor import (
    CustomerGone,
    Missing,
    Object,
    ProcessorError,
    Rejected,
    Unreached,
)
from services.topup.till import Till

log = logging.getLogger(__name__)

GONE = "The payment is gone at the card processor."
ANOTHER = "Another payment took its place."


def pay(till: Till, command: StartTopup) -> TopupReply:
    """Charge the card; a replay of the key gives what became of the first try.

    Errors: see :class:`contracts.topup.StartTopup`.
    """
    with till.database.begin() as session:
        topup, is_new = begin(session, till.clock(), command, till.policy)
    crash_point("topup.saved_card_begun")
    if topup.status == TopupStatus.CREATED:
        topup = _send(till, topup.topup_id)
    return topups.reply(topup, replayed=not is_new)


def begin(
    session: Session, now: datetime, command: StartTopup, policy: Policy
) -> tuple[Topup, bool]:
    """Store it; (it, is it new). Raises ``IdempotencyConflict``, ``NotFound`` (the card), and
    ``Conflict`` where something else pays, or has paid without the person having seen it."""
    topups.lock_user(session, command.user_id)
    stored = topups.replay(session, command)
    if stored is not None:
        return stored, False
    topup = topups.by_hand(command, policy, now)
    card = saved_cards.get(session, command.user_id, command.payment_method_id or "")
    topup.card_brand, topup.card_last4 = card.brand, card.last4
    topup.next_look_at = now + pages.OPENED_WITHIN
    # Whoever reserves an automatic charge holds the settings: it sees this one, or we see it.
    topups.lock_settings(session, command.user_id)
    _refuse_second(session, command)
    if command.purchase_id is not None:
        pages.refuse_second_payer(session, command.user_id, command.purchase_id)
        if pages.open_for(session, command.user_id, str(command.purchase_id)) is not None:
            raise Conflict(
                "A card page for this purchase was opened just now. Nothing was charged; pay there."
            )
    session.add(topup)
    session.flush()
    return topup, True


def _refuse_second(session: Session, command: StartTopup) -> None:
    """One at a time for each user, and none by somebody who has not seen the last one."""
    under_way = under_way_of(session, command.user_id)
    if under_way is not None:
        raise Conflict(
            f"A payment of {format_usd(under_way.amount_micros)} is being confirmed. Nothing more"
            " was charged; wait for it."
        )
    seen = command.paid_topups_seen
    if seen is not None and seen != topups.paid_count(session, command.user_id):
        raise Conflict(
            "Another payment was made since this page was shown. Nothing more was charged: look at"
            " your balance, then pay again if it is still needed."
        )


def under_way_of(session: Session, user_id: UUID) -> Topup | None:
    """A saved card that is being charged by hand, or was and is not credited yet."""
    return session.scalar(
        select(Topup).where(
            Topup.user_id == user_id,
            topups.BY_SAVED_CARD,
            Topup.status.in_((*topups.PAYABLE, TopupStatus.PAID)),
        )
    )


def leave(till: Till, command: StartTopup) -> None:
    """The person pays otherwise than by the charge that the bank wants confirmed: that one is
    cancelled at the processor, which alone decides whether it was confirmed before. Raises
    ``ProcessorError``."""
    with till.database.begin() as session:
        topups.lock_user(session, command.user_id)
        topup = under_way_of(session, command.user_id)
        if topup is None or topups.replay(session, command) is not None:
            return
        topup = topups.lock(session, topup.topup_id)
        is_same = topup.purchase_id == command.purchase_id
        if topup.status != TopupStatus.ACTION_REQUIRED or not (
            is_same or command.payment_method_id
        ):
            return
        topup.closing_reason = topup.closing_reason or ANOTHER
        topup.next_look_at = till.clock()
    crash_point("topup.before_leaving")
    look_at_confirmation(till, topup)


def _send(till: Till, topup_id: UUID) -> Topup:
    """created → processing, and on. Called twice, it charges once."""
    with till.database.begin() as session:
        topup = topups.lock(session, topup_id)
        if topup.status != TopupStatus.CREATED:
            return topup
        now = till.clock()
        if topup.closing_reason or now >= topup.created_at + pages.OPENED_WITHIN:
            _cancel(session, topup, topup.closing_reason or "The payment was never begun.", now)
            return topup
        topup.customer_id = session.get_one(Customer, topup.user_id).customer_id
        topups.move(topup, TopupStatus.PROCESSING, now)
        topup.sent_at = now
        topup.next_look_at = now + till.policy.check_again_after(0)
    crash_point("topup.before_saved_card")
    if _is_stale(till, topup):
        log.warning("a charge was held up for too long", extra={"topup": str(topup_id)})
        return topup
    try:
        outcome: Object | ProcessorError = till.processor.charge_on_session(
            customer_id=topup.customer_id or "",
            payment_method_id=topup.payment_method_id or "",
            amount_cents=to_cents(topup.amount_micros),
            topup_id=str(topup_id),
            user_id=str(topup.user_id),
            return_url=till.address(topup.return_path, topup=str(topup_id)),
        )
    except ProcessorError as error:
        outcome = error
    crash_point("topup.after_saved_card")
    with till.database.begin() as session:
        if isinstance(outcome, Unreached):
            topup = topups.lock(session, topup_id)
            if topup.status == TopupStatus.PROCESSING:
                _cancel(session, topup, outcomes.NOT_REACHED, till.clock())
            return topup
        if isinstance(outcome, CustomerGone):
            card_changes.forget_customer(session, topup.customer_id or "", till.clock())
        return outcomes.record(session, till.policy, topup_id, outcome, till.clock())


def look_at_confirmation(till: Till, topup: Topup) -> None:
    """What became of one that its owner is to confirm; one that nobody confirms is given up."""
    if pages.is_to_close(topup, till.policy, till.clock()):
        try:
            till.processor.cancel_payment(topup.payment_id or "")
        except Rejected:
            log.info("the payment has ended already", extra={"topup": str(topup.topup_id)})
        crash_point("topup.after_close")
    try:
        payment = till.processor.get_payment(topup.payment_id or "")
    except Missing:
        # As after a change of the account: nobody can confirm what is not there.
        with till.database.begin() as session:
            row = topups.lock(session, topup.topup_id)
            if row.status == TopupStatus.ACTION_REQUIRED:
                _cancel(session, row, GONE, till.clock())
        return
    with till.database.begin() as session:
        outcomes.record(session, till.policy, topup.topup_id, payment, till.clock())


def look_for_person(till: Till, topup: Topup) -> None:
    """The same for somebody who waits for it; what is not said now is asked again."""
    try:
        if topup.status == TopupStatus.ACTION_REQUIRED:
            look_at_confirmation(till, topup)
            return
        payment = outcomes.find_payment(till, topup)
        if payment is not None:
            with till.database.begin() as session:
                outcomes.record(session, till.policy, topup.topup_id, payment, till.clock())
    except ProcessorError as error:
        log.info(
            "the card processor did not say what became of a charge",
            extra={"topup": str(topup.topup_id), "reason": error.message},
        )


def _is_stale(till: Till, topup: Topup) -> bool:
    """Until then it may be sent and is not given up; from then on the other way round."""
    return till.clock() - topup.created_at > till.policy.stale_after


def _cancel(session: Session, topup: Topup, reason: str, now: datetime) -> None:
    topups.cancel(topup, reason, now)
    triggers.card_page_closed(session, topup.user_id, topup.purchase_id, now)
