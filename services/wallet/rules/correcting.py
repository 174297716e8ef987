"""Corrections: refunds and reversals of earlier transactions, never more than those."""

from uuid import UUID

from contracts.errors import BadRequest, Conflict, NotFound
from contracts.wallet import HouseAccount, Refund, Reverse, TransactionKind
from services.wallet.book.accounts import Account
from services.wallet.book.book import Book
from services.wallet.book.originals import Original
from services.wallet.book.postings import Effect, Movement
from services.wallet.models import HOUSE_ACCOUNT_IDS
from services.wallet.rules.payments import require_available, require_open

_HOUSE_ACCOUNTS = {account_id: house for house, account_id in HOUSE_ACCOUNT_IDS.items()}


def refund(book: Book, command: Refund) -> Effect:
    """Raises ``NotFound``, ``Conflict``, and what a debit raises where a wallet gives back."""
    account = book.account(command.user_id)
    original = _original(book, account, command.transaction_id)
    amount_micros = command.amount_micros or original.left_micros
    if amount_micros > original.left_micros or amount_micros == 0:
        raise Conflict(
            "So much of this transaction is not left to refund.", str(original.left_micros)
        )
    movement = Movement(
        kind=TransactionKind.REFUND,
        description=command.description,
        metadata=command.metadata,
        effective_at=command.effective_at,
        corrects=original.transaction_id,
        correction="refund",
    )
    return _send_back(book, account, original, amount_micros, movement)


def reverse(book: Book, command: Reverse) -> Effect:
    """Raises ``NotFound``, ``Conflict``, and what a debit raises where a wallet gives back."""
    account = book.account(command.user_id)
    original = _original(book, account, command.transaction_id)
    if original.corrected_micros:
        raise Conflict("This transaction was refunded or reversed before.")
    movement = Movement(
        kind=TransactionKind.ADJUSTMENT,
        description=f"Reversal: {original.description}"[:200],
        metadata={**command.metadata, "reason": command.reason, "actor": command.actor},
        effective_at=command.effective_at,
        corrects=original.transaction_id,
        correction="reversal",
    )
    return _send_back(book, account, original, original.amount_micros, movement)


def _original(book: Book, account: Account, transaction_id: UUID) -> Original:
    original = book.originals.get(transaction_id)
    if original is None or account.account_id not in (
        original.source_account_id,
        original.destination_account_id,
    ):
        raise NotFound("This wallet has no such transaction.")
    if original.correction is not None:
        raise BadRequest("transaction_id: it is a correction itself.", "transaction_id")
    return original


def _send_back(
    book: Book, account: Account, original: Original, amount_micros: int, movement: Movement
) -> Effect:
    giver = _side(book, original.destination_account_id, original.destination_user_id)
    receiver = _side(book, original.source_account_id, original.source_user_id)
    if isinstance(giver, Account):
        if movement.correction == "refund":
            require_open(giver)
        require_available(giver, amount_micros)
    posted = book.move(giver, receiver, amount_micros, movement)
    original.corrected_micros += amount_micros
    return posted.effect(account)


def _side(book: Book, account_id: int, user_id: UUID | None) -> Account | HouseAccount:
    return _HOUSE_ACCOUNTS[account_id] if user_id is None else book.accounts[user_id]
