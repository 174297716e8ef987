"""Refunds of a purchase: by support, whole or by line, and by its buyer while nothing was used."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from chassis.clock import Clock
from chassis.database import lock_until_commit
from chassis.idempotency import request_hash
from chassis.locks import for_update
from contracts.billing import (
    ChangeCause,
    DeploymentStatus,
    PurchaseStatus,
    RefundCause,
    RefundPurchase,
    ReturnPurchase,
)
from contracts.errors import Conflict, IdempotencyConflict, NotFound
from services.billing.deployments import commands, periods
from services.billing.deployments.months import one_month_after
from services.billing.deployments.periods import PeriodKind
from services.billing.models import OVER, DeploymentRow, PurchaseRow, RefundRow
from services.billing.purchases.queries import own_purchase, returnable_until
from services.billing.refunds import recording
from services.billing.refunds.recording import Wish
from services.billing.settings import BillingSettings

RETURNED = "You returned it."


def refund_purchase(
    session: Session, clock: Clock, command: RefundPurchase, rules: BillingSettings
) -> RefundRow:
    """Write down what support gives back; the first answer for a key that comes again.

    Raises ``NotFound``, ``Conflict`` for what was not paid or was given back before, and
    ``IdempotencyConflict``.
    """
    purchase = session.get(PurchaseRow, command.purchase_id)
    if purchase is None:
        raise NotFound("There is no such purchase.")
    known = _begun(session, command)
    if known is not None:
        return known
    deployments = _locked(session, purchase)
    if command.line is not None:
        deployments = [row for row in deployments if row.line_position == command.line]
        if not any(line.position == command.line for line in purchase.lines):
            raise NotFound("This purchase has no such line.")
    wish = Wish(RefundCause.SUPPORT, command.reason, command.actor, command)
    return _refund(session, clock(), deployments, wish, ChangeCause.REFUNDED, rules)


def return_purchase(
    session: Session, clock: Clock, command: ReturnPurchase, rules: BillingSettings
) -> RefundRow:
    """Write down what a buyer gives back; the first answer for a key that comes again.

    Raises ``NotFound``, also for somebody else's, ``Conflict`` where it is too late or something
    was used, and ``IdempotencyConflict``.
    """
    purchase = own_purchase(session, command.user_id, command.purchase_id)
    known = _begun(session, command)
    if known is not None:
        return known
    deployments = _locked(session, purchase)
    now, until = clock(), returnable_until(purchase, deployments, rules)
    if until is None or until <= now:
        raise Conflict(
            "This purchase cannot be returned: that is possible for a time after it, while nothing"
            " of it has run. Write to support if something is wrong with it."
        )
    wish = Wish(RefundCause.BUYER, RETURNED, str(command.user_id), command)
    return _refund(session, now, deployments, wish, ChangeCause.OWNER, rules)


def _begun(session: Session, command: RefundPurchase | ReturnPurchase) -> RefundRow | None:
    """The refund that this command began before; one at a time for each purchase decides."""
    lock_until_commit(session, f"refund:{command.purchase_id}")
    known = session.scalar(
        select(RefundRow).where(RefundRow.idempotency_key == command.idempotency_key)
    )
    if known is not None and known.body_hash != request_hash(command).hex():
        raise IdempotencyConflict(
            "This idempotency key was used for something else. Use a new key for a new refund."
        )
    return known


def _locked(session: Session, purchase: PurchaseRow) -> Sequence[DeploymentRow]:
    """The purchase's units. Raises ``Conflict`` for a purchase that was not paid."""
    if purchase.status != PurchaseStatus.COMPLETED:
        raise Conflict(f"This purchase is {purchase.status}: nothing was paid for it.")
    return session.scalars(
        for_update(
            select(DeploymentRow)
            .where(DeploymentRow.purchase_id == purchase.purchase_id)
            .order_by(DeploymentRow.deployment_id)
        )
    ).all()


def _refund(
    session: Session,
    now: datetime,
    deployments: Sequence[DeploymentRow],
    wish: Wish,
    cause: ChangeCause,
    rules: BillingSettings,
) -> RefundRow:
    """Units that are given back run no more. What was paid for a larger size in the month that the
    purchase paid goes back with them."""
    units = recording.unrefunded(session, deployments)
    row = recording.refund(session, now, units, wish)
    if row is None:
        raise Conflict("All of this was refunded before.")
    for deployment in units:
        if deployment.status not in OVER:
            commands.leave(session, now, deployment, DeploymentStatus.CANCELLED, cause, rules)
        if deployment.active_at is not None:
            first_month_ends = one_month_after(deployment.active_at)
            resize = PeriodKind.RESIZE
            if periods.give_back(session, now, deployment.deployment_id, resize, first_month_ends):
                deployment.due_at = now
    return row
