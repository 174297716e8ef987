"""What a provider sold: by day and product, from the books."""

from datetime import date
from uuid import UUID

from sqlalchemy import BigInteger, ColumnElement, case, func, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

from chassis.cursors import decode_cursor, encode_cursor
from contracts.billing import (
    SALES_DAYS_MAX,
    GetProductUses,
    GetSalesSums,
    ListSales,
    ProductSales,
    ProductUse,
    ProductUses,
    ProviderSales,
    SalesPage,
    SalesSum,
    SalesSums,
)
from contracts.catalog import BillingPeriod
from contracts.errors import BadRequest
from services.billing.models import OVER, DeploymentRow, SaleRow
from services.billing.sales.records import SaleKind

_EARNED = (SaleKind.PURCHASE, SaleKind.RENEWAL, SaleKind.USAGE)


def list_sales(session: Session, command: ListSales) -> SalesPage:
    """A page of what this user sold, the newest day first."""
    query = (
        select(
            SaleRow.day,
            SaleRow.product_id,
            func.max(SaleRow.product_name).label("product_name"),
            _total(SaleRow.units, SaleKind.PURCHASE).label("units"),
            _total(SaleRow.units, SaleKind.RENEWAL).label("renewals"),
            _total(SaleRow.units, SaleKind.REFUND).label("units_refunded"),
            _total(SaleRow.gross_micros, *_EARNED).label("gross_micros"),
            _total(SaleRow.gross_micros, SaleKind.REFUND).label("refunded_micros"),
            _total(SaleRow.fee_micros, *_EARNED).label("fee"),
            _total(SaleRow.fee_micros, SaleKind.REFUND).label("fee_back"),
        )
        .where(SaleRow.provider_id == command.user_id)
        .group_by(SaleRow.day, SaleRow.product_id)
        .order_by(SaleRow.day.desc(), SaleRow.product_id.desc())
        .limit(command.limit + 1)
    )
    if command.since is not None:
        query = query.where(SaleRow.day >= command.since)
    if command.until is not None:
        query = query.where(SaleRow.day <= command.until)
    if command.cursor is not None:
        query = query.where(tuple_(SaleRow.day, SaleRow.product_id) < _place(command.cursor))
    rows = session.execute(query).all()
    page = [
        ProductSales(
            day=row.day,
            product_id=row.product_id,
            product_name=row.product_name,
            units=row.units,
            renewals=row.renewals,
            units_refunded=row.units_refunded,
            gross_micros=row.gross_micros,
            refunded_micros=row.refunded_micros,
            fee_micros=row.fee - row.fee_back,
            net_micros=row.gross_micros - row.refunded_micros - (row.fee - row.fee_back),
        )
        for row in rows[: command.limit]
    ]
    last = page[-1] if len(rows) > command.limit else None
    cursor = encode_cursor(last.day.isoformat(), last.product_id) if last else None
    return SalesPage(sales=page, next_cursor=cursor)


def get_sums(session: Session, command: GetSalesSums) -> SalesSums:
    """What was sold in these days, in all and by who sold it. Raises ``BadRequest``."""
    if command.since > command.until:
        raise BadRequest("The first day comes before the last one.", "until")
    if (command.until - command.since).days >= SALES_DAYS_MAX:
        raise BadRequest(f"{SALES_DAYS_MAX} days at most are summed at once.", "until")
    query = (
        select(
            SaleRow.provider_id,
            _total(SaleRow.gross_micros, *_EARNED).label("gross_micros"),
            _total(SaleRow.gross_micros, SaleKind.REFUND).label("refunded_micros"),
            (_total(SaleRow.fee_micros, *_EARNED) - _total(SaleRow.fee_micros, SaleKind.REFUND))
            .cast(BigInteger)
            .label("fee_micros"),
        )
        .where(SaleRow.day >= command.since, SaleRow.day <= command.until)
        .group_by(SaleRow.provider_id)
    )
    if command.user_id is not None:
        query = query.where(SaleRow.provider_id == command.user_id)
    found = [
        ProviderSales(
            **row._mapping,  # noqa: SLF001 - a row's columns by name
            net_micros=row.gross_micros - row.refunded_micros - row.fee_micros,
        )
        for row in session.execute(query)
    ]
    total = {name: sum(getattr(each, name) for each in found) for name in SalesSum.model_fields}
    found.sort(key=lambda each: (-each.gross_micros, each.provider_id))
    return SalesSums(total=SalesSum(**total), providers=found[: command.limit])


def get_uses(session: Session, command: GetProductUses) -> ProductUses:
    """What this user sold of each product, and how much of it is rented."""
    sold = session.execute(
        select(SaleRow.product_id, _total(SaleRow.units, SaleKind.PURCHASE))
        .where(SaleRow.provider_id == command.user_id, SaleRow.product_id.in_(command.product_ids))
        .group_by(SaleRow.product_id)
    )
    rented = session.execute(
        select(DeploymentRow.product_id, func.count())
        .where(
            DeploymentRow.product_id.in_(command.product_ids),
            DeploymentRow.provider_id == command.user_id,
            DeploymentRow.status.not_in(OVER),
            DeploymentRow.billing_period == BillingPeriod.MONTH,
            DeploymentRow.monthly_cost_micros > 0,
        )
        .group_by(DeploymentRow.product_id)
    )
    units: dict[UUID, int] = {row[0]: row[1] for row in sold}
    renters: dict[UUID, int] = {row[0]: row[1] for row in rented}
    return ProductUses(
        products=[
            ProductUse(product_id=each, units=units.get(each, 0), rented=renters.get(each, 0))
            for each in command.product_ids
        ]
    )


def earned_micros(session: Session, provider_id: UUID) -> int:
    """What a provider earned by all that others bought, less what was refunded; it may be negative.

    What he buys of himself he pays for with money that may have come from a card.
    """
    net = SaleRow.gross_micros - SaleRow.fee_micros
    signed = case((SaleRow.kind == SaleKind.REFUND, -net), else_=net)
    earned = select(func.coalesce(func.sum(signed), 0)).where(
        SaleRow.provider_id == provider_id, SaleRow.is_own.is_(False)
    )
    return int(session.scalar(earned) or 0)


def _total(column: InstrumentedAttribute[int], *kinds: SaleKind) -> ColumnElement[int]:
    of_kinds = case((SaleRow.kind.in_(kinds), column), else_=0)
    return func.sum(of_kinds).cast(BigInteger)


def _place(cursor: str) -> tuple[date, UUID]:
    day, product_id = decode_cursor(cursor, str, UUID)
    try:
        return date.fromisoformat(day), product_id
    except ValueError:
        raise BadRequest(
            "This page address is not valid. Start again from the first page.", "cursor"
        ) from None
