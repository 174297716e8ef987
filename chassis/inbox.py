"""The inbox: what a service has already handled, recorded in the transaction of the effect."""

from collections.abc import Iterable
from uuid import UUID

from sqlalchemy.orm import Session

from chassis.bulk import Bulk
from chassis.clock import utc_now

_RECORD = Bulk(
    "INSERT INTO inbox ({columns}) SELECT * FROM {rows} ON CONFLICT DO NOTHING RETURNING event_id",
    event_id="uuid",
    handler="text",
    handled_at="timestamptz",
)


def is_new(session: Session, event_id: UUID, handler: str) -> bool:
    """Record that ``handler`` handles this event; False when it did so before.

    A second delivery that comes while the first is still being handled waits here for the
    first one's commit, and then is not new.
    """
    return bool(new_ones(session, [event_id], handler))


def new_ones(session: Session, event_ids: Iterable[UUID], handler: str) -> set[UUID]:
    """Record that ``handler`` handles these events; those that it did not handle before.

    See :func:`is_new`. They are recorded in one order, so that whoever handles some of them at the
    same moment waits, and neither waits for the other.
    """
    now = utc_now()
    rows = [(event_id, handler, now) for event_id in sorted(event_ids)]
    return set(_RECORD.scalars(session, rows))
