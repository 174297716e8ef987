"""Corrections: refunds and reversals of earlier transactions, never more than those."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from chassis.bulk import array
from contracts.errors import BadRequest, Conflict, NotFound
from contracts.wallet import HouseAccount, Refund, Reverse, TransactionKind
from services.wallet.accounts import Account, require_available, require_open
from services.wallet.models import HOUSE_ACCOUNT_IDS
from services.wallet.postings import Effect, Movement

if TYPE_CHECKING:
    from services.wallet.book import Book

_HOUSE_ACCOUNTS = {account_id: house for house, account_id in HOUSE_ACCOUNT_IDS.items()}


@dataclass(slots=True)
class Original:
    """An earlier transaction: who gave, who got, and how much of it was corrected so far."""

    transaction_id: UUID
    kind: TransactionKind
    description: str
    amount_micros: int
    correction: str | None
    source_account_id: int
    destination_account_id: int
    source_user_id: UUID | None
    destination_user_id: UUID | None
    corrected_micros: int = 0

    @property
    def left_micros(self) -> int:
        return self.amount_micros - self.corrected_micros


_LOAD = text(
    "SELECT t.transaction_id, t.kind, t.description, t.amount_micros, t.correction,"
    " source.account_id, destination.account_id, giver.user_id, receiver.user_id"
    " FROM transactions AS t"
    " JOIN entries AS source ON source.transaction_id = t.transaction_id"
    " AND source.amount_micros < 0"
    " JOIN entries AS destination ON destination.transaction_id = t.transaction_id"
    " AND destination.amount_micros > 0"
    " JOIN accounts AS giver ON giver.account_id = source.account_id"
    " JOIN accounts AS receiver ON receiver.account_id = destination.account_id"
    " WHERE t.transaction_id = ANY(CAST(:transaction_ids AS uuid[]))"
)
_CORRECTED = text(
    "SELECT corrects_transaction_id, sum(amount_micros)::bigint FROM transactions"
    " WHERE corrects_transaction_id = ANY(CAST(:transaction_ids AS uuid[])) GROUP BY 1"
)


def load(session: Session, transaction_ids: Iterable[UUID]) -> dict[UUID, Original]:
    """Transactions that are to be corrected. They never change, so no lock is needed yet."""
    wanted = array("uuid", transaction_ids)
    originals = [Original(*row) for row in session.execute(_LOAD, {"transaction_ids": wanted})]
    return {original.transaction_id: original for original in originals}


def load_corrected(session: Session, originals: dict[UUID, Original]) -> None:
    """How much of each was corrected so far; their accounts are locked by now."""
    wanted = array("uuid", originals)
    for transaction_id, corrected_micros in session.execute(
        _CORRECTED, {"transaction_ids": wanted}
    ):
        originals[transaction_id].corrected_micros = corrected_micros


def refund(book: "Book", command: Refund) -> Effect:
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


def reverse(book: "Book", command: Reverse) -> Effect:
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


def _original(book: "Book", account: Account, transaction_id: UUID) -> Original:
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
    book: "Book", account: Account, original: Original, amount_micros: int, movement: Movement
) -> Effect:
    giver = _side(book, original.destination_account_id, original.destination_user_id)
    receiver = _side(book, original.source_account_id, original.source_user_id)
    if isinstance(giver, Account):
        if movement.correction == "refund":
            require_open(giver)
        require_available(giver, amount_micros)
    posted = book.move(giver, receiver, amount_micros, movement)
    original.corrected_micros += amount_micros
    return Effect(posted.seen_by(account), account.account_id, transaction_id=posted.transaction_id)


def _side(book: "Book", account_id: int, user_id: UUID | None) -> Account | HouseAccount:
    return _HOUSE_ACCOUNTS[account_id] if user_id is None else book.accounts[user_id]
