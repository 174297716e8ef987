"""What a receipt says: what was paid for, and what of it came back.

A purchase has one receipt, and so has each charge of a deployment after it, and what was paid for
usage in a calendar month. Prices contain the tax
of the seller's country, at the rate of when the receipt is issued; without one it is 0.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from chassis.money import format_usd
from contracts.billing import ChargeKind, PaidFor, Receipt, ReceiptLine
from contracts.catalog import BillingPeriod
from contracts.errors import BadRequest, Conflict, NotFound
from services.billing.deployments.months import month_end
from services.billing.deployments.periods import PeriodKind, PeriodStatus
from services.billing.deployments.queries import own_deployment
from services.billing.models import (
    DeploymentRow,
    PeriodRow,
    PurchaseLineRow,
    PurchaseRow,
    RefundedUnitRow,
)
from services.billing.purchases.queries import own_purchase
from services.billing.receipts import usage
from services.billing.receipts.drafts import draft
from services.billing.settings import BillingSettings

_CHARGED_FOR = {
    ChargeKind.MONTH: "The month",
    ChargeKind.ARREARS: "Time that had run unpaid,",
    ChargeKind.RESIZE: "A larger size,",
}
NOTHING_PAID = "There is no receipt: nothing was paid."


def drafted(session: Session, subject: PaidFor, rules: BillingSettings) -> Receipt:
    """What it would say, issued now, without its buyer.

    Raises ``BadRequest`` where it is not for one thing, ``NotFound``, also for what is somebody
    else's, and ``Conflict`` where nothing was paid.
    """
    match (subject.purchase_id, subject.deployment_id, subject.transaction_id, subject.month):
        case (UUID() as purchase_id, None, None, None):
            return _of_purchase(own_purchase(session, subject.user_id, purchase_id), rules)
        case (None, UUID() as deployment_id, UUID() as transaction_id, None):
            row = own_deployment(session, subject.user_id, deployment_id)
            return _of_charge(session, row, transaction_id, rules)
        case (None, None, None, str() as month):
            return usage.of_month(session, subject.user_id, month, rules)
    raise BadRequest(
        "Name what the receipt is for: a purchase_id, a deployment_id and a transaction_id, or a"
        " month."
    )


def _of_charge(
    session: Session, row: DeploymentRow, transaction_id: UUID, rules: BillingSettings
) -> Receipt:
    period = session.scalar(
        select(PeriodRow).where(
            PeriodRow.deployment_id == row.deployment_id,
            PeriodRow.transaction_id == transaction_id,
            PeriodRow.kind.in_(ChargeKind),
        )
    )
    if period is None:
        raise NotFound("There is no such charge of this deployment.")
    detail = f"{_CHARGED_FOR[ChargeKind(period.kind)]} {_span(period.starts_at, period.ends_at)}"
    return draft(
        transaction_id=transaction_id,
        user_id=period.user_id,
        purchase_id=row.purchase_id,
        deployment_id=period.deployment_id,
        # Since it was given back its row says when that was.
        paid_at=period.changed_at if period.status == PeriodStatus.PAID else period.created_at,
        lines=[ReceiptLine(label=row.name, detail=detail, amount_micros=period.amount_micros)],
        rules=rules,
    )


def with_refunds(session: Session, receipt: Receipt) -> Receipt:
    """The same with what came back by now, which is no part of what was issued."""
    refunds = _smaller_sizes(session, receipt)
    if receipt.month is not None:
        refunds = usage.refunds_of_month(session, receipt.user_id, receipt.month)
    elif receipt.deployment_id is None:
        refunds += _units_refunded(session, receipt.purchase_id)
    else:
        refunds += _charge_refunded(session, receipt.deployment_id, receipt, refunds)
    returned = sum(line.amount_micros for line in refunds)
    return receipt.model_copy(
        update={"refunds": refunds, "net_micros": receipt.total_micros + returned}
    )


def _of_purchase(row: PurchaseRow, rules: BillingSettings) -> Receipt:
    if row.transaction_id is None or row.ended_at is None:
        raise Conflict(NOTHING_PAID)
    return draft(
        transaction_id=row.transaction_id,
        user_id=row.user_id,
        purchase_id=row.purchase_id,
        deployment_id=None,
        paid_at=row.ended_at,
        lines=[*(_line(line, row.deployments) for line in row.lines), *_discount(row.lines)],
        rules=rules,
    )


def _line(line: PurchaseLineRow, deployments: Sequence[DeploymentRow]) -> ReceiptLine:
    """``VM-Production × 2``, at which price, and for which month."""
    details = [f"{format_usd(line.list_price_micros)} each"] if line.quantity > 1 else []
    if line.billing_period == BillingPeriod.MONTH:
        units = [unit for unit in deployments if unit.line_position == line.position]
        details.append(_first_month([unit.active_at for unit in units]))
    count = f" × {line.quantity}" if line.quantity > 1 else ""
    return ReceiptLine(
        label=f"{line.product_name}{count}",
        detail=", ".join(details),
        amount_micros=line.list_price_micros * line.quantity,
    )


def _discount(lines: Sequence[PurchaseLineRow]) -> list[ReceiptLine]:
    """What was taken off all of them together."""
    off_micros = sum(line.unit_discount_micros * line.quantity for line in lines)
    return [ReceiptLine(label="Staking discount", amount_micros=-off_micros)] if off_micros else []


def _first_month(began: Sequence[datetime | None]) -> str:
    starts = {moment for moment in began if moment is not None}
    if len(starts) == 1 and None not in began:
        (start,) = starts
        return f"the month {_span(start, month_end(start, start))}"
    return "the first month of each" if len(began) > 1 else "its first month"


def _units_refunded(session: Session, purchase_id: UUID | None) -> list[ReceiptLine]:
    """A line for each day and product, the earliest first."""
    units = session.execute(
        select(RefundedUnitRow, PurchaseLineRow.product_name)
        .join(DeploymentRow, DeploymentRow.deployment_id == RefundedUnitRow.deployment_id)
        .join(
            PurchaseLineRow,
            (PurchaseLineRow.purchase_id == DeploymentRow.purchase_id)
            & (PurchaseLineRow.position == RefundedUnitRow.line_position),
        )
        .where(DeploymentRow.purchase_id == purchase_id, RefundedUnitRow.done_at.is_not(None))
        .order_by(RefundedUnitRow.done_at, RefundedUnitRow.line_position)
    )
    returned: Counter[str] = Counter()
    for unit, product in units:
        returned[f"{product}, refunded on {unit.done_at:%Y-%m-%d}"] += unit.amount_micros
    return [ReceiptLine(label=label, amount_micros=-micros) for label, micros in returned.items()]


def _smaller_sizes(session: Session, receipt: Receipt) -> list[ReceiptLine]:
    """What of this payment came back for the rest of a month in a smaller size."""
    rows = session.scalars(
        select(PeriodRow)
        .join(DeploymentRow, DeploymentRow.deployment_id == PeriodRow.deployment_id)
        .where(
            DeploymentRow.purchase_id == receipt.purchase_id,
            PeriodRow.transaction_id == receipt.transaction_id,
            PeriodRow.kind == PeriodKind.CREDIT,
            PeriodRow.status == PeriodStatus.REFUNDED,
        )
        .order_by(PeriodRow.changed_at, PeriodRow.deployment_id, PeriodRow.starts_at)
    )
    return [
        ReceiptLine(
            label=f"Smaller size, refunded on {each.changed_at:%Y-%m-%d}",
            amount_micros=-each.amount_micros,
        )
        for each in rows
    ]


def _charge_refunded(
    session: Session, deployment_id: UUID, receipt: Receipt, before: Sequence[ReceiptLine]
) -> list[ReceiptLine]:
    """What came back of a charge that was given back, less what had come back of it before."""
    period = session.scalar(
        select(PeriodRow).where(
            PeriodRow.deployment_id == deployment_id,
            PeriodRow.transaction_id == receipt.transaction_id,
            PeriodRow.kind.in_(ChargeKind),
            PeriodRow.status == PeriodStatus.REFUNDED,
        )
    )
    if period is None:
        return []
    rest_micros = period.amount_micros + sum(line.amount_micros for line in before)
    label = f"Refunded on {period.changed_at:%Y-%m-%d}"
    return [ReceiptLine(label=label, amount_micros=-rest_micros)]


def _span(starts_at: datetime, ends_at: datetime) -> str:
    return f"{starts_at:%Y-%m-%d %H:%M} to {ends_at:%Y-%m-%d %H:%M} UTC"
