"""Charges: from a due trigger to money, step by step, each in a short transaction of its own.

::

    cover    store a fresh trigger ▸ reserve ▸ mark it sent (all one transaction)
    pursue   read any other trigger ▸ ask the wallet if it is stale ▸ reserve (one transaction)
    charge   mark it sent, if it is not ▸ call the processor, outside any transaction ▸ record the
             outcome

The top-up's id is the processor's idempotency key. A crash between any two lines leaves a row
that the sweeper or the janitor finds, and a second call under the same key charges nothing.
"""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TypeVar
from uuid import UUID

from sqlalchemy.orm import Session

from chassis.crash_points import crash_point
from chassis.database import after_commit, commit_unhurried, is_lost
from chassis.money import to_cents
from contracts.billing import PurchaseShortOfFunds, RenewalShortOfFunds
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

IN_TURN = timedelta(seconds=0.5)
"""A charge that goes out within this of its reservation is not looked at again."""

CLOCKS_APART = timedelta(seconds=30)
"""How far our clock may be behind that of who says what a user has: where a top-up was paid since,
or so little before, the wallet is asked."""

EventT = TypeVar("EventT", PurchaseShortOfFunds, RenewalShortOfFunds)
Raise = Callable[[Session, EventT, datetime], TriggerRecord | None]


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


def cover(session: Session, till: Till, event: EventT, raise_for: Raise[EventT]) -> None:
    """Something lacks money: store that, and decide about it at once where the event says all.

    The charge is marked as sent in the transaction that reserves it, which holds all that would
    speak against it, and goes out right after the commit. What keeps it from being decided, as a
    lock that somebody holds for long, undoes that alone: the trigger is stored all the same.
    """
    outcome: Topup | TriggerRecord | None
    try:
        with session.begin_nested():
            outcome = _decide_at_once(session, till, event, raise_for)
    except Exception as error:
        if is_lost(error):
            raise
        log.warning(
            "what lacks money could not be decided about at once; it goes the longer way",
            extra={"user": str(event.user_id)},
            exc_info=True,
        )
        outcome = raise_for(session, event, till.clock())
    if isinstance(outcome, Topup):
        topup = outcome
        after_commit(session, lambda: till.later(send_reserved, till, topup, owner=topup.user_id))
    else:
        pursue_soon(session, till, outcome)


def _decide_at_once(
    session: Session, till: Till, event: EventT, raise_for: Raise[EventT]
) -> Topup | TriggerRecord | None:
    """The charge, marked as sent; or the trigger, where the event does not say all. None where it
    was refused, or nothing newer is told."""
    # Before the trigger, as everybody does who decides about one.
    settings = topups.lock_settings(session, event.user_id)
    now = till.clock()
    record = raise_for(session, event, now)
    if record is None or not _says_all(session, till.policy, record, now):
        return record
    funds, waiting_micros = _as_told(record)
    outcome = rule.reserve_held(session, now, settings, record, funds, till.policy, waiting_micros)
    if not isinstance(outcome, Topup):
        return None
    _mark_sent(session, outcome, till.policy, now)
    return outcome


def pursue_soon(session: Session, till: Till, record: TriggerRecord | None) -> None:
    """Once a trigger is committed, go after it, if it is due by now."""
    if record is not None and record.due_at is not None and record.due_at <= till.clock():
        trigger_id, user_id = record.trigger_id, record.user_id
        after_commit(session, lambda: till.later(pursue, till, trigger_id, owner=user_id))


def pursue(till: Till, trigger_id: UUID) -> Topup | Refusal | None:
    """Decide about a trigger; the charge, if there is one, is made in the background.

    None when it was decided before.
    """
    crash_point("topup.after_trigger")
    now = till.clock()
    with till.database.read() as session:
        record = session.get_one(TriggerRecord, trigger_id)
        says_all = _says_all(session, till.policy, record, now)
    if record.due_at is None:
        return None
    funds, waiting_micros = _as_told(record) if says_all else (_ask_wallet(till, record, now), None)
    with till.database.begin() as session:
        outcome = rule.reserve(session, now, trigger_id, funds, till.policy, waiting_micros)
    if isinstance(outcome, Topup):
        crash_point("topup.after_reserve")
        till.later(charge, till, outcome.topup_id, owner=outcome.user_id)
    return outcome


def _says_all(session: Session, policy: Policy, record: TriggerRecord, now: datetime) -> bool:
    """Whether the event behind a trigger is fresh, and says what the user has and what waits."""
    return (
        record.trigger in triggers.WAITING
        and record.available_micros is not None
        and record.tries == 0
        and now - record.raised_at <= policy.stale_after
        and not limits.was_paid_since(session, record.user_id, record.raised_at - CLOCKS_APART)
    )


