"""What happened on an account: statements, single transactions, balances of the past."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Select, Uuid, bindparam, column, select, table, text, tuple_
from sqlalchemy.orm import Session

from chassis.cursors import decode_cursor, encode_cursor
from contracts.errors import NotFound
from contracts.wallet import (
    Affordability,
    BalanceAt,
    CheckAffordability,
    DateAxis,
    Level,
    PastBalance,
    Statement,
    StatementPage,
    Transaction,
    Wallet,
)
from services.wallet.book import accounts, levels
from services.wallet.book.accounts import Account
from services.wallet.book.postings import transaction_from
from services.wallet.models import EntryRow, TransactionRow
from services.wallet.reply_size import fitting

_ACCOUNTS = table("accounts", column("account_id", BigInteger), column("user_id", Uuid))


def get_wallet(session: Session, user_id: UUID) -> Wallet:
    """Raises ``NotFound``."""
    return _account(session, user_id).wallet()


def wallets(session: Session, user_ids: Sequence[UUID]) -> list[Wallet | Exception]:
    """The wallet of each, or ``NotFound``."""
    found = accounts.find_all(session, user_ids)
    return [found[user_id].wallet() if user_id in found else _nobodys() for user_id in user_ids]


def get_level(session: Session, user_id: UUID) -> Level:
    """The user's ``alert`` level. Raises ``NotFound``."""
    account_id = _account(session, user_id).account_id
    return levels.alerts(session, [account_id])[account_id]


def check_affordability(session: Session, request: CheckAffordability) -> Affordability:
    """Raises ``NotFound``."""
    account = _account(session, request.user_id)
    shortfall_micros = max(request.amount_micros - account.available_micros, 0)
    return Affordability(
        can_afford=shortfall_micros == 0 and not account.is_frozen,
        status=account.status,
        available_micros=account.available_micros,
        shortfall_micros=shortfall_micros,
    )


def _account(session: Session, user_id: UUID) -> Account:
    account = accounts.find(session, user_id)
    if account is None:
        raise _nobodys()
    return account


def _nobodys() -> NotFound:
    return NotFound("This user has no wallet.")


def statement(session: Session, request: Statement) -> StatementPage:
    """A page of a user's transactions, newest first. Raises ``NotFound``, ``BadRequest``."""
    query = _NEWEST_FIRST
    if request.kinds:
        query = query.where(EntryRow.kind.in_([kind.value for kind in request.kinds]))
    if request.since:
        query = query.where(EntryRow.recorded_at >= request.since)
    if request.until:
        query = query.where(EntryRow.recorded_at < request.until)
    if request.cursor:
        place = tuple_(EntryRow.recorded_at, EntryRow.entry_number)
        query = query.where(place < tuple(decode_cursor(request.cursor, datetime, int)))
    asked = {"user_id": request.user_id, "limit": request.limit + 1}
    rows = session.execute(query, asked).all()
    if not rows:
        _account(session, request.user_id)
    shown = fitting(rows, [row.metadata for row in rows], request.limit)
    next_cursor = None
    if len(rows) > len(shown):
        next_cursor = encode_cursor(shown[-1].recorded_at, shown[-1].entry_number)
    return StatementPage(
        transactions=[transaction_from(row) for row in shown], next_cursor=next_cursor
    )


def _entries() -> Select[Any]:
    """The last condition is the index's own: every entry of a user's account meets it."""
    account_id = select(_ACCOUNTS.c.account_id).where(_ACCOUNTS.c.user_id == bindparam("user_id"))
    return (
        select(
            TransactionRow.transaction_id,
            EntryRow.kind,
            EntryRow.amount_micros,
            EntryRow.balance_after_micros,
            TransactionRow.description,
            TransactionRow.metadata_.label("metadata"),
            EntryRow.effective_at,
            EntryRow.recorded_at,
            TransactionRow.corrects_transaction_id,
            EntryRow.entry_number,
        )
        .join(TransactionRow, TransactionRow.transaction_id == EntryRow.transaction_id)
        .where(
            EntryRow.account_id == account_id.scalar_subquery(),
            EntryRow.balance_after_micros.is_not(None),
        )
    )


# Made once: putting a query together takes longer than asking it.
_NEWEST_FIRST = (
    _entries()
    .order_by(EntryRow.recorded_at.desc(), EntryRow.entry_number.desc())
    .limit(bindparam("limit", type_=BigInteger))
)


def get_transaction(session: Session, user_id: UUID, transaction_id: UUID) -> Transaction:
    """With its caller; of who bought from himself, the payment. Raises ``NotFound``, for
    somebody else's too."""
    query = _entries().where(EntryRow.transaction_id == transaction_id)
    first = query.add_columns(TransactionRow.caller).order_by(EntryRow.entry_number).limit(1)
    row = session.execute(first, {"user_id": user_id}).one_or_none()
    if row is None:
        raise NotFound("This wallet has no such transaction.")
    return transaction_from(row).model_copy(update={"caller": row.caller})


_RECORDED_UNTIL = text(
    "SELECT balance_after_micros FROM entries"
    " WHERE account_id = :account_id AND recorded_at <= :at AND balance_after_micros IS NOT NULL"
    " ORDER BY recorded_at DESC, entry_number DESC LIMIT 1"
)
# Of the entries whose two dates differ: what took effect by then and was recorded later,
# minus what was recorded by then and took effect later.
_OTHERWISE_DATED = text(
    "SELECT coalesce(sum(amount_micros) FILTER (WHERE effective_at <= :at AND recorded_at > :at),"
    " 0) - coalesce(sum(amount_micros) FILTER (WHERE effective_at > :at AND recorded_at <= :at),"
    " 0) FROM entries WHERE account_id = :account_id AND effective_at <> recorded_at"
)


def balance_at(session: Session, request: BalanceAt) -> PastBalance:
    """The balance at a past moment, by one date or the other. Raises ``NotFound``."""
    account = _account(session, request.user_id)
    place = {"account_id": account.account_id, "at": request.at}
    balance_micros = session.scalar(_RECORDED_UNTIL, place) or 0
    if request.axis is DateAxis.EFFECTIVE:
        balance_micros += int(session.scalar(_OTHERWISE_DATED, place))
    return PastBalance(
        user_id=request.user_id, at=request.at, axis=request.axis, balance_micros=balance_micros
    )
