"""Looking at usage: by day and meter."""

from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from chassis.clock import midnight
from contracts.billing import GetUsage, MeteredDay, Usage
from contracts.catalog import Meter
from services.billing.deployments.meters import meters_of, usage_owed_micros
from services.billing.deployments.months import month_at
from services.billing.deployments.queries import own_deployment
from services.billing.deployments.rating import rated_micros
from services.billing.models import PurchaseLineRow, UsageRecordRow


def get_usage(session: Session, now: datetime, command: GetUsage) -> Usage:
    """The last days of a deployment, today included. Raises ``NotFound``, also for another's."""
    row = own_deployment(session, command.user_id, command.deployment_id)
    line = session.get_one(PurchaseLineRow, (row.purchase_id, row.line_position))
    meters = meters_of(line)
    if row.active_at is None or not meters:
        return Usage(days=[], due_micros=0)
    first_day = now.astimezone(UTC).date() - timedelta(days=command.days - 1)
    days = _days(session, row.deployment_id, row.active_at, first_day, meters)
    owed = usage_owed_micros(session, [row.deployment_id])
    return Usage(days=days, due_micros=owed.get(row.deployment_id, 0))


def _days(
    session: Session,
    deployment_id: UUID,
    active_at: datetime,
    first_day: date,
    meters: dict[str, Meter],
) -> list[MeteredDay]:
    """From whole months, of which the days before ``first_day`` are left out."""
    since = max(midnight(first_day), active_at)
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
