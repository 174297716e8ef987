"""What was sold: a line in the books of who sells, written with what it is about.

Each has the key under which the money moved, which the database takes once.
"""

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from chassis.bulk import Batch, Bulk
from contracts.keys import purchase_key
from services.billing.models import PurchaseLineRow, PurchaseRow
from services.billing.sales.discounts import price_of
from services.billing.sales.shares import Price


class SaleKind(StrEnum):
    PURCHASE = "purchase"
    RENEWAL = "renewal"
    USAGE = "usage"
    REFUND = "refund"


class Sale(NamedTuple):
    """A line of the books. The amounts of a refund are what was given back. ``is_own``: who sells
    it bought it, which brings nothing that could be paid out."""

    sale_key: str
    provider_id: UUID
    product_id: UUID
    product_name: str
    kind: str
    units: int
    gross_micros: int
    fee_micros: int
    sold_at: datetime
    is_own: bool


def sale(
    key: str,
    kind: SaleKind,
    now: datetime,
    price: Price,
    *,
    buyer_id: UUID,
    product_id: UUID,
    product_name: str,
    units: int,
) -> list[Sale]:
    """The line for a price that was paid or given back; none where nobody earns by it."""
    if price.earner_id is None:
        return []
    return [
        Sale(
            sale_key=key,
            provider_id=price.earner_id,
            product_id=product_id,
            product_name=product_name,
            kind=kind,
            units=units,
            gross_micros=price.amount_micros,
            fee_micros=price.fee_micros,
            sold_at=now,
            is_own=price.earner_id == buyer_id,
        )
    ]


def product_names(session: Session, purchase_ids: Iterable[UUID]) -> dict[UUID, str]:
    """What products were called when these purchases were made."""
    lines = select(PurchaseLineRow.product_id, PurchaseLineRow.product_name).where(
        PurchaseLineRow.purchase_id.in_(list(purchase_ids))
    )
    return {line.product_id: line.product_name for line in session.execute(lines)}


def of_purchase(now: datetime, row: PurchaseRow) -> list[Sale]:
    """What a purchase that is complete sold."""
    return [
        each
        for line in row.lines
        for each in sale(
            f"{purchase_key(row.purchase_id)}:{line.position}",
            SaleKind.PURCHASE,
            now,
            price_of(line),
            buyer_id=row.user_id,
            product_id=line.product_id,
            product_name=line.product_name,
            units=line.quantity,
        )
    ]


_INSERT = Bulk(
    "INSERT INTO sales ({columns}, day) SELECT *, (sold_at AT TIME ZONE 'UTC')::date FROM {rows}",
    sale_key="text",
    provider_id="uuid",
    product_id="uuid",
    product_name="text",
    kind="text",
    units="integer",
    gross_micros="bigint",
    fee_micros="bigint",
    sold_at="timestamptz",
    is_own="boolean",
)


def write(writes: Batch, sales: Iterable[Sale]) -> None:
    """Store new lines."""
    writes.add(_INSERT, sales)
