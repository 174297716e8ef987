"""Earlier transactions that are to be corrected, and what of them was corrected so far."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from chassis.bulk import array
from contracts.wallet import TransactionKind


@dataclass(slots=True)
class OriginalLeg:
    """One entry of an earlier transaction, and how much of it went back so far."""

    account_id: int
    user_id: UUID | None
    amount_micros: int
    """Negative: it gave."""
    corrected_micros: int = 0
    """Never negative, and never more than the amount."""

    @property
    def left_micros(self) -> int:
        return abs(self.amount_micros) - self.corrected_micros


@dataclass(slots=True)
class Original:
    """An earlier transaction; who gave stands before who got, and lower account ids first."""

    transaction_id: UUID
    kind: TransactionKind
    description: str
    amount_micros: int
    correction: str | None
    legs: list[OriginalLeg] = field(default_factory=list)

    @property
    def givers(self) -> list[OriginalLeg]:
        return [leg for leg in self.legs if leg.amount_micros < 0]

    @property
    def receivers(self) -> list[OriginalLeg]:
        return [leg for leg in self.legs if leg.amount_micros > 0]

    @property
    def left_micros(self) -> int:
        return sum(leg.left_micros for leg in self.givers)

    @property
    def user_ids(self) -> set[UUID]:
        return {leg.user_id for leg in self.legs if leg.user_id is not None}


_LOAD = text(
    "SELECT transaction_id, kind, description, amount_micros, correction FROM transactions"
    " WHERE transaction_id = ANY(CAST(:transaction_ids AS uuid[]))"
)
_LEGS = text(
    "SELECT e.transaction_id, e.account_id, a.user_id, e.amount_micros"
    " FROM entries AS e JOIN accounts AS a ON a.account_id = e.account_id"
    " WHERE e.transaction_id = ANY(CAST(:transaction_ids AS uuid[]))"
    " ORDER BY e.amount_micros > 0, e.account_id"
)
_CORRECTED = text(
    "SELECT t.corrects_transaction_id, e.account_id, e.amount_micros < 0 AS had_got,"
    " abs(sum(e.amount_micros))::bigint AS corrected_micros"
    " FROM transactions AS t JOIN entries AS e ON e.transaction_id = t.transaction_id"
    " WHERE t.corrects_transaction_id = ANY(CAST(:transaction_ids AS uuid[]))"
    " GROUP BY 1, 2, 3"
    # What the house advanced counts as given back by who had it advanced.
    " UNION ALL SELECT t.corrects_transaction_id, a.account_id, true,"
    " (t.metadata ->> 'advanced_micros')::bigint"
    " FROM transactions AS t"
    " JOIN accounts AS a ON a.user_id = (t.metadata ->> 'advanced_for')::uuid"
    " WHERE t.corrects_transaction_id = ANY(CAST(:transaction_ids AS uuid[]))"
    " AND t.correction = 'chosen_refund'"
)


def load(session: Session, transaction_ids: Iterable[UUID]) -> dict[UUID, Original]:
    """Transactions that are to be corrected. They never change, so no lock is needed yet."""
    wanted = {"transaction_ids": array("uuid", transaction_ids)}
    originals = {row.transaction_id: Original(*row) for row in session.execute(_LOAD, wanted)}
    for transaction_id, *leg in session.execute(_LEGS, wanted):
        originals[transaction_id].legs.append(OriginalLeg(*leg))
    return originals


def load_corrected(session: Session, originals: dict[UUID, Original]) -> None:
    """How much of each leg went back so far; their accounts are locked by now."""
    legs = {
        (transaction_id, leg.account_id, leg.amount_micros > 0): leg
        for transaction_id, original in originals.items()
        for leg in original.legs
    }
    for row in session.execute(_CORRECTED, {"transaction_ids": array("uuid", originals)}):
        # The account of advances has no leg.
        leg = legs.get((row.corrects_transaction_id, row.account_id, row.had_got))
        if leg is not None:
            leg.corrected_micros += row.corrected_micros
