"""What somebody had in the old system, for reading: taken out of the archived document."""

from decimal import Decimal

from sqlalchemy import select
from sqlalchemy.orm import Session

from contracts.errors import NotFound
from contracts.legacy import GetOldHistory, OldEntry, OldHistory
from contracts.legacy import OldService as ShownService
from services.legacy.models import LineRow, MoveRow, PlanRow
from services.legacy.planning.judging import shown
from services.legacy.reading import documents
from services.legacy.reading.amounts import in_dollars, plain
from services.legacy.reading.documents import TFP, USD, OldAmount, OldService, OldTransaction

MICROS_MAX = 2**63 - 1


def old_history(session: Session, request: GetOldHistory) -> OldHistory:
    """Raises ``NotFound`` for who was not moved, was moved back, or deleted the account."""
    found = session.execute(
        select(MoveRow, LineRow, PlanRow)
        .join(LineRow, LineRow.line_id == MoveRow.line_id)
        .join(PlanRow, PlanRow.plan_id == MoveRow.plan_id)
        .where(MoveRow.user_id == request.user_id, MoveRow.status.in_(["moved", "reverting"]))
    ).one_or_none()
    if found is None or found.MoveRow.moved_at is None or not found.LineRow.document:
        raise NotFound("This account did not come from the old system.")
    move, line, rate = found.MoveRow, found.LineRow, found.PlanRow.rate
    user = documents.read(line.document.encode())
    page = user.transactions[request.skip : request.skip + request.limit]
    return OldHistory(
        user_id=request.user_id,
        moved_at=move.moved_at,
        rate=plain(rate),
        balance=plain(move.balance),
        unit=TFP,
        balance_micros=move.amount_micros,
        services=[_service(each, rate) for each in user.services],
        entries=[_entry(each, rate) for each in page],
        entries_total=len(user.transactions),
    )


def _entry(old: OldTransaction, rate: Decimal) -> OldEntry:
    return OldEntry(
        kind=shown(old.kind),
        status=shown(old.status),
        at=shown(old.at.text) if old.at else "",
        amount=plain(old.amount.exact) if old.amount else "",
        unit=shown(old.amount.unit) if old.amount else "",
        amount_micros=_micros(old.amount, rate),
        note=shown(old.note),
    )


def _service(old: OldService, rate: Decimal) -> ShownService:
    return ShownService(
        name=shown(old.name),
        status=shown(old.status),
        amount=plain(old.monthly.exact) if old.monthly else "",
        unit=shown(old.monthly.unit) if old.monthly else "",
        amount_micros=_micros(old.monthly, rate),
        renewal=shown(old.renewal.text) if old.renewal else "",
    )


def _micros(amount: OldAmount | None, rate: Decimal) -> int | None:
    """What it is worth: None for other coins, and for more than any account holds."""
    if amount is None or amount.unit not in (TFP, USD):
        return None
    micros = in_dollars(amount.exact, rate if amount.unit == TFP else Decimal(1)).micros
    return micros if abs(micros) <= MICROS_MAX else None
