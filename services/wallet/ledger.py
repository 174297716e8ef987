"""The ledger: every command that moves money comes through :func:`post`.

``post`` takes a batch. It locks the accounts, runs the rule of each command against the open
book, and writes everything down; a command that is refused gets its error as its outcome and
disturbs nobody. The committer calls it for RPCs, event handlers call it on their own session.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import repeat
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from chassis.context import CallContext, current_call
from chassis.idempotency import request_hash
from contracts.errors import ServiceError
from contracts.messages import Command, Reply
from contracts.wallet import (
    Adjust,
    Capture,
    CloseKey,
    Credit,
    Debit,
    Freeze,
    OpenAccount,
    PlaceHold,
    Refund,
    Reverse,
    SetLevel,
    Transfer,
    Unfreeze,
    VoidHold,
    WalletCommand,
)
from services.wallet.book import accounts, holds, keys, originals, promotions
from services.wallet.book.book import Book
from services.wallet.book.postings import Effect
from services.wallet.rules import (
    alerts,
    correcting,
    freezing,
    holding,
    migration,
    payments,
    promotional,
    reclaims,
)
from services.wallet.rules.holding import ExpireHold
from services.wallet.rules.reclaims import TakeBack

Postable = Command[Any]
Outcome = Reply | ServiceError

# Put together once: each command of a batch is asked for all of these.
_CORRECTING = (Refund, Reverse)
_OPENING = (OpenAccount, Credit)
_ENDING = (Capture, VoidHold, ExpireHold, TakeBack)
_SHARED = (Debit, Capture)


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
    corrected = {each.transaction_id for each in commands if isinstance(each, _CORRECTING)}
    if corrected:
        book.originals = originals.load(session, corrected)
    users = {user_id for command in commands for user_id in owners(command)}
    for original in book.originals.values():
        users |= original.user_ids
    book.read(session, users, {command.idempotency_key for command in commands})
    _reserve_accounts(session, book, commands)
    if corrected:
        originals.load_corrected(session, book.originals)
    _load_holds(session, book, commands)
    _load_promotional(session, book, commands)
    return book


def _reserve_accounts(session: Session, book: Book, commands: Iterable[Postable]) -> None:
    missing = {user_id for command in commands for user_id in _who_gets(command)}
    missing -= book.accounts.keys()
    if missing:
        book.reserved_account_ids = accounts.reserve(session, len(missing))


def _who_gets(command: Postable) -> Iterable[UUID]:
    """The users whose wallets a command opens where there are none."""
    if isinstance(command, _OPENING):
        return (command.user_id,)
    return _earners(command)


def _load_holds(session: Session, book: Book, commands: Iterable[Postable]) -> None:
    wanted = {
        (book.accounts[command.user_id].account_id, command.hold_id)
        for command in commands
        if isinstance(command, _ENDING)
        and command.hold_id is not None
        and command.user_id in book.accounts
    }
    if wanted:
        book.holds = {hold.hold_id: hold for hold in holds.load(session, wanted)}


def _load_promotional(session: Session, book: Book, commands: Iterable[Postable]) -> None:
    """For what takes paid credit alone: all else asks nothing of grants."""
    senders = {
        command.from_user_id if isinstance(command, Transfer) else command.user_id
        for command in commands
        if isinstance(command, Transfer)
        or (isinstance(command, PlaceHold) and command.is_paid_alone)
    }
    # So does what a seller gives back of what he earned.
    for original in book.originals.values():
        senders |= {leg.user_id for leg in original.receivers if leg.user_id is not None}
    if senders:
        # What comes back in this very batch has roused no grant yet.
        back = {leg.user_id for each in book.originals.values() for leg in each.givers}
        book.promotional = promotions.load(
            session, _account_ids(book, senders), _account_ids(book, senders & back)
        )


def _account_ids(book: Book, user_ids: set[UUID]) -> list[int]:
    return [book.accounts[user_id].account_id for user_id in user_ids & {*book.accounts}]


def owners(command: Postable) -> tuple[UUID, ...]:
    """The users whose wallets a command names. A correction may touch others, too."""
    if isinstance(command, CloseKey):
        return ()
    if isinstance(command, Transfer):
        return command.from_user_id, command.to_user_id
    user_id: UUID = command.user_id  # type: ignore[attr-defined]
    return (user_id, *_earners(command))


def _earners(command: Postable) -> Iterable[UUID]:
    if not isinstance(command, _SHARED) or not command.shares:
        return ()
    earners = [share.destination for share in command.shares]
    return [earner for earner in earners if isinstance(earner, UUID)]


def _carry_out(book: Book, command: Postable) -> Outcome:
    earlier = book.keys.get(command.idempotency_key)
    try:
        if isinstance(command, CloseKey):
            return _close(book, command, earlier)
        digest = request_hash(command)
        if earlier is not None:
            return keys.first_answer(earlier, digest)
        migration.require_a_move(book, command)
        if isinstance(command, WalletCommand):
            book.require_past(command.effective_at)
        effect = RULES[type(command)](book, command)
    except ServiceError as refusal:
        return refusal
    book.remember(
        keys.KeyRecord(
            command.idempotency_key,
            command.method,
            digest,
            effect.account_id,
            effect.transaction_id,
            effect.hold_id,
            effect.change_number,
            reply=effect.reply,
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


RULES: dict[type[Command[Any]], Callable[[Book, Any], Effect]] = {
    OpenAccount: freezing.open_account,
    Debit: payments.debit,
    Credit: payments.credit,
    Transfer: payments.transfer,
    PlaceHold: holding.place,
    Capture: holding.capture,
    VoidHold: holding.void,
    ExpireHold: holding.expire,
    Refund: correcting.refund,
    Reverse: correcting.reverse,
    Adjust: payments.adjust,
    Freeze: freezing.freeze,
    Unfreeze: freezing.unfreeze,
    SetLevel: alerts.set_alert,
    TakeBack: reclaims.take_back,
    promotional.Grant: promotional.grant,
    promotional.Lapse: promotional.lapse,
}
