"""The book of the pools: who has how much of which coin, in double entry.

Amounts are whole millionths of a coin, and come to zero in each coin in every transaction. The
database checks all of it again (migration 0002). Accounts are locked in the order of their ids.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import insert, or_, select, text, tuple_
from sqlalchemy.orm import Session

from chassis.identifiers import new_id
from contracts.errors import Conflict, NotFound
from services.legacy.models import PoolAccountRow, PoolEntryRow, PoolTransactionRow
from services.legacy.pools import benefits
from services.legacy.pools.curve import Change, Reserves

TFP, USD = "TFP", "USD"
OTHERS = (USD, "EUR", "CAD", "TFT", "PEAQ")
POOLS = {f"{TFP}-{other}": other for other in OTHERS}
"""Each pool's name, and the coin that it has beside the old one."""
COINS = (TFP, *(other for other in OTHERS if other != USD))
"""What somebody can have here. Dollars are in the wallet, or in a pool."""
HELD_MAX = 10**18
"""A thousand billion of a coin: so much an account holds at most."""


@dataclass(frozen=True)
class Place:
    """An account: whose, and of which coin. ``user`` and ``stake`` are of the user in question."""

    holder: str
    coin: str
    pool: str = ""


WALLET = Place("wallet", USD)
STAKE = Place("stake", TFP)


def of_user(coin: str) -> Place:
    """Where a user's coins come from and go to: dollars by the wallet."""
    return WALLET if coin == USD else Place("user", coin)


Accounts = Mapping[Place, PoolAccountRow]

_OPEN = text(
    "INSERT INTO pool_accounts (user_id, holder, coin) VALUES (:user_id, :holder, :coin)"
    " ON CONFLICT (user_id, holder, coin) WHERE user_id IS NOT NULL DO NOTHING"
)


def require_pool(pool: str) -> str:
    """The coin that a pool has beside the old one. Raises ``NotFound``."""
    if pool not in POOLS:
        raise NotFound(f"There is no pool {pool}: there are {', '.join(POOLS)}.")
    return POOLS[pool]


def places_of(pool: str) -> tuple[Place, Place, Place]:
    """The accounts of a pool: its two coins, and the shares that it issued."""
    return Place("pool", TFP, pool), Place("pool", POOLS[pool], pool), Place("pool", pool, pool)


def lock(session: Session, user_id: UUID, places: Iterable[Place]) -> dict[Place, PoolAccountRow]:
    """The accounts, opened where they are not yet, and held until the transaction ends."""
    wanted = sorted(set(places), key=lambda place: (place.holder, place.pool, place.coin))
    own = [place for place in wanted if _is_of_user(place)]
    for place in own:
        given = {"user_id": user_id, "holder": place.holder, "coin": place.coin}
        session.execute(_OPEN, given)
    query = (
        select(PoolAccountRow)
        .where(
            tuple_(PoolAccountRow.holder, PoolAccountRow.pool, PoolAccountRow.coin).in_(
                [(place.holder, place.pool, place.coin) for place in wanted]
            ),
            or_(PoolAccountRow.user_id.is_(None), PoolAccountRow.user_id == user_id),
        )
        .order_by(PoolAccountRow.account_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    rows = session.scalars(query).all()
    return {Place(row.holder, row.coin, row.pool): row for row in rows}


def _is_of_user(place: Place) -> bool:
    return place.holder in ("user", "stake")


def reserves(accounts: Accounts, pool: str) -> Reserves:
    """What is in a pool by its accounts."""
    base, other, issued = (accounts[place].balance_units for place in places_of(pool))
    return Reserves(base, other, -issued)


def moves_of(pool: str, change: Change) -> dict[Place, int]:
    """What a change does to the accounts of its user and its pool."""
    base, other, issued = places_of(pool)
    units = {base: change.base, other: change.other, issued: change.shares}
    theirs = {of_user(place.coin): amount for place, amount in units.items()}
    return {**{place: -amount for place, amount in units.items()}, **theirs}


def post(
    session: Session,
    now: datetime,
    transaction: PoolTransactionRow,
    accounts: Accounts,
    moves: Mapping[Place, int],
) -> None:
    """Write a transaction with an entry for every account that moves, and publish what it does to
    its user's discount.

    Raises ``Conflict`` where somebody has not got what they give, or an account would hold too
    much; nothing is written then.
    """
    require_room(accounts, moves)
    moves = {place: amount for place, amount in moves.items() if amount}
    staked_before = accounts[STAKE].balance_units if STAKE in moves else 0
    transaction.recorded_at = now
    session.add(transaction)
    session.flush()
    session.execute(
        # One statement: the database looks at all entries of a transaction together.
        insert(PoolEntryRow).values(
            [
                {
                    "account_id": accounts[place].account_id,
                    "entry_number": accounts[place].entry_count + 1,
                    "transaction_id": transaction.transaction_id,
                    "amount_units": amount,
                    "balance_after_units": accounts[place].balance_units + amount,
                }
                for place, amount in moves.items()
            ]
        )
    )
    for place in moves:
        session.expire(accounts[place])
    if STAKE in moves:
        benefits.announce_change(session, now, accounts[STAKE], staked_before)


def require_room(accounts: Accounts, moves: Mapping[Place, int]) -> None:
    """Raises ``Conflict`` where somebody has not got what they give, or too much would be held."""
    for place, amount in moves.items():
        _require_room(place, accounts[place].balance_units, amount)


def _require_room(place: Place, balance: int, amount: int) -> None:
    if _is_of_user(place) and balance + amount < 0:
        what = "shares of this pool" if place.coin in POOLS else place.coin
        kept = " staked" if place.holder == "stake" else ""
        raise Conflict(
            f"You have {written(balance)} {what}{kept}, and this takes {written(-amount)}."
            " Nothing was changed."
        )
    if abs(balance + amount) > HELD_MAX:
        raise Conflict(f"That is more {place.coin} than is held in one place. Nothing was changed.")


def written(units: int) -> str:
    """``1,250.5``: an amount of a coin as people read it, all of its digits."""
    whole, millionths = divmod(units, 10**6)
    return f"{whole:,}.{millionths:06}".rstrip("0").rstrip(".")


def new_transaction(
    user_id: UUID, kind: str, *, pool: str = "", order_id: UUID | None = None, note: str = ""
) -> PoolTransactionRow:
    return PoolTransactionRow(
        transaction_id=new_id(), user_id=user_id, order_id=order_id, kind=kind, pool=pool, note=note
    )


def balances(session: Session, user_id: UUID) -> dict[Place, int]:
    """What is in every pool, and what a user has, without holding any of it."""
    rows = session.scalars(
        select(PoolAccountRow).where(
            or_(PoolAccountRow.user_id == user_id, PoolAccountRow.user_id.is_(None))
        )
    )
    return {Place(row.holder, row.coin, row.pool): row.balance_units for row in rows}
