"""Wallets as such: opened, frozen, opened again."""

from contracts.errors import Conflict
from contracts.wallet import (
    AccountFroze,
    AccountStatus,
    Freeze,
    OpenAccount,
    StatusChange,
    Unfreeze,
)
from services.wallet.book.accounts import Account
from services.wallet.book.book import Book
from services.wallet.book.postings import Effect


def open_account(book: Book, command: OpenAccount) -> Effect:
    """Opens the account if there is none."""
    account = book.open(command.user_id)
    return Effect(account.wallet(), account.account_id)


def freeze(book: Book, command: Freeze) -> Effect:
    """Raises ``Conflict`` when it is frozen already."""
    account = book.account(command.user_id)
    if account.is_frozen:
        raise Conflict("The wallet is frozen already.")
    return set_frozen(book, account, command.reason, command.actor)


def set_frozen(book: Book, account: Account, reason: str, actor: str) -> Effect:
    """Freeze an open account and say so."""
    effect = _change_status(book, account, AccountStatus.FROZEN, reason, actor)
    book.announce(
        AccountFroze,
        user_id=account.user_id,
        reason=reason,
        balance_micros=account.balance_micros,
    )
    return effect


def unfreeze(book: Book, command: Unfreeze) -> Effect:
    """Raises ``Conflict`` when it is open, or what is available is still below zero."""
    account = book.account(command.user_id)
    if not account.is_frozen:
        raise Conflict("The wallet is not frozen.")
    if account.available_micros < 0:
        raise Conflict("The wallet is below zero. It can be opened once its debt is paid.")
    return _change_status(book, account, AccountStatus.OPEN, command.reason, command.actor)


def _change_status(
    book: Book, account: Account, status: AccountStatus, reason: str, actor: str
) -> Effect:
    account.status = status
    account.status_change_count += 1
    book.note_status_change(account, reason, actor)
    reply = StatusChange(
        user_id=account.user_id, status=status, reason=reason, actor=actor, changed_at=book.now
    )
    return Effect(reply, account.account_id, change_number=account.status_change_count)
