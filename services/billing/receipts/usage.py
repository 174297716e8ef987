"""The statement of usage: what a user paid for it in a calendar month (UTC), all deployments
together, with a line for each of their meters.

It is of the charges that were paid within the month. A month can be issued an hour after its end:
whatever was being paid then is recorded by that time.
"""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID, uuid5

from sqlalchemy import ColumnElement, and_, func, select
from sqlalchemy.orm import Session

from contracts.billing import ListPaidMonths, PaidMonth, PaidMonths, Receipt, ReceiptLine
from contracts.errors import NotFound
from services.billing.deployments.meters import meters_of, with_lines
from services.billing.deployments.months import one_month_after
from services.billing.models import (
    DeploymentRow,
    ReceiptRow,
    UsageChargeLineRow,
    UsageChargeRow,
    UsageRefundRow,
)
from services.billing.receipts.drafts import draft
from services.billing.settings import BillingSettings

SETTLED_AFTER = timedelta(hours=1)
MONTHS_MAX = 60


class _Month(NamedTuple):
    starts_at: datetime
    ends_at: datetime


def of_month(session: Session, user_id: UUID, month: str, rules: BillingSettings) -> Receipt:
    """What the statement of a month says by now. Raises ``NotFound`` where nothing was paid."""
    line, charge = UsageChargeLineRow, UsageChargeRow
    paid = _paid_in(user_id, month)
    paid_at = session.scalar(select(func.max(charge.paid_at)).where(paid))
    if paid_at is None:
        raise NotFound("Nothing was paid for usage in this month.")
    totals = {
        (deployment_id, meter): (int(quantity), int(micros))
        for deployment_id, meter, quantity, micros in session.execute(
            select(
                line.deployment_id,
                line.meter,
                func.sum(line.quantity),
                func.sum(line.amount_micros),
            )
            .join(charge, charge.charge_id == line.charge_id)
            .where(paid)
            .group_by(line.deployment_id, line.meter)
        )
    }
    lines = []
    for row, bought in with_lines(session, {deployment_id for deployment_id, _ in totals}):
        for key, meter in meters_of(bought).items():
            quantity, micros = totals.get((row.deployment_id, key), (0, 0))
            if quantity or micros:
                label = f"{row.name}: {meter.label}"
                detail = f"{quantity:,} {meter.unit}"
                lines.append(ReceiptLine(label=label, detail=detail, amount_micros=micros))
    return draft(paid_at=paid_at, lines=lines, rules=rules, user_id=user_id, month=month)


def refunds_of_month(session: Session, user_id: UUID, month: str) -> list[ReceiptLine]:
    """What of it was corrected and paid back, by day and deployment, the earliest first."""
    refund, charge, row = UsageRefundRow, UsageChargeRow, DeploymentRow
    found = session.execute(
        select(refund.done_at, row.name, refund.amount_micros)
        .join(charge, charge.charge_id == refund.charge_id)
        .join(row, row.deployment_id == refund.deployment_id)
        .where(_paid_in(user_id, month), refund.done_at.is_not(None))
        .order_by(refund.done_at, refund.refund_id)
    )
    returned: Counter[str] = Counter()
    for done_at, name, micros in found:
        returned[f"{name}: usage corrected, refunded on {done_at:%Y-%m-%d}"] += micros
    return [ReceiptLine(label=label, amount_micros=-micros) for label, micros in returned.items()]


def list_paid_months(session: Session, command: ListPaidMonths) -> PaidMonths:
    """See :class:`contracts.billing.ListPaidMonths`."""
    charge = UsageChargeRow
    month = func.to_char(func.timezone("UTC", charge.paid_at), "YYYY-MM").label("month")
    rows = session.execute(
        select(month, func.sum(charge.amount_micros))
        .where(charge.user_id == command.user_id, charge.paid_at.is_not(None))
        .group_by(month)
        .order_by(month.desc())
        .limit(MONTHS_MAX)
    ).all()
    ids = {statement_id(command.user_id, name): name for name, _ in rows}
    issued = select(ReceiptRow.transaction_id, ReceiptRow.content["number"].astext)
    numbers = {
        ids[found_id]: number
        for found_id, number in session.execute(issued.where(ReceiptRow.transaction_id.in_(ids)))
    }
    months = [
        PaidMonth(
            month=name,
            total_micros=int(micros),
            issuable_from=issuable_from(name),
            number=numbers.get(name),
        )
        for name, micros in rows
    ]
    return PaidMonths(months=months)


def issuable_from(month: str) -> datetime:
    """When nothing more is paid within a month."""
    return _month(month).ends_at + SETTLED_AFTER


def statement_id(user_id: UUID, month: str) -> UUID:
    """What stands in the place of a transaction where a statement is kept: always the same."""
    return uuid5(user_id, f"usage:{month}")


def _month(month: str) -> _Month:
    starts_at = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
    return _Month(starts_at, one_month_after(starts_at))


def _paid_in(user_id: UUID, month: str) -> ColumnElement[bool]:
    starts_at, ends_at = _month(month)
    paid_at = UsageChargeRow.paid_at
    return and_(UsageChargeRow.user_id == user_id, paid_at >= starts_at, paid_at < ends_at)
