"""Outcomes: what the processor's answer does to a top-up, whoever asked and however often.

A payment is believed only as the processor itself returns it, and only when top-up, amount,
currency and status all agree. Every function locks the settings before the top-up.
"""

import logging
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from chassis.locks import for_update
from chassis.money import to_cents
from contracts.errors import NotFound
from contracts.topup import TopupKind, TopupStatus
from contracts.wallet import WalletCredited
from services.topup import topups
from services.topup.automatic import card_changes, limits, pauses, shortages, triggers
from services.topup.cards import declines, saved_cards
from services.topup.models import AutoTopupSettings, Topup, TriggerRecord
from services.topup.policy import Policy
from services.topup.processor import (
    CURRENCY,
    KEY_REFUSED,
    TOPUP_ID,
    UNREACHED,
    Declined,
    Object,
    OutcomeUnknown,
    ProcessorError,
)
from services.topup.till import Till

log = logging.getLogger(__name__)

NOT_REACHED = "The card processor could not be reached. Nothing was charged."
NOT_REACHED_DELAYS = (timedelta(minutes=1), timedelta(minutes=5))
"""How long the next try waits, the first time and from then on, counted over an hour."""
NOT_CONFIRMED = "It was not confirmed with the bank in time."
STILL_ASKING = "The card processor has not answered yet. It is asked again."
CLOCKS_DIFFER = timedelta(days=1)
"""How far ahead of the processor's our clock may be. Payments are told apart by their metadata,
so that looking far back costs a longer list and nothing else."""
PAID = (TopupStatus.PAID, TopupStatus.CREDITED)
OPEN = (TopupStatus.PROCESSING, TopupStatus.UNKNOWN)


def record(
    session: Session,
    policy: Policy,
    topup_id: UUID,
    outcome: Object | ProcessorError,
    now: datetime,
    owner: UUID | None = None,
) -> Topup:
    """Write down an answer about a top-up. The same answer again changes nothing."""
    settings, topup = lock_both(session, topup_id, owner)
    if not isinstance(outcome, ProcessorError):
        settle(session, policy, settings, topup, outcome, now)
    elif topup.status in OPEN:
        if isinstance(outcome, OutcomeUnknown):
            topups.move(topup, TopupStatus.UNKNOWN, now)
            topup.failure_code = outcome.code
            topup.failure_message = STILL_ASKING
        elif topups.is_by_saved_card(topup):
            _refuse_saved_card(session, topup, outcome, now)
        elif isinstance(outcome, Declined):
            _record_decline(session, policy, settings, topup, outcome, now)
        else:
            _record_rejection(session, policy, settings, topup, outcome, now)
    return topup


def find_payment(till: Till, topup: Topup) -> Object | None:
    """The payment of this top-up; of several, the one that succeeded."""
    if topup.payment_id is not None:
        return till.processor.get_payment(topup.payment_id)
    since = (topup.sent_at or topup.created_at) - CLOCKS_DIFFER
    found = till.processor.find_payments(
        topup.customer_id or "", str(topup.topup_id), int(since.timestamp())
    )
    found.sort(key=lambda payment: payment["status"] == "succeeded", reverse=True)
    return found[0] if found else None


def record_payment(till: Till, payment: Object) -> Topup | None:
    """Write down a payment that was fetched; its top-up, None when it is of no top-up of ours."""
    topup_id = topup_id_of(payment)
    try:
        with till.database.begin() as session:
            if topup_id is not None:
                return record(session, till.policy, topup_id, payment, till.clock())
    except NotFound:
        pass
    return None


def credited(session: Session, event: WalletCredited, now: datetime) -> None:
    """Credits came into a wallet, by a top-up or otherwise: what waited for them may go on."""
    if event.topup_id is not None:
        topups.mark_credited(session, event.topup_id, event.occurred_at)
    shortages.money_came(session, event.user_id, event.entry_number, event.occurred_at, now)
    triggers.credit_arrived(session, event.user_id, now)


def lock_both(
    session: Session, topup_id: UUID, owner: UUID | None = None
) -> tuple[AutoTopupSettings | None, Topup]:
    """The settings of its owner, who is looked up where the caller does not know, then the top-up:
    locked in the order that all keep to."""
    settings = topups.lock_settings(session, owner or topups.find(session, topup_id).user_id)
    return settings, topups.lock(session, topup_id)


def settle(
    session: Session,
    policy: Policy,
    settings: AutoTopupSettings | None,
    topup: Topup,
    payment: Object,
    now: datetime,
) -> None:
    """Bring a top-up to where its payment is."""
    status = payment["status"]
    if status == "succeeded":
        _settle_paid(session, policy, settings, topup, payment, now)
        if not is_paid_with(topup, payment) and is_given_back(payment):
            topup.problem = ""
    elif topups.is_by_saved_card(topup):
        _settle_saved_card(session, policy, topup, payment, now)
    elif topup.kind == TopupKind.MANUAL or topup.status not in OPEN:
        # On the hosted page a declined card is not the end: the person tries another.
        return
    elif status == "requires_action":
        error = Declined("", declines.AUTHENTICATION, payment=payment)
        _record_decline(session, policy, settings, topup, error, now)
    elif status == "requires_payment_method":
        _record_decline(session, policy, settings, topup, _last_decline(payment), now)
    elif status == "canceled":
        topups.mark_failed(
            session, topup, "cancelled", declines.NO_CHARGE_WAS_MADE, now, TopupStatus.CANCELLED
        )
    else:
        topups.move(topup, TopupStatus.PROCESSING, now)
        topup.payment_id = payment["id"]


