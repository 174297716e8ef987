"""What may become of a deployment, from the purchase that ordered it to its end."""

import calendar
from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from sqlalchemy.orm import Session

from chassis.bulk import Batch, Bulk
from chassis.identifiers import new_id
from chassis.outbox import publish
from contracts.billing import (
    DeploymentActivated,
    DeploymentFailed,
    DeploymentRequested,
    DeploymentStatus,
    ReportDeployment,
)
from contracts.catalog import BillingPeriod
from contracts.errors import BadRequest, Conflict, NotFound
from contracts.messages import Event
from services.billing.models import OVER, DeploymentRow, PurchaseLineRow, PurchaseRow

TRANSITIONS: dict[DeploymentStatus, frozenset[DeploymentStatus]] = {
    DeploymentStatus.REQUESTED: frozenset(
        {DeploymentStatus.ACTIVE, DeploymentStatus.FAILED, DeploymentStatus.CANCELLED}
    ),
    DeploymentStatus.ACTIVE: frozenset(
        {
            DeploymentStatus.STOPPED,
            DeploymentStatus.SUSPENDED,
            DeploymentStatus.FAILED,
            DeploymentStatus.CANCELLED,
        }
    ),
    DeploymentStatus.STOPPED: frozenset({DeploymentStatus.ACTIVE, DeploymentStatus.CANCELLED}),
    DeploymentStatus.SUSPENDED: frozenset(
        {DeploymentStatus.ACTIVE, DeploymentStatus.STOPPED, DeploymentStatus.CANCELLED}
    ),
    DeploymentStatus.FAILED: frozenset(),
    DeploymentStatus.CANCELLED: frozenset(),
}

REPORTABLE = (DeploymentStatus.ACTIVE, DeploymentStatus.FAILED)
"""What a provisioner may say; the rest is the user's or billing's own decision."""


class _Unit(NamedTuple):
    line: PurchaseLineRow
    number: int


def deploy(
    now: datetime, purchase: PurchaseRow, provisioning: str
) -> tuple[list[DeploymentRow], list[Event]]:
    """One deployment for each unit of a purchase that is being completed, and what it tells.

    ``provisioning`` ``at_once`` makes them active; ``external`` asks a provisioner to.
    """
    units = [
        _Unit(line, number) for line in purchase.lines for number in range(1, line.quantity + 1)
    ]
    rows = [_row(purchase, unit, now) for unit in units]
    if provisioning == "external":
        return rows, [_requested(row, now) for row in rows]
    return rows, [event for row in rows for event in _move(now, row, DeploymentStatus.ACTIVE)]


def write(writes: Batch, rows: Iterable[DeploymentRow]) -> None:
    """Store new deployments."""
    writes.add(_INSERT, [[getattr(row, name) for name in _COLUMNS] for row in rows])


_COLUMNS = {
    "deployment_id": "uuid",
    "purchase_id": "uuid",
    "line_position": "integer",
    "unit_number": "integer",
    "user_id": "uuid",
    "product_id": "uuid",
    "name": "text",
    "category": "text",
    "billing_period": "text",
    "monthly_cost_micros": "bigint",
    "status": "text",
    "status_reason": "text",
    "created_at": "timestamptz",
    "status_changed_at": "timestamptz",
    "active_at": "timestamptz",
    "period_anchor_at": "timestamptz",
    "paid_until": "timestamptz",
    "ended_at": "timestamptz",
}
_INSERT = Bulk("INSERT INTO deployments ({columns}) SELECT * FROM {rows}", **_COLUMNS)


def report_deployment(session: Session, now: datetime, command: ReportDeployment) -> DeploymentRow:
    """Take a provisioner's answer; the same answer twice changes nothing.

    Raises ``NotFound``, ``BadRequest`` for a status that a provisioner may not set, and
    ``Conflict`` when the deployment has moved on.
    """
    if command.status not in REPORTABLE:
        raise BadRequest("A provisioner reports active or failed.", "status")
    row = session.get(DeploymentRow, command.deployment_id, with_for_update=True)
    if row is None:
        raise NotFound("There is no such deployment.")
    if row.status != command.status:
        change_status(session, now, row, command.status, command.reason)
    return row


def change_status(
    session: Session, now: datetime, row: DeploymentRow, to: DeploymentStatus, reason: str = ""
) -> None:
    """Change a deployment's status. Raises ``Conflict`` for a move that the table lacks."""
    publish(session, *_move(now, row, to, reason))


def _move(now: datetime, row: DeploymentRow, to: DeploymentStatus, reason: str = "") -> list[Event]:
    """Change a row's status; what is to be published of it."""
    status = DeploymentStatus(row.status)
    if to not in TRANSITIONS[status]:
        raise Conflict(f"This deployment is {status}: it cannot become {to}.")
    row.status = to.value
    row.status_reason = reason
    row.status_changed_at = now
    if to in OVER:
        row.ended_at = now
    if to is DeploymentStatus.ACTIVE:
        _start_period(row, now)
        return [
            DeploymentActivated(
                event_id=new_id(),
                occurred_at=now,
                user_id=row.user_id,
                deployment_id=row.deployment_id,
                name=row.name,
                monthly_cost_micros=row.monthly_cost_micros,
            )
        ]
    if to is DeploymentStatus.FAILED:
        return [
            DeploymentFailed(
                event_id=new_id(),
                occurred_at=now,
                user_id=row.user_id,
                deployment_id=row.deployment_id,
                purchase_id=row.purchase_id,
                name=row.name,
                reason=reason,
            )
        ]
    return []


def _requested(row: DeploymentRow, now: datetime) -> DeploymentRequested:
    return DeploymentRequested(
        event_id=new_id(),
        occurred_at=now,
        user_id=row.user_id,
        deployment_id=row.deployment_id,
        product_id=row.product_id,
        name=row.name,
    )


def one_month_after(anchor: datetime, months: int = 1) -> datetime:
    """The same day ``months`` later, or the month's last day where that day is missing.

    Counted from the anchor each time, so that a subscription of the 31st stays one.
    """
    month_index = anchor.month - 1 + months
    year, month = anchor.year + month_index // 12, month_index % 12 + 1
    day = min(anchor.day, calendar.monthrange(year, month)[1])
    return anchor.replace(year=year, month=month, day=day)


def _row(purchase: PurchaseRow, unit: _Unit, now: datetime) -> DeploymentRow:
    line = unit.line
    recurs = line.billing_period == BillingPeriod.MONTH
    return DeploymentRow(
        deployment_id=new_id(),
        purchase_id=purchase.purchase_id,
        line_position=line.position,
        unit_number=unit.number,
        user_id=purchase.user_id,
        product_id=line.product_id,
        name=line.product_name if line.quantity == 1 else f"{line.product_name} {unit.number}",
        category=line.category,
        billing_period=line.billing_period,
        monthly_cost_micros=line.unit_price_micros if recurs else 0,
        status=DeploymentStatus.REQUESTED.value,
        status_reason="",
        created_at=now,
        status_changed_at=now,
    )


def _start_period(row: DeploymentRow, now: datetime) -> None:
    """The first activation starts the months that the price is paid for."""
    row.active_at = row.active_at or now
    if row.billing_period == BillingPeriod.MONTH and row.period_anchor_at is None:
        row.period_anchor_at = now
        row.paid_until = one_month_after(now)
