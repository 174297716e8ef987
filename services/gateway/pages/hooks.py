"""/dashboard/account/webhooks: addresses of the user's own that are told what happens."""

from typing import Any
from uuid import UUID

from flask import Blueprint, flash, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from chassis.clock import utc_now
from contracts.errors import Conflict
from services.gateway.backend import database, settings
from services.gateway.hooks import addresses, storage
from services.gateway.people.identity import login_required, signed_in_user
from services.gateway.people.users import TooMany

blueprint = Blueprint("hooks", __name__, url_prefix="/dashboard/account/webhooks")

SHOWN_MAX = 20


@blueprint.get("")
@login_required
def overview() -> str:
    return _page()


@blueprint.post("")
@login_required
def add() -> str | tuple[str, int]:
    url = request.form.get("url", "").strip()
    try:
        addresses.parse(url, private_too=settings().webhooks_to_private_addresses)
        with database().begin() as session:
            hook = storage.add(session, utc_now(), signed_in_user().user_id, url)
    except (addresses.BadAddress, TooMany) as error:
        return _page(typed=url, error=str(error)), 422
    return _page(secret=storage.secret_of(hook, settings().secret_key), secret_of=hook)


@blueprint.post("/<uuid:hook_id>/secret")
@login_required
def renew_secret(hook_id: UUID) -> str:
    with database().begin() as session:
        hook = storage.renew_secret(session, utc_now(), signed_in_user().user_id, hook_id)
    return _page(secret=storage.secret_of(hook, settings().secret_key), secret_of=hook)


@blueprint.post("/<uuid:hook_id>/remove")
@login_required
def remove(hook_id: UUID) -> Response:
    with database().begin() as session:
        user_id = signed_in_user().user_id
        session.delete(storage.get(session, user_id, hook_id, to_change=True))
    flash("Nothing is sent there any more.", "success")
    return redirect(url_for("hooks.overview"), 303)


@blueprint.post("/<uuid:hook_id>/deliveries/<uuid:delivery_id>")
@login_required
def replay(hook_id: UUID, delivery_id: UUID) -> Response:
    try:
        with database().begin() as session:
            storage.replay(session, utc_now(), signed_in_user().user_id, hook_id, delivery_id)
    except Conflict as error:
        flash(str(error), "warning")
    else:
        flash("It is sent once more.", "success")
    return redirect(url_for("hooks.overview"), 303)


def _page(**said: Any) -> str:
    with database().read() as session:
        hooks = [
            (hook, storage.deliveries(session, hook.hook_id, limit=SHOWN_MAX))
            for hook in storage.of_user(session, signed_in_user().user_id)
        ]
    return render_template(
        "webhooks.html",
        hooks=hooks,
        hooks_max=storage.HOOKS_MAX,
        kept_days=settings().mails_kept_days,
        **said,
    )
