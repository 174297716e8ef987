"""Everybody's deployments, for whoever counts them: analytics is rebuilt of them."""

from collections import defaultdict
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from chassis.cursors import decode_cursor, encode_cursor
from contracts.billing import (
    ChangeCause,
    ChangeRecord,
    DeploymentRecord,
    DeploymentRecords,
    DeploymentStatus,
    ExportDeployments,
    MonthRecord,
)
from contracts.catalog import BillingPeriod
from services.billing.deployments import periods
from services.billing.deployments.periods import PeriodKind, PeriodStatus
from services.billing.models import ChangeRow, DeploymentRow, PeriodRow, PurchaseLineRow

UNTOLD = (ChangeCause.RENAMED, ChangeCause.WILL_END, ChangeCause.WILL_GO_ON)
"""What stands in a history and changes nothing that is counted: no event tells of it."""


def export_deployments(session: Session, command: ExportDeployments) -> DeploymentRecords:
    """A page of those that have run, in the order in which they were made."""
    query = (
        select(
            DeploymentRow,
            PurchaseLineRow.unit_price_micros + PurchaseLineRow.unit_discount_micros,
        )
        .join(
            PurchaseLineRow,
            (PurchaseLineRow.purchase_id == DeploymentRow.purchase_id)
            & (PurchaseLineRow.position == DeploymentRow.line_position),
        )
        .where(DeploymentRow.active_at.is_not(None))
        .order_by(DeploymentRow.deployment_id)
        .limit(command.limit + 1)
    )
    if command.cursor is not None:
        (last_id,) = decode_cursor(command.cursor, UUID)
        query = query.where(DeploymentRow.deployment_id > last_id)
    rows = session.execute(query).all()
    page = rows[: command.limit]
    ids = [row.deployment_id for row, _ in page]
    changes, months = _changes(session, ids), _months(session, ids)
    return DeploymentRecords(
        records=[
            _record(row, price_micros, changes[row.deployment_id], months[row.deployment_id])
            for row, price_micros in page
        ],
        next_cursor=encode_cursor(ids[-1]) if len(rows) > command.limit else None,
    )


def _record(
    row: DeploymentRow,
    price_micros: int,
    changes: list[ChangeRecord],
    months: list[MonthRecord],
) -> DeploymentRecord:
    if row.active_at is None:
        raise ValueError("only what has run is exported")
    cost_micros = price_micros if row.billing_period == BillingPeriod.MONTH else 0
    if not cost_micros and row.monthly_cost_micros:
        # It came from the old system, where its first month had been paid.
        cost_micros = months[0].amount_micros if months else row.monthly_cost_micros
    return DeploymentRecord(
        deployment_id=row.deployment_id,
        activated_at=row.active_at,
        monthly_cost_micros=cost_micros,
        changes=changes,
        months=months,
    )


def _changes(session: Session, deployment_ids: list[UUID]) -> dict[UUID, list[ChangeRecord]]:
    found: dict[UUID, list[ChangeRecord]] = defaultdict(list)
    query = (
        select(ChangeRow)
        .where(ChangeRow.deployment_id.in_(deployment_ids), ChangeRow.cause.not_in(UNTOLD))
        .order_by(ChangeRow.changed_at, ChangeRow.change_id)
    )
    for row in session.scalars(query):
        found[row.deployment_id].append(
            ChangeRecord(
                change_id=row.change_id,
                changed_at=row.changed_at,
                status=DeploymentStatus(row.status),
                monthly_cost_micros=row.resized_to_micros,
            )
        )
    return found


def _months(session: Session, deployment_ids: list[UUID]) -> dict[UUID, list[MonthRecord]]:
    """Those that were paid. One that was given back has forgotten when that was: it began then."""
    found: dict[UUID, list[MonthRecord]] = defaultdict(list)
    query = (
        select(PeriodRow)
        .where(
            PeriodRow.deployment_id.in_(deployment_ids),
            PeriodRow.kind == PeriodKind.MONTH,
            PeriodRow.transaction_id.is_not(None),
        )
        .order_by(PeriodRow.starts_at)
    )
    for row in session.scalars(query):
        price, is_paid = periods.price(row), row.status == PeriodStatus.PAID
        if row.transaction_id is None:
            continue
        found[row.deployment_id].append(
            MonthRecord(
                transaction_id=row.transaction_id,
                paid_at=row.changed_at if is_paid else max(row.starts_at, row.created_at),
                amount_micros=row.amount_micros,
                fee_micros=price.fee_micros if price.earner_id else 0,
            )
        )
    return found