def _settle_saved_card(
    session: Session, policy: Policy, topup: Topup, payment: Object, now: datetime
) -> None:
    """Its owner is there: a question of the bank's is theirs to answer, a decline is told."""
    if topup.status not in (*OPEN, TopupStatus.ACTION_REQUIRED):
        return
    remember_payment(topup, payment)
    status = payment["status"]
    if status == "requires_action" and topup.status != TopupStatus.ACTION_REQUIRED:
        topups.move(topup, TopupStatus.ACTION_REQUIRED, now)
        action = (payment.get("next_action") or {}).get("redirect_to_url") or {}
        topup.checkout_url = action.get("url")
        topup.next_look_at = now + policy.check_again_after(0)
    elif status == "requires_payment_method":
        _refuse_saved_card(session, topup, _last_decline(payment), now)
    elif status == "canceled":
        topups.cancel(topup, topup.closing_reason or NOT_CONFIRMED, now)
        triggers.card_page_closed(session, topup.user_id, topup.purchase_id, now)


def _refuse_saved_card(
    session: Session, topup: Topup, error: ProcessorError, now: datetime
) -> None:
    """No money moved, and it is not tried again: its owner decides."""
    code, message = error.code, declines.by_hand(error.code)
    if isinstance(error, Declined):
        code = declines.code_of(error)
        message = declines.by_hand(error.code, error.decline_code)
        if error.payment is not None:
            remember_payment(topup, error.payment)
    else:
        about = {"topup": str(topup.topup_id), "reason": error.message}
        log.error("the card processor refused a charge", extra=about)
    topups.mark_failed(session, topup, code, message, now)
    triggers.card_page_closed(session, topup.user_id, topup.purchase_id, now)


def _settle_paid(
    session: Session,
    policy: Policy,
    settings: AutoTopupSettings | None,
    topup: Topup,
    payment: Object,
    now: datetime,
) -> None:
    if topup.status in PAID:
        if topup.payment_id != payment["id"]:
            _flag(topup, f"paid twice: {topup.payment_id} and {payment['id']}")
        return
    problem = mismatch(topup, payment)
    if problem:
        _flag(topup, problem)
        topup.next_look_at = None
        return
    remember_payment(topup, payment)
    was_waiting_for_person = topup.status == TopupStatus.ACTION_REQUIRED
    topups.mark_paid(session, topup, now)
    topup.seller = list(policy.seller)
    triggers.end_renewals(session, topup.user_id, topup.created_at)
    if settings is None or topup.kind == TopupKind.MANUAL:
        return
    settings.declines = 0
    settings.declined_payment_method_id = None
    if was_waiting_for_person and pauses.confirmed(session, settings, now):
        _use_confirmed_card_from_now_on(session, settings, payment, now)


def _use_confirmed_card_from_now_on(
    session: Session, settings: AutoTopupSettings, payment: Object, now: datetime
) -> None:
    """The card that its owner confirmed is the one that the bank lets through."""
    confirmed = card_changes.keep_of(session, payment, now)
    saved = {card.payment_method_id for card in saved_cards.of_user(session, settings.user_id)}
    if confirmed not in saved:
        return
    settings.payment_method_id = confirmed
    if settings.backup_payment_method_id == confirmed:
        settings.backup_payment_method_id = None


def topup_id_of(payment: Object) -> UUID | None:
    """The top-up that a payment names; None for one that is not of our making."""
    try:
        return UUID(payment["metadata"].get(TOPUP_ID, ""))
    except ValueError:
        return None


def is_paid_with(topup: Topup, payment: Object) -> bool:
    """Whether this payment is the one that was credited."""
    return topup.status in PAID and topup.payment_id == payment["id"]


def is_charged(session: Session, payment_id: str) -> bool:
    """Whether this is an automatic charge whose answer was recorded: nothing more becomes of it."""
    found = session.scalar(
        select(Topup.topup_id).where(
            Topup.payment_id == payment_id,
            Topup.kind == TopupKind.AUTO,
            Topup.status.in_(PAID),
            Topup.problem == "",
        )
    )
    return found is not None


def is_given_back(payment: Object) -> bool:
    """Whether all of it was refunded: then nobody misses the credit."""
    return refunded_cents(payment) >= int(payment["amount_received"])


def refunded_cents(payment: Object) -> int:
    """What went back of it by refunds, or is on its way."""
    charge = payment.get("latest_charge")
    return int(charge["amount_refunded"]) if isinstance(charge, dict) else 0


