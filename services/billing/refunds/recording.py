"""Writing a refund down before the wallet hears of it: which units, how much of whom.

A refund is of units, each of which has one deployment and is refunded once, whoever asks for it and
how often. What was paid for a unit is its part of the line, and so is the fee: the parts of all
units come to the line's fee exactly.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from chassis.idempotency import request_hash
from chassis.identifiers import new_id
from contracts.billing import RefundCause
from contracts.messages import Command
from services.billing.models import (
    DeploymentRow,
    PeriodRow,
    PurchaseLineRow,
    PurchaseRow,
    RefundedUnitRow,
    RefundRow,
)
from services.billing.refunds.settling import DUE
from services.billing.sales.discounts import fee_of_unit, price_of


@dataclass(frozen=True)
class Wish:
    """Why something is refunded, in words for its buyer, and who wanted it.

    ``command`` is the one that asked for it, where one did.
    """

    cause: RefundCause
    reason: str
    actor: str
    command: Command[Any] | None = None


def refund(
    session: Session, now: datetime, deployments: Sequence[DeploymentRow], wish: Wish
) -> RefundRow | None:
    """Write a refund of these units of one purchase, whose rows are locked. None if all of them
    were refunded before."""
    units = unrefunded(session, deployments)
    if not units:
        return None
    row = RefundRow(
        refund_id=new_id(),
        purchase_id=units[0].purchase_id,
        user_id=units[0].user_id,
        cause=wish.cause,
        reason=wish.reason,
        actor=wish.actor,
        idempotency_key=wish.command.idempotency_key if wish.command else None,
        body_hash=request_hash(wish.command).hex() if wish.command else "",
        created_at=now,
        # Whoever wrote it settles it at once; when they do not come to it, somebody else does.
        due_at=now + DUE.lease if wish.command else now,
    )
    session.add(row)
    session.flush()
    session.add_all(_unit(session, row, deployment) for deployment in units)
    session.flush()
    return row


def unrefunded(session: Session, deployments: Iterable[DeploymentRow]) -> list[DeploymentRow]:
    """Those of these units that nobody has had refunded."""
    rows = list(deployments)
    refunded = set(
        session.scalars(
            select(RefundedUnitRow.deployment_id).where(
                RefundedUnitRow.deployment_id.in_([row.deployment_id for row in rows])
            )
        )
    )
    return [row for row in rows if row.deployment_id not in refunded]


def _unit(session: Session, refund: RefundRow, deployment: DeploymentRow) -> RefundedUnitRow:
    line = session.get_one(PurchaseLineRow, (deployment.purchase_id, deployment.line_position))
    credited = _credited(session, deployment)
    return RefundedUnitRow(
        deployment_id=deployment.deployment_id,
        refund_id=refund.refund_id,
        line_position=line.position,
        amount_micros=line.unit_price_micros - credited.amount_micros,
        provider_id=price_of(line).earner_id,
        fee_micros=fee_of_unit(line, deployment.unit_number) - credited.fee_micros,
        advanced_micros=0,
    )


class _Credited(NamedTuple):
    amount_micros: int
    fee_micros: int


def _credited(session: Session, deployment: DeploymentRow) -> _Credited:
    """What of its purchase went back before, for a smaller size."""
    given_back = session.scalars(
        select(PeriodRow)
        .join(PurchaseRow, PurchaseRow.transaction_id == PeriodRow.transaction_id)
        .where(
            PurchaseRow.purchase_id == deployment.purchase_id,
            PeriodRow.deployment_id == deployment.deployment_id,
            PeriodRow.kind == "credit",
        )
    ).all()
    return _Credited(
        sum(each.amount_micros for each in given_back),
        sum((each.resize or {}).get("fee_micros", 0) for each in given_back),
    )
