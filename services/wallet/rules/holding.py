"""Holds: money set aside, then captured, voided, or released when its time is over."""

from datetime import timedelta
from uuid import UUID

from chassis.identifiers import new_id
from contracts.errors import BadRequest, Conflict, NotFound
from contracts.messages import Command
from contracts.wallet import Capture, Hold, HoldStatus, PlaceHold, VoidHold
from services.wallet.book.accounts import Account
from services.wallet.book.book import Book
from services.wallet.book.holds import OpenHold
from services.wallet.book.postings import Effect, Movement
from services.wallet.rules.payments import (
    payment,
    require_available,
    require_open,
    require_ordinary,
)
from services.wallet.rules.promotional import require_paid


class ExpireHold(Command[Hold], service="wallet", method="expire"):
    """The wallet's own command to release a hold whose time is over."""

    user_id: UUID
    hold_id: UUID


def place(book: Book, command: PlaceHold) -> Effect:
    """Raises ``NotFound``, ``AccountFrozen``, ``InsufficientFunds``."""
    account = book.account(command.user_id)
    require_open(account)
    require_available(account, command.amount_micros)
    if command.is_paid_alone:
        require_paid(book, account, command.amount_micros)
    hold = OpenHold(
        account_id=account.account_id,
        hold_id=new_id(),
        amount_micros=command.amount_micros,
        captured_micros=0,
        status=HoldStatus.HELD,
        description=command.description,
        metadata=command.metadata,
        placed_at=book.now,
        expires_at=book.now + timedelta(seconds=command.expires_in_s),
    )
    book.place(account, hold)
    return Effect(hold.seen_by(account.user_id), account.account_id, hold_id=hold.hold_id)


def capture(book: Book, command: Capture) -> Effect:
    """Raises ``NotFound``, ``Conflict``, ``AccountFrozen``, ``BadRequest``."""
    account = book.account(command.user_id)
    require_ordinary(command.kind)
    require_open(account)
    hold = _held(book, account, command.hold_id)
    amount_micros = command.amount_micros or hold.amount_micros
    if amount_micros > hold.amount_micros:
        raise BadRequest("amount_micros: more than was held.", "amount_micros")
    if hold.expires_at <= book.now:
        raise Conflict("The hold has expired.")
    movement = Movement(
        kind=command.kind,
        description=command.description or hold.description,
        metadata={**hold.metadata, **command.metadata, "hold_id": str(hold.hold_id)},
        effective_at=command.effective_at,
    )
    legs = payment(book, account, command, amount_micros)
    end(book, account, hold, HoldStatus.CAPTURED)
    posted = book.post(legs, movement)
    hold.captured_micros = amount_micros
    hold.transaction_id = posted.transaction_id
    return posted.effect(account)


def void(book: Book, command: VoidHold) -> Effect:
    """Raises ``NotFound``, ``Conflict``."""
    account = book.account(command.user_id)
    hold = _held(book, account, command.hold_id)
    return _release(book, account, hold, HoldStatus.VOIDED)


def expire(book: Book, command: ExpireHold) -> Effect:
    """Raises ``Conflict`` when the hold has ended, or its time is not over."""
    account = book.account(command.user_id)
    hold = _held(book, account, command.hold_id)
    if hold.expires_at > book.now:
        raise Conflict("The hold has not expired yet.")
    return _release(book, account, hold, HoldStatus.EXPIRED)


def _held(book: Book, account: Account, hold_id: UUID) -> OpenHold:
    hold = book.holds.get(hold_id)
    if hold is None or hold.account_id != account.account_id:
        raise NotFound("This wallet has no such hold.")
    if hold.status is not HoldStatus.HELD:
        raise Conflict(f"The hold has ended already: it was {hold.status.value}.")
    return hold


def _release(book: Book, account: Account, hold: OpenHold, status: HoldStatus) -> Effect:
    end(book, account, hold, status)
    book.check_levels(account)
    return Effect(hold.seen_by(account.user_id), account.account_id, hold_id=hold.hold_id)


def end(book: Book, account: Account, hold: OpenHold, status: HoldStatus) -> None:
    """What was held is the account's own again; a capture moves it after that."""
    hold.status = status
    hold.closed_at = book.now
    book.end(account, hold)