def mismatch(topup: Topup, payment: Object) -> str:
    """Why this payment cannot be the one of this top-up; empty when all agree."""
    if topup_id_of(payment) != topup.topup_id:
        return f"payment {payment['id']} does not name this top-up"
    if payment["currency"] != CURRENCY:
        return f"payment {payment['id']} is in {payment['currency']}"
    if payment["amount_received"] != to_cents(topup.amount_micros):
        return f"payment {payment['id']} is of {payment['amount_received']} cents"
    return ""


def _flag(topup: Topup, problem: str) -> None:
    topup.problem = problem
    log.error(
        "a payment needs an operator", extra={"topup": str(topup.topup_id), "problem": problem}
    )


def remember_payment(topup: Topup, payment: Object) -> None:
    """Keep what receipts and statements show of a payment."""
    topup.payment_id = payment["id"]
    charge = payment.get("latest_charge")
    if not isinstance(charge, dict):
        return
    topup.receipt_url = charge.get("receipt_url")
    card = (charge.get("payment_method_details") or {}).get("card") or {}
    topup.card_brand = card.get("brand") or topup.card_brand
    topup.card_last4 = card.get("last4") or topup.card_last4


def _last_decline(payment: Object) -> Declined:
    error = payment.get("last_payment_error") or {}
    return Declined(
        error.get("message") or "",
        error.get("code") or "card_declined",
        error.get("decline_code") or "",
        error.get("advice_code") or "",
        payment,
    )


def _record_decline(
    session: Session,
    policy: Policy,
    settings: AutoTopupSettings | None,
    topup: Topup,
    decline: Declined,
    now: datetime,
) -> None:
    """The bank said no: tell, count, and wait longer, pause, or ask the person to confirm."""
    message = declines.sentence(decline.code, decline.decline_code)
    verdict = declines.verdict(decline.code, decline.decline_code, decline.advice_code)
    if decline.payment is not None:
        remember_payment(topup, decline.payment)
    status = TopupStatus.FAILED
    if verdict == declines.Verdict.NEEDS_PERSON:
        status = TopupStatus.ACTION_REQUIRED
    topups.mark_failed(session, topup, declines.code_of(decline), message, now, status)
    if settings is not None:
        pauses.count_decline(session, settings, topup, verdict, message, policy, now)
        try_later(session, settings, topup, now)


def _record_rejection(
    session: Session,
    policy: Policy,
    settings: AutoTopupSettings | None,
    topup: Topup,
    error: ProcessorError,
    now: datetime,
) -> None:
    """The processor refused the request itself: the card is gone, or we asked wrongly."""
    message = declines.sentence(error.code)
    topups.mark_failed(session, topup, error.code, message, now)
    about = {"topup": str(topup.topup_id), "reason": error.message}
    log.error("the card processor refused a charge", extra=about)
    if settings is None:
        return
    if error.code == KEY_REFUSED:
        settings.cool_down_until = now + policy.decline_delay
    else:
        verdict = declines.Verdict.TERMINAL
        pauses.count_decline(session, settings, topup, verdict, message, policy, now)
    try_later(session, settings, topup, now)


def try_later(session: Session, settings: AutoTopupSettings, topup: Topup, now: datetime) -> None:
    """What asked for an attempt that came to nothing may ask again after the cool-down.

    During a pause it waits for the end of that; a pause that has ended left no cool-down.
    """
    record = trigger_of(session, topup)
    if record is not None:
        record.topup_id = None
        again_at = settings.cool_down_until or now
        triggers.postpone(record, None if settings.paused_code else again_at)


def give_back_unsent(session: Session, sent: Topup, now: datetime) -> bool:
    """Nothing of the first call left this machine: what asked for it may ask again soon.

    False where somebody else has taken it up since ``sent`` was marked as sent: then a call of
    theirs may have arrived.
    """
    settings, topup = lock_both(session, sent.topup_id)
    if not is_untouched(topup, sent) or settings is None:
        return False
    again = limits.unsent_count(session, topup.user_id, now)
    topups.cancel(topup, NOT_REACHED, now)
    topup.failure_code = UNREACHED
    delay = NOT_REACHED_DELAYS[min(again, len(NOT_REACHED_DELAYS) - 1)]
    settings.cool_down_until = max(settings.cool_down_until or now, now + delay)
    try_later(session, settings, topup, now)
    return True


def is_untouched(topup: Topup, sent: Topup) -> bool:
    """Whether nobody has taken up a locked top-up since it was marked as ``sent``."""
    return topup.status == TopupStatus.PROCESSING and topup.next_look_at == sent.next_look_at


def give_up_unreached(
    session: Session, topup: Topup, settings: AutoTopupSettings | None, now: datetime
) -> None:
    """The processor was asked and knows of no payment: nothing was charged, nothing will be."""
    topups.mark_failed(session, topup, "not_charged", declines.NO_CHARGE_WAS_MADE, now)
    triggers.card_page_closed(session, topup.user_id, topup.purchase_id, now)
    if settings is not None:
        try_later(session, settings, topup, now)


def trigger_of(session: Session, topup: Topup) -> TriggerRecord | None:
    """What started an automatic top-up, locked."""
    return session.scalar(
        for_update(select(TriggerRecord).where(TriggerRecord.topup_id == topup.topup_id))
    )
