"""Looking at deployments."""

from typing import NamedTuple
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from chassis.cursors import decode_cursor, encode_cursor
from contracts.billing import Deployment, DeploymentList, DeploymentStatus, ListDeployments
from contracts.catalog import Category
from services.billing.models import DeploymentRow


class Burning(NamedTuple):
    """What costs a user something every month: how many, their sum, and the dearest of them."""

    total: int
    monthly_micros: int
    dearest: list[DeploymentRow]


def list_deployments(session: Session, command: ListDeployments) -> DeploymentList:
    """A page of a user's deployments, newest first."""
    query = select(DeploymentRow).where(DeploymentRow.user_id == command.user_id)
    if command.cursor is not None:
        (last_id,) = decode_cursor(command.cursor, UUID)
        query = query.where(DeploymentRow.deployment_id < last_id)
    query = query.order_by(DeploymentRow.deployment_id.desc()).limit(command.limit + 1)
    rows = session.scalars(query).all()
    page = rows[: command.limit]
    more = len(rows) > command.limit
    return DeploymentList(
        deployments=[as_deployment(row) for row in page],
        next_cursor=encode_cursor(page[-1].deployment_id) if more else None,
    )


def what_burns(session: Session, user_id: UUID, limit: int) -> Burning:
    """The user's active deployments with a monthly price, the ``limit`` dearest by name."""
    monthly_cost = DeploymentRow.monthly_cost_micros
    burns = (
        DeploymentRow.user_id == user_id,
        DeploymentRow.status == DeploymentStatus.ACTIVE,
        monthly_cost > 0,
    )
    total, monthly_micros = session.execute(
        select(func.count(), func.coalesce(func.sum(monthly_cost), 0)).where(*burns)
    ).one()
    dearest = session.scalars(
        select(DeploymentRow)
        .where(*burns)
        .order_by(monthly_cost.desc(), DeploymentRow.deployment_id)
        .limit(limit)
    )
    return Burning(total, int(monthly_micros), list(dearest))


def as_deployment(row: DeploymentRow) -> Deployment:
    """The contract's view of a row."""
    return Deployment(
        deployment_id=row.deployment_id,
        purchase_id=row.purchase_id,
        product_id=row.product_id,
        name=row.name,
        category=Category(row.category),
        status=DeploymentStatus(row.status),
        status_reason=row.status_reason,
        monthly_cost_micros=row.monthly_cost_micros,
        created_at=row.created_at,
        active_at=row.active_at,
        ended_at=row.ended_at,
    )
