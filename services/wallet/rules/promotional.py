"""Promotional credit: given, and what is left of it taken back at its end.

Both are the wallet's own commands, which :mod:`services.wallet.finance.promotions` makes.
"""

from uuid import UUID

from contracts.errors import Conflict, InsufficientFunds
from contracts.messages import AmountMicros, Command, ShortText
from contracts.wallet import HouseAccount, Noted, Transaction, TransactionKind
from services.wallet.book.accounts import Account
from services.wallet.book.book import Book
from services.wallet.book.postings import Effect, Movement, between


class Grant(Command[Transaction], service="wallet", method="credit"):
    """The wallet's own command to give promotional credit."""

    user_id: UUID
    promotion_id: UUID
    amount_micros: AmountMicros
    description: ShortText


class Lapse(Command[Transaction], service="wallet", method="take_back"):
    """The wallet's own command to take back what is left of it."""

    user_id: UUID
    promotion_id: UUID
    amount_micros: AmountMicros


def grant(book: Book, command: Grant) -> Effect:
    """Raises ``NotFound``, and ``Conflict`` for a wallet in debt, which a gift is not to pay."""
    account = book.account(command.user_id)
    if account.balance_micros < 0:
        raise Conflict("This wallet is below zero: its debt is to be paid first. Nothing moved.")
    legs = between(HouseAccount.PROMOTIONS, account, command.amount_micros)
    return book.post(legs, _movement(command, command.description)).effect(account)


def lapse(book: Book, command: Lapse) -> Effect:
    """Works on a frozen wallet too: what is taken was never the user's for good. Raises
    ``NotFound``, and ``InsufficientFunds`` where not so much is available."""
    account = book.account(command.user_id)
    if command.amount_micros > account.available_micros:
        raise InsufficientFunds("Not so much is available; nothing was taken.")
    legs = between(account, HouseAccount.PROMOTIONS, command.amount_micros)
    return book.post(legs, _movement(command, "Promotional credit ended")).effect(account)


def _movement(command: Grant | Lapse, description: str) -> Movement:
    noted: dict[str, str] = {Noted.PROMOTION_ID: str(command.promotion_id)}
    return Movement(TransactionKind.PROMOTION, description, noted)


def paid_micros(book: Book, account: Account, corrects: UUID | None = None) -> int:
    """What is available and not promotional. A grant that is taken back itself counts as paid."""
    promotional = book.promotional.get(account.account_id)
    grants = promotional.grants if promotional else []
    kept_micros = sum(each.left_micros for each in grants if each.transaction_id != corrects)
    return account.available_micros - kept_micros


def require_paid(
    book: Book, account: Account, amount_micros: int, corrects: UUID | None = None
) -> None:
    """Raises ``InsufficientFunds`` where so much would take some of what is promotional. The caller
    has looked whether it is available at all."""
    has_micros = paid_micros(book, account, corrects)
    if amount_micros > has_micros:
        raise InsufficientFunds(
            "Promotional credit pays for what is bought here, and goes nowhere else; nothing was"
            " taken.",
            str(max(has_micros, 0)),
            str(amount_micros - max(has_micros, 0)),
        )