def _as_told(record: TriggerRecord) -> tuple[Funds, int]:
    """What the user has, and what waits for money, as a fresh event says."""
    available_micros = record.available_micros or 0
    return Funds(available_micros=available_micros), record.shortfall_micros + available_micros


def _ask_wallet(till: Till, record: TriggerRecord, now: datetime) -> Funds | None:
    """What the wallet says now; None where it does not."""
    try:
        return till.wallet.funds(record.user_id, now)
    except ServiceError as error:
        log.warning(
            "the wallet did not say what a user has, so nothing is charged yet",
            extra={"user": str(record.user_id), "error": error.code},
        )
        return None


def charge(till: Till, topup_id: UUID) -> None:
    """Make the charge of a reserved top-up. Called twice, it charges once."""
    with till.database.begin() as session:
        settings, topup = outcomes.lock_both(session, topup_id)
        is_sent = topup.status == TopupStatus.CREATED and _may_go_out(
            session, settings, topup, till.policy, till.clock()
        )
    if is_sent:
        crash_point("topup.before_charge")
        send(till, topup)


def send_reserved(till: Till, topup: Topup) -> None:
    """Make a charge that was marked as sent when it was reserved.

    Where it has waited for its turn since then, it is asked once more whether it may go out.
    """
    crash_point("topup.after_reserve")
    if topup.sent_at is None or till.clock() - topup.sent_at > IN_TURN:
        with till.database.begin() as session:
            settings, found = outcomes.lock_both(session, topup.topup_id, topup.user_id)
            is_ours = outcomes.is_untouched(found, topup)
            if not is_ours or not _may_go_out(session, settings, found, till.policy, till.clock()):
                return
        topup = found
    crash_point("topup.before_charge")
    send(till, topup)


def _may_go_out(
    session: Session,
    settings: AutoTopupSettings | None,
    topup: Topup,
    policy: Policy,
    now: datetime,
) -> bool:
    """Mark a reserved charge as sent; or cancel it, if it was stopped or overtaken meanwhile."""
    refusal = may_send(session, settings, policy, now)
    if refusal is not None or settings is None:
        topups.cancel(topup, refusal.reason if refusal else "", now)
        record = outcomes.trigger_of(session, topup)
        if record is not None and refusal is not None:
            rule.refuse(session, record, refusal, now)
        return False
    news = overtaken_by(session, settings, topup, policy, now)
    if news:
        topups.cancel(topup, news, now)
        outcomes.try_later(session, settings, topup, now)
        return False
    _mark_sent(session, topup, policy, now)
    return True


def _mark_sent(session: Session, topup: Topup, policy: Policy, now: datetime) -> None:
    """From here on nobody may think that it was not sent."""
    # What was reserved just now is written once, with this.
    with session.no_autoflush:
        topup.customer_id = session.get_one(Customer, topup.user_id).customer_id
    topups.move(topup, TopupStatus.PROCESSING, now)
    topup.sent_at = now
    topup.next_look_at = now + policy.check_again_after(0)


def may_send(
    session: Session, settings: AutoTopupSettings | None, policy: Policy, now: datetime
) -> Refusal | None:
    """Whether a reserved charge may still go out. The operator's stop waits for the commit."""
    limits.fuse_lock(session)
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


def send_again(till: Till, topup: Topup) -> bool:
    """The same call once more, where the charge would go out now if it had only been reserved;
    whether it was made.

    What was found before it proves nothing of it: looks and their times are counted anew.
    """
    with till.database.begin() as session:
        settings, topup = outcomes.lock_both(session, topup.topup_id, topup.user_id)
        now = till.clock()
        if settings is None or topup.status not in outcomes.OPEN:
            return False
        if may_send(session, settings, till.policy, now) is not None:
            return False
        if overtaken_by(session, settings, topup, till.policy, now):
            return False
        topup.sent_at, topup.looks = now, 0
    send(till, topup, is_first=False)
    return True


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
        # What the processor said it says again to the janitor, as after a crash before this.
        commit_unhurried(session)
        is_unsent = is_first and isinstance(outcome, Unreached)
        if is_unsent and outcomes.give_back_unsent(session, topup, till.clock()):
            return
        if isinstance(outcome, CustomerGone):
            card_changes.forget_customer(session, topup.customer_id or "", till.clock())
        topup = outcomes.record(
            session, till.policy, topup.topup_id, outcome, till.clock(), topup.user_id
        )
    crash_point("topup.after_record")
    if topup.status == TopupStatus.ACTION_REQUIRED:
        checkout.ask_person(till, topup.topup_id)
