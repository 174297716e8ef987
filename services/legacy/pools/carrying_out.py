"""Asking the wallet for what an order needs next: to set dollars aside, to take, release or pay.

Each has a key that names the order. What is not answered stays due, and is asked again under the
same key; whatever crashes, dollars are set aside, taken, released or paid once.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from chassis.client import RpcClient
from chassis.clock import Clock
from chassis.crash_points import crash_point
from chassis.database import Connected
from chassis.errands import NOT_THERE, RETRY, Errand, has_ended
from chassis.leases import Leases
from contracts.errors import Conflict, ServiceError, with_code
from contracts.keys import pool_hold_key, pool_paid_key, pool_released_key, pool_taken_key
from contracts.legacy import OrderStatus
from contracts.messages import Command
from contracts.wallet import (
    HOLD_SECONDS_MAX,
    Capture,
    Credit,
    Hold,
    HouseAccount,
    PlaceHold,
    TransactionKind,
    VoidHold,
)
from services.legacy.models import PoolOrderRow
from services.legacy.pools import opening, orders
from services.legacy.pools.orders import LEASE

log = logging.getLogger(__name__)

DUE = Leases(due_at=PoolOrderRow.due_at, owner=PoolOrderRow.user_id, lease=LEASE, limit=50)
ROUNDS_MAX = 20

HELD_FOR_S = HOLD_SECONDS_MAX
"""As long as the wallet sets anything aside. What was exchanged must be there to be taken, also
from a wallet that is frozen meanwhile; what was not is released long before."""

DESCRIPTION = "Pool exchange"

_NOT_DONE = (OrderStatus.DECLINED, OrderStatus.RELEASING, OrderStatus.REFUSED)


@dataclass(frozen=True)
class Orders:
    """What it takes to carry orders out: a database, the wallet, a clock."""

    database: Connected
    rpc: RpcClient
    clock: Clock

    def run(self) -> None:
        """Go on with everything that is due, of every user in turn."""
        for order_id in DUE.each(self.database, self.clock, ROUNDS_MAX):
            if not self.go_on(order_id):
                return

    def carried_out(self, order_id: UUID) -> PoolOrderRow:
        """An order after the wallet was asked; what it did not answer comes by itself.

        Raises why it was not carried out.
        """
        crash_point("legacy.order_written")
        self.go_on(order_id)
        row = self._errand.read(self.database, order_id)
        if row.status in _NOT_DONE:
            raise with_code(row.status_code, row.reason)
        return row

    def go_on(self, order_id: UUID) -> bool:
        """Do what an order needs, step by step. False when the wallet did not answer."""
        errand, tried = self._errand, None
        while (asked := errand.read(self.database, order_id)).due_at and asked.status != tried:
            if not errand.step(self.database, self.clock, asked):
                return False
            tried = asked.status
        return True

    @property
    def _errand(self) -> Errand[PoolOrderRow]:
        return Errand(
            "legacy.order", PoolOrderRow, PoolOrderRow.status, self._ask, _record, self._give_back
        )

    def _ask(self, row: PoolOrderRow) -> object:
        return self.rpc.call(_COMMANDS[OrderStatus(row.status)](row))

    def _give_back(self, row: PoolOrderRow, outcome: object) -> None:
        """The dollars were not there yet for somebody else who asked a moment before."""
        if row.status == OrderStatus.DECLINED and isinstance(outcome, Hold):
            self.rpc.call(_release(row, outcome.hold_id))


def _hold(row: PoolOrderRow) -> PlaceHold:
    return PlaceHold(
        idempotency_key=pool_hold_key(row.order_id),
        user_id=row.user_id,
        amount_micros=orders.dollars_given(row),
        expires_in_s=HELD_FOR_S,
        description=DESCRIPTION,
        is_paid_alone=True,
    )


def _capture(row: PoolOrderRow) -> Capture:
    return Capture(
        idempotency_key=pool_taken_key(row.order_id),
        user_id=row.user_id,
        hold_id=_hold_id(row),
        amount_micros=-orders.dollars_got(row),
        kind=TransactionKind.EXCHANGE,
        destination=HouseAccount.POOLS,
        description=DESCRIPTION,
    )


def _release(row: PoolOrderRow, hold_id: UUID | None = None) -> VoidHold:
    return VoidHold(
        idempotency_key=pool_released_key(row.order_id),
        user_id=row.user_id,
        hold_id=hold_id or _hold_id(row),
    )


def _pay(row: PoolOrderRow) -> Credit:
    return Credit(
        idempotency_key=pool_paid_key(row.order_id),
        user_id=row.user_id,
        amount_micros=orders.dollars_got(row),
        kind=TransactionKind.EXCHANGE,
        origin=HouseAccount.POOLS,
        description=DESCRIPTION,
    )


_COMMANDS: dict[OrderStatus, Callable[[PoolOrderRow], Command[Any]]] = {
    OrderStatus.REQUESTED: _hold,
    OrderStatus.CAPTURING: _capture,
    OrderStatus.RELEASING: _release,
    OrderStatus.PAYING: _pay,
}


def last_step(row: PoolOrderRow) -> Command[Any]:
    """What the wallet was asked last for an order that was carried out with dollars."""
    return _pay(row) if orders.dollars_got(row) > 0 else _capture(row)


def _hold_id(row: PoolOrderRow) -> UUID:
    if row.hold_id is None:
        raise ValueError("nothing is set aside for this order")
    return row.hold_id


def _record(session: Session, now: datetime, row: PoolOrderRow, outcome: object) -> None:
    """What the wallet said of a locked order."""
    status = OrderStatus(row.status)
    if status is OrderStatus.RELEASING and has_ended(outcome):
        outcome = None
    if isinstance(outcome, ServiceError):
        if status is OrderStatus.REQUESTED and isinstance(outcome, NOT_THERE):
            row.status_code, row.reason = outcome.code, str(outcome)
            orders.move(row, now, OrderStatus.DECLINED)
        else:
            # Something was exchanged, or is to be free again: somebody has to look.
            log.error("the wallet does not do what an order needs", extra={"error": str(outcome)})
            row.due_at = now + RETRY
    elif status is OrderStatus.REQUESTED and isinstance(outcome, Hold):
        row.hold_id = outcome.hold_id
        _exchange(session, now, row)
    elif status is OrderStatus.RELEASING:
        orders.move(row, now, OrderStatus.REFUSED)
    else:
        orders.move(row, now, OrderStatus.DONE)


def _exchange(session: Session, now: datetime, row: PoolOrderRow) -> None:
    """The dollars are set aside: carry the order out, or have them released."""
    try:
        if now > row.created_at + orders.CARRIED_OUT_WITHIN:
            raise Conflict(
                "This took too long, and the rate may have moved. Nothing was exchanged."
            )
        opening.require_to_stay(session, row.user_id)
        orders.carry_out(session, now, row)
    except Conflict as refusal:
        orders.release(row, now, refusal)
    else:
        orders.move(row, now, OrderStatus.CAPTURING)
