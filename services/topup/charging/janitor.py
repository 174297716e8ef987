"""The janitor: finds out what became of top-ups whose outcome is unknown, and settles them.

It asks the processor after 1, 5, 30 minutes and so on. A payment that is found settles the
top-up. None found while the charge is fresh and as wanted as before: the same call under the
same key, which cannot charge twice. None found later: nothing was charged, and the reservation
is given back.
"""

import logging
from datetime import timedelta
from uuid import UUID

from chassis.leases import Leases
from contracts.topup import TopupKind, TopupStatus
from services.topup import topups
from services.topup.automatic import pages, pauses
from services.topup.charging import charges, checkout, outcomes, saved_card
from services.topup.models import AutoTopupSettings, Topup
from services.topup.processor import ProcessorError
from services.topup.till import Till

log = logging.getLogger(__name__)

LEASE = timedelta(seconds=30)
DUE = Leases(Topup.next_look_at, Topup.user_id, LEASE, limit=50)
"""Top-ups to look at."""
LOOKS_IN_VAIN = 2
"""So many looks that found no payment, after the last call, prove that there is none."""


def look(till: Till, topup_id: UUID) -> None:
    """Find out how a top-up stands and bring it on."""
    with till.database.read() as session:
        topup = topups.find(session, topup_id)
    if topup.status == TopupStatus.PAID:
        _publish_again(till, topup_id)
        return
    is_sent_again = False
    try:
        if topup.status == TopupStatus.CREATED:
            _look_at_created(till, topup)
        elif topup.status == TopupStatus.ACTION_REQUIRED and topups.is_by_saved_card(topup):
            saved_card.look_at_confirmation(till, topup)
        elif topup.status == TopupStatus.ACTION_REQUIRED:
            _look_at_confirmation(till, topup)
        elif topup.status in outcomes.OPEN and topup.session_id is not None:
            _look_at_page(till, topup)
        elif topup.status in outcomes.OPEN:
            is_sent_again = _look_at_charge(till, topup)
        _plan_next(till, topup_id, has_asked=not is_sent_again)
    except ProcessorError as error:
        log.warning(
            "the card processor did not say what became of a top-up",
            extra={"topup": str(topup_id), "reason": error.message},
        )
        _plan_next(till, topup_id, has_asked=False)


def _publish_again(till: Till, topup_id: UUID) -> None:
    with till.database.begin() as session:
        topup = topups.lock(session, topup_id)
        if topup.status == TopupStatus.PAID:
            log.warning(
                "the wallet has not credited a paid top-up; it is published again",
                extra={"topup": str(topup_id)},
            )
            topups.publish_paid(session, topup, till.clock())


def _plan_next(till: Till, topup_id: UUID, *, has_asked: bool) -> None:
    now = till.clock()
    with till.database.begin() as session:
        topup = topups.lock(session, topup_id)
        if topup.next_look_at is None:
            return
        if topup.status not in (*outcomes.OPEN, TopupStatus.ACTION_REQUIRED, TopupStatus.CREATED):
            topup.next_look_at = None
            return
        if has_asked:
            topup.looks += 1
        start = topup.sent_at or topup.created_at
        planned = start + till.policy.check_again_after(topup.looks)
        soonest = now + min(till.policy.check_again_after(0), LEASE)
        closes_at = pages.closes_at(topup, till.policy)
        if topup.closing_reason:
            planned = now
        elif closes_at is not None and topup.kind == TopupKind.MANUAL and topup.checkout_url:
            planned = min(planned, closes_at)
        topup.next_look_at = max(planned, soonest)


def _look_at_created(till: Till, topup: Topup) -> None:
    """A crash came before the processor was asked."""
    if topup.kind == TopupKind.AUTO:
        charges.charge(till, topup.topup_id)
    elif topup.closing_reason or till.clock() >= pages.first_look_at(topup, topup.created_at):
        with till.database.begin() as session:
            row = topups.lock(session, topup.topup_id)
            if row.status == TopupStatus.CREATED:
                checkout.never_opened(session, row, till.clock())


def _look_at_page(till: Till, topup: Topup) -> None:
    """See what became of a page; close one on which nothing is to be paid any more."""
    if pages.is_to_close(topup, till.policy, till.clock()):
        checkout.close_page(till, topup.session_id or "")
    else:
        checkout.settle_session(till, topup.session_id or "")


def _look_at_confirmation(till: Till, topup: Topup) -> None:
    """A charge that waits for its owner: make the page, close it, or see what became of it."""
    if topup.session_id is None:
        checkout.ask_person(till, topup.topup_id)
        return
    with till.database.read() as session:
        settings = session.get(AutoTopupSettings, topup.user_id)
    if topup.closing_reason or not pauses.waits_for_person(settings):
        checkout.close_page(till, topup.session_id)
    else:
        checkout.settle_session(till, topup.session_id)


def _look_at_charge(till: Till, topup: Topup) -> bool:
    """Settle it, send it again, or give it up; whether it was sent again."""
    payment = outcomes.find_payment(till, topup)
    now = till.clock()
    if payment is not None:
        with till.database.begin() as session:
            row = outcomes.record(session, till.policy, topup.topup_id, payment, now)
        if row.status == TopupStatus.ACTION_REQUIRED and row.kind == TopupKind.AUTO:
            checkout.ask_person(till, topup.topup_id)
    # By hand none goes out again: whoever pressed the button has gone, and may have paid otherwise.
    elif topup.kind == TopupKind.AUTO and charges.send_again(till, topup):
        return True
    elif topup.looks >= LOOKS_IN_VAIN and charges.is_stale(topup, till.policy, now):
        with till.database.begin() as session:
            settings, row = outcomes.lock_both(session, topup.topup_id)
            if row.status in outcomes.OPEN:
                outcomes.give_up_unreached(session, row, settings, now)
    return False
