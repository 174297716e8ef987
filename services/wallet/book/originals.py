"""Earlier transactions that are to be corrected, and what of them was corrected so far."""

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from chassis.bulk import array
from contracts.wallet import TransactionKind


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
