"""/dashboard/notifications: what happened to the account, newest first."""

from uuid import UUID

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from chassis.clock import utc_now
from services.gateway import notifications
from services.gateway.errors import Problem
from services.gateway.frame import database
from services.gateway.identity import login_required, signed_in_user
from services.gateway.models import Notification
from services.gateway.pages.forms import return_path

blueprint = Blueprint("notices", __name__)

PRESSING_MAX = 3


def unread_count(user_id: UUID) -> int:
    with database().read() as session:
        return notifications.unread_count(session, user_id)


def pressing(user_id: UUID) -> list[Notification]:
    """What stands above the dashboard until it is dismissed: unread warnings and failures."""
    with database().read() as session:
        unread = notifications.page(session, user_id, unread_only=True).notifications
    return [notice for notice in unread if notice.severity in ("warning", "danger")][:PRESSING_MAX]


@blueprint.get("/dashboard/notifications")
@login_required
def listing() -> str:
    with database().read() as session:
        page = notifications.page(session, signed_in_user().user_id, before=_before())
    return render_template("notices.html", page=page)


@blueprint.post("/dashboard/notifications/read")
@login_required
def mark_read() -> Response:
    """One notification, or all of them when the form names none."""
    user_id, wanted = signed_in_user().user_id, request.form.get("notification_id", "")
    with database().begin() as session:
        if wanted:
            notifications.mark_read(session, utc_now(), user_id, _id(wanted))
        else:
            notifications.mark_all_read(session, utc_now(), user_id)
    return redirect(return_path(url_for("notices.listing")), 303)


def _before() -> UUID | None:
    text = request.args.get("before")
    return _id(text) if text else None


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise Problem(404, "not_found", "There is no such notification.") from None
