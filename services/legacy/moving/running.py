"""Moving people: into the wallet by batches, and the fact of it to everybody whom it concerns.

The wallet is asked first, under keys that another try repeats; then the row is written, and with it
the event from which the site makes the person and billing the deployments. A crash between the two
asks once more, and hears the first answer.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from chassis.bulk import Batch, Bulk
from chassis.context import current_call
from chassis.crash_points import crash_point
from chassis.identifiers import new_id
from chassis.outbox import store
from contracts.legacy import PersonMoved
from contracts.wallet import BatchCommand, BatchResult
from services.legacy.models import LineRow, MoveRow
from services.legacy.moving import moves
from services.legacy.moving.moves import MoveStatus, Undone
from services.legacy.moving.work import Crew, Progress
from services.legacy.pools import opening

_RECORD = Bulk(
    "UPDATE moves AS old SET status = 'moved', transaction_id = new.transaction_id,"
    " moved_at = new.moved_at, due_at = NULL, reason = '' FROM {rows}"
    " WHERE old.user_id = new.user_id AND old.attempt = new.attempt AND old.status = 'pending'"
    " RETURNING old.user_id",
    user_id="uuid",
    attempt="integer",
    transaction_id="uuid",
    moved_at="timestamptz",
)


_READY = (LineRow.refusal == "", LineRow.conflicts == [], LineRow.email != "")


def begin(crew: Crew, plan_id: UUID) -> int:
    """Have everybody moved who is ready and was not yet; how many are to be."""
    with crew.database.begin() as session:
        moves.begin(session, crew.clock(), plan_id)
    return waiting(crew, plan_id, MoveStatus.PENDING)


def waiting(crew: Crew, plan_id: UUID, status: MoveStatus) -> int:
    """How many of a plan are in this state."""
    query = select(func.count()).where(MoveRow.plan_id == plan_id, MoveRow.status == status)
    with crew.database.read() as session:
        return session.scalar(query) or 0


def begun_elsewhere(crew: Crew, plan_id: UUID) -> Iterator[str]:
    """Who is ready in a plan and not moved by it, because another plan has begun to: what that
    asked of the wallet may have been done."""
    begun = (
        select(MoveRow.email, MoveRow.plan_id, MoveRow.status)
        .join(LineRow, LineRow.email_key == MoveRow.email_key)
        .where(LineRow.plan_id == plan_id, *_READY, MoveRow.plan_id != plan_id)
        .where(MoveRow.status.in_([MoveStatus.PENDING.value, MoveStatus.REVERTING.value]))
        .order_by(MoveRow.email)
    )
    with crew.database.read() as session:
        for row in session.execute(begun):
            yield f"{row.email}: {row.status} in plan {row.plan_id}: end that one first"


def run(crew: Crew, plan_id: UUID, rate: Decimal, progress: Progress) -> None:
    """Move all that :func:`begin` has made ready."""

    def move(taken: Sequence[MoveRow]) -> tuple[int, list[Undone]]:
        results = crew.post([BatchCommand.of(moves.payment(each, rate)) for each in taken])
        crash_point("legacy.paid")
        with crew.database.begin() as session:
            done = _record(session, crew.clock(), taken, results)
            crash_point("legacy.recorded")
        undone = [
            crew.refused(each, result.error)
            for each, result in zip(taken, results, strict=True)
            if result.error is not None
        ]
        return done, undone

    crew.work(plan_id, MoveStatus.PENDING, move, progress)


def _record(
    session: Session, now: datetime, taken: Sequence[MoveRow], results: Sequence[BatchResult]
) -> int:
    paid = {
        each.user_id: (each, _transaction_of(each, result))
        for each, result in zip(taken, results, strict=True)
        if result.reply is not None
    }
    if not paid:
        return 0
    rows = [(user_id, each.attempt, paid_by, now) for user_id, (each, paid_by) in paid.items()]
    recorded = _RECORD.scalars(session, rows)
    opening.open_accounts(session, now, {each: paid[each][0].holdings for each in recorded})
    with Batch(session) as writes:
        store(
            writes,
            [(_moved(paid[user_id][0], now), current_call.get()) for user_id in sorted(recorded)],
        )
    return len(recorded)


def _transaction_of(move: MoveRow, result: BatchResult) -> UUID | None:
    """The transaction that paid somebody; None where there was nothing to pay."""
    if not move.amount_micros or result.reply is None:
        return None
    return UUID(result.reply["transaction_id"])


def _moved(move: MoveRow, now: datetime) -> PersonMoved:
    return PersonMoved(
        event_id=new_id(),
        occurred_at=now,
        user_id=move.user_id,
        email=move.email,
        balance_micros=move.amount_micros,
        services=moves.services_of(move),
    )


def rehearse(crew: Crew, plan_id: UUID, rate: Decimal, progress: Progress) -> Iterator[str]:
    """What a run would be refused; nothing is written, here or in the wallet."""
    after = UUID(int=0)
    while page := _would_be_moved(crew, plan_id, after):
        after = page[-1].line_id
        commands = [BatchCommand.of(moves.payment(each, rate)) for each in page]
        results = crew.post(commands, dry_run=True)
        refused = [
            f"{each.email}: {result.error.message}"
            for each, result in zip(page, results, strict=True)
            if result.error is not None
        ]
        progress.count(len(page) - len(refused), len(refused))
        yield from refused


def _would_be_moved(crew: Crew, plan_id: UUID, after: UUID) -> list[MoveRow]:
    """As :func:`moves.begin` would have them, some at a time."""
    found = (
        select(LineRow, MoveRow)
        .outerjoin(MoveRow, MoveRow.email_key == LineRow.email_key)
        .where(LineRow.plan_id == plan_id, LineRow.line_id > after, *_READY)
        .where(
            or_(
                MoveRow.status.is_(None),
                MoveRow.status == MoveStatus.REVERTED.value,
                and_(MoveRow.status == MoveStatus.PENDING.value, MoveRow.plan_id == plan_id),
            )
        )
        .order_by(LineRow.line_id)
        .limit(crew.batch)
    )
    with crew.database.read() as session:
        return [_new_move(line, known) for line, known in session.execute(found)]


def _new_move(line: LineRow, known: MoveRow | None) -> MoveRow:
    is_begun = known is not None and known.status == MoveStatus.PENDING
    return MoveRow(
        user_id=known.user_id if known else line.line_id,
        email=line.email,
        plan_id=line.plan_id,
        line_id=line.line_id,
        attempt=(known.attempt if known else 0) + (0 if is_begun else 1),
        balance=line.balance,
        amount_micros=line.amount_micros,
    )
