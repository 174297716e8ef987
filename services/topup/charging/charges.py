"""Charges: from a due trigger to money, step by step, each in a short transaction of its own.

::

    pursue   read the trigger ▸ ask the wallet if it is stale ▸ reserve (one transaction)
    charge   mark it sent ▸ call the processor, outside any transaction ▸ record the outcome

The top-up's id is the processor's idempotency key. A crash between any two lines leaves a row
that the sweeper or the janitor finds, and a second call under the same key charges nothing.
"""

import logging
from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Session

from chassis.crash_points import crash_point
from chassis.database import after_commit
from chassis.money import to_cents
from contracts.errors import ServiceError
from contracts.topup import (
    AutoTopupOutcome,
    AutoTopupStatus,
    ConfigureAutoTopup,
    TopupStatus,
    TriggerAutoTopup,
)
from services.topup import topups
from services.topup.automatic import card_changes, disputes, limits, rule, terms, triggers
from services.topup.automatic.rule import Refusal
from services.topup.charging import checkout, outcomes
from services.topup.models import AutoTopupSettings, Customer, Topup, TriggerRecord
from services.topup.policy import Policy
from services.topup.processor import CustomerGone, Object, ProcessorError, Unreached
from services.topup.till import Till
from services.topup.wallet_questions import Funds

log = logging.getLogger(__name__)


def configure(till: Till, command: ConfigureAutoTopup) -> AutoTopupStatus:
    """Save the terms of auto top-up, and charge what they call for now; a dry run only says what.

    Errors: see :func:`terms.configure`, and those of the wallet for a dry run.
    """
    if command.dry_run:
        funds = till.wallet.funds(command.user_id, till.clock())
        with till.database.rehearse() as session:
            return terms.rehearse(session, till.clock(), command, funds, till.policy)
    with till.database.begin() as session:
        trigger_id = terms.configure(session, till.clock(), command, till.policy)
    if trigger_id is not None:
        pursue(till, trigger_id)
    with till.database.read() as session:
        return terms.status(session, command.user_id, till.policy, till.clock())


def ask_by_hand(till: Till, command: TriggerAutoTopup) -> AutoTopupOutcome:
    """A person asks for a charge now: the top-up, or why there is none; again, the same."""
    key = command.idempotency_key
    with till.database.begin() as session:
        trigger_id = triggers.ask_by_hand(session, command.user_id, key, till.clock())
    pursue(till, trigger_id)
    with till.database.read() as session:
        return rule.outcome(session, command.user_id, key)


def pursue_soon(session: Session, till: Till, user_id: UUID, trigger_id: UUID | None) -> None:
    """Once the user's trigger is committed, go after it."""
    if trigger_id is not None:
        after_commit(session, lambda: till.later(pursue, till, trigger_id, owner=user_id))


def pursue(till: Till, trigger_id: UUID) -> Topup | Refusal | None:
    """Decide about a trigger; the charge, if there is one, is made in the background.

    None when it was decided before.
    """
    crash_point("topup.after_trigger")
    now = till.clock()
    with till.database.read() as session:
        record = session.get_one(TriggerRecord, trigger_id)
        was_paid_since = limits.was_paid_since(session, record.user_id, record.raised_at)
    if record.due_at is None:
        return None
    is_fresh = record.tries == 0 and now - record.raised_at <= till.policy.stale_after
    funds, waiting_micros = _situation(till, record, now, is_fresh and not was_paid_since)
    with till.database.begin() as session:
        outcome = rule.reserve(session, now, trigger_id, funds, till.policy, waiting_micros)
    if isinstance(outcome, Topup):
        crash_point("topup.after_reserve")
        till.later(charge, till, outcome.topup_id, owner=outcome.user_id)
    return outcome


def _situation(
    till: Till, record: TriggerRecord, now: datetime, is_fresh: bool
) -> tuple[Funds | None, int | None]:
    """The wallet and what waits: as a fresh event says, or else as the wallet says now."""
    if is_fresh and record.available_micros is not None and record.trigger in triggers.WAITING:
        waiting_micros = record.shortfall_micros + record.available_micros
        return Funds(available_micros=record.available_micros), waiting_micros
    try:
        return till.wallet.funds(record.user_id, now), None
    except ServiceError as error:
        log.warning(
            "the wallet did not say what a user has, so nothing is charged yet",
            extra={"user": str(record.user_id), "error": error.code},
        )
        return None, None


