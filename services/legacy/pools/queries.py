"""Looking at pools, at what somebody has in them, and at what became of it."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from chassis.cursors import page_by
from contracts.legacy import (
    CoinChange,
    GetPoolHistory,
    GetPools,
    Holding,
    Pool,
    PoolChange,
    PoolEntry,
    PoolHistory,
    Pools,
    Staked,
)
from services.legacy.models import PoolAccountRow, PoolEntryRow, PoolTransactionRow
from services.legacy.pools import benefits, book, curve, orders
from services.legacy.pools.book import Place


def get_pools(session: Session, now: datetime, request: GetPools) -> Pools:
    """All pools, and what of it is a user's."""
    held = book.balances(session, request.user_id)
    free_at = orders.unstaked_from(session, request.user_id)
    under_way = orders.under_way(session, request.user_id)
    return Pools(
        user_id=request.user_id,
        holdings=[Holding(coin=coin, units=held.get(book.of_user(coin), 0)) for coin in book.COINS],
        staked=Staked(
            units=held.get(book.STAKE, 0),
            days=orders.STAKED_FOR.days,
            free_at=free_at if free_at is not None and free_at > now else None,
            discount_bps=benefits.discount_bps(held.get(book.STAKE, 0)),
            tiers=list(benefits.TIERS),
        ),
        pools=[_pool(held, pool, other) for pool, other in book.POOLS.items()],
        under_way=orders.as_order(under_way) if under_way else None,
    )


def _pool(held: dict[Place, int], pool: str, other: str) -> Pool:
    base, others, issued = (held[place] for place in book.places_of(pool))
    reserves = curve.Reserves(base, others, -issued)
    own_shares = held.get(book.of_user(pool), 0)
    own = PoolChange()
    if own_shares:
        own = PoolChange(
            base_units=own_shares * base // reserves.shares,
            other_units=own_shares * others // reserves.shares,
            share_units=own_shares,
        )
    return Pool(
        pool=pool,
        base=book.TFP,
        other=other,
        base_units=base,
        other_units=others,
        share_units=reserves.shares,
        own_share_units=own_shares,
        own=own,
        fee_bps=curve.FEE_BPS,
    )


def history(session: Session, request: GetPoolHistory) -> PoolHistory:
    """A page of what changed what a user has, newest first."""
    query = select(PoolTransactionRow).where(PoolTransactionRow.user_id == request.user_id)
    page, next_cursor = page_by(
        session,
        query,
        PoolTransactionRow.position,
        request.cursor,
        request.limit,
        newest_first=True,
    )
    changes = _changes(session, [row.transaction_id for row in page])
    return PoolHistory(
        entries=[
            PoolEntry(
                transaction_id=row.transaction_id,
                kind=row.kind,
                pool=row.pool,
                note=row.note,
                changes=changes.get(row.transaction_id, []),
                at=row.recorded_at,
            )
            for row in page
        ],
        next_cursor=next_cursor,
    )


def _changes(session: Session, transactions: list[UUID]) -> dict[UUID, list[CoinChange]]:
    """What each did to its user's coins, and to the dollars in the wallet."""
    found = session.execute(
        select(
            PoolEntryRow.transaction_id,
            PoolEntryRow.amount_units,
            PoolAccountRow.coin,
            PoolAccountRow.holder,
        )
        .join(PoolAccountRow, PoolAccountRow.account_id == PoolEntryRow.account_id)
        .where(
            PoolEntryRow.transaction_id.in_(transactions),
            PoolAccountRow.holder.in_(("user", "stake", book.WALLET.holder)),
        )
        .order_by(PoolEntryRow.amount_units)
    )
    changes: dict[UUID, list[CoinChange]] = {}
    for row in found:
        change = CoinChange(
            coin=row.coin, units=row.amount_units, is_staked=row.holder == book.STAKE.holder
        )
        changes.setdefault(row.transaction_id, []).append(change)
    return changes
