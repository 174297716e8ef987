"""The ledger: every command that moves money comes through :func:`post`.

``post`` takes a batch. It locks the accounts, runs the rule of each command against the open
book, and writes everything down; a command that is refused gets its error as its outcome and
disturbs nobody. The committer calls it for RPCs, event handlers call it on their own session.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import repeat
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from chassis.context import CallContext, current_call
from contracts.errors import BadRequest, ServiceError
from contracts.messages import Command, Reply
from contracts.wallet import (
    Adjust,
    Capture,
    CloseKey,
    Credit,
    Debit,
    Freeze,
    HouseAccount,
    OpenAccount,
    PlaceHold,
    Refund,
    Reverse,
    SetLevel,
    TransactionKind,
    Transfer,
    Unfreeze,
    VoidHold,
    WalletCommand,
)
from services.wallet import accounts, corrections, holds, keys, levels, reclaims
from services.wallet.accounts import Account, require_available, require_open
from services.wallet.book import Book
from services.wallet.holds import ExpireHold
from services.wallet.postings import Effect, Movement, Posted, require_ordinary
from services.wallet.reclaims import TakeBack

Postable = Command[Any]
Outcome = Reply | ServiceError


def post(
    session: Session,
    now: datetime,
    commands: Sequence[Postable],
    calls: Sequence[CallContext] | None = None,
) -> list[Outcome]:
    """Carry out a batch of commands, in their order; one outcome for each.

    ``calls`` are those that brought the commands, where they are not this worker's own.
    Refusals are returned, not raised. What is raised is a failure of the whole batch: the
    session must be rolled back, and nothing of the batch has happened.
    """
    book = _open_book(session, now, commands)
    outcomes = []
    for command, call in zip(commands, calls or repeat(current_call.get()), strict=False):
        book.call = call
        outcomes.append(_carry_out(book, command))
    book.write(session)
    return outcomes


def post_one(session: Session, now: datetime, command: Postable) -> Reply:
    """Carry out one command, for event handlers. Raises what refuses it."""
    (outcome,) = post(session, now, [command])
    if isinstance(outcome, ServiceError):
        raise outcome
    return outcome


def _open_book(session: Session, now: datetime, commands: Sequence[Postable]) -> Book:
    book = Book(now)
    corrected = {c.transaction_id for c in commands if isinstance(c, Refund | Reverse)}
    if corrected:
        book.originals = corrections.load(session, corrected)
    users = {user_id for command in commands for user_id in owners(command)}
    for original in book.originals.values():
        users.update(filter(None, (original.source_user_id, original.destination_user_id)))
    book.read(session, users, {command.idempotency_key for command in commands})
    _reserve_accounts(session, book, commands)
    if corrected:
        corrections.load_corrected(session, book.originals)
    _load_holds(session, book, commands)
    return book


def _reserve_accounts(session: Session, book: Book, commands: Iterable[Postable]) -> None:
    missing = {
        command.user_id
        for command in commands
        if isinstance(command, OpenAccount | Credit) and command.user_id not in book.accounts
    }
    if missing:
        book.reserved_account_ids = accounts.reserve(session, len(missing))


def _load_holds(session: Session, book: Book, commands: Iterable[Postable]) -> None:
    wanted = {
        (book.accounts[command.user_id].account_id, command.hold_id)
        for command in commands
        if isinstance(command, Capture | VoidHold | ExpireHold) and command.user_id in book.accounts
    }
    if wanted:
        book.holds = {hold.hold_id: hold for hold in holds.load(session, wanted)}


def owners(command: Postable) -> tuple[UUID, ...]:
    """The users whose wallets a command names. A correction may touch one more."""
    if isinstance(command, CloseKey):
        return ()
    if isinstance(command, Transfer):
        return command.from_user_id, command.to_user_id
    user_id: UUID = command.user_id  # type: ignore[attr-defined]
    return (user_id,)


def _carry_out(book: Book, command: Postable) -> Outcome:
    earlier = book.keys.get(command.idempotency_key)
    try:
        if isinstance(command, CloseKey):
            return _close(book, command, earlier)
        digest = keys.request_hash(command)
        if earlier is not None:
            return keys.first_answer(earlier, digest)
        if isinstance(command, WalletCommand):
            book.require_past(command.effective_at)
        effect = RULES[type(command)](book, command)
    except ServiceError as refusal:
        return refusal
    book.remember(
        keys.KeyRecord(
            idempotency_key=command.idempotency_key,
            method=command.method,
            request_hash=digest,
            **{name: getattr(effect, name) for name in _OUTCOME_FIELDS},
            **({} if effect.transaction_id else _noted(command)),
        )
    )
    return effect.reply


def _close(book: Book, command: CloseKey, earlier: keys.KeyRecord | None) -> Reply:
    if earlier is None:
        book.require_past(command.effective_at)
        book.remember(
            keys.KeyRecord(command.idempotency_key, keys.CLOSE_KEY, None, **_noted(command))
        )
    return keys.closed(command.idempotency_key, earlier)


def _noted(command: Postable) -> dict[str, Any]:
    """What a command says beside its effect, where no transaction carries it."""
    if not isinstance(command, WalletCommand):
        return {}
    return {"metadata": command.metadata or None, "effective_at": command.effective_at}


_OUTCOME_FIELDS = tuple(field.name for field in dataclasses.fields(Effect))


def debit(book: Book, command: Debit) -> Effect:
    """Raises ``NotFound``, ``AccountFrozen``, ``InsufficientFunds``, ``BadRequest``."""
    account = book.account(command.user_id)
    require_ordinary(command.kind)
    require_open(account)
    require_available(account, command.amount_micros)
    posted = book.move(
        account, command.destination, command.amount_micros, _movement(command, command.kind)
    )
    return _effect(posted, account)


def credit(book: Book, command: Credit) -> Effect:
    """Opens the account if there is none. Raises ``BadRequest``."""
    require_ordinary(command.kind)
    account = book.open(command.user_id)
    posted = book.move(
        command.origin, account, command.amount_micros, _movement(command, command.kind)
    )
    return _effect(posted, account)


def transfer(book: Book, command: Transfer) -> Effect:
    """Raises what :func:`debit` raises; ``NotFound`` for either wallet."""
    if command.from_user_id == command.to_user_id:
        raise BadRequest("to_user_id: a transfer goes to somebody else.", "to_user_id")
    sender = book.account(command.from_user_id)
    receiver = book.account(command.to_user_id)
    require_open(sender)
    require_available(sender, command.amount_micros)
    movement = _movement(command, TransactionKind.TRANSFER)
    parties = {
        "from_user_id": str(command.from_user_id),
        "to_user_id": str(command.to_user_id),
    }
    movement = dataclasses.replace(movement, metadata={**movement.metadata, **parties})
    return _effect(book.move(sender, receiver, command.amount_micros, movement), sender)


def adjust(book: Book, command: Adjust) -> Effect:
    """Raises ``NotFound``, ``InsufficientFunds``, ``BadRequest`` for zero."""
    account = book.account(command.user_id)
    if command.amount_micros == 0:
        raise BadRequest("amount_micros: an adjustment is not zero.", "amount_micros")
    movement = Movement(
        kind=TransactionKind.ADJUSTMENT,
        description=command.reason,
        metadata={**command.metadata, "reason": command.reason, "actor": command.actor},
        effective_at=command.effective_at,
    )
    if command.amount_micros > 0:
        posted = book.move(HouseAccount.ADJUSTMENTS, account, command.amount_micros, movement)
    else:
        require_available(account, -command.amount_micros)
        posted = book.move(account, HouseAccount.ADJUSTMENTS, -command.amount_micros, movement)
    return _effect(posted, account)


def _movement(command: Debit | Credit | Transfer, kind: TransactionKind) -> Movement:
    return Movement(kind, command.description, command.metadata, command.effective_at)


def _effect(posted: Posted, account: Account) -> Effect:
    return Effect(posted.seen_by(account), account.account_id, transaction_id=posted.transaction_id)


RULES: dict[type[Command[Any]], Callable[[Book, Any], Effect]] = {
    OpenAccount: accounts.open_account,
    Debit: debit,
    Credit: credit,
    Transfer: transfer,
    PlaceHold: holds.place,
    Capture: holds.capture,
    VoidHold: holds.void,
    ExpireHold: holds.expire,
    Refund: corrections.refund,
    Reverse: corrections.reverse,
    Adjust: adjust,
    Freeze: accounts.freeze,
    Unfreeze: accounts.unfreeze,
    SetLevel: levels.set_alert,
    TakeBack: reclaims.take_back,
}
