"""Payouts: what a provider earned leaves the product, by an operator's hand.

::

    requested ─▶ held ─▶ paying ─▶ paid          the money is set aside, then taken
             │       └─▶ refusing ─▶ refused     … then released
             └─▶ declined                        the wallet had not got it

What is going to be done stands here before the wallet hears of it; see :mod:`.carrying_out`. Only
what was earned is paid out, and never more: money of a card does not become a payout.
"""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from chassis.clock import Clock
from chassis.database import lock_until_commit
from chassis.idempotency import request_hash
from chassis.identifiers import new_id
from chassis.locks import locked_or_none
from chassis.money import MICROS_PER_CENT, format_usd
from contracts.billing import (
    MarkPayoutPaid,
    PayoutStatus,
    RefusePayout,
    RequestPayout,
)
from contracts.errors import (
    BadRequest,
    Conflict,
    IdempotencyConflict,
    InsufficientFunds,
    NotFound,
)
from contracts.messages import Command
from services.billing.models import PayoutRow
from services.billing.payouts.carrying_out import DUE, Payouts
from services.billing.payouts.moves import NOT_PAID, move
from services.billing.refunds.debts import owed_micros
from services.billing.sales.statements import earned_micros
from services.billing.settings import BillingSettings


def ask(payouts: Payouts, command: RequestPayout) -> PayoutRow:
    """:func:`request`, and the money set aside. Who owes something and has a frozen wallet hears of
    both: what they owe is paid by nobody while it is frozen."""
    try:
        with payouts.database.begin() as session:
            payout_id = request(session, payouts.clock, command, payouts.rules).payout_id
    except Conflict as refusal:
        if type(refusal) is Conflict and payouts.is_frozen(command.user_id):
            raise Conflict(
                f"{refusal} Your wallet is frozen, too: please contact support."
            ) from None
        raise
    return payouts.carried_out(payout_id)


def request(
    session: Session, clock: Clock, command: RequestPayout, rules: BillingSettings
) -> PayoutRow:
    """Write down that a provider wants to be paid; the first answer for a key that comes again.

    Raises ``BadRequest`` for a part of a cent or too little, ``Conflict`` while something is owed,
    ``InsufficientFunds`` for more than was earned and not paid out yet, ``IdempotencyConflict``.
    """
    lock_until_commit(session, f"payouts:{command.user_id}")
    known = session.scalar(
        select(PayoutRow).where(
            PayoutRow.user_id == command.user_id,
            PayoutRow.idempotency_key == command.idempotency_key,
        )
    )
    if known is not None:
        _require_same(known.body_hash, command)
        return known
    _require_whole(command.amount_micros, rules)
    owed = owed_micros(session, [command.user_id])[command.user_id]
    if owed:
        raise Conflict(
            f"You owe {format_usd(owed)} for refunds of what you sold. It is taken from your wallet"
            " as soon as that covers it; ask for a payout after that."
        )
    payable = payable_micros(session, command.user_id)
    if command.amount_micros > payable:
        raise InsufficientFunds(
            f"{format_usd(payable)} of what you earned can be paid out. Ask for no more than that.",
            str(payable),
            str(command.amount_micros - payable),
        )
    now = clock()
    row = PayoutRow(
        payout_id=new_id(),
        user_id=command.user_id,
        amount_micros=command.amount_micros,
        status=PayoutStatus.REQUESTED,
        status_code="",
        reference="",
        reason="",
        actor="",
        idempotency_key=command.idempotency_key,
        body_hash=request_hash(command).hex(),
        closing_hash="",
        created_at=now,
        changed_at=now,
        # Whoever writes it carries it out at once; when they do not come to it, somebody else does.
        due_at=now + DUE.lease,
    )
    session.add(row)
    session.flush()
    return row


def payable_micros(session: Session, user_id: UUID) -> int:
    """What was earned and not refunded, less what was paid out or is on its way; at most the
    wallet's balance leaves it."""
    taken = session.scalar(
        select(func.coalesce(func.sum(PayoutRow.amount_micros), 0)).where(
            PayoutRow.user_id == user_id, PayoutRow.status.not_in(NOT_PAID)
        )
    )
    return max(earned_micros(session, user_id) - int(taken or 0), 0)


def mark_paid(session: Session, clock: Clock, command: MarkPayoutPaid) -> PayoutRow:
    """An operator has sent the money; the same command again changes nothing.

    Raises ``NotFound``, ``Conflict`` for one that is not held, ``IdempotencyConflict``.
    """

    def say(row: PayoutRow) -> None:
        row.reference = command.reference

    return _close(session, clock, command, PayoutStatus.PAYING, say)


def refuse(session: Session, clock: Clock, command: RefusePayout) -> PayoutRow:
    """An operator does not send the money; as :func:`mark_paid`."""

    def say(row: PayoutRow) -> None:
        row.reason = command.reason

    return _close(session, clock, command, PayoutStatus.REFUSING, say)


def _close(
    session: Session,
    clock: Clock,
    command: MarkPayoutPaid | RefusePayout,
    to: PayoutStatus,
    say: Callable[[PayoutRow], None],
) -> PayoutRow:
    row = locked_or_none(session, PayoutRow, command.payout_id)
    if row is None:
        raise NotFound("There is no such payout.")
    if row.closing_key == command.idempotency_key:
        _require_same(row.closing_hash, command)
        return row
    now = clock()
    move(row, now, to)
    say(row)
    row.actor = command.actor
    row.closing_key = command.idempotency_key
    row.closing_hash = request_hash(command).hex()
    row.due_at = now + DUE.lease
    return row


def _require_whole(amount_micros: int, rules: BillingSettings) -> None:
    if amount_micros % MICROS_PER_CENT:
        raise BadRequest("amount_micros: a payout is a whole number of cents.", "amount_micros")
    if amount_micros < rules.payout_min_micros:
        raise BadRequest(
            f"amount_micros: a payout is at least {format_usd(rules.payout_min_micros)}.",
            "amount_micros",
        )


def _require_same(body_hash: str, command: Command[Any]) -> None:
    if body_hash != request_hash(command).hex():
        raise IdempotencyConflict(
            "This idempotency key was used for something else. Use a new key for a new wish."
        )
