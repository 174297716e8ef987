"""Stock that was set aside for a purchase, and goes back to the catalog.

What is to be put back is a row of its own, deleted once the catalog has heard of it.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from chassis.identifiers import new_id
from services.billing.models import PurchaseRow, StockReleaseRow

RELEASES_AT_ONCE = 50


def let_go(session: Session, now: datetime, row: PurchaseRow) -> None:
    """Give the locked purchase's stock back to the catalog; the next try takes some anew."""
    session.add(StockReleaseRow(reservation_id=row.reservation_id, requested_at=now))
    row.reservation_id = new_id()
    row.stock_held_until = None


def to_release(session: Session) -> Sequence[UUID]:
    """The reservations that the catalog has yet to be told to put back, oldest first."""
    return session.scalars(
        select(StockReleaseRow.reservation_id)
        .order_by(StockReleaseRow.requested_at)
        .limit(RELEASES_AT_ONCE)
    ).all()


def released(session: Session, reservation_id: UUID) -> None:
    """The catalog has put it back."""
    session.execute(delete(StockReleaseRow).where(StockReleaseRow.reservation_id == reservation_id))
