"""Giving back what a refund says, over the wallet and the catalog.

Each unit has a key of its own, which names the purchase and the deployment: it is given back once,
whatever crashes, repeats or runs beside it. A refund stays due until all of it is done::

    recorded ─▶ each unit: wallet refunds ─▶ noted ─▶ stock put back ─▶ done, and told

What a provider has not got any more the house advances, and he owes it: see :mod:`.debts`.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from chassis.bulk import Batch
from chassis.client import RpcClient
from chassis.clock import Clock
from chassis.crash_points import crash_point
from chassis.database import Connected, is_lost
from chassis.identifiers import new_id
from chassis.leases import Leases
from chassis.locks import locked
from chassis.outbox import publish
from contracts.billing import PurchaseRefunded, RefundCause, SaleRefunded
from contracts.catalog import QuoteLine, ReturnStock
from contracts.errors import NO_ANSWER
from contracts.keys import unit_refund_key
from contracts.wallet import HouseAccount, Noted, Refund, Share, Transaction
from services.billing.models import (
    PurchaseLineRow,
    PurchaseRow,
    RefundedUnitRow,
    RefundRow,
)
from services.billing.refunds import debts
from services.billing.sales import records
from services.billing.sales.records import SaleKind
from services.billing.settings import BillingSettings

log = logging.getLogger(__name__)

DUE = Leases(
    due_at=RefundRow.due_at, owner=RefundRow.user_id, lease=timedelta(seconds=60), limit=50
)

ROUNDS_MAX = 20

NAME_LENGTH_MAX = 150
"""How much of a product's name stands in a statement, which has room for 200 characters."""


@dataclass(frozen=True)
class Refunds:
    """What it takes to give money back: a database, the other services, a clock."""

    database: Connected
    rpc: RpcClient
    rules: BillingSettings
    clock: Clock

    def run(self) -> None:
        """Settle everything that is due, of every buyer in turn; one that fails keeps none
        behind it, and is tried again when its lease has run out."""
        for refund_id in DUE.each(self.database, self.clock, ROUNDS_MAX):
            if not self.try_to_settle(refund_id):
                return

    def try_to_settle(self, refund_id: UUID) -> bool:
        """False when another service did not answer: the others would only hear the same."""
        try:
            self.settle(refund_id)
        except NO_ANSWER as error:
            log.warning("a refund has to wait", extra={"error": f"{error.code}: {error}"})
            return False
        except Exception as error:
            if is_lost(error):
                raise
            log.exception("a refund was not settled", extra={"refund_id": str(refund_id)})
        return True

    def settle(self, refund_id: UUID) -> None:
        """Give back what is not given back yet. Raises ``ServiceError``."""
        with self.database.read() as session:
            refund = session.get_one(RefundRow, refund_id)
            purchase = session.get_one(PurchaseRow, refund.purchase_id)
            lines = {line.position: line for line in purchase.lines}
            units = _units(session, refund_id)
        if refund.done_at is not None:
            return
        for unit in units:
            if unit.done_at is None:
                self._give_back(purchase, lines[unit.line_position], unit)
        stocked = _stocked(lines, units)
        if stocked:
            self.rpc.call(
                ReturnStock(return_id=refund_id, lines=stocked),
                timeout_s=self.rules.call_timeout_s,
            )
            crash_point("billing.stock_returned")
        with self.database.begin() as session:
            _finish(session, self.clock, refund_id, lines)
        crash_point("billing.refund_done")

    def _give_back(
        self, purchase: PurchaseRow, line: PurchaseLineRow, unit: RefundedUnitRow
    ) -> None:
        made = None
        if unit.amount_micros:
            made = self.rpc.call(_refund(purchase, line, unit), timeout_s=self.rules.call_timeout_s)
            crash_point("billing.unit_refunded")
        with self.database.begin() as session:
            _note(session, self.clock, purchase.purchase_id, line, unit.deployment_id, made)
        crash_point("billing.unit_refund_noted")


def _units(session: Session, refund_id: UUID) -> Sequence[RefundedUnitRow]:
    return session.scalars(
        select(RefundedUnitRow)
        .where(RefundedUnitRow.refund_id == refund_id)
        .order_by(RefundedUnitRow.deployment_id)
    ).all()


