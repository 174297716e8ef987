"""Who is being moved: the rows that workers take up, some at a time.

::

    pending ─▶ moved ─▶ reverting ─▶ reverted ─▶ pending      by another run, as another attempt
                     ◀─ it cannot be undone any more

Whoever takes a row works without holding it, until its lease is over; what it does then is written
only where the row is still as it was taken.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid5

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from chassis.bulk import Bulk
from chassis.database import lock_until_commit
from chassis.money import format_usd
from contracts.catalog import Category
from contracts.legacy import MovedService
from contracts.messages import Command
from contracts.wallet import Credit, HouseAccount, OpenAccount, Reverse, TransactionKind
from services.legacy import forgetting
from services.legacy.models import MoveRow
from services.legacy.reading.amounts import plain


class MoveStatus(StrEnum):
    PENDING = "pending"
    MOVED = "moved"
    REVERTING = "reverting"
    REVERTED = "reverted"


_BEGIN = text(
    "INSERT INTO moves AS known (user_id, email_key, email, plan_id, line_id, attempt, status,"
    " reason, reversal_reason, reversal_actor, balance, amount_micros, services, holdings, due_at,"
    " refusal)"
    " SELECT DISTINCT ON (email_key) line_id, email_key, email, plan_id, line_id, 1,"
    " 'pending', '', '', '', balance, amount_micros, services, holdings,"
    " CAST(:now AS timestamptz), ''"
    " FROM lines WHERE plan_id = :plan_id AND refusal = '' AND conflicts = '{}' AND email <> ''"
    " ORDER BY email_key, line_id"
    " ON CONFLICT (email_key) DO UPDATE SET email = excluded.email, plan_id = excluded.plan_id,"
    " line_id = excluded.line_id, attempt = known.attempt + 1, status = 'pending', reason = '',"
    " balance = excluded.balance, amount_micros = excluded.amount_micros,"
    " services = excluded.services, holdings = excluded.holdings, transaction_id = NULL,"
    " due_at = excluded.due_at,"
    " moved_at = NULL, answered_at = NULL, refusal = '', reverted_at = NULL"
    " WHERE known.status = 'reverted'"
)
_AGAIN = text(
    "UPDATE moves SET due_at = :now, reason = '' WHERE plan_id = :plan_id AND status = :status"
    " AND due_at IS NULL"
)
# Losing a lease has somebody taken up twice, under the same keys: nobody need wait for the disk.
_TAKE = text(
    "SET LOCAL synchronous_commit = off;"
    " UPDATE moves SET due_at = :until WHERE user_id IN (SELECT user_id FROM moves"
    " WHERE plan_id = :plan_id AND status = :status AND due_at <= :now"
    " ORDER BY due_at, user_id LIMIT :limit FOR UPDATE SKIP LOCKED) RETURNING *"
)


def begin(session: Session, now: datetime, plan_id: UUID) -> None:
    """Have everybody moved who is ready in a plan, and was not moved by any, nor deleted the
    account. Twice is once."""
    lock_until_commit(session, forgetting.LOCK)
    session.execute(_BEGIN, {"plan_id": plan_id, "now": now})
    session.execute(_AGAIN, {"plan_id": plan_id, "now": now, "status": MoveStatus.PENDING})


def take(
    session: Session,
    now: datetime,
    plan_id: UUID,
    status: MoveStatus,
    limit: int,
    lease: timedelta,
) -> Sequence[MoveRow]:
    """Lease some that are due."""
    given = {"plan_id": plan_id, "status": status, "now": now, "until": now + lease, "limit": limit}
    taken = session.scalars(select(MoveRow).from_statement(_TAKE), given)
    return sorted(taken, key=lambda row: row.user_id)


def is_any_leased(session: Session, plan_id: UUID, status: MoveStatus) -> bool:
    """Whether somebody works on some, or died over them: then they are due soon."""
    leased = select(MoveRow.user_id).where(
        MoveRow.plan_id == plan_id, MoveRow.status == status, MoveRow.due_at.is_not(None)
    )
    return session.scalar(leased.limit(1)) is not None


_PUT_BACK = Bulk(
    "UPDATE moves AS old SET due_at = new.due_at, reason = new.reason FROM {rows}"
    " WHERE old.user_id = new.user_id AND old.attempt = new.attempt AND old.status = new.status",
    user_id="uuid",
    attempt="integer",
    status="text",
    due_at="timestamptz",
    reason="text",
)


@dataclass(frozen=True)
class Undone:
    """A row that was taken, and why nothing came of it; with ``due_at``, it is tried again then."""

    move: MoveRow
    reason: str
    due_at: datetime | None = None


def put_back(session: Session, undone: Iterable[Undone]) -> None:
    """Leave rows to the next worker, or to a person."""
    rows = [
        (each.move.user_id, each.move.attempt, each.move.status, each.due_at, each.reason[:500])
        for each in undone
    ]
    if rows:
        _PUT_BACK.execute(session, rows)


def payment(move: MoveRow, rate: Decimal) -> Command[Any]:
    """What the wallet is asked to do for somebody, under a key of this attempt."""
    key = f"legacy:move:{move.user_id}:{move.attempt}"
    if not move.amount_micros:
        return OpenAccount(idempotency_key=key, user_id=move.user_id)
    return Credit(
        idempotency_key=key,
        user_id=move.user_id,
        amount_micros=move.amount_micros,
        kind=TransactionKind.MIGRATION,
        origin=HouseAccount.MIGRATION,
        description=statement_text(move.balance, rate, move.amount_micros),
        metadata={
            "old_balance": plain(move.balance),
            "old_unit": "TFP",
            "usd_per_unit": plain(rate),
            "plan_id": str(move.plan_id),
        },
    )


def statement_text(balance: Decimal, rate: Decimal, amount_micros: int) -> str:
    """``Moved from the old system: 150.5 TFP at 0.10 = $15.05``."""
    return (
        f"Moved from the old system: {plain(balance)} TFP at {_at_least_cents(rate)} ="
        f" {format_usd(amount_micros)}"
    )


def _at_least_cents(rate: Decimal) -> str:
    exact = plain(rate)
    whole, _, decimals = exact.partition(".")
    return f"{whole}.{decimals:0<2}"


def reversal(move: MoveRow) -> Reverse:
    """What undoes it, under a key of its own, for the reason that stands in the row: whoever goes
    on with it says the same."""
    if move.transaction_id is None:
        raise ValueError("nothing was paid that could be taken back")
    return Reverse(
        idempotency_key=f"legacy:revert:{move.user_id}:{move.attempt}",
        user_id=move.user_id,
        transaction_id=move.transaction_id,
        reason=move.reversal_reason,
        actor=move.reversal_actor,
    )


def services_of(move: MoveRow) -> list[MovedService]:
    """What of somebody's running services comes across. Each attempt has ids of its own."""
    return [
        MovedService(
            deployment_id=uuid5(move.user_id, f"{move.attempt}:{number}"),
            name=each["name"],
            category=Category(each["category"]),
            monthly_cost_micros=each["monthly_cost_micros"],
            renews_at=each["renews_at"],
        )
        for number, each in enumerate(move.services)
        if not each["problem"]
    ]
