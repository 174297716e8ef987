"""What staking is good for: a part off the price of what somebody buys in the marketplace.

Billing takes it off; it hears of it by events, and keeps the newest.
"""

from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from chassis.identifiers import new_id
from chassis.outbox import publish
from contracts.legacy import DiscountTier, StakingDiscountChanged
from services.legacy.models import PoolAccountRow

_TFP = 10**6

TIERS = (
    DiscountTier(units=100 * _TFP, discount_bps=200),
    DiscountTier(units=1_000 * _TFP, discount_bps=500),
    DiscountTier(units=10_000 * _TFP, discount_bps=1_000),
)
"""The lowest first. Another table is told to who has staked already by ``pool_book announce``."""


def discount_bps(staked_units: int) -> int:
    """What so much staked takes off, in basis points."""
    reached = [tier.discount_bps for tier in TIERS if staked_units >= tier.units]
    return reached[-1] if reached else 0


def announce_change(
    session: Session, now: datetime, account: PoolAccountRow, units_before: int
) -> None:
    """Publish what a stake that has just changed takes off, where that is something else."""
    if discount_bps(account.balance_units) != discount_bps(units_before):
        _announce(session, now, account)


def announce_some(session: Session, now: datetime, after: UUID | None, limit: int) -> UUID | None:
    """Publish it for the next stakers, who are held meanwhile; the last one, None at the end."""
    query = select(PoolAccountRow).where(PoolAccountRow.holder == "stake")
    if after is not None:
        query = query.where(PoolAccountRow.user_id > after)
    query = query.order_by(PoolAccountRow.user_id).limit(limit).with_for_update()
    accounts = session.scalars(query).all()
    for account in accounts:
        _announce(session, now, account)
    return accounts[-1].user_id if accounts else None


def _announce(session: Session, now: datetime, account: PoolAccountRow) -> None:
    if account.user_id is None:
        return
    publish(
        session,
        StakingDiscountChanged(
            event_id=new_id(),
            occurred_at=now,
            user_id=account.user_id,
            discount_bps=discount_bps(account.balance_units),
            position=account.entry_count,
        ),
    )
