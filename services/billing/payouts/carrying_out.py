"""Asking the wallet for what a payout needs next: to set money aside, to take or to release it.

Each has a key that names the payout. What is not answered stays due, and is asked again under the
same key; whatever crashes, money is set aside, taken or released once.
"""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy.orm import Session

from chassis.client import RpcClient
from chassis.clock import Clock
from chassis.crash_points import crash_point
from chassis.database import Connected
from chassis.errands import NOT_THERE, RETRY, Errand, has_ended
from chassis.identifiers import new_id
from chassis.leases import Leases
from chassis.outbox import publish
from contracts.billing import PayoutPaid, PayoutRefused, PayoutStatus
from contracts.errors import Conflict, ServiceError, with_code
from contracts.keys import payout_key, payout_late_key, payout_paid_key, payout_refused_key
from contracts.wallet import (
    HOLD_SECONDS_MAX,
    AccountStatus,
    Capture,
    Debit,
    GetWallets,
    Hold,
    HouseAccount,
    PlaceHold,
    Transaction,
    TransactionKind,
    VoidHold,
)
from services.billing.models import PayoutRow
from services.billing.payouts import moves
from services.billing.settings import BillingSettings

log = logging.getLogger(__name__)

DUE = Leases(
    due_at=PayoutRow.due_at, owner=PayoutRow.user_id, lease=timedelta(seconds=60), limit=50
)

ROUNDS_MAX = 20

HELD_FOR_S = HOLD_SECONDS_MAX
"""As long as the wallet sets anything aside: an operator has that long."""


@dataclass(frozen=True)
class Payouts:
    """What it takes to carry payouts out: a database, the wallet, a clock."""

    database: Connected
    rpc: RpcClient
    rules: BillingSettings
    clock: Clock

    def run(self) -> None:
        """Carry out everything that is due, of every provider in turn."""
        for payout_id in DUE.each(self.database, self.clock, ROUNDS_MAX):
            if not self.carry_out(payout_id):
                return

    def carried_out(self, payout_id: UUID) -> PayoutRow:
        """A payout after the wallet was asked; what it did not answer comes by itself.

        Raises what declined it.
        """
        crash_point("billing.payout_written")
        self.carry_out(payout_id)
        row = self._errand.read(self.database, payout_id)
        if row.status == PayoutStatus.DECLINED:
            raise with_code(row.status_code, row.reason)
        return row

    def carry_out(self, payout_id: UUID) -> bool:
        """Do what a payout needs next. False when the wallet did not answer."""
        asked = self._errand.read(self.database, payout_id)
        return self._errand.step(self.database, self.clock, asked)

    def is_frozen(self, user_id: UUID) -> bool:
        """Whether this user's wallet is; not where the wallet does not say."""
        try:
            found = self.rpc.call(
                GetWallets(user_ids=[user_id]), timeout_s=self.rules.call_timeout_s
            )
        except ServiceError:
            return False
        return any(wallet.status is AccountStatus.FROZEN for wallet in found.wallets)

    @property
    def _errand(self) -> Errand[PayoutRow]:
        return Errand(
            "billing.payout", PayoutRow, PayoutRow.status, self._ask, _record, self._give_back
        )

    def _ask(self, row: PayoutRow) -> object:
        timeout_s = self.rules.call_timeout_s
        if row.status == PayoutStatus.REQUESTED:
            return self.rpc.call(_hold(row), timeout_s=timeout_s)
        if row.status == PayoutStatus.PAYING:
            return self._take(row, timeout_s)
        if row.status == PayoutStatus.REFUSING:
            return self.rpc.call(_void(row), timeout_s=timeout_s)
        return None

    def _take(self, row: PayoutRow, timeout_s: float) -> Transaction:
        """What was sent is taken, also where the time was over for which it was set aside."""
        try:
            return self.rpc.call(_capture(row), timeout_s=timeout_s)
        except Conflict as refusal:
            if not has_ended(refusal):
                raise
            return self.rpc.call(_late_debit(row), timeout_s=timeout_s)

    def _give_back(self, row: PayoutRow, outcome: object) -> None:
        """Somebody else who asked a moment before was told that the money is not there."""
        if row.status == PayoutStatus.DECLINED and isinstance(outcome, Hold):
            self.rpc.call(_void(row, outcome.hold_id))


def _hold(row: PayoutRow) -> PlaceHold:
    return PlaceHold(
        idempotency_key=payout_key(row.payout_id),
        user_id=row.user_id,
        amount_micros=row.amount_micros,
        expires_in_s=HELD_FOR_S,
        description="Payout",
        is_paid_alone=True,
    )


def _capture(row: PayoutRow) -> Capture:
    return Capture(
        idempotency_key=payout_paid_key(row.payout_id),
        user_id=row.user_id,
        hold_id=_hold_id(row),
        kind=TransactionKind.PAYOUT,
        destination=HouseAccount.PAYOUTS,
        description=_description(row),
    )


def _late_debit(row: PayoutRow) -> Debit:
    return Debit(
        idempotency_key=payout_late_key(row.payout_id),
        user_id=row.user_id,
        amount_micros=row.amount_micros,
        kind=TransactionKind.PAYOUT,
        destination=HouseAccount.PAYOUTS,
        description=_description(row),
    )


def _description(row: PayoutRow) -> str:
    return f"Payout, {row.reference}"[:200]


def _void(row: PayoutRow, hold_id: UUID | None = None) -> VoidHold:
    return VoidHold(
        idempotency_key=payout_refused_key(row.payout_id),
        user_id=row.user_id,
        hold_id=hold_id or _hold_id(row),
    )


def _hold_id(row: PayoutRow) -> UUID:
    if row.hold_id is None:
        raise ValueError("nothing is set aside for this payout")
    return row.hold_id


def _record(session: Session, now: datetime, row: PayoutRow, outcome: object) -> None:
    """What the wallet said of a locked payout."""
    if row.status == PayoutStatus.REFUSING and has_ended(outcome):
        outcome = None
    if isinstance(outcome, ServiceError):
        if row.status == PayoutStatus.REQUESTED and isinstance(outcome, NOT_THERE):
            moves.move(row, now, PayoutStatus.DECLINED)
            row.status_code, row.reason, row.due_at = outcome.code, str(outcome), None
        else:
            # The money is on its way, or is to be free again: somebody has to look.
            log.error("the wallet does not do what a payout needs", extra={"error": str(outcome)})
            row.due_at = now + RETRY
        return
    row.due_at = None
    if row.status == PayoutStatus.REQUESTED and isinstance(outcome, Hold):
        moves.move(row, now, PayoutStatus.HELD)
        row.hold_id = outcome.hold_id
    elif row.status == PayoutStatus.PAYING:
        moves.move(row, now, PayoutStatus.PAID)
        publish(session, _paid(now, row))
    elif row.status == PayoutStatus.REFUSING:
        moves.move(row, now, PayoutStatus.REFUSED)
        publish(session, _refused(now, row))


def _paid(now: datetime, row: PayoutRow) -> PayoutPaid:
    return PayoutPaid(
        event_id=new_id(),
        occurred_at=now,
        user_id=row.user_id,
        payout_id=row.payout_id,
        amount_micros=row.amount_micros,
        reference=row.reference,
    )


def _refused(now: datetime, row: PayoutRow) -> PayoutRefused:
    return PayoutRefused(
        event_id=new_id(),
        occurred_at=now,
        user_id=row.user_id,
        payout_id=row.payout_id,
        amount_micros=row.amount_micros,
        reason=row.reason,
    )
