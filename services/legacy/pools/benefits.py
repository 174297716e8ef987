"""What staking is good for: a part off the price of what somebody buys in the marketplace.

Billing takes it off; it hears of it by events, and keeps the newest.
"""

from datetime import datetime
from typing import Protocol
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from chassis.clock import Clock
from chassis.identifiers import new_id
from chassis.locks import for_update
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


class Stake(Protocol):
    """An account of what somebody has staked."""

    @property
    def user_id(self) -> UUID | None: ...
    @property
    def balance_units(self) -> int: ...
    @property
    def entry_count(self) -> int: ...


def changed(now: datetime, stake: Stake, by_units: int) -> list[StakingDiscountChanged]:
    """What a stake that has just changed takes off, where that is something else."""
    is_same = discount_bps(stake.balance_units) == discount_bps(stake.balance_units - by_units)
    return [] if is_same else [_change(now, stake)]


def announce_some(session: Session, clock: Clock, after: UUID | None, limit: int) -> UUID | None:
    """Publish it for the next stakers, who are held meanwhile; the last one, None at the end.

    The clock is read once they are held: of two changes at one position the later one holds, and
    whoever held them before has told of an earlier one.
    """
    query = select(PoolAccountRow).where(PoolAccountRow.holder == "stake")
    if after is not None:
        query = query.where(PoolAccountRow.user_id > after)
    query = for_update(query.order_by(PoolAccountRow.user_id).limit(limit))
    accounts = session.scalars(query).all()
    now = clock()
    publish(session, *(_change(now, account) for account in accounts))
    return accounts[-1].user_id if accounts else None


def _change(now: datetime, stake: Stake) -> StakingDiscountChanged:
    if stake.user_id is None:
        raise ValueError("nobody has staked this")
    return StakingDiscountChanged(
        event_id=new_id(),
        occurred_at=now,
        user_id=stake.user_id,
        discount_bps=discount_bps(stake.balance_units),
        position=stake.entry_count,
    )
