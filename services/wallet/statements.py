"""What happened on an account: statements, single transactions, balances of the past."""

from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Select, Uuid, bindparam, column, func, select, table, text
from sqlalchemy.orm import Session

from chassis.bulk import Bulk
from chassis.cursors import decode_cursor, encode_cursor
from contracts.errors import BadRequest, NotFound
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
    return [found[user_id].wallet() if user_id in found else nobodys() for user_id in user_ids]


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
        raise nobodys()
    return account


def entry_number(session: Session, account_id: int, transaction_id: UUID) -> int | None:
    """The last entry that a transaction made in an account."""
    row = EntryRow
    made = (row.account_id == account_id) & (row.transaction_id == transaction_id)
    return session.scalar(select(func.max(row.entry_number)).where(made))


def nobodys() -> NotFound:
    """Of who has no wallet."""
    return NotFound("This user has no wallet.")


def statement(session: Session, request: Statement) -> StatementPage:
    """A page of a user's transactions, newest first. Raises ``NotFound``, ``BadRequest``."""
    (page,) = pages(session, [request])
    if isinstance(page, Exception):
        raise page
    return page


def pages(session: Session, requests: Sequence[Statement]) -> list[StatementPage | Exception]:
    """A page for each of several requests, or what is to be raised instead."""
    answers: list[StatementPage | Exception] = [nobodys() for _ in requests]
    questions = []
    for place, request in enumerate(requests):
        try:
            questions.append((place, *_question(request)))
        except BadRequest as error:
            answers[place] = error
    rows = _PAGES.execute(session, questions) if questions else ()
    for place, found in groupby(rows, lambda row: row.question):
        entries = [row for row in found if row.entry_number is not None]
        answers[place] = _page(entries, requests[place].limit)
    return answers


def _question(request: Statement) -> tuple[Any, ...]:
    ends = [(request.until, 0)] if request.until else []
    if request.cursor:
        ends.append(tuple(decode_cursor(request.cursor, datetime, int)))
    before_at, before_number = min(ends, default=(None, 0))
    kinds = ",".join(request.kinds) if request.kinds else None
    return request.user_id, kinds, request.since, before_at, before_number, request.limit + 1


def _page(rows: Sequence[Any], limit: int) -> StatementPage:
    shown = fitting(rows, [row.metadata for row in rows], limit)
    next_cursor = None
    if len(rows) > len(shown):
        next_cursor = encode_cursor(shown[-1].recorded_at, shown[-1].entry_number)
    return StatementPage(
        transactions=[transaction_from(row) for row in shown], next_cursor=next_cursor
    )


# One comparison ends a page, for there a scan of the index begins: of two, PostgreSQL may take the
# one that is far away. Every entry of a user's account has a balance, as the index wants it.
_PAGES = Bulk(
    "SELECT new.question, found.* FROM {rows} JOIN accounts AS a ON a.user_id = new.user_id"
    " LEFT JOIN LATERAL (SELECT e.transaction_id, e.kind, e.amount_micros, e.balance_after_micros,"
    " t.description, t.metadata, e.effective_at, e.recorded_at, t.corrects_transaction_id,"
    " e.entry_number FROM entries AS e JOIN transactions AS t USING (transaction_id)"
    " WHERE e.account_id = a.account_id AND e.balance_after_micros IS NOT NULL"
    " AND e.recorded_at >= coalesce(new.since, '-infinity')"
    " AND (e.recorded_at, e.entry_number)"
    " < (coalesce(new.before_at, 'infinity'), new.before_number)"
    " AND (new.kinds IS NULL OR e.kind = ANY (string_to_array(new.kinds, ',')))"
    " ORDER BY e.recorded_at DESC, e.entry_number DESC LIMIT new.at_most) AS found ON true"
    " ORDER BY question, recorded_at DESC, entry_number DESC",
    question="bigint",
    user_id="uuid",
    kinds="text",
    since="timestamptz",
    before_at="timestamptz",
    before_number="bigint",
    at_most="bigint",
)


def _entries() -> Select[Any]:
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
