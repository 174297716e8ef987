"""Looking at payouts."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from chassis.cursors import page_by
from contracts.billing import ListPayouts, Payout, PayoutPage, PayoutStatus
from services.billing.models import PayoutRow
from services.billing.payouts.requests import payable_micros
from services.billing.refunds.debts import owed_micros


def list_payouts(session: Session, command: ListPayouts) -> PayoutPage:
    """A page of a user's payouts, or of everybody's, newest first."""
    query = select(PayoutRow)
    if command.user_id is not None:
        query = query.where(PayoutRow.user_id == command.user_id)
    if command.payout_id is not None:
        query = query.where(PayoutRow.payout_id == command.payout_id)
    if command.statuses:
        query = query.where(PayoutRow.status.in_([status.value for status in command.statuses]))
    page, next_cursor = page_by(
        session, query, PayoutRow.payout_id, command.cursor, command.limit, newest_first=True
    )
    users = {row.user_id for row in page}
    if command.user_id is not None:
        users.add(command.user_id)
    owed = owed_micros(session, users)
    return PayoutPage(
        payouts=[as_payout(row, owed[row.user_id]) for row in page],
        payable_micros=payable_micros(session, command.user_id) if command.user_id else 0,
        owed_micros=owed[command.user_id] if command.user_id else 0,
        next_cursor=next_cursor,
    )


def as_payout(row: PayoutRow, owed: int = 0) -> Payout:
    """The contract's view of a row."""
    return Payout(
        payout_id=row.payout_id,
        user_id=row.user_id,
        amount_micros=row.amount_micros,
        status=PayoutStatus(row.status),
        owed_micros=owed,
        reference=row.reference,
        reason=row.reason,
        created_at=row.created_at,
        changed_at=row.changed_at,
    )
