"""What a command makes: a movement of money, the transaction posted for it, an effect."""

from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from contracts.messages import Reply
from contracts.wallet import HouseAccount, Transaction, TransactionKind
from services.wallet.book.accounts import Account


class Effect(NamedTuple):
    """What a command did: the answer, and what its idempotency key will point to."""

    reply: Reply
    account_id: int
    transaction_id: UUID | None = None
    hold_id: UUID | None = None
    change_number: int | None = None


Side = Account | HouseAccount
"""Whose entry a leg is."""


class Leg(NamedTuple):
    """What one side gives, negative, or gets in a transaction: one of its entries."""

    side: Side
    amount_micros: int
    kind: TransactionKind | None = None
    """Where it is another one to this side than to the others."""


def between(source: Side, destination: Side, amount_micros: int) -> tuple[Leg, Leg]:
    """The legs of what one side gives to another."""
    return Leg(source, -amount_micros), Leg(destination, amount_micros)


class Movement(NamedTuple):
    """Why money moves, and what is written beside it."""

    kind: TransactionKind
    description: str
    metadata: dict[str, str]
    effective_at: datetime | None = None
    corrects: UUID | None = None
    correction: str | None = None
    says_balance_low: bool = True
    """False where the card processor took the money: no card is to be charged for that."""


class Posted(NamedTuple):
    """A transaction of this batch: entries that sum to zero."""

    transaction_id: UUID
    movement: Movement
    effective_at: datetime
    recorded_at: datetime
    sides: dict[int, tuple[int, int]]
    """The users' sides: account id → signed amount and running balance, in micro-dollars.

    Of two entries of one account, the first: who buys from himself has paid.
    """

    def seen_by(self, account: Account) -> Transaction:
        """The transaction as the owner of ``account`` sees it."""
        amount_micros, balance_after_micros = self.sides[account.account_id]
        return Transaction(
            transaction_id=self.transaction_id,
            kind=self.movement.kind,
            amount_micros=amount_micros,
            balance_after_micros=balance_after_micros,
            description=self.movement.description,
            metadata=self.movement.metadata,
            effective_at=self.effective_at,
            recorded_at=self.recorded_at,
            corrects_transaction_id=self.movement.corrects,
        )

    def effect(self, account: Account) -> Effect:
        """The effect of the command that made it, on one of its parties."""
        reply = self.seen_by(account)
        return Effect(reply, account.account_id, transaction_id=self.transaction_id)


def transaction_from(row: Any) -> Transaction:
    """A stored transaction as the owner of the row's account sees it."""
    return Transaction(
        transaction_id=row.transaction_id,
        kind=row.kind,
        amount_micros=row.amount_micros,
        balance_after_micros=row.balance_after_micros,
        description=row.description,
        metadata=row.metadata,
        effective_at=row.effective_at,
        recorded_at=row.recorded_at,
        corrects_transaction_id=row.corrects_transaction_id,
    )
