"""Giving back what was paid for usage that was corrected after it.

It is written down together with the totals, when the hour ends, in parts of what was paid for the
deployment: the latest charge first, each no more than that charge took for it. Each part has a key
of its own and is given back once, by the provider and the marketplace as they earned by it; what
the provider has not got any more the house advances: see :mod:`services.billing.refunds.debts`.
"""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from chassis.bulk import Batch
from chassis.client import RpcClient
from chassis.clock import Clock
from chassis.crash_points import crash_point
from chassis.database import Connected
from chassis.identifiers import new_id
from chassis.leases import Leases
from chassis.locks import locked
from contracts.errors import NO_ANSWER, IdempotencyConflict, ServiceError
from contracts.keys import usage_refund_key
from contracts.wallet import CloseKey, Noted, Refund, Transaction
from services.billing.deployments.meters import with_lines
from services.billing.models import (
    DeploymentRow,
    UsageChargeLineRow,
    UsageChargeRow,
    UsageRefundRow,
)
from services.billing.refunds import debts
from services.billing.sales import records
from services.billing.sales.records import SaleKind
from services.billing.sales.shares import Price, parts
from services.billing.settings import BillingSettings

log = logging.getLogger(__name__)

DUE = Leases(
    due_at=UsageRefundRow.due_at,
    owner=UsageRefundRow.user_id,
    lease=timedelta(seconds=60),
    limit=50,
)

ROUNDS_MAX = 20


def give_back(session: Session, now: datetime, row: DeploymentRow, amount_micros: int) -> None:
    """Write down what is to be given back for a deployment, all charges of which are paid.

    Raises ``ValueError`` where less was paid for it: its totals and its charges do not agree.
    """
    line, charge, refund = UsageChargeLineRow, UsageChargeRow, UsageRefundRow
    refunded = (
        select(func.coalesce(func.sum(refund.amount_micros), 0))
        .where(refund.charge_id == charge.charge_id, refund.deployment_id == row.deployment_id)
        .correlate(charge)
        .scalar_subquery()
    )
    paid = session.execute(
        select(charge.charge_id, func.sum(line.amount_micros), refunded)
        .join(line, line.charge_id == charge.charge_id)
        .where(
            charge.user_id == row.user_id,
            charge.paid_at.is_not(None),
            line.deployment_id == row.deployment_id,
        )
        .group_by(charge.charge_id)
        .order_by(charge.paid_at.desc(), charge.charge_id.desc())
    ).all()
    for charge_id, paid_micros, refunded_micros in paid:
        part = min(amount_micros, int(paid_micros - refunded_micros))
        if part <= 0:
            continue
        session.add(
            UsageRefundRow(
                refund_id=new_id(),
                deployment_id=row.deployment_id,
                charge_id=charge_id,
                user_id=row.user_id,
                amount_micros=part,
                fee_micros=_fee_micros(row, int(paid_micros), int(refunded_micros), part),
                created_at=now,
                due_at=now,
            )
        )
        amount_micros -= part
        if not amount_micros:
            return
    raise ValueError("more is to be given back than was paid")


def _fee_micros(row: DeploymentRow, paid_micros: int, refunded_micros: int, part: int) -> int:
    """The fee of what goes back next: what stays has the fee of a price of its own, so that all
    that goes back has the fee of the whole."""
    before, after = (
        Price(micros, row.provider_id, row.fee_bps).fee_micros
        for micros in (paid_micros - refunded_micros, paid_micros - refunded_micros - part)
    )
    return before - after


@dataclass(frozen=True)
class UsageRefunds:
    """What it takes to give it back: a database, the wallet, a clock."""

    database: Connected
    rpc: RpcClient
    rules: BillingSettings
    clock: Clock

    def run(self) -> None:
        """Give back everything that is due, to every user in turn."""
        for refund_id in DUE.each(self.database, self.clock, ROUNDS_MAX):
            try:
                self._give_back(refund_id)
            except NO_ANSWER as error:
                log.warning("a refund has to wait", extra={"error": f"{error.code}: {error}"})
                return
            except ServiceError:
                log.exception("usage is not given back", extra={"refund_id": str(refund_id)})

    def _give_back(self, refund_id: UUID) -> None:
        with self.database.read() as session:
            refund = session.get_one(UsageRefundRow, refund_id)
            charge = session.get_one(UsageChargeRow, refund.charge_id)
            row = session.get_one(DeploymentRow, refund.deployment_id)
        if refund.done_at is not None or charge.transaction_id is None:
            return
        price = _price(row, refund)
        made = self._made(
            Refund(
                idempotency_key=usage_refund_key(refund_id),
                user_id=refund.user_id,
                transaction_id=charge.transaction_id,
                amount_micros=refund.amount_micros,
                shares=parts(price),
                is_advanced=price.earner_id is not None,
                # As the charge was written down: its deployment may be renamed between two tries.
                description=f"{charge.description}: corrected",
                metadata={Noted.DEPLOYMENT_ID: str(row.deployment_id)},
            )
        )
        crash_point("billing.usage_refunded")
        with self.database.begin() as session:
            self._note(session, refund_id, made)

    def _made(self, refund: Refund) -> Transaction:
        """What the wallet made of it, also where a version before asked in other words: a used key
        that is closed says what was made under it."""
        timeout_s = self.rules.call_timeout_s
        try:
            return self.rpc.call(refund, timeout_s=timeout_s)
        except IdempotencyConflict:
            key = CloseKey(idempotency_key=refund.idempotency_key)
            made = self.rpc.call(key, timeout_s=timeout_s).transaction
            if made is None:
                raise
            return made

    def _note(self, session: Session, refund_id: UUID, made: Transaction) -> None:
        refund = locked(session, UsageRefundRow, refund_id)
        if refund.done_at is not None:
            return
        now = self.clock()
        refund.transaction_id, refund.done_at, refund.due_at = made.transaction_id, now, None
        ((row, line),) = with_lines(session, [refund.deployment_id])
        price = _price(row, refund)
        if price.earner_id is not None:
            debts.owe(session, now, usage_refund_key(refund_id), price.earner_id, made)
        with Batch(session) as writes:
            sales = records.sale(
                usage_refund_key(refund_id),
                SaleKind.REFUND,
                now,
                price,
                buyer_id=row.user_id,
                product_id=line.product_id,
                product_name=line.product_name,
                units=0,
            )
            records.write(writes, sales)


def _price(row: DeploymentRow, refund: UsageRefundRow) -> Price:
    return Price(refund.amount_micros, row.provider_id, row.fee_bps, refund.fee_micros)
