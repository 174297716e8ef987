"""What is measured of deployments, at the prices of their purchases, and what of it is owed."""

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from chassis.locks import for_update
from contracts.catalog import Meter
from services.billing.deployments.rating import rated_micros
from services.billing.models import (
    DeploymentRow,
    PurchaseLineRow,
    UsageChargeLineRow,
    UsageChargeRow,
    UsageTotalRow,
)

IS_BOUGHT_BY = tuple_(PurchaseLineRow.purchase_id, PurchaseLineRow.position) == tuple_(
    DeploymentRow.purchase_id, DeploymentRow.line_position
)
"""Whether a line is the one that bought a deployment."""


def meters_of(line: PurchaseLineRow) -> dict[str, Meter]:
    """The meters of a line as they were when it was bought, by their keys."""
    meters = (Meter.model_validate(each) for each in line.meters)
    return {meter.key: meter for meter in meters}


def with_lines(
    session: Session, deployment_ids: Iterable[UUID], **hold: bool
) -> list[tuple[DeploymentRow, PurchaseLineRow]]:
    """Deployments with the lines that bought them, the oldest first. They are held where ``hold``
    says how, as :func:`chassis.locks.for_update` has it."""
    query = (
        select(DeploymentRow, PurchaseLineRow)
        .join(PurchaseLineRow, IS_BOUGHT_BY)
        .where(DeploymentRow.deployment_id.in_(list(deployment_ids)))
        .order_by(DeploymentRow.deployment_id)
    )
    if hold:
        query = for_update(query, of=DeploymentRow, **hold)
    return [(row, line) for row, line in session.execute(query)]


def owing_usage(session: Session, user_id: UUID) -> set[UUID]:
    """This user's deployments whose use is not charged yet, or was charged and is not paid."""
    total, line, charge = UsageTotalRow, UsageChargeLineRow, UsageChargeRow
    uncharged = select(total.deployment_id).where(
        total.user_id == user_id, total.quantity != total.charged_quantity
    )
    unpaid = (
        select(line.deployment_id)
        .join(charge, charge.charge_id == line.charge_id)
        .where(charge.user_id == user_id, charge.paid_at.is_(None))
    )
    return set(session.scalars(uncharged.union(unpaid)))


def unpaid_micros(session: Session, deployment_ids: Iterable[UUID]) -> dict[UUID, int]:
    """What was charged for the use of each of these deployments and is not paid, where anything
    is."""
    ids, line, charge = list(deployment_ids), UsageChargeLineRow, UsageChargeRow
    owners = select(DeploymentRow.user_id).where(DeploymentRow.deployment_id.in_(ids))
    rows = session.execute(
        select(line.deployment_id, func.sum(line.amount_micros))
        .join(charge, charge.charge_id == line.charge_id)
        .where(charge.user_id.in_(owners), charge.paid_at.is_(None), line.deployment_id.in_(ids))
        .group_by(line.deployment_id)
    )
    return {deployment_id: int(micros) for deployment_id, micros in rows}


def unpaid_charges_micros(session: Session, deployment_ids: Iterable[UUID]) -> dict[UUID, int]:
    """What has to be paid before each of these deployments starts again: the whole of the charges
    that hold some of what it used, as the wallet is asked for, where any is unpaid."""
    ids, line, charge = list(deployment_ids), UsageChargeLineRow, UsageChargeRow
    owners = select(DeploymentRow.user_id).where(DeploymentRow.deployment_id.in_(ids))
    # One line for each meter, and the charge once.
    charged = (
        select(line.deployment_id, charge.charge_id, charge.amount_micros)
        .join(charge, charge.charge_id == line.charge_id)
        .where(charge.user_id.in_(owners), charge.paid_at.is_(None), line.deployment_id.in_(ids))
        .distinct()
        .subquery()
    )
    rows = session.execute(
        select(charged.c.deployment_id, func.sum(charged.c.amount_micros)).group_by(
            charged.c.deployment_id
        )
    )
    return {deployment_id: int(micros) for deployment_id, micros in rows}


def charges_paid_since(
    session: Session, user_id: UUID, deployment_id: UUID, since: datetime
) -> list[int]:
    """What each charge came to that holds some of what a deployment used, and was paid from then
    on."""
    line, charge = UsageChargeLineRow, UsageChargeRow
    charged = select(line.charge_id).where(line.deployment_id == deployment_id)
    paid = select(charge.amount_micros).where(
        charge.user_id == user_id, charge.paid_at >= since, charge.charge_id.in_(charged)
    )
    return list(session.scalars(paid))


def uncharged_micros(session: Session, deployment_ids: Iterable[UUID]) -> dict[UUID, int]:
    """What the use of each of these deployments comes to beyond what stands in charges.

    Negative where corrections exceed what was used since.
    """
    rows = session.scalars(
        select(UsageTotalRow).where(
            UsageTotalRow.deployment_id.in_(list(deployment_ids)),
            UsageTotalRow.quantity != UsageTotalRow.charged_quantity,
        )
    ).all()
    found = with_lines(session, {row.deployment_id for row in rows}) if rows else []
    meters = {row.deployment_id: meters_of(line) for row, line in found}
    micros: dict[UUID, int] = {}
    for row in rows:
        rated = rated_micros(meters[row.deployment_id][row.meter], row.quantity)
        before = micros.get(row.deployment_id, 0)
        micros[row.deployment_id] = before + rated - row.charged_micros
    return micros


def usage_owed_micros(session: Session, deployment_ids: Iterable[UUID]) -> dict[UUID, int]:
    """What is owed for the use of each of these deployments that owes anything: what is not
    charged yet, and what was charged and is not paid."""
    ids = list(deployment_ids)
    unpaid, uncharged = unpaid_micros(session, ids), uncharged_micros(session, ids)
    owed = {each: unpaid.get(each, 0) + uncharged.get(each, 0) for each in {*unpaid, *uncharged}}
    return {each: micros for each, micros in owed.items() if micros > 0}
