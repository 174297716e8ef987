"""Looking at purchases."""

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from sqlalchemy import Integer, bindparam, select
from sqlalchemy.orm import Session

from chassis.cursors import decode_cursor, encode_cursor
from chassis.locks import locked_or_none
from contracts.billing import (
    DeploymentStatus,
    FindPurchase,
    GetPurchase,
    ListPurchases,
    Purchase,
    PurchasedLine,
    PurchasePage,
    PurchaseStatus,
)
from contracts.catalog import BillingPeriod, Category
from contracts.errors import NotFound
from services.billing.deployments.meters import meters_of
from services.billing.models import WAITING, DeploymentRow, PurchaseRow
from services.billing.settings import BillingSettings

# Made once: putting a query together takes longer than asking it.
_NEWEST_FIRST = (
    select(PurchaseRow)
    .where(PurchaseRow.user_id == bindparam("user_id"))
    .order_by(PurchaseRow.purchase_id.desc())
    .limit(bindparam("limit", type_=Integer))
)


def get_purchase(session: Session, command: GetPurchase, rules: BillingSettings) -> Purchase:
    """One purchase of this user. Raises ``NotFound``, also for somebody else's."""
    return as_purchase(own_purchase(session, command.user_id, command.purchase_id), rules)


def find_purchase(session: Session, command: FindPurchase, rules: BillingSettings) -> Purchase:
    """The purchase that this user made under a key. Raises ``NotFound``."""
    row = session.scalar(
        select(PurchaseRow).where(
            PurchaseRow.user_id == command.user_id,
            PurchaseRow.idempotency_key == command.idempotency_key,
        )
    )
    if row is None:
        raise NotFound("Nothing was bought under this key.")
    return as_purchase(row, rules, replayed=True)


def list_purchases(
    session: Session, command: ListPurchases, rules: BillingSettings
) -> PurchasePage:
    """A page of a user's purchases, newest first."""
    query = _NEWEST_FIRST
    if command.statuses:
        query = query.where(PurchaseRow.status.in_([status.value for status in command.statuses]))
    if command.cursor is not None:
        (last_id,) = decode_cursor(command.cursor, UUID)
        query = query.where(PurchaseRow.purchase_id < last_id)
    asked = {"user_id": command.user_id, "limit": command.limit + 1}
    rows = session.scalars(query, asked).all()
    page = rows[: command.limit]
    more = len(rows) > command.limit
    return PurchasePage(
        purchases=[as_purchase(row, rules) for row in page],
        next_cursor=encode_cursor(page[-1].purchase_id) if more else None,
    )


def own_purchase(
    session: Session, user_id: UUID, purchase_id: UUID, *, locked: bool = False
) -> PurchaseRow:
    """This user's purchase. Raises ``NotFound``, also for somebody else's."""
    find = locked_or_none if locked else Session.get
    row = find(session, PurchaseRow, purchase_id)
    if row is None or row.user_id != user_id:
        raise NotFound("There is no such purchase.")
    return row


def returnable_until(
    row: PurchaseRow, deployments: Iterable[DeploymentRow], rules: BillingSettings
) -> datetime | None:
    """Until when its buyer may give it back: for a time, while something of it is being set up and
    nothing has run. None where that was never so, or is so no more."""
    units = list(deployments)
    is_awaited = any(unit.status == DeploymentStatus.REQUESTED for unit in units)
    has_run = any(unit.active_at is not None for unit in units)
    if row.ended_at is None or not rules.return_window_s or not is_awaited or has_run:
        return None
    return row.ended_at + rules.return_window


def as_purchase(row: PurchaseRow, rules: BillingSettings, *, replayed: bool = False) -> Purchase:
    """The contract's view of a row."""
    return Purchase(
        purchase_id=row.purchase_id,
        user_id=row.user_id,
        status=PurchaseStatus(row.status),
        status_code=row.status_code,
        status_reason=row.status_reason,
        total_micros=row.total_micros,
        shortfall_micros=row.shortfall_micros,
        refunded_micros=row.refunded_micros,
        returnable_until=returnable_until(row, row.deployments, rules),
        lines=[
            PurchasedLine(
                product_id=line.product_id,
                product_name=line.product_name,
                category=Category(line.category),
                billing_period=BillingPeriod(line.billing_period),
                quantity=line.quantity,
                unit_price_micros=line.unit_price_micros,
                amount_micros=line.amount_micros,
                choices=line.choices,
                name=line.name,
                meters=list(meters_of(line).values()),
                unit_discount_micros=line.unit_discount_micros,
            )
            for line in row.lines
        ],
        deployment_ids=[deployment.deployment_id for deployment in row.deployments],
        transaction_id=row.transaction_id,
        created_at=row.created_at,
        updated_at=row.updated_at,
        expires_at=row.expires_at if row.status in WAITING else None,
        is_stock_limited=any(line.is_stocked for line in row.lines),
        stock_held_until=row.stock_held_until if row.status in WAITING else None,
        replayed=replayed,
        way=row.purchase_way,
    )
