"""Giving unused credit back to its card, step by step, each in a short transaction of its own.

::

    request    what may be paid back ▸ write it down, switch auto top-up off (one transaction)
    carry out  set it aside in the wallet ▸ see that it is still unused ▸ mark it sent ▸
               ask the processor, outside any transaction ▸ record its answer

The refund's id is in the key of each call and in the processor's metadata. A crash between any two
lines leaves a row that a timer finds: one that was sent is looked for at the processor before it is
sent again. The credit leaves the wallet by the event that any refund publishes
(:mod:`.reversals`), which captures what was set aside.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from chassis.crash_points import crash_point
from chassis.idempotency import request_hash
from chassis.identifiers import new_id
from chassis.leases import Leases
from chassis.money import MICROS_PER_CENT, format_usd, to_cents
from contracts.errors import (
    NO_ANSWER,
    AccountFrozen,
    BadRequest,
    Conflict,
    IdempotencyConflict,
    InsufficientFunds,
    NotFound,
    PaymentFailed,
    ServiceError,
    Unavailable,
    with_code,
)
from contracts.topup import (
    CardRefund,
    CardRefundStatus,
    RefundableTopup,
    RefundableTopups,
    RefundTopup,
    TopupKind,
    TopupStatus,
)
from contracts.wallet import AccountStatus, UnusedTopups
from services.topup import topups
from services.topup.automatic import disputes, terms
from services.topup.charging import card_refunds, reversals
from services.topup.models import AutoTopupSettings, CardRefundRow, Topup
from services.topup.processor import (
    KEY_REFUSED,
    Object,
    OutcomeUnknown,
    ProcessorError,
)
from services.topup.till import Till

log = logging.getLogger(__name__)

DUE = Leases(CardRefundRow.due_at, CardRefundRow.user_id, timedelta(seconds=30), limit=50)
"""Refunds that somebody has to go on with. Whoever writes one down goes on with it at once."""
LOOKED_AT_AGAIN = (timedelta(seconds=30), timedelta(hours=1))
"""How soon, and how late at most; in between, when it is twice as old."""
SHOWN_MAX = 100
S = CardRefundStatus

FROZEN = "Your wallet is frozen: nothing can be paid back from it. Write to support."
DISPUTED = "A payment of yours is disputed with your bank. Nothing can be paid back meanwhile."
UNDER_WAY = "Another refund is being made. Wait until it is done."
SPENT_MEANWHILE = "The credits were spent meanwhile. Nothing was paid back."
_REFUSALS = {
    "charge_disputed": "Your bank has disputed this payment, so that it cannot be refunded.",
    "charge_already_refunded": "All of this payment was refunded before.",
}
REFUSED = "The card processor refused the refund. Write to support, and quote this reference:"
_DECLINED = (InsufficientFunds, AccountFrozen, NotFound)


# What may be paid back


def refundable(till: Till, user_id: UUID) -> RefundableTopups:
    """See :class:`contracts.topup.ListRefundable`."""
    now = till.clock()
    with till.database.read() as session:
        blocked = _blocked(session, user_id)
        settings = session.get(AutoTopupSettings, user_id)
        found = _in_window(session, user_id, now - till.policy.card_refund_window)
        taken = reversals.taken_micros(session, [topup.topup_id for topup in found])
    has_auto_topup = settings is not None and settings.is_enabled
    if not found:
        return RefundableTopups(
            topups=[], blocked_reason=blocked, switches_off_auto_topup=has_auto_topup
        )
    unused = till.wallet.unused(user_id, [topup.topup_id for topup in found])
    if unused.status is AccountStatus.FROZEN:
        blocked = FROZEN
    left = _left(unused)
    offered = [
        RefundableTopup(
            topup_id=topup.topup_id,
            kind=TopupKind(topup.kind),
            amount_micros=topup.amount_micros,
            refundable_micros=_most(topup, taken[topup.topup_id], left[topup.topup_id]),
            paid_at=topup.paid_at,
            refundable_until=topup.paid_at + till.policy.card_refund_window,
            card_brand=topup.card_brand,
            card_last4=topup.card_last4,
        )
        for topup in found
        if topup.paid_at is not None
    ]
    return RefundableTopups(
        topups=[topup for topup in offered if topup.refundable_micros],
        blocked_reason=blocked,
        switches_off_auto_topup=has_auto_topup,
    )


def _blocked(session: Session, user_id: UUID) -> str:
    if card_refunds.being_made(session, user_id) is not None:
        return UNDER_WAY
    return DISPUTED if disputes.has_open(session, user_id) else ""


def _in_window(session: Session, user_id: UUID, since: datetime) -> list[Topup]:
    return list(
        session.scalars(
            select(Topup)
            .where(
                Topup.user_id == user_id,
                Topup.status == TopupStatus.CREDITED,
                Topup.problem == "",
                Topup.paid_at > since,
            )
            .order_by(Topup.paid_at.desc(), Topup.topup_id.desc())
            .limit(SHOWN_MAX)
        )
    )


def _left(unused: UnusedTopups) -> dict[UUID, int]:
    """What of each top-up is unused and can be spent, in whole cents."""
    most = max(unused.available_micros, 0)
    left = {topup.topup_id: min(topup.unused_micros, most) for topup in unused.topups}
    return {topup_id: micros - micros % MICROS_PER_CENT for topup_id, micros in left.items()}


def _most(topup: Topup, taken_micros: int, left_micros: int) -> int:
    return max(min(topup.amount_micros - taken_micros, left_micros), 0)


# Asking for it


@dataclass(frozen=True)
class _Wish:
    """What somebody wants back, of which the wallet says that ``left_micros`` are unused."""

    command: RefundTopup
    left_micros: int


def give_back(till: Till, command: RefundTopup) -> CardRefund:
    """Pay unused credit back to its card; a replay of the key gives what became of the first try.

    Errors: see :class:`contracts.topup.RefundTopup`.
    """
    with till.database.read() as session:
        row = _replay(session, command)
    is_new = row is None
    if row is None:
        wish = _Wish(command, _ask_wallet(till, command))
        with till.database.begin() as session:
            row, is_new = request(session, till, wish)
    crash_point("topup.refund_written")
    carry_out(till, row.refund_id)
    with till.database.read() as session:
        row = session.get_one(CardRefundRow, row.refund_id)
        if row.code:
            raise with_code(row.code, row.reason)
        return card_refunds.reply(session, row, replayed=not is_new)


def _replay(session: Session, command: RefundTopup) -> CardRefundRow | None:
    row = session.scalar(
        select(CardRefundRow).where(
            CardRefundRow.user_id == command.user_id,
            CardRefundRow.idempotency_key == command.idempotency_key,
        )
    )
    if row is not None and row.request_hash != request_hash(command).hex():
        raise IdempotencyConflict(
            "This idempotency key was used for another refund. Nothing was paid back; use a new"
            " key."
        )
    return row


def _ask_wallet(till: Till, command: RefundTopup) -> int:
    """How much of the top-up is unused. Raises ``AccountFrozen``, ``Unavailable``, ``NotFound``."""
    with till.database.read() as session:
        topups.get(session, command.user_id, command.topup_id)
    try:
        unused = till.wallet.unused(command.user_id, [command.topup_id])
    except NO_ANSWER as error:
        raise Unavailable(
            "Your wallet cannot be read at the moment. Nothing was paid back; try again in a"
            " moment."
        ) from error
    if unused.status is AccountStatus.FROZEN:
        raise AccountFrozen(FROZEN)
    return _left(unused)[command.topup_id]


def request(session: Session, till: Till, wish: _Wish) -> tuple[CardRefundRow, bool]:
    """Write a refund down, and switch auto top-up off; (it, is it new)."""
    command = wish.command
    topups.lock_user(session, command.user_id)
    row = _replay(session, command)
    if row is not None:
        return row, False
    settings = topups.lock_settings(session, command.user_id)
    topup = topups.lock(session, command.topup_id)
    now = till.clock()
    _check_window(topup, till.policy.card_refund_window, now)
    if blocked := _blocked(session, command.user_id):
        raise Conflict(blocked)
    amount_micros = _amount(session, topup, wish)
    if settings is not None and settings.is_enabled:
        terms.switch_off(session, command.user_id, now)
    row = CardRefundRow(
        refund_id=new_id(),
        user_id=command.user_id,
        topup_id=topup.topup_id,
        payment_id=topup.payment_id or "",
        amount_micros=amount_micros,
        status=S.REQUESTED,
        code="",
        reason="",
        attempt=0,
        due_at=now + DUE.lease,
        idempotency_key=command.idempotency_key,
        request_hash=request_hash(command).hex(),
        created_at=now,
        updated_at=now,
    )
    session.add(row)
    session.flush()
    return row, True


def _check_window(topup: Topup, window: timedelta, now: datetime) -> None:
    if topup.status != TopupStatus.CREDITED or topup.paid_at is None:
        raise Conflict("These credits are not in your wallet, so that they cannot be paid back.")
    if topup.problem:
        raise Conflict("Something is wrong with this payment. Write to support to settle it.")
    if now >= topup.paid_at + window:
        raise Conflict("It is too late to have these credits paid back here. Write to support.")


def _amount(session: Session, topup: Topup, wish: _Wish) -> int:
    """How much is to be paid back. Raises ``BadRequest``, ``Conflict`` with how much could be."""
    taken = reversals.taken_micros(session, [topup.topup_id])[topup.topup_id]
    most = _most(topup, taken, wish.left_micros)
    asked = most if wish.command.amount_micros is None else wish.command.amount_micros
    if asked % MICROS_PER_CENT:
        raise BadRequest("A refund is a whole number of cents.", "amount_micros")
    if asked == 0 or asked > most:
        raise Conflict(
            f"{format_usd(most)} of these credits is unused and can be paid back. Nothing was"
            " paid back.",
            str(most),
        )
    return asked


# Carrying it out


def carry_out(till: Till, refund_id: UUID) -> None:
    """Go on with a refund as far as it goes. Called twice, it pays back once."""
    while True:
        with till.database.read() as session:
            row = session.get_one(CardRefundRow, refund_id)
        step = _STEPS.get(CardRefundStatus(row.status))
        if step is None or not step(till, row):
            return


def _set_aside(till: Till, asked: CardRefundRow) -> bool:
    """requested → held, or declined."""
    outcome: UUID | ServiceError
    try:
        outcome = till.wallet.set_aside(asked.user_id, asked.refund_id, asked.amount_micros)
    except _DECLINED as refusal:
        outcome = refusal
    except ServiceError as error:
        return _wait(till, asked, str(error))
    crash_point("topup.refund_set_aside")
    with till.database.begin() as session:
        row = _still(session, asked)
        if row is None:
            return True
        now = till.clock()
        if isinstance(outcome, ServiceError):
            reason = FROZEN if isinstance(outcome, AccountFrozen) else SPENT_MEANWHILE
            card_refunds.refuse(session, row, now, S.DECLINED, outcome.code, reason)
        else:
            card_refunds.move(row, now, S.HELD)
            row.hold_id = outcome
    crash_point("topup.refund_held")
    return True


def _send(till: Till, asked: CardRefundRow) -> bool:
    """held → sent, unless what is set aside is other credit by now, or frozen."""
    try:
        unused = till.wallet.unused(asked.user_id, [asked.topup_id])
    except ServiceError as error:
        return _wait(till, asked, str(error))
    is_spent = unused.topups[0].unused_micros < asked.amount_micros
    is_frozen = unused.status is AccountStatus.FROZEN
    with till.database.begin() as session:
        row = _still(session, asked)
        if row is None:
            return True
        now = till.clock()
        if is_spent or is_frozen:
            code = AccountFrozen.code if is_frozen else Conflict.code
            reason = FROZEN if is_frozen else SPENT_MEANWHILE
            card_refunds.refuse(session, row, now, S.REFUSED, code, reason)
            return False
        card_refunds.move(row, now, S.SENT)
        _mark_sent(row, 1, now)
    return _ask_processor(till, row)


def _find_or_send_again(till: Till, asked: CardRefundRow) -> bool:
    """What became of a refund that was sent, and was not answered."""
    asked_at = till.clock()
    try:
        made = [
            refund
            for refund in till.processor.refunds_of(asked.payment_id)
            if card_refunds.id_in(refund) == asked.refund_id
        ]
    except ProcessorError as error:
        return _wait(till, asked, error.message)
    if made:
        return _record(till, asked, made[0], asked_at)
    sent_at = asked.sent_at or asked.created_at
    is_over = asked_at - sent_at > 2 * till.policy.stale_after
    if not is_over and asked_at - sent_at > till.policy.stale_after:
        # Too old for the same key, and somebody who was held up may just have sent it.
        return _wait(till, asked, "it may still arrive")
    with till.database.begin() as session:
        row = _still(session, asked)
        if row is None or row.attempt != asked.attempt or row.sent_at != asked.sent_at:
            return False
        _mark_sent(row, row.attempt + is_over, till.clock())
    return _ask_processor(till, row)


def _mark_sent(row: CardRefundRow, attempt: int, now: datetime) -> None:
    row.attempt, row.sent_at, row.due_at = attempt, now, now + DUE.lease


def _ask_processor(till: Till, row: CardRefundRow) -> bool:
    crash_point("topup.before_refund")
    asked_at = till.clock()
    if row.sent_at is None or asked_at - row.sent_at > till.policy.stale_after:
        log.warning("a refund was held up for too long", extra={"refund": str(row.refund_id)})
        return False
    try:
        made = till.processor.refund(
            row.payment_id,
            to_cents(row.amount_micros),
            idempotency_key=f"{row.refund_id}:{row.attempt}",
            refund_id=str(row.refund_id),
        )
    except OutcomeUnknown as error:
        return _wait(till, row, error.message)
    except ProcessorError as error:
        if error.code == KEY_REFUSED:
            return _wait(till, row, error.message)
        return _refused(till, row, error)
    crash_point("topup.after_refund")
    return _record(till, row, made, asked_at)


def _record(till: Till, asked: CardRefundRow, made: Object, asked_at: datetime) -> bool:
    try:
        with till.database.begin() as session:
            reversals.record(session, asked.topup_id, [made], is_dispute=False, now=asked_at)
    except reversals.Overtaken as error:
        return _wait(till, asked, str(error))
    crash_point("topup.refund_recorded")
    return False


def _refused(till: Till, asked: CardRefundRow, error: ProcessorError) -> bool:
    log.error(
        "the card processor refused a refund",
        extra={"refund": str(asked.refund_id), "error": error.code, "reason": error.message},
    )
    with till.database.begin() as session:
        row = _still(session, asked)
        if row is not None:
            reason = _REFUSALS.get(error.code, f"{REFUSED} {row.refund_id}.")
            now = till.clock()
            card_refunds.refuse(session, row, now, S.REFUSED, PaymentFailed.code, reason)
    return False


def _wait(till: Till, asked: CardRefundRow, why: str) -> bool:
    """Somebody does not answer: a timer goes on with it."""
    log.warning("a refund has to wait", extra={"refund": str(asked.refund_id), "reason": why})
    soonest, latest = LOOKED_AT_AGAIN
    with till.database.begin() as session:
        row = _still(session, asked)
        if row is not None:
            now = till.clock()
            row.due_at = now + min(max(now - row.created_at, soonest), latest)
    return False


def _still(session: Session, asked: CardRefundRow) -> CardRefundRow | None:
    """The refund, locked; None where somebody else has brought it on meanwhile."""
    row = card_refunds.lock(session, asked.refund_id)
    return row if row is not None and row.status == asked.status else None


_STEPS: dict[CardRefundStatus, Callable[[Till, CardRefundRow], bool]] = {
    S.REQUESTED: _set_aside,
    S.HELD: _send,
    S.SENT: _find_or_send_again,
}
"""Each does what is next, and says whether to go on."""
