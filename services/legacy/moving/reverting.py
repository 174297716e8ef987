"""Moving people back: the payment is reversed by another transaction, and nothing is deleted.

It is possible for a time after somebody was moved, and as long as nothing was spent: then the
wallet holds what was paid into it, and the person has lost nothing but the new account's use.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from chassis.bulk import Batch, Bulk
from chassis.context import current_call
from chassis.crash_points import crash_point
from chassis.identifiers import new_id
from chassis.outbox import store
from contracts.legacy import PersonMovedBack
from contracts.wallet import (
    BatchCommand,
    BatchResult,
    GetWallets,
    Statement,
    Transaction,
    TransactionKind,
    Wallet,
)
from services.legacy.models import MoveRow
from services.legacy.moving import moves
from services.legacy.moving.moves import MoveStatus, Undone
from services.legacy.moving.work import Crew, Progress
from services.legacy.pools import opening

WALLETS_AT_ONCE = 100
SPENT = "something was spent from it, or is held"
USED = "something was done in the pools"
TOO_LATE = "it was moved too long ago"

_RECORD = Bulk(
    "UPDATE moves AS old SET status = 'reverted', reverted_at = new.reverted_at, due_at = NULL,"
    " reason = '' FROM {rows}"
    " WHERE old.user_id = new.user_id AND old.attempt = new.attempt AND old.status = 'reverting'"
    " RETURNING old.user_id",
    user_id="uuid",
    attempt="integer",
    reverted_at="timestamptz",
)
_KEEP = Bulk(
    "UPDATE moves AS old SET status = 'moved', due_at = NULL, reason = new.reason FROM {rows}"
    " WHERE old.user_id = new.user_id AND old.attempt = new.attempt AND old.status = 'reverting'",
    user_id="uuid",
    attempt="integer",
    reason="text",
)


@dataclass(frozen=True)
class Wish:
    """Why people are moved back, and by whom. ``only`` one address, or who was not taken."""

    reason: str
    actor: str
    revertible: timedelta
    email_key: str | None = None
    refused_only: bool = False


def begin(crew: Crew, plan_id: UUID, wish: Wish) -> None:
    """Have people moved back."""
    with crew.database.begin() as session:
        session.execute(
            update(MoveRow)
            .where(*_chosen(plan_id, wish))
            .values(
                status=MoveStatus.REVERTING.value,
                due_at=crew.clock(),
                reason="",
                reversal_reason=wish.reason,
                reversal_actor=wish.actor,
            )
        )


def _chosen(plan_id: UUID, wish: Wish) -> list[ColumnElement[bool]]:
    wanted = [MoveRow.plan_id == plan_id, MoveRow.status == MoveStatus.MOVED.value]
    if wish.email_key is not None:
        wanted.append(MoveRow.email_key == wish.email_key)
    if wish.refused_only:
        wanted.append(MoveRow.refusal != "")
    return wanted


def is_known(crew: Crew, plan_id: UUID, email_key: str) -> bool:
    """Whether somebody with this address was moved by a plan, or back already."""
    moved = select(MoveRow.user_id).where(
        MoveRow.plan_id == plan_id,
        MoveRow.email_key == email_key,
        MoveRow.status != MoveStatus.PENDING.value,
    )
    with crew.database.read() as session:
        return session.scalar(moved) is not None


def rehearse(crew: Crew, plan_id: UUID, wish: Wish) -> list[str]:
    """Who could not be moved back, and why; nothing is written."""
    with crew.database.read() as session:
        chosen = session.scalars(select(MoveRow).where(*_chosen(plan_id, wish))).all()
    whys = _kept(crew, chosen, wish)
    return [f"{each.email}: {why}" for each, why in zip(chosen, whys, strict=True) if why]


def kept(crew: Crew, plan_id: UUID) -> list[str]:
    """Who stays moved although it was to be undone, and why."""
    query = select(MoveRow.email, MoveRow.reason).where(
        MoveRow.plan_id == plan_id, MoveRow.status == MoveStatus.MOVED.value, MoveRow.reason != ""
    )
    with crew.database.read() as session:
        return [f"{row.email}: {row.reason}" for row in session.execute(query)]


def revert(crew: Crew, plan_id: UUID, wish: Wish, progress: Progress) -> None:
    """Move back whom :func:`begin` has chosen; who cannot be stays moved, with the reason."""

    def undo(taken: Sequence[MoveRow]) -> tuple[int, list[Undone]]:
        whys = dict(zip((each.user_id for each in taken), _kept(crew, taken, wish), strict=True))
        held = [each for each in taken if whys[each.user_id] and each.transaction_id]
        whys |= {each.user_id: "" for each in _reversed_before(crew, held)}
        paid = [each for each in taken if not whys[each.user_id] and each.transaction_id]
        results = _post(crew, paid)
        crash_point("legacy.reversed")
        refused = {
            each.user_id: crew.refused(each, result.error)
            for each, result in zip(paid, results, strict=True)
            if result.error is not None
        }
        waiting = [each for each in refused.values() if each.due_at is not None]
        whys |= {each.move.user_id: each.reason for each in refused.values()}
        back = [each for each in taken if not whys[each.user_id]]
        kept = [each for each in taken if whys[each.user_id]]
        with crew.database.begin() as session:
            _record(session, crew.clock(), back)
            later = {each.move.user_id for each in waiting}
            rows = [(each.user_id, each.attempt, whys[each.user_id][:500]) for each in kept]
            with Batch(session) as writes:
                writes.add(_KEEP, [row for row in rows if row[0] not in later])
        progress.count(0, len(kept) - len(waiting))
        return len(back), waiting

    crew.work(plan_id, MoveStatus.REVERTING, undo, progress)


def _reversed_before(crew: Crew, paid: Sequence[MoveRow]) -> list[MoveRow]:
    """Whose payment a run reversed that ended right after it: whatever became of the wallet since,
    nothing is left but to write it down."""
    results = _post(crew, paid, dry_run=True)
    return [
        each
        for each, result in zip(paid, results, strict=True)
        if result.reply is not None and result.reply.get("replayed")
    ]


def _post(crew: Crew, paid: Sequence[MoveRow], *, dry_run: bool = False) -> list[BatchResult]:
    if not paid:
        return []
    commands = [BatchCommand.of(moves.reversal(each)) for each in paid]
    return crew.post(commands, dry_run=dry_run)


def _record(session: Session, now: datetime, back: Sequence[MoveRow]) -> None:
    if not back:
        return
    rows = [(each.user_id, each.attempt, now) for each in back]
    recorded = set(_RECORD.scalars(session, rows))
    opening.close_accounts(
        session, now, {each.user_id: each.holdings for each in back if each.user_id in recorded}
    )
    told = [
        (_moved_back(each, now), current_call.get()) for each in back if each.user_id in recorded
    ]
    with Batch(session) as writes:
        store(writes, told)


def _moved_back(move: MoveRow, now: datetime) -> PersonMovedBack:
    return PersonMovedBack(
        event_id=new_id(),
        occurred_at=now,
        user_id=move.user_id,
        email=move.email or None,
        deployment_ids=[each.deployment_id for each in moves.services_of(move)],
        was_refused=bool(move.refusal),
    )


def _kept(crew: Crew, moved: Sequence[MoveRow], wish: Wish) -> list[str]:
    """Why each of them stays moved; empty for who can be moved back."""
    now = crew.clock()
    wallets: dict[UUID, Wallet] = {}
    for start in range(0, len(moved), WALLETS_AT_ONCE):
        some = [each.user_id for each in moved[start : start + WALLETS_AT_ONCE]]
        found = crew.rpc.call(GetWallets(user_ids=some)).wallets
        wallets |= {wallet.user_id: wallet for wallet in found}
    with crew.database.read() as session:
        used = opening.used(session, [each.user_id for each in moved])
    return [
        USED
        if each.user_id in used
        else _why_kept(crew, now, each, wallets.get(each.user_id), wish)
        for each in moved
    ]


def _why_kept(crew: Crew, now: datetime, move: MoveRow, wallet: Wallet | None, wish: Wish) -> str:
    if move.moved_at is None or move.moved_at + wish.revertible < now:
        return TOO_LATE
    if wallet is None:
        return ""
    return SPENT if wallet.held_micros or _has_spent(crew, move) else ""


def _has_spent(crew: Crew, move: MoveRow) -> bool:
    """Whether anything ever left the wallet, but by reversing what a move paid into it."""
    cursor = None
    while True:
        page = crew.rpc.call(Statement(user_id=move.user_id, cursor=cursor, limit=200))
        if any(each.amount_micros < 0 and not _is_reversal(each) for each in page.transactions):
            return True
        cursor = page.next_cursor
        if cursor is None:
            return False


def _is_reversal(transaction: Transaction) -> bool:
    is_correction = transaction.corrects_transaction_id is not None
    return is_correction and transaction.kind is TransactionKind.ADJUSTMENT
