"""What providers owe: the house advanced a refund because they had not got the money any more.

A debt is taken from the provider's wallet as soon as it covers it: when money comes, and once a
day. Its key is the refund's, so that it is taken once.
"""

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from chassis.client import RpcClient
from chassis.clock import Clock
from chassis.crash_points import crash_point
from chassis.database import Connected
from chassis.leases import Leases
from chassis.locks import locked
from contracts.errors import NO_ANSWER, AccountFrozen, InsufficientFunds, ServiceError
from contracts.keys import debt_key
from contracts.wallet import Debit, HouseAccount, Noted, Transaction, TransactionKind
from services.billing.models import DebtRow
from services.billing.settings import BillingSettings

log = logging.getLogger(__name__)

DUE = Leases(
    due_at=DebtRow.due_at, owner=DebtRow.provider_id, lease=timedelta(seconds=60), limit=50
)

RETRY = timedelta(days=1)
"""How long after a wallet did not cover a debt it is asked again, unless money comes sooner."""

ROUNDS_MAX = 20


def advanced_micros(refund: Transaction) -> int:
    """What the house gave in a refund in the place of who could not."""
    return int(refund.metadata.get(Noted.ADVANCED_MICROS, "0"))


def owe(
    session: Session, now: datetime, refund_key: str, provider_id: UUID, refund: Transaction
) -> None:
    """Write down what a provider owes for a refund that was made; nothing where he gave all."""
    amount_micros = advanced_micros(refund)
    if amount_micros:
        session.add(
            DebtRow(
                refund_key=refund_key,
                provider_id=provider_id,
                amount_micros=amount_micros,
                created_at=now,
                due_at=now,
            )
        )


def owed_micros(session: Session, provider_ids: Iterable[UUID]) -> Counter[UUID]:
    """What each of these providers owes by now."""
    owed = session.execute(
        select(DebtRow.provider_id, func.sum(DebtRow.amount_micros))
        .where(DebtRow.provider_id.in_(list(provider_ids)), DebtRow.paid_at.is_(None))
        .group_by(DebtRow.provider_id)
    )
    return Counter({provider_id: int(micros) for provider_id, micros in owed})


AWAITS_MONEY = "EXISTS (SELECT FROM debts WHERE provider_id = new.user_id AND paid_at IS NULL)"
"""Whether :func:`money_came` would find any, as SQL over users named ``new``."""


def money_came(session: Session, now: datetime, user_id: UUID) -> None:
    """What this user owes may be covered now."""
    session.execute(
        update(DebtRow)
        .where(DebtRow.provider_id == user_id, DebtRow.paid_at.is_(None))
        .values(due_at=now)
        .execution_options(synchronize_session=False)
    )


@dataclass(frozen=True)
class Debts:
    """What it takes to claim debts: a database, the wallet, a clock."""

    database: Connected
    rpc: RpcClient
    rules: BillingSettings
    clock: Clock

    def run(self) -> None:
        """Claim everything that is due, of every provider in turn."""
        for refund_key in DUE.each(self.database, self.clock, ROUNDS_MAX):
            try:
                self._claim(refund_key)
            except NO_ANSWER as error:
                log.warning("a debt has to wait", extra={"error": f"{error.code}: {error}"})
                return

    def _claim(self, refund_key: str) -> None:
        with self.database.read() as session:
            debt = session.get_one(DebtRow, refund_key)
        try:
            made = self.rpc.call(_debit(debt), timeout_s=self.rules.call_timeout_s)
        except NO_ANSWER:
            raise
        except ServiceError as refusal:
            if not isinstance(refusal, InsufficientFunds | AccountFrozen):
                log.error("a debt cannot be claimed", extra={"error": str(refusal)})
            made = None
        crash_point("billing.debt_claimed")
        with self.database.begin() as session:
            row = locked(session, DebtRow, refund_key)
            if row.paid_at is not None:
                return
            if made is not None:
                row.paid_at, row.due_at = self.clock(), None
                row.transaction_id = made.transaction_id
            elif row.due_at == debt.due_at:
                # Otherwise money came in the meantime, and it is due at once.
                row.due_at = self.clock() + RETRY


def _debit(debt: DebtRow) -> Debit:
    return Debit(
        idempotency_key=debt_key(debt.refund_key),
        user_id=debt.provider_id,
        amount_micros=debt.amount_micros,
        kind=TransactionKind.REFUND,
        destination=HouseAccount.ADVANCES,
        description="A refund that was advanced for you",
    )
