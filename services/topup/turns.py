"""Turns: what is due is taken up for each user in turn, whatever the volume of one of them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import func, inspect, select
from sqlalchemy.orm import InstrumentedAttribute, Session

RowT = TypeVar("RowT")


def next_at(session: Session, due_at: InstrumentedAttribute[Any]) -> datetime | None:
    """When something is due next; a moment that has passed: now."""
    found: datetime | None = session.scalar(select(func.min(due_at)))
    return found


def take(
    session: Session,
    table: type[RowT],
    due_at: InstrumentedAttribute[Any],
    owner: InstrumentedAttribute[Any],
    now: datetime,
    limit: int,
) -> Sequence[RowT]:
    """Rows that are due, locked: the oldest of every owner, then the second of every owner, …

    What somebody else holds is left out. What is due at once goes by its key, which grows with
    time: a forecast of charges relies on the order.
    """
    (key,) = inspect(table).primary_key
    turn = func.row_number().over(partition_by=owner, order_by=(due_at, key))
    waiting = select(key.label("key"), due_at.label("due_at"), turn.label("turn"))
    queue = waiting.where(due_at <= now).subquery()
    chosen = select(queue.c.key).order_by(queue.c.turn, queue.c.due_at).limit(limit)
    return session.scalars(
        select(table)
        .where(key.in_(chosen), due_at <= now)
        .order_by(due_at, key)
        .with_for_update(skip_locked=True)
    ).all()
