"""Stock: taken for a purchase once per reservation id, and put back once.

What was taken for a purchase that is not paid is told apart from what is sold, for who looks at the
product; it changes nothing about what there is.
"""

from datetime import datetime
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from chassis.locks import for_update, locked
from contracts.catalog import (
    HoldStock,
    Product,
    ReleaseStock,
    Reservation,
    ReserveStock,
    ReturnStock,
)
from contracts.errors import Conflict, IdempotencyConflict
from services.catalog.models import ProductRow, ReservationLineRow, ReservationRow
from services.catalog.quotes import quantities, refuse_what_is_gone


def reserve(session: Session, now: datetime, command: ReserveStock) -> Reservation:
    """Take the lines out of stock, all or none, once per ``reservation_id``.

    Nothing is stored where there is no end to any of them.

    Raises ``OutOfStock``, ``NotFound``, ``Conflict`` when the reservation was released
    already, ``IdempotencyConflict`` when it was made for other lines.
    """
    wanted = quantities(command.lines)
    if _takes_nothing(session, command.reservation_id, wanted):
        return Reservation(reservation_id=command.reservation_id)
    if not _is_first(session, now, command.reservation_id):
        _check_same(session, command.reservation_id, wanted)
        return Reservation(reservation_id=command.reservation_id)
    # Locked in the order of their ids, so that two reservations never wait for each other.
    rows = session.scalars(
        for_update(
            select(ProductRow)
            .where(ProductRow.product_id.in_(wanted))
            .order_by(ProductRow.product_id)
        )
    )
    found = {row.product_id: row for row in rows}
    for product_id, quantity in wanted.items():
        refuse_what_is_gone(found.get(product_id), product_id, quantity)
        row = found[product_id]
        session.add(
            ReservationLineRow(
                reservation_id=command.reservation_id,
                product_id=product_id,
                quantity=quantity,
                was_counted=row.stock is not None,
            )
        )
        if row.stock is not None:
            row.stock -= quantity
    return Reservation(reservation_id=command.reservation_id)


def release(session: Session, now: datetime, command: ReleaseStock) -> Reservation:
    """Put back what a reservation took, once.

    Releasing one that was not made yet closes its id: a late ``reserve`` then takes nothing.
    """
    reply = Reservation(reservation_id=command.reservation_id)
    first = _is_first(session, now, command.reservation_id)
    reservation = locked(session, ReservationRow, command.reservation_id)
    if reservation.released_at is not None:
        return reply
    reservation.released_at = now
    if first:
        return reply
    lines = session.scalars(
        select(ReservationLineRow)
        .where(
            ReservationLineRow.reservation_id == command.reservation_id,
            ReservationLineRow.was_counted,
        )
        .order_by(ReservationLineRow.product_id)
    )
    for line in lines:
        session.execute(
            update(ProductRow)
            .where(ProductRow.product_id == line.product_id)
            .values(stock=ProductRow.stock + line.quantity)
        )
    return reply


def hold(session: Session, command: HoldStock) -> Reservation:
    """Note until when a reservation is set aside without being paid, or that it is sold."""
    session.execute(
        update(ReservationRow)
        .where(
            ReservationRow.reservation_id == command.reservation_id,
            ReservationRow.released_at.is_(None),
        )
        .values(held_until=command.until)
    )
    return Reservation(reservation_id=command.reservation_id)


def with_held(session: Session, now: datetime, products: list[Product]) -> list[Product]:
    """The same products with what is set aside of each."""
    stocked = [product.product_id for product in products if product.stock is not None]
    if not stocked:
        return products
    line, reservation = ReservationLineRow, ReservationRow
    rows = session.execute(
        select(line.product_id, func.sum(line.quantity), func.min(reservation.held_until))
        .join(reservation, reservation.reservation_id == line.reservation_id)
        .where(
            reservation.held_until > now,
            reservation.released_at.is_(None),
            line.product_id.in_(stocked),
            line.was_counted,
        )
        .group_by(line.product_id)
    )
    held = {
        product_id: {"held": int(units), "held_until": until} for product_id, units, until in rows
    }
    return [product.model_copy(update=held.get(product.product_id, {})) for product in products]


def put_back(session: Session, now: datetime, command: ReturnStock) -> Reservation:
    """Put back what was sold and is given back, once per ``return_id``."""
    if _is_first(session, now, command.return_id):
        row = session.get_one(ReservationRow, command.return_id)
        row.released_at = now
        for product_id, quantity in sorted(quantities(command.lines).items()):
            session.execute(
                update(ProductRow)
                .where(ProductRow.product_id == product_id, ProductRow.stock.is_not(None))
                .values(stock=ProductRow.stock + quantity)
            )
    return Reservation(reservation_id=command.return_id)


def _takes_nothing(session: Session, reservation_id: UUID, wanted: dict[UUID, int]) -> bool:
    """Whether all of it is there without end, so that there is nothing to remember.

    A reservation of which something is known is none of these: it may have been released.
    """
    without_end = session.scalar(
        select(func.count())
        .select_from(ProductRow)
        .where(ProductRow.product_id.in_(wanted), ProductRow.stock.is_(None))
    )
    return without_end == len(wanted) and session.get(ReservationRow, reservation_id) is None


def _is_first(session: Session, now: datetime, reservation_id: UUID) -> bool:
    """Write the reservation's row; False when it is there, after waiting for who writes it."""
    inserted = session.execute(
        insert(ReservationRow)
        .values(reservation_id=reservation_id, created_at=now)
        .on_conflict_do_nothing()
        .returning(ReservationRow.reservation_id)
    )
    return inserted.first() is not None


def _check_same(session: Session, reservation_id: UUID, wanted: dict[UUID, int]) -> None:
    reservation = session.get_one(ReservationRow, reservation_id)
    if reservation.released_at is not None:
        raise Conflict("This reservation was released. Reserve again under a new id.")
    lines = session.scalars(
        select(ReservationLineRow).where(ReservationLineRow.reservation_id == reservation_id)
    )
    if {line.product_id: line.quantity for line in lines} != wanted:
        raise IdempotencyConflict("This reservation was made before, for other products.")
