"""/dashboard/notifications: what happened to the account, newest first."""

from uuid import UUID

from flask import Blueprint, flash, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from chassis.clock import utc_now
from chassis.money import InvalidAmount, format_usd
from contracts.wallet import GetLevel, SetLevel
from services.gateway.backend import ask, call, database
from services.gateway.errors import Problem
from services.gateway.models import Notification
from services.gateway.notifications import storage
from services.gateway.pages import attention
from services.gateway.pages.forms import command_key, optional_money, read_id, return_path
from services.gateway.pages.glance import glance
from services.gateway.people.identity import login_required, signed_in_user

blueprint = Blueprint("notifications", __name__)

PAGE_SIZE = 25


def asking(user_id: UUID) -> list[Notification]:
    """The newest unread notifications that ask for something."""
    if not glance(user_id).asks_for_something:
        # Hardly ever there is one, and looking costs a fraction of reading them.
        return []
    with database().read() as session:
        kinds = attention.EVENTS_WITHOUT_A_STATE
        return storage.newest(session, user_id, unread_only=True, kinds=kinds)


@blueprint.get("/dashboard/notifications")
@login_required
def listing() -> str:
    user_id = signed_in_user().user_id
    with database().read() as session:
        found = storage.newest(session, user_id, before=_before(), limit=PAGE_SIZE + 1)
    return render_template(
        "notifications.html",
        notifications=found[:PAGE_SIZE],
        alert=ask(GetLevel(user_id=user_id)),
        next_before=found[PAGE_SIZE - 1].notification_id if len(found) > PAGE_SIZE else None,
    )


@blueprint.post("/dashboard/notifications/alert")
@login_required
def set_alert() -> Response:
    """The balance below which the user wants to be told; empty for none."""
    user_id = signed_in_user().user_id
    try:
        threshold_micros = optional_money(request.form.get("threshold", ""), "Balance alert")
    except InvalidAmount as error:
        flash(str(error), "danger")
        return redirect(url_for("notifications.listing"), 303)
    call(
        SetLevel(
            idempotency_key=command_key(user_id, "alert"),
            user_id=user_id,
            threshold_micros=threshold_micros,
        )
    )
    if threshold_micros is None:
        flash("The balance alert is off.", "success")
    else:
        flash(
            f"You will be told when your balance is below {format_usd(threshold_micros)}.",
            "success",
        )
    return redirect(url_for("notifications.listing"), 303)


@blueprint.post("/dashboard/notifications/read")
@login_required
def mark_read() -> Response:
    """One notification, or all of them when the form names none."""
    user_id, wanted = signed_in_user().user_id, request.form.get("notification_id", "")
    with database().begin() as session:
        storage.mark_read(session, utc_now(), user_id, _id(wanted) if wanted else None)
    return redirect(return_path(url_for("notifications.listing")), 303)


def _before() -> UUID | None:
    text = request.args.get("before")
    return _id(text) if text else None


def _id(text: str) -> UUID:
    try:
        return read_id(text)
    except ValueError:
        raise Problem(404, "not_found", "There is no such notification.") from None
