"""Users' accounts: reading, locking, opening."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from chassis.bulk import Batch, Bulk, array
from contracts.errors import Conflict
from contracts.wallet import AccountStatus, Wallet
from services.wallet.book.levels import ArmedLevel

MAX_BALANCE_MICROS = 2**62
"""Far below what a column holds, far above what a person does."""


@dataclass(slots=True)
class Account:
    """A user's account while its row is locked; rules change it, the book writes it down."""

    account_id: int
    user_id: UUID
    opened_at: datetime
    balance_micros: int
    held_micros: int
    entry_count: int
    status: AccountStatus
    status_change_count: int
    last_entry_at: datetime | None
    levels: list[ArmedLevel] = field(default_factory=list)

    @property
    def available_micros(self) -> int:
        return self.balance_micros - self.held_micros

    @property
    def is_frozen(self) -> bool:
        return self.status is AccountStatus.FROZEN

    def wallet(self) -> Wallet:
        """The account as its owner sees it."""
        return Wallet(
            user_id=self.user_id,
            account_id=self.account_id,
            balance_micros=self.balance_micros,
            held_micros=self.held_micros,
            available_micros=self.available_micros,
            status=self.status,
            opened_at=self.opened_at,
        )


_SELECT = (
    "SELECT a.account_id, a.user_id, a.opened_at, b.balance_micros, b.held_micros, b.entry_count,"
    " b.status, b.status_change_count, nullif(b.last_entry_at, '-infinity') AS last_entry_at"
    " FROM accounts AS a JOIN balances AS b USING (account_id) "
)
_LOCK = text(_SELECT + "WHERE a.user_id = :user_id FOR NO KEY UPDATE OF b")
_HELD = text(
    "WITH free AS MATERIALIZED (SELECT a.account_id"
    " FROM accounts AS a JOIN balances AS b USING (account_id)"
    " WHERE a.user_id = ANY(CAST(:user_ids AS uuid[]))"
    " ORDER BY a.account_id FOR NO KEY UPDATE OF b SKIP LOCKED)"
    " SELECT a.user_id FROM accounts AS a WHERE a.user_id = ANY(CAST(:user_ids AS uuid[]))"
    " AND NOT EXISTS (SELECT FROM free WHERE free.account_id = a.account_id)"
)
_READ = text(_SELECT + "WHERE a.user_id = :user_id")
_READ_USERS = Bulk(_SELECT + "JOIN {rows} USING (user_id)", user_id="uuid")
_READ_ALL = text(_SELECT + "WHERE a.account_id = ANY(CAST(:account_ids AS bigint[]))")
_RESERVE = text(
    "SELECT nextval(pg_get_serial_sequence('accounts', 'account_id'))"
    " FROM generate_series(1, :count)"
)
_OPEN_RESERVED = Bulk(
    "INSERT INTO accounts ({columns}) SELECT * FROM {rows} ORDER BY user_id",
    account_id="bigint",
    user_id="uuid",
    opened_at="timestamptz",
)
_OPEN = text(
    "INSERT INTO accounts (user_id, opened_at) VALUES (:user_id, :opened_at)"
    " ON CONFLICT (user_id) DO NOTHING"
)


def open_missing(session: Session, now: datetime, user_id: UUID) -> None:
    """Open the user's account if there is none."""
    session.execute(_OPEN, {"user_id": user_id, "opened_at": now})


def lock(session: Session, user_id: UUID) -> Account:
    """A user's account, without its levels, locked until the transaction ends."""
    return from_row(session.execute(_LOCK, {"user_id": user_id}).one())


def held_by_others(session: Session, user_ids: Iterable[UUID]) -> set[UUID]:
    """Those of these users whose accounts another transaction holds. The others are locked now.

    It waits for nobody.
    """
    return set(session.scalars(_HELD, {"user_ids": array("uuid", user_ids)}))


def new(account_id: int, user_id: UUID, now: datetime) -> Account:
    """An account that is opened now, empty."""
    return Account(account_id, user_id, now, 0, 0, 0, AccountStatus.OPEN, 0, None)


def reserve(session: Session, count: int) -> list[int]:
    """Ids for accounts that a batch may open."""
    return list(session.scalars(_RESERVE, {"count": count}))


def write(writes: Batch, opened: Iterable[Account]) -> None:
    """Write new accounts down. One that another transaction opened meanwhile fails the batch."""
    rows = [(account.account_id, account.user_id, account.opened_at) for account in opened]
    writes.add(_OPEN_RESERVED, rows)


def find(session: Session, user_id: UUID) -> Account | None:
    """A user's account, not locked, without its levels."""
    row = session.execute(_READ, {"user_id": user_id}).one_or_none()
    return from_row(row) if row else None


def find_all(session: Session, user_ids: Iterable[UUID]) -> dict[UUID, Account]:
    """The accounts of those users who have one, not locked, without their levels."""
    asked = [(user_id,) for user_id in set(user_ids)]
    found = [from_row(row) for row in _READ_USERS.execute(session, asked)] if asked else []
    return {account.user_id: account for account in found}


def read_all(session: Session, account_ids: Iterable[int]) -> list[Account]:
    """Several users' accounts, not locked, without their levels."""
    rows = session.execute(_READ_ALL, {"account_ids": array("bigint", account_ids)})
    return [from_row(row) for row in rows]


def from_row(row: Iterable[Any]) -> Account:
    """An account from the columns in the order of its fields."""
    account = Account(*row)
    account.status = AccountStatus(account.status)
    return account


def require_room(account: Account, amount_micros: int) -> None:
    """Raises ``Conflict``."""
    if account.balance_micros + amount_micros > MAX_BALANCE_MICROS:
        raise Conflict("The wallet cannot hold so much; nothing was moved.")