def charge(till: Till, topup_id: UUID) -> None:
    """Make the charge of a reserved top-up. Called twice, it charges once."""
    with till.database.begin() as session:
        topup = _mark_sent(session, topup_id, till.policy, till.clock())
    if topup is not None:
        crash_point("topup.before_charge")
        send(till, topup)


def _mark_sent(session: Session, topup_id: UUID, policy: Policy, now: datetime) -> Topup | None:
    """created → processing; or cancelled, if it was stopped or overtaken meanwhile."""
    settings, topup = outcomes.lock_both(session, topup_id)
    if topup.status != TopupStatus.CREATED:
        return None
    refusal = may_send(session, settings, policy, now)
    if refusal is not None or settings is None:
        topups.cancel(topup, refusal.reason if refusal else "", now)
        record = outcomes.trigger_of(session, topup)
        if record is not None and refusal is not None:
            rule.refuse(session, record, refusal, now)
        return None
    news = overtaken_by(session, settings, topup, policy, now)
    if news:
        topups.cancel(topup, news, now)
        outcomes.try_later(session, settings, topup, now)
        return None
    topup.customer_id = session.get_one(Customer, topup.user_id).customer_id
    topups.move(topup, TopupStatus.PROCESSING, now)
    topup.sent_at = now
    topup.next_look_at = now + policy.check_again_after(0)
    return topup


def may_send(
    session: Session, settings: AutoTopupSettings | None, policy: Policy, now: datetime
) -> Refusal | None:
    """Whether a reserved charge may still go out."""
    return rule.switched_off(
        settings,
        now,
        has_open_dispute=settings is not None and disputes.has_open(session, settings.user_id),
        is_stopped=policy.is_stopped or limits.is_stopped(session),
    )


def overtaken_by(
    session: Session, settings: AutoTopupSettings, topup: Topup, policy: Policy, now: datetime
) -> str:
    """What has come since it was reserved, so that it is to be decided anew; empty: nothing."""
    if is_stale(topup, policy, now):
        return "It was interrupted, and is decided anew."
    if triggers.has_ended(session, topup):
        return "What it was for needs no money any more."
    if settings.settings_version != topup.settings_version:
        return "The settings were changed before it went out."
    if rule.card_to_charge(settings) != topup.payment_method_id:
        return "The card was removed or replaced before it went out."
    if limits.was_paid_since(session, topup.user_id, topup.created_at):
        return "Other credits were paid before it went out."
    return ""


def is_stale(topup: Topup, policy: Policy, now: datetime) -> bool:
    """Until then a charge may be sent and is not given up; from then on the other way round."""
    return now - topup.created_at > policy.stale_after


def send_again(till: Till, topup: Topup) -> None:
    """The same call once more. What was found before it proves nothing of it: looks and their
    times are counted anew."""
    with till.database.begin() as session:
        topup = topups.lock(session, topup.topup_id)
        if topup.status not in outcomes.OPEN:
            return
        topup.sent_at, topup.looks = till.clock(), 0
    send(till, topup, is_first=False)


def send(till: Till, topup: Topup, *, is_first: bool = True) -> None:
    """Call the processor and record what it says. Safe to repeat: the id is the key.

    Only the first call can prove that nothing was sent: of a repeated one, the call before may
    still arrive.

    A process that was frozen since it marked the charge as sent leaves it to the janitor, which
    may have given it up by now.
    """
    if is_stale(topup, till.policy, till.clock()):
        log.warning(
            "a charge was held up for too long and is not sent",
            extra={"topup": str(topup.topup_id)},
        )
        return
    try:
        outcome: Object | ProcessorError = till.processor.charge_off_session(
            customer_id=topup.customer_id or "",
            payment_method_id=topup.payment_method_id or "",
            amount_cents=to_cents(topup.amount_micros),
            topup_id=str(topup.topup_id),
            user_id=str(topup.user_id),
        )
    except ProcessorError as error:
        outcome = error
    crash_point("topup.after_charge")
    with till.database.begin() as session:
        is_unsent = is_first and isinstance(outcome, Unreached)
        if is_unsent and outcomes.give_back_unsent(session, topup, till.clock()):
            return
        if isinstance(outcome, CustomerGone):
            card_changes.forget_customer(session, topup.customer_id or "", till.clock())
        topup = outcomes.record(session, till.policy, topup.topup_id, outcome, till.clock())
    crash_point("topup.after_record")
    if topup.status == TopupStatus.ACTION_REQUIRED:
        checkout.ask_person(till, topup.topup_id)