def _refund(purchase: PurchaseRow, line: PurchaseLineRow, unit: RefundedUnitRow) -> Refund:
    """What gives one unit's price back. Raises ``ValueError`` for what was not paid."""
    if purchase.transaction_id is None:
        raise ValueError("a purchase that was not paid is not given back")
    if unit.provider_id is None:
        parts: list[tuple[UUID | HouseAccount, int]] = [
            (HouseAccount.MARKETPLACE_REVENUE, unit.amount_micros)
        ]
    else:
        parts = [
            (unit.provider_id, unit.amount_micros - unit.fee_micros),
            (HouseAccount.FEES, unit.fee_micros),
        ]
    return Refund(
        idempotency_key=unit_refund_key(purchase.purchase_id, unit.deployment_id),
        user_id=purchase.user_id,
        transaction_id=purchase.transaction_id,
        amount_micros=unit.amount_micros,
        shares=[Share(destination=who, amount_micros=part) for who, part in parts if part],
        is_advanced=True,
        description=f"Refund of {line.product_name[:NAME_LENGTH_MAX]}",
        metadata={
            Noted.PURCHASE_ID: str(purchase.purchase_id),
            Noted.DEPLOYMENT_ID: str(unit.deployment_id),
        },
    )


def _note(
    session: Session,
    clock: Clock,
    purchase_id: UUID,
    line: PurchaseLineRow,
    deployment_id: UUID,
    made: Transaction | None,
) -> None:
    """The wallet gave it back: the purchase, the provider's books and his debt say so, once."""
    unit = locked(session, RefundedUnitRow, deployment_id)
    if unit.done_at is not None:
        return
    unit.done_at = now = clock()
    if made is None:
        return
    key = unit_refund_key(purchase_id, deployment_id)
    unit.transaction_id = made.transaction_id
    unit.advanced_micros = debts.advanced_micros(made)
    buyer_id = session.scalar(
        update(PurchaseRow)
        .where(PurchaseRow.purchase_id == purchase_id)
        .values(refunded_micros=PurchaseRow.refunded_micros + unit.amount_micros, updated_at=now)
        .returning(PurchaseRow.user_id)
    )
    if unit.provider_id is None:
        return
    debts.owe(session, now, key, unit.provider_id, made)
    with Batch(session) as writes:
        sale = records.Sale(
            sale_key=key,
            provider_id=unit.provider_id,
            product_id=line.product_id,
            product_name=line.product_name,
            kind=SaleKind.REFUND,
            units=1,
            gross_micros=unit.amount_micros,
            fee_micros=unit.fee_micros,
            sold_at=now,
            is_own=unit.provider_id == buyer_id,
        )
        records.write(writes, [sale])


def _stocked(
    lines: dict[int, PurchaseLineRow], units: Sequence[RefundedUnitRow]
) -> list[QuoteLine]:
    """What goes back into stock."""
    quantities = Counter(
        lines[unit.line_position].product_id
        for unit in units
        if lines[unit.line_position].is_stocked
    )
    return [
        QuoteLine(product_id=product_id, quantity=quantity)
        for product_id, quantity in quantities.items()
    ]


def _finish(
    session: Session, clock: Clock, refund_id: UUID, lines: dict[int, PurchaseLineRow]
) -> None:
    """All of it went back: say so to the buyer and to who sold it, once."""
    refund = locked(session, RefundRow, refund_id)
    if refund.done_at is not None:
        return
    refund.done_at = now = clock()
    refund.due_at = None
    units = _units(session, refund_id)
    names = {unit.line_position: lines[unit.line_position].product_name for unit in units}
    publish(
        session,
        PurchaseRefunded(
            event_id=new_id(),
            occurred_at=now,
            user_id=refund.user_id,
            purchase_id=refund.purchase_id,
            refund_id=refund_id,
            cause=RefundCause(refund.cause),
            reason=refund.reason,
            amount_micros=sum(unit.amount_micros for unit in units),
            description=", ".join(names.values())[:NAME_LENGTH_MAX],
        ),
        *_told_to_providers(now, refund, units, names),
    )


def _told_to_providers(
    now: datetime, refund: RefundRow, units: Sequence[RefundedUnitRow], names: dict[int, str]
) -> list[SaleRefunded]:
    providers = {unit.provider_id for unit in units if unit.provider_id and unit.amount_micros}
    return [
        SaleRefunded(
            event_id=new_id(),
            occurred_at=now,
            user_id=provider_id,
            refund_id=refund.refund_id,
            product_names=sorted({names[unit.line_position] for unit in theirs}),
            units=len(theirs),
            net_micros=sum(unit.amount_micros - unit.fee_micros for unit in theirs),
            owed_micros=sum(unit.advanced_micros for unit in theirs),
        )
        for provider_id in sorted(providers)
        for theirs in [[unit for unit in units if unit.provider_id == provider_id]]
    ]
