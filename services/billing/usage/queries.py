"""Looking at usage: by day and meter."""

from collections import defaultdict
from datetime import UTC, date, datetime, time, timedelta
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from contracts.billing import GetUsage, MeteredDay, Usage
from contracts.catalog import Meter
from services.billing.deployments.months import month_at
from services.billing.deployments.queries import own_deployment
from services.billing.models import (
    DeploymentRow,
    PurchaseLineRow,
    UsageChargeLineRow,
    UsageChargeRow,
    UsageRecordRow,
    UsageTotalRow,
)
from services.billing.usage.rating import rated_micros
from services.billing.usage.taking import meters_of


def get_usage(session: Session, now: datetime, command: GetUsage) -> Usage:
    """The last days of a deployment, today included. Raises ``NotFound``, also for another's."""
    row = own_deployment(session, command.user_id, command.deployment_id)
    line = session.get_one(PurchaseLineRow, (row.purchase_id, row.line_position))
    meters = meters_of(line)
    if row.active_at is None or not meters:
        return Usage(days=[], due_micros=0)
    first_day = now.astimezone(UTC).date() - timedelta(days=command.days - 1)
    days = _days(session, row.deployment_id, row.active_at, first_day, meters)
    return Usage(days=days, due_micros=_due_micros(session, row, meters))


def _days(
    session: Session,
    deployment_id: UUID,
    active_at: datetime,
    first_day: date,
    meters: dict[str, Meter],
) -> list[MeteredDay]:
    """From whole months, of which the days before ``first_day`` are left out."""
    since = max(datetime.combine(first_day, time(), UTC), active_at)
    record = UsageRecordRow
    day = func.date(func.timezone("UTC", record.used_at))
    used = session.execute(
        select(record.month_starts_at, record.meter, day, func.sum(record.quantity))
        .where(
            record.deployment_id == deployment_id,
            record.month_starts_at >= month_at(active_at, since).starts_at,
        )
        .group_by(record.month_starts_at, record.meter, day)
        .order_by(record.month_starts_at, record.meter, day)
    )
    before: dict[tuple[datetime, str], int] = defaultdict(int)
    quantities: dict[tuple[date, str], int] = defaultdict(int)
    micros: dict[tuple[date, str], int] = defaultdict(int)
    for month_starts_at, meter, used_on, quantity in used:
        earlier = before[month_starts_at, meter]
        before[month_starts_at, meter] = so_far = earlier + int(quantity)
        cost = rated_micros(meters[meter], so_far) - rated_micros(meters[meter], earlier)
        # Two months may meet within one day.
        quantities[used_on, meter] += int(quantity)
        micros[used_on, meter] += cost
    return [
        MeteredDay(
            day=used_on,
            meter=key,
            label=meters[key].label,
            unit=meters[key].unit,
            quantity=quantities[used_on, key],
            amount_micros=micros[used_on, key],
        )
        for used_on, key in sorted(quantities, key=lambda place: (-place[0].toordinal(), place[1]))
        if used_on >= first_day
    ]


def _due_micros(session: Session, row: DeploymentRow, meters: dict[str, Meter]) -> int:
    """What is not charged yet, and what was charged and is not paid; never less than nothing."""
    total, line, charge = UsageTotalRow, UsageChargeLineRow, UsageChargeRow
    uncharged = session.scalars(
        select(total).where(
            total.deployment_id == row.deployment_id, total.quantity != total.charged_quantity
        )
    )
    unpaid = session.scalar(
        select(func.coalesce(func.sum(line.amount_micros), 0))
        .join(charge, charge.charge_id == line.charge_id)
        .where(
            charge.user_id == row.user_id,
            charge.paid_at.is_(None),
            line.deployment_id == row.deployment_id,
        )
    )
    to_come = sum(
        rated_micros(meters[each.meter], each.quantity) - each.charged_micros for each in uncharged
    )
    return max(int(unpaid or 0) + to_come, 0)
