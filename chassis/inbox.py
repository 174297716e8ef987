"""The inbox: what a service has already handled, recorded in the transaction of the effect."""

from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

_RECORD = text(
    "INSERT INTO inbox (event_id, handler) VALUES (:event_id, :handler)"
    " ON CONFLICT DO NOTHING RETURNING true"
)


def is_new(session: Session, event_id: UUID, handler: str) -> bool:
    """Record that ``handler`` handles this event; False when it did so before.

    A second delivery that comes while the first is still being handled waits here for the
    first one's commit, and then is not new.
    """
    return session.scalar(_RECORD, {"event_id": event_id, "handler": handler}) is not None
