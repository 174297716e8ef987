"""Notifications: what a user is told, by facts that the services publish."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from sqlalchemy import Integer, bindparam, func, select, update
from sqlalchemy.orm import Session

from chassis.bulk import Bulk
from chassis.identifiers import new_id
from contracts.errors import NotFound
from services.gateway.models import Notification
from services.gateway.notifications import mails, topics

Severity = Literal["success", "info", "warning", "danger"]
TITLE_LENGTH_MAX = 200
BODY_LENGTH_MAX = 1000


_TELL = Bulk(
    "INSERT INTO notifications ({columns}) SELECT * FROM {rows}"
    " ON CONFLICT (event_id, kind) DO NOTHING"
    " RETURNING user_id, kind, title, body, link",
    notification_id="uuid",
    user_id="uuid",
    event_id="uuid",
    kind="text",
    severity="text",
    title="text",
    body="text",
    link="text",
    created_at="timestamptz",
    read_at="timestamptz",
)


@dataclass(frozen=True)
class Message:
    """What to tell. ``link`` is a path on this site, an https address, or empty."""

    kind: str
    severity: Severity
    title: str
    body: str
    link: str = ""


def tell(session: Session, now: datetime, user_id: UUID, event_id: UUID, message: Message) -> None:
    """Store a message about an event. The same kind for the same event is stored once."""
    tell_all(session, now, [(user_id, event_id, message)])


def tell_all(
    session: Session, now: datetime, messages: Iterable[tuple[UUID, UUID, Message]]
) -> None:
    """The same of several: the user, the event and its message. Mails go out with it."""
    messages = list(messages)
    quiet = topics.quiet(session, ((user_id, message.kind) for user_id, _, message in messages))
    rows = [
        (
            new_id(),
            user_id,
            event_id,
            message.kind,
            message.severity,
            message.title[:TITLE_LENGTH_MAX],
            message.body[:BODY_LENGTH_MAX],
            message.link,
            now,
            now if (user_id, message.kind) in quiet else None,
        )
        for user_id, event_id, message in messages
    ]
    told = _TELL.execute(session, rows)
    mails.queue(session, now, [tuple(row) for row in told])


def newest(
    session: Session,
    user_id: UUID,
    *,
    unread_only: bool = False,
    kinds: Collection[str] | None = None,
    before: UUID | None = None,
    limit: int = 25,
) -> list[Notification]:
    """A user's notifications, newest first: their ids grow with time, so that they are the order.

    ``before`` is the id of the last one that was seen: the page after it.
    """
    query = _NEWEST_FIRST
    if unread_only:
        query = query.where(Notification.read_at.is_(None))
    if kinds is not None:
        query = query.where(Notification.kind.in_(kinds))
    if before is not None:
        query = query.where(Notification.notification_id < before)
    return list(session.scalars(query, {"user_id": user_id, "limit": limit}))


# Made once: putting a query together takes longer than asking it.
_NEWEST_FIRST = (
    select(Notification)
    .where(Notification.user_id == bindparam("user_id"))
    .order_by(Notification.notification_id.desc())
    .limit(bindparam("limit", type_=Integer))
)


_UNREAD_COUNTS = Bulk(
    "SELECT new.user_id, new.at_most, (SELECT count(*) FROM (SELECT FROM notifications AS found"
    " WHERE found.user_id = new.user_id AND read_at IS NULL LIMIT new.at_most) AS counted)"
    " AS unread FROM {rows}",
    user_id="uuid",
    at_most="bigint",
)


def unread_counts(
    session: Session, questions: Sequence[tuple[UUID, int | None]]
) -> list[int | Exception]:
    """How many each of these users has not read, counted no further than ``at_most`` of each."""
    rows = _UNREAD_COUNTS.execute(session, questions)
    found = {(row.user_id, row.at_most): row.unread for row in rows}
    return [found[question] for question in questions]


def mark_read(session: Session, now: datetime, user_id: UUID, notification_id: UUID | None) -> None:
    """Mark one as read, or all of them for None; the time of the first reading stays.

    Raises ``NotFound`` when the one is not this user's.
    """
    mine = Notification.user_id == user_id
    if notification_id is None:
        session.execute(
            update(Notification).where(mine, Notification.read_at.is_(None)).values(read_at=now)
        )
        return
    found = session.scalar(
        update(Notification)
        .where(mine, Notification.notification_id == notification_id)
        .values(read_at=func.coalesce(Notification.read_at, now))
        .returning(Notification.notification_id)
    )
    if found is None:
        raise NotFound("There is no such notification.")
