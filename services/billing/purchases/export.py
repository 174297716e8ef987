"""Everybody's purchases, for whoever counts them: analytics is rebuilt of them."""

from collections import defaultdict
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session, lazyload, selectinload

from chassis.cursors import page_by
from contracts.billing import (
    ExportPurchases,
    PurchaseRecord,
    PurchaseRecords,
    PurchaseStatus,
    RefundRecord,
    SoldLine,
)
from services.billing.models import PurchaseRow, RefundedUnitRow, RefundRow
from services.billing.sales import records


def export_purchases(session: Session, command: ExportPurchases) -> PurchaseRecords:
    """A page, in the order in which they were made."""
    query = (
        select(PurchaseRow)
        .where(
            PurchaseRow.status != PurchaseStatus.PENDING,
            # What came from the old system was bought there: no command asked for it.
            PurchaseRow.body_hash != "",
        )
        .options(lazyload("*"), selectinload(PurchaseRow.lines))
    )
    page, next_cursor = page_by(
        session, query, PurchaseRow.purchase_id, command.cursor, command.limit
    )
    refunds = _refunds(session, [row.purchase_id for row in page])
    return PurchaseRecords(
        records=[_record(row, refunds[row.purchase_id]) for row in page],
        next_cursor=next_cursor,
    )


def _record(row: PurchaseRow, refunds: list[RefundRecord]) -> PurchaseRecord:
    return PurchaseRecord(
        purchase_id=row.purchase_id,
        user_id=row.user_id,
        begun_at=row.created_at,
        status=PurchaseStatus(row.status),
        status_code=row.status_code,
        ended_at=row.ended_at,
        short_at=row.short_at,
        total_micros=row.total_micros,
        fee_micros=sum(sale.fee_micros for sale in records.of_purchase(row.created_at, row)),
        lines=[
            SoldLine(
                product_id=line.product_id,
                quantity=line.quantity,
                amount_micros=line.amount_micros,
            )
            for line in row.lines
        ],
        refunds=refunds,
        way=row.purchase_way,
    )


def _refunds(session: Session, purchases: list[UUID]) -> dict[UUID, list[RefundRecord]]:
    found: dict[UUID, list[RefundRecord]] = defaultdict(list)
    query = (
        select(
            RefundRow.purchase_id,
            RefundRow.refund_id,
            RefundRow.done_at,
            func.sum(RefundedUnitRow.amount_micros).label("amount_micros"),
        )
        .join(RefundedUnitRow, RefundedUnitRow.refund_id == RefundRow.refund_id)
        .where(RefundRow.purchase_id.in_(purchases), RefundRow.done_at.is_not(None))
        .group_by(RefundRow.refund_id)
        .order_by(RefundRow.refund_id)
    )
    for row in session.execute(query):
        found[row.purchase_id].append(
            RefundRecord(
                refund_id=row.refund_id,
                done_at=row.done_at,
                amount_micros=int(row.amount_micros),
            )
        )
    return found
