"""The book of the pools: who has how much of which coin, in double entry.

Amounts are whole millionths of a coin, and come to zero in each coin in every transaction. The
database checks all of it again (migration 0002). Accounts are locked in the order of their ids.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import or_, select, text
from sqlalchemy.orm import Session

from chassis.bulk import Batch, Bulk
from chassis.context import current_call
from chassis.identifiers import new_id
from chassis.outbox import store
from contracts.errors import Conflict, NotFound
from contracts.legacy import StakingDiscountChanged
from services.legacy.models import PoolAccountRow, PoolTransactionRow
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


@dataclass
class Account:
    """An account that is held: what is in it, and how many entries it has."""

    account_id: int
    user_id: UUID | None
    balance_units: int
    entry_count: int


Accounts = Mapping[Place, Account]
Posting = tuple[PoolTransactionRow, Accounts, Mapping[Place, int]]
"""A transaction, the accounts that are held for it, and by how much each moves."""

_WANTED = {"user_id": "uuid", "holder": "text", "pool": "text", "coin": "text"}
_OPEN = Bulk(
    "INSERT INTO pool_accounts (user_id, holder, coin) SELECT user_id, holder, coin FROM {rows}"
    " WHERE user_id IS NOT NULL"
    " ON CONFLICT (user_id, holder, coin) WHERE user_id IS NOT NULL DO NOTHING",
    **_WANTED,
)
_FIND = Bulk(
    "SELECT a.account_id FROM {rows} JOIN pool_accounts AS a USING (user_id, holder, coin)"
    " UNION ALL"
    " SELECT a.account_id FROM {rows} JOIN pool_accounts AS a USING (holder, pool, coin)"
    " WHERE a.user_id IS NULL AND new.user_id IS NULL",
    **_WANTED,
)
# By their ids alone: of a join, a row that somebody else has just changed would be left out.
_HOLD = text(
    "SELECT user_id, holder, pool, coin, account_id, balance_units, entry_count"
    " FROM pool_accounts WHERE account_id = ANY(:ids) ORDER BY account_id FOR UPDATE"
)
_POST_TRANSACTIONS = Bulk(
    "INSERT INTO pool_transactions ({columns}) SELECT * FROM {rows}",
    transaction_id="uuid",
    user_id="uuid",
    order_id="uuid",
    kind="text",
    pool="text",
    note="text",
    recorded_at="timestamptz",
)
_POST_ENTRIES = Bulk(
    "INSERT INTO pool_entries ({columns}) SELECT * FROM {rows}",
    account_id="bigint",
    entry_number="bigint",
    transaction_id="uuid",
    amount_units="bigint",
    balance_after_units="bigint",
)
"""One statement: the database looks at all entries of a transaction together."""


def require_pool(pool: str) -> str:
    """The coin that a pool has beside the old one. Raises ``NotFound``."""
    if pool not in POOLS:
        raise NotFound(f"There is no pool {pool}: there are {', '.join(POOLS)}.")
    return POOLS[pool]


def places_of(pool: str) -> tuple[Place, Place, Place]:
    """The accounts of a pool: its two coins, and the shares that it issued."""
    return Place("pool", TFP, pool), Place("pool", POOLS[pool], pool), Place("pool", pool, pool)


def lock(session: Session, user_id: UUID, places: Iterable[Place]) -> Accounts:
    """The accounts, opened where they are not yet, and held until the transaction ends."""
    return lock_all(session, {user_id: places})[user_id]


def lock_all(session: Session, wanted: Mapping[UUID, Iterable[Place]]) -> dict[UUID, Accounts]:
    """The same for several users; an account of the house is one for all of them."""
    rows = {
        (user_id if _is_of_user(place) else None, place.holder, place.pool, place.coin)
        for user_id, places in wanted.items()
        for place in places
    }
    in_order = sorted(rows, key=lambda row: (str(row[0]), *row[1:]))
    _OPEN.execute(session, in_order)
    held: dict[UUID | None, dict[Place, Account]] = defaultdict(dict)
    ids = _FIND.scalars(session, in_order)
    for row in session.execute(_HOLD, {"ids": ids}):
        account = Account(row.account_id, row.user_id, row.balance_units, row.entry_count)
        held[row.user_id][Place(row.holder, row.coin, row.pool)] = account
    return {user_id: held[None] | held[user_id] for user_id in wanted}


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
    post_all(session, now, [(transaction, accounts, moves)])


def post_all(session: Session, now: datetime, postings: Iterable[Posting]) -> None:
    """Write several, in their order. Raises what :func:`post` does, for all of them."""
    transactions: list[tuple[object, ...]] = []
    entries: list[tuple[object, ...]] = []
    changes: list[StakingDiscountChanged] = []
    for new, accounts, moves in postings:
        require_room(accounts, moves)
        transactions.append(
            (new.transaction_id, new.user_id, new.order_id, new.kind, new.pool, new.note, now)
        )
        for place, amount in moves.items():
            if amount:
                entries.append(_entry(new, accounts[place], amount))
        if moves.get(STAKE):
            changes += benefits.changed(now, accounts[STAKE], moves[STAKE])
    with Batch(session) as writes:
        writes.add(_POST_TRANSACTIONS, transactions)
        writes.add(_POST_ENTRIES, entries)
        store(writes, [(change, current_call.get()) for change in changes])


def _entry(new: PoolTransactionRow, account: Account, amount: int) -> tuple[object, ...]:
    account.balance_units += amount
    account.entry_count += 1
    return (
        account.account_id,
        account.entry_count,
        new.transaction_id,
        amount,
        account.balance_units,
    )


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
