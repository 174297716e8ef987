"""Corrections by hand that two people stand behind: one proposes, another approves or rejects.

A proposal moves nothing. The approval and its posting are one transaction of the ledger's database,
which refuses by itself (migration 0015) whoever decides their own proposal or one about their own
wallet, a decision after the proposal's time, a second one, and a posting of another amount.
"""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from chassis.database import lock_until_commit
from chassis.idempotency import request_hash
from chassis.identifiers import new_id
from contracts.errors import BadRequest, Conflict, IdempotencyConflict, NotFound
from contracts.keys import approved_key
from contracts.messages import Command
from contracts.wallet import (
    Adjust,
    Adjustment,
    AdjustmentList,
    AdjustmentStatus,
    DecideAdjustment,
    ListAdjustments,
    Noted,
    ProposeAdjustment,
    Transaction,
)
from services.wallet import ledger, statements

GOOD_FOR = timedelta(days=7)
"""How long a proposal may be decided. Then it has expired, and nothing need be done for that."""

_COLUMNS = (
    "adjustment_id, user_id, amount_micros, reason, proposed_by, proposed_at, expires_at, status,"
    " decided_by, decided_at, decision_reason, transaction_id"
)
_BY_KEY = text("SELECT *, proposal_hash AS hash FROM adjustments WHERE proposal_key = :key")
_LOCK = text(
    "SELECT *, decision_hash AS hash FROM adjustments WHERE adjustment_id = :id FOR UPDATE"
)
_PROPOSE = text(
    "INSERT INTO adjustments (adjustment_id, user_id, amount_micros, reason, proposed_by,"
    " proposed_at, expires_at, status, proposal_key, proposal_hash) VALUES (:adjustment_id,"
    " :user_id, :amount_micros, :reason, :proposed_by, :proposed_at, :expires_at, 'proposed',"
    " :key, :hash) RETURNING *"
)
_DECIDE = text(
    "UPDATE adjustments SET status = :status, decided_by = :decided_by, decided_at = :decided_at,"
    " decision_reason = :reason, transaction_id = :transaction_id, decision_key = :key,"
    " decision_hash = :hash WHERE adjustment_id = :id RETURNING *"
)
_NEWEST = text(
    f"SELECT {_COLUMNS} FROM adjustments"  # noqa: S608
    " WHERE NOT :only_open OR (status = 'proposed' AND expires_at > :now)"
    " ORDER BY proposed_at DESC, adjustment_id DESC LIMIT :limit"
)


def propose(session: Session, now: datetime, command: ProposeAdjustment) -> Adjustment:
    """Raises ``NotFound`` for who has no wallet, ``BadRequest``, ``Conflict`` for one's own."""
    # Before the look: two of one key wait for each other, and the later finds the earlier's row.
    lock_until_commit(session, f"wallet.adjustments:{command.idempotency_key}")
    earlier = session.execute(_BY_KEY, {"key": command.idempotency_key}).one_or_none()
    if earlier is not None:
        _require_same(earlier, command)
        return _adjustment(earlier, now, replayed=True)
    if command.amount_micros == 0:
        raise BadRequest("amount_micros: an adjustment is not zero.", "amount_micros")
    _require_others_wallet(command.proposed_by, command.user_id)
    statements.get_wallet(session, command.user_id)
    row = session.execute(
        _PROPOSE,
        {
            "adjustment_id": new_id(),
            "user_id": command.user_id,
            "amount_micros": command.amount_micros,
            "reason": command.reason,
            "proposed_by": command.proposed_by,
            "proposed_at": now,
            "expires_at": now + GOOD_FOR,
            "key": command.idempotency_key,
            "hash": request_hash(command),
        },
    ).one()
    return _adjustment(row, now)


def decide(session: Session, now: datetime, command: DecideAdjustment) -> Adjustment:
    """Post a proposal, or reject it. Raises ``NotFound``, ``Conflict``, and what refuses the
    posting: the proposal stays as it was then."""
    row = session.execute(_LOCK, {"id": command.adjustment_id}).one_or_none()
    if row is None:
        raise NotFound("There is no such adjustment.")
    if row.decision_key == command.idempotency_key:
        _require_same(row, command)
        return _adjustment(row, now, replayed=True)
    if row.status != AdjustmentStatus.PROPOSED:
        raise Conflict(f"It was decided before: it is {row.status}. Nothing was changed.")
    if row.expires_at <= now:
        raise Conflict("Its time is over: propose it again. Nothing was changed.")
    if row.proposed_by == command.decided_by:
        raise Conflict("You can't decide what you proposed: ask a colleague. Nothing was changed.")
    _require_others_wallet(command.decided_by, row.user_id)
    decided = session.execute(
        _DECIDE,
        {
            "id": command.adjustment_id,
            "status": AdjustmentStatus.POSTED if command.is_approved else AdjustmentStatus.REJECTED,
            "decided_by": command.decided_by,
            "decided_at": now,
            "reason": command.reason,
            "transaction_id": _post(session, now, row, command) if command.is_approved else None,
            "key": command.idempotency_key,
            "hash": request_hash(command),
        },
    ).one()
    return _adjustment(decided, now)


def _post(session: Session, now: datetime, row: Any, command: DecideAdjustment) -> UUID:
    posting = Adjust(
        idempotency_key=approved_key(row.adjustment_id),
        user_id=row.user_id,
        amount_micros=row.amount_micros,
        reason=row.reason,
        actor=str(command.decided_by),
        metadata={
            Noted.ADJUSTMENT_ID: str(row.adjustment_id),
            Noted.PROPOSED_BY: str(row.proposed_by),
        },
    )
    posted = ledger.post_one(session, now, posting)
    if not isinstance(posted, Transaction):
        raise TypeError(f"an adjustment made a {type(posted).__name__}")
    return posted.transaction_id


def listing(session: Session, now: datetime, request: ListAdjustments) -> AdjustmentList:
    """The newest first."""
    asked = {"only_open": request.only_open, "now": now, "limit": request.limit}
    rows = session.execute(_NEWEST, asked)
    return AdjustmentList(adjustments=[_adjustment(row, now) for row in rows])


def _require_others_wallet(person: UUID, user_id: UUID) -> None:
    if person == user_id:
        raise Conflict("You can't adjust your own wallet: ask a colleague. Nothing was changed.")


def _require_same(row: Any, command: Command[Any]) -> None:
    if bytes(row.hash) != request_hash(command):
        raise IdempotencyConflict(
            "This idempotency key was used before, with other arguments; nothing was changed."
            " Choose a new key for a new command."
        )


def _adjustment(row: Any, now: datetime, *, replayed: bool = False) -> Adjustment:
    found = Adjustment.model_validate({**row._mapping, "replayed": replayed})  # noqa: SLF001
    if found.status is AdjustmentStatus.PROPOSED and found.expires_at <= now:
        return found.model_copy(update={"status": AdjustmentStatus.EXPIRED})
    return found
