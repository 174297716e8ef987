"""What a user may have without having paid: purchases that wait, stock set aside, free things.

Each bound is for one user, and is asked about under the buyer's lock, so that two requests at
once do not pass it together. Whoever has many accounts has each of them many times: what stock
is worth to others is kept by the length of the hold as well.
"""

from collections import Counter
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from contracts.billing import PurchaseStatus
from contracts.catalog import Quote
from contracts.errors import LimitExceeded
from services.billing.deployments.meters import IS_BOUGHT_BY
from services.billing.models import OVER, WAITING, DeploymentRow, PurchaseLineRow, PurchaseRow
from services.billing.settings import BillingSettings

REMEMBERED_FOR = timedelta(hours=24)
"""How long stock that was not paid counts: to let it go and ask anew gains nothing."""

_UNPAID = (*WAITING, PurchaseStatus.CANCELLED.value, PurchaseStatus.EXPIRED.value)


def refuse_too_many_waiting(waiting: int, rules: BillingSettings) -> None:
    """Raise ``LimitExceeded`` when as many of a user's purchases wait as may wait."""
    if waiting >= rules.waiting_purchases_max:
        raise LimitExceeded(
            f"{rules.waiting_purchases_max} of your purchases are waiting for payment already."
            " Buy credits, or cancel one of them, and try again."
        )


def is_bounded(quote: Quote) -> bool:
    """Whether what the user has had before decides over some of this."""
    return any(
        line.product.stock is not None or line.unit_price_micros == 0 for line in quote.lines
    )


def refuse_too_many_free(
    session: Session, user_id: UUID, quote: Quote, rules: BillingSettings
) -> None:
    """Raise ``LimitExceeded`` when the user would have too many things that cost nothing."""
    wanted = sum(line.quantity for line in quote.lines if line.unit_price_micros == 0)
    if not wanted:
        return
    has = _free_deployments(session, user_id) + _free_units_on_their_way(session, user_id)
    if has + wanted > rules.free_deployments_max:
        raise LimitExceeded(
            f"A user can have {rules.free_deployments_max} free items at a time, and you have"
            f" {has}. Order fewer, or choose a product that has a price."
        )


def may_hold_stock(
    session: Session, now: datetime, user_id: UUID, quote: Quote, rules: BillingSettings
) -> bool:
    """Whether this purchase may have stock set aside before it is paid.

    At most so many units of a product and of all together, and never more than half of what
    there is of a product, except for a last one. What the user let go unpaid within a day counts.
    """
    wanted: Counter[UUID] = Counter()
    stock = {}
    for line in quote.lines:
        if line.product.stock is not None:
            wanted[line.product.product_id] += line.quantity
            stock[line.product.product_id] = line.product.stock
    if not wanted:
        return True
    held = _held_unpaid(session, now, user_id)
    return wanted.total() + held.total() <= rules.unpaid_units_max and all(
        held[product_id] + quantity
        <= min(rules.unpaid_units_per_product_max, _half(stock[product_id] + held[product_id]))
        for product_id, quantity in wanted.items()
    )


def _half(units: int) -> int:
    return max(units // 2, 1)


def _held_unpaid(session: Session, now: datetime, user_id: UUID) -> Counter[UUID]:
    """How many of each product the user had set aside within a day and has not paid."""
    rows = session.execute(
        select(PurchaseLineRow.product_id, func.sum(PurchaseLineRow.quantity))
        .join(PurchaseRow, PurchaseRow.purchase_id == PurchaseLineRow.purchase_id)
        .where(
            PurchaseRow.user_id == user_id,
            PurchaseRow.created_at > now - REMEMBERED_FOR,
            PurchaseRow.status.in_(_UNPAID),
            PurchaseRow.may_hold_stock,
            PurchaseLineRow.is_stocked,
        )
        .group_by(PurchaseLineRow.product_id)
    )
    return Counter({product_id: int(units) for product_id, units in rows})


def _free_deployments(session: Session, user_id: UUID) -> int:
    found = session.scalar(
        select(func.count())
        .select_from(DeploymentRow)
        .join(PurchaseLineRow, IS_BOUGHT_BY)
        .where(
            DeploymentRow.user_id == user_id,
            DeploymentRow.status.not_in(OVER),
            DeploymentRow.monthly_cost_micros == 0,
            PurchaseLineRow.unit_price_micros == 0,
        )
    )
    return found or 0


def _free_units_on_their_way(session: Session, user_id: UUID) -> int:
    found = session.scalar(
        select(func.sum(PurchaseLineRow.quantity))
        .join(PurchaseRow, PurchaseRow.purchase_id == PurchaseLineRow.purchase_id)
        .where(
            PurchaseRow.user_id == user_id,
            PurchaseRow.status.in_(WAITING),
            PurchaseLineRow.unit_price_micros == 0,
        )
    )
    return int(found or 0)
