"""What the user is told."""

from uuid import UUID

from flask import Blueprint
from pydantic import AwareDatetime, Field

from chassis.clock import utc_now
from services.gateway.api.endpoint import endpoint
from services.gateway.api.shapes import ApiBody, ApiReply, Limit, NoReply, QueryFlag
from services.gateway.backend import database
from services.gateway.notifications import storage
from services.gateway.people.users import CurrentUser

blueprint = Blueprint("api_notifications", __name__)


class NotificationQuery(ApiBody):
    unread: QueryFlag = False
    before: UUID | None = Field(default=None, alias="cursor")
    limit: Limit = 25


class NotificationReply(ApiReply):
    """``severity`` is success, info, warning or danger; ``link`` may be empty."""

    notification_id: UUID
    kind: str
    severity: str
    title: str
    body: str
    link: str
    created_at: AwareDatetime
    read_at: AwareDatetime | None


class NotificationReplies(ApiReply):
    """Newest first; ``next_cursor`` asks for older ones, null at the end."""

    notifications: list[NotificationReply]
    unread_count: int
    next_cursor: UUID | None


@endpoint(
    blueprint,
    "GET",
    "/api/notifications",
    query=NotificationQuery,
    reply=NotificationReplies,
)
def list_notifications(user: CurrentUser, query: NotificationQuery) -> NotificationReplies:
    """The user's notifications."""
    with database().read() as session:
        found = storage.newest(
            session,
            user.user_id,
            unread_only=query.unread,
            before=query.before,
            limit=query.limit + 1,
        )
        (unread,) = storage.unread_counts(session, [(user.user_id, None)])
    shown = found[: query.limit]
    return NotificationReplies(
        notifications=[NotificationReply.of(row) for row in shown],
        unread_count=unread,
        next_cursor=shown[-1].notification_id if len(found) > len(shown) else None,
    )


@endpoint(blueprint, "POST", "/api/notifications/<uuid:notification_id>/read", reply=NoReply)
def read_notification(user: CurrentUser, notification_id: UUID) -> NoReply:
    """Mark a notification as read; doing it twice changes nothing."""
    with database().begin() as session:
        storage.mark_read(session, utc_now(), user.user_id, notification_id)
    return NoReply()
