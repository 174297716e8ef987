"""Looking at deployments."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol, cast
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from chassis.bulk import Bulk
from chassis.cursors import page_by
from chassis.locks import locked_or_none
from contracts.billing import (
    Access,
    Actor,
    ChangeCause,
    ChargeKind,
    Deployment,
    DeploymentChange,
    DeploymentCharge,
    DeploymentList,
    DeploymentStatus,
    GetDeployment,
    ListDeployments,
)
from contracts.catalog import Category
from contracts.errors import NotFound
from services.billing.deployments import ladder, lifecycle
from services.billing.deployments.meters import unpaid_charges_micros, usage_owed_micros
from services.billing.deployments.periods import PeriodKind, PeriodStatus, owed_micros
from services.billing.deployments.prices import price_at
from services.billing.deployments.starting import STARTABLE, start_micros
from services.billing.models import ChangeRow, DeploymentRow, PeriodRow, PurchaseLineRow
from services.billing.settings import BillingSettings

HISTORY_MAX = 200
"""How many changes of one deployment are shown; the newest."""

CHARGES_MAX = 60
"""How many of its charges: five years of months."""


class Burns(Protocol):
    """What costs something every month: its row, or one in a forecast."""

    deployment_id: UUID
    name: str
    category: str
    status: str
    monthly_cost_micros: int


class Burning(NamedTuple):
    """What costs a user something every month: how many, their sum with what is charged by use,
    and the dearest of them. ``usage`` is what a month of it costs, by deployment."""

    total: int
    monthly_micros: int
    dearest: Sequence[Burns]
    usage: Mapping[UUID, int] = {}


# One question: of the others as many as could be among the dearest, and how many there are.
_BURNING = Bulk(
    """
    SELECT new.question, found.* FROM {rows} CROSS JOIN LATERAL (SELECT * FROM (
        SELECT deployment_id, name, category, status, monthly_cost_micros,
            count(*) OVER () AS total, sum(monthly_cost_micros) OVER () AS micros,
            row_number() OVER (ORDER BY monthly_cost_micros DESC, deployment_id) AS place
        FROM deployments
        WHERE user_id = new.user_id AND status = 'active' AND (
            monthly_cost_micros > 0
            OR deployment_id = ANY (CAST(string_to_array(new.used, ',') AS uuid[]))
        )
    ) AS burning
    WHERE place <= new.dearest
        OR deployment_id = ANY (CAST(string_to_array(new.used, ',') AS uuid[]))
    ) AS found
    """,
    question="bigint",
    user_id="uuid",
    dearest="bigint",
    used="text",
)


def get_deployment(
    session: Session, now: datetime, command: GetDeployment, rules: BillingSettings
) -> Deployment:
    """One deployment of this user, with its history. Raises ``NotFound``, also for another's."""
    row = own_deployment(session, command.user_id, command.deployment_id)
    return single(session, now, row, rules)


def own_deployment(
    session: Session, user_id: UUID, deployment_id: UUID, *, locked: bool = False
) -> DeploymentRow:
    """This user's deployment. Raises ``NotFound``, also for somebody else's."""
    find = locked_or_none if locked else Session.get
    row = find(session, DeploymentRow, deployment_id)
    if row is None or row.user_id != user_id:
        raise NotFound("There is no such deployment.")
    return row


def single(
    session: Session, now: datetime, row: DeploymentRow, rules: BillingSettings
) -> Deployment:
    """The contract's view of one deployment, with its history and what it was charged for."""
    (view,) = as_deployments(session, now, [row], rules)
    changes = session.scalars(
        select(ChangeRow)
        .where(ChangeRow.deployment_id == row.deployment_id)
        .order_by(ChangeRow.change_id.desc())
        .limit(HISTORY_MAX)
    ).all()
    line = session.get_one(PurchaseLineRow, (row.purchase_id, row.line_position))
    history = [_as_change(change) for change in changes]
    charges = _charges(session, row.deployment_id)
    more: dict[str, object] = {"choices": line.choices, "history": history, "charges": charges}
    if row.status == DeploymentStatus.ACTIVE:
        more["kept_until"] = ladder.kept_until(row, now, rules)
    return view.model_copy(update=more)


def _charges(session: Session, deployment_id: UUID) -> list[DeploymentCharge]:
    paid = session.scalars(
        select(PeriodRow)
        .where(
            PeriodRow.deployment_id == deployment_id,
            PeriodRow.transaction_id.is_not(None),
            PeriodRow.kind.in_(ChargeKind),
        )
        .order_by(PeriodRow.starts_at.desc(), PeriodRow.kind)
        .limit(CHARGES_MAX)
    )
    return [
        DeploymentCharge(
            transaction_id=period.transaction_id,
            kind=ChargeKind(period.kind),
            starts_at=period.starts_at,
            ends_at=period.ends_at,
            amount_micros=period.amount_micros,
            is_refunded=period.status == PeriodStatus.REFUNDED,
        )
        for period in paid
        if period.transaction_id is not None
    ]


