"""A product's new price, and those who have the product.

Whoever has it is told first. A dearer price is for the first month that begins ``PRICE_NOTICE_S``
after its owner was told, a cheaper one for the next month. What was told last counts.

Owners are told a few at a time, however many they are, and once more when every purchase at the
old price has come to its end: some were completed behind whoever told the others.
"""

from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from chassis.clock import Clock
from chassis.identifiers import new_id
from chassis.locks import for_update
from chassis.outbox import publish
from contracts.billing import PriceAnnounced
from contracts.catalog import BillingPeriod, ProductPriceChanged
from services.billing.deployments.ladder import Standing
from services.billing.models import OVER, DeploymentRow, PriceNoticeRow
from services.billing.settings import BillingSettings

AT_ONCE = 200
"""How many owners are told in one transaction."""

PURCHASES_END_WITHIN = timedelta(hours=2)
"""How much later than its time a purchase may be completed."""


def note(session: Session, now: datetime, event: ProductPriceChanged) -> None:
    """Write down that owners are to be told; of two changes the later one counts."""
    statement = insert(PriceNoticeRow).values(
        product_id=event.product_id,
        price_micros=event.price_micros,
        changed_at=event.occurred_at,
        reached=None,
        is_repeated=False,
        due_at=now,
    )
    new = statement.excluded
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["product_id"],
            set_={
                "price_micros": new.price_micros,
                "changed_at": new.changed_at,
                "reached": None,
                "is_repeated": False,
                "due_at": now,
            },
            where=new.changed_at > PriceNoticeRow.changed_at,
        )
    )


def next_at(session: Session) -> datetime | None:
    """When owners are to be told next."""
    return session.scalar(
        select(PriceNoticeRow.due_at)
        .where(PriceNoticeRow.due_at.is_not(None))
        .order_by(PriceNoticeRow.due_at)
        .limit(1)
    )


def tell_some(session: Session, clock: Clock, rules: BillingSettings) -> bool:
    """Tell the next few owners of whatever is due first. Whether anything was due."""
    notice = session.scalar(
        for_update(
            select(PriceNoticeRow)
            .where(PriceNoticeRow.due_at <= clock())
            .order_by(PriceNoticeRow.due_at)
            .limit(1),
            skip_locked=True,
        )
    )
    if notice is None:
        return False
    rows = _next_rows(session, notice)
    now = clock()
    for row in rows:
        _tell(session, now, row, notice.price_micros, rules)
    if len(rows) == AT_ONCE:
        notice.reached = rows[-1].deployment_id
        return True
    again_at = notice.changed_at + rules.purchase_lifetime + PURCHASES_END_WITHIN
    notice.reached = None
    notice.due_at = None if notice.is_repeated else max(again_at, now)
    notice.is_repeated = True
    return True


def price_at(row: Standing, moment: datetime) -> int:
    """What a month that begins at ``moment`` costs."""
    if row.new_price_micros is None or row.new_price_from is None or row.new_price_from > moment:
        return row.monthly_cost_micros
    return row.new_price_micros


def take_price(row: Standing, moment: datetime) -> None:
    """A month begins: a new price whose time has come is its price from now on."""
    price_micros = price_at(row, moment)
    if price_micros == row.new_price_micros:
        row.monthly_cost_micros = price_micros
        row.new_price_micros = row.new_price_from = None


def _next_rows(session: Session, notice: PriceNoticeRow) -> list[DeploymentRow]:
    """Those that are paid by the month, whatever they cost; what costs nothing stays free."""
    query = select(DeploymentRow).where(
        DeploymentRow.product_id == notice.product_id,
        DeploymentRow.status.not_in(OVER),
        DeploymentRow.billing_period == BillingPeriod.MONTH,
        DeploymentRow.monthly_cost_micros > 0,
    )
    if notice.reached is not None:
        query = query.where(DeploymentRow.deployment_id > notice.reached)
    return list(
        session.scalars(for_update(query.order_by(DeploymentRow.deployment_id).limit(AT_ONCE)))
    )


def _tell(
    session: Session, now: datetime, row: DeploymentRow, price_micros: int, rules: BillingSettings
) -> None:
    """Note the price for a locked deployment and tell its owner, unless both were done before."""
    coming = row.monthly_cost_micros if row.new_price_micros is None else row.new_price_micros
    if price_micros == coming:
        return
    is_dearer = price_micros > row.monthly_cost_micros
    applies_from = now + rules.price_notice if is_dearer else now
    is_as_before = price_micros == row.monthly_cost_micros
    row.new_price_micros = None if is_as_before else price_micros
    row.new_price_from = None if is_as_before else applies_from
    publish(
        session,
        PriceAnnounced(
            event_id=new_id(),
            occurred_at=now,
            user_id=row.user_id,
            deployment_id=row.deployment_id,
            name=row.name,
            old_price_micros=row.monthly_cost_micros,
            new_price_micros=price_micros,
            applies_from=applies_from,
        ),
    )