def list_deployments(
    session: Session, now: datetime, command: ListDeployments, rules: BillingSettings
) -> DeploymentList:
    """A page of a user's deployments, newest first."""
    query = select(DeploymentRow).where(DeploymentRow.user_id == command.user_id)
    if command.statuses:
        query = query.where(DeploymentRow.status.in_(command.statuses))
    page, next_cursor = page_by(
        session,
        query,
        DeploymentRow.deployment_id,
        command.cursor,
        command.limit,
        newest_first=True,
    )
    deployments = as_deployments(session, now, page, rules)
    return DeploymentList(deployments=deployments, next_cursor=next_cursor)


class AskedToBurn(NamedTuple):
    """What burns of a user's is wanted, the ``limit`` dearest of it by name. ``usage`` is what a
    month of it costs, by deployment."""

    user_id: UUID
    limit: int
    usage: Mapping[UUID, int]


def what_burns(session: Session, user_id: UUID, limit: int, usage: Mapping[UUID, int]) -> Burning:
    """The user's active deployments with a monthly price, and those that are used for so much
    every month; the ``limit`` dearest by name."""
    (burning,) = all_that_burns(session, [AskedToBurn(user_id, limit, usage)])
    return burning


def all_that_burns(session: Session, asked: Sequence[AskedToBurn]) -> list[Burning]:
    """The same of several users."""
    found: list[list[Burns]] = [[] for _ in asked]
    counted: list[tuple[int, int]] = [(0, 0)] * len(asked)
    # Whatever is not used is among the dearest only if it is so by its price.
    questions = [
        (place, each.user_id, each.limit, ",".join(map(str, each.usage)))
        for place, each in enumerate(asked)
    ]
    for row in _BURNING.execute(session, questions) if asked else ():
        found[row.question].append(cast(Burns, row))
        counted[row.question] = row.total, int(row.micros)
    return [
        _burning(each, burns, *counts)
        for each, burns, counts in zip(asked, found, counted, strict=True)
    ]


def _burning(asked: AskedToBurn, found: list[Burns], total: int, priced_micros: int) -> Burning:
    usage = asked.usage

    def dearer(row: Burns) -> tuple[int, UUID]:
        return -row.monthly_cost_micros - usage.get(row.deployment_id, 0), row.deployment_id

    dearest = sorted(found, key=dearer)[: asked.limit]
    return Burning(total, priced_micros + sum(usage.values()), dearest, usage)


def as_deployments(
    session: Session, now: datetime, rows: Iterable[DeploymentRow], rules: BillingSettings
) -> list[Deployment]:
    """The contract's view of rows, without their histories."""
    rows = list(rows)
    if not rows:
        return []
    ids = [row.deployment_id for row in rows]
    due, used = owed_micros(session, ids), usage_owed_micros(session, ids)
    charged = unpaid_charges_micros(session, ids)
    return [
        _as_deployment(
            row,
            now,
            _Owed(
                due.get((row.deployment_id, PeriodKind.MONTH), 0),
                due.get((row.deployment_id, PeriodKind.ARREARS), 0),
                used.get(row.deployment_id, 0),
            ),
            charged.get(row.deployment_id, 0),
            rules,
        )
        for row in rows
    ]


class _Owed(NamedTuple):
    """What is due for a deployment and not paid, in micro-dollars."""

    month: int
    arrears: int
    usage: int


def _as_deployment(
    row: DeploymentRow,
    now: datetime,
    owed: _Owed,
    charged_micros: int,
    rules: BillingSettings,
) -> Deployment:
    renewal_at = ladder.renews_at(row)
    rungs = list(lifecycle.rungs_below(row, rules))
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
        paid_until=row.paid_until,
        next_renewal_at=renewal_at,
        next_renewal_micros=price_at(row, renewal_at) if renewal_at else 0,
        owed_micros=sum(owed),
        owed_usage_micros=owed.usage,
        start_micros=start_micros(row, owed.arrears, charged_micros, now),
        start_usage_micros=charged_micros if row.status in STARTABLE else 0,
        next_status=rungs[0].status if rungs else None,
        next_status_at=rungs[0].at if rungs else None,
        ladder=rungs,
        new_price_micros=row.new_price_micros,
        new_price_from=row.new_price_from,
        access=Access.model_validate(row.access) if row.access is not None else None,
    )


def _as_change(change: ChangeRow) -> DeploymentChange:
    return DeploymentChange(
        changed_at=change.changed_at,
        status=DeploymentStatus(change.status),
        cause=ChangeCause(change.cause),
        actor=Actor(change.actor),
    )
