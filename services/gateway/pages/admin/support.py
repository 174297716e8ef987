"""/admin/users: what is known of a user, opened with a reason, and what support does for them."""

from collections.abc import Callable
from datetime import datetime
from uuid import UUID

from flask import Blueprint, flash, redirect, render_template, request, url_for
from sqlalchemy.orm import Session
from werkzeug.wrappers import Response

from chassis.clock import utc_now
from chassis.digits import whole_number
from chassis.money import format_usd
from contracts.billing import ListDeployments, ListPurchases
from contracts.errors import Conflict, NotFound
from contracts.topup import GetTopupOverview
from contracts.wallet import GetPromotions, GetWallet, Statement
from services.gateway.access import Role
from services.gateway.backend import ask, ask_all, database
from services.gateway.errors import STATUSES, Problem
from services.gateway.notifications import storage
from services.gateway.pages.forms import command_key
from services.gateway.people import sessions
from services.gateway.people.users import ReasonMissing
from services.gateway.staff import acts as audit
from services.gateway.staff import commands, desk, grants
from services.gateway.staff.acts import Actor, read_reason
from services.gateway.staff.guard import acts, current_staff, reads

blueprint = Blueprint("admin_support", __name__, url_prefix="/admin/users")

SHOWN = 10
Answer = Response | str | tuple[str, int]


@blueprint.get("")
@reads(Role.SUPPORT)
def search() -> str:
    return render_template("admin/users.html", typed={"whom": request.args.get("whom", "")})


@blueprint.post("")
@reads(Role.SUPPORT)
def open_file() -> Answer:
    """Why somebody looks stands in the audit log before they see anything."""
    typed = {name: request.form.get(name, "") for name in ("whom", "reason")}
    try:
        reason = read_reason(typed["reason"])
        with database().begin() as session:
            user = grants.find(session, typed["whom"])
            actor = current_staff().actor()
            desk.open_file(session, utc_now(), actor, user.user_id, reason)
    except (ReasonMissing, NotFound) as error:
        page = render_template("admin/users.html", typed=typed, error=error)
        return page, STATUSES[error.code]
    return _to_user(user.user_id)


@blueprint.get("/<uuid:user_id>")
@reads(Role.SUPPORT)
def single(user_id: UUID) -> Answer:
    now = utc_now()
    with database().read() as session:
        if not desk.is_open(session, now, current_staff().user.user_id, user_id):
            return _to_search(user_id)
        user = desk.user_of(session, user_id)
        kept = {
            "roles": grants.in_words(grants.roles_of(session, user_id)),
            "sessions": sessions.open_ones(session, now, user_id),
            "notices": storage.newest(session, user_id, limit=SHOWN),
            "mails": desk.newest_mails(session, user_id, SHOWN),
            "acts": audit.newest(session, subject=str(user_id), limit=SHOWN),
        }
    wallet, statement, topups, purchases, deployments = ask_all(
        GetWallet(user_id=user_id),
        Statement(user_id=user_id, limit=SHOWN),
        GetTopupOverview(user_id=user_id, topups=SHOWN),
        ListPurchases(user_id=user_id, limit=SHOWN),
        ListDeployments(user_id=user_id, limit=SHOWN),
    )
    promotional = ask(GetPromotions(user_id=user_id))
    return render_template(
        "admin/user.html",
        user=user,
        wallet=wallet,
        promotions=promotional.promotions if promotional else [],
        statement=statement,
        topups=topups,
        purchases=purchases,
        deployments=deployments,
        **kept,
    )


@blueprint.post("/<uuid:user_id>/logins")
@acts(Role.SUPPORT)
def end_logins(user_id: UUID) -> Response:
    return _change(user_id, desk.end_logins, "Sessions and API tokens are ended.")


@blueprint.post("/<uuid:user_id>/second-step")
@acts(Role.SUPPORT)
def end_second_step(user_id: UUID) -> Response:
    return _change(user_id, desk.end_second_step, "The second step is off. They are told.")


@blueprint.post("/<uuid:user_id>/mails/<uuid:mail_id>")
@acts(Role.SUPPORT)
def send_again(user_id: UUID, mail_id: UUID) -> Response:
    def act(session: Session, now: datetime, actor: Actor, user_id: UUID, reason: str) -> None:
        desk.send_again(session, now, actor, user_id, mail_id, reason)

    return _change(user_id, act, "It is sent once more.")


@blueprint.post("/<uuid:user_id>/purchases/<uuid:purchase_id>/refund")
@acts(Role.SUPPORT)
def refund(user_id: UUID, purchase_id: UUID) -> Response:
    """The whole purchase, or one line."""

    def act(actor: Actor, reason: str) -> str:
        line = _line()
        key = command_key(current_staff().user.user_id, f"refund:{purchase_id}:{line}")
        refunded_micros = commands.refund(actor, user_id, purchase_id, line, key, reason)
        return (
            f"It is being refunded. {format_usd(refunded_micros)} of the purchase is in their"
            " wallet by now; anything that is missing follows by itself."
        )

    return _at_desk(user_id, act)


Change = Callable[[Session, datetime, Actor, UUID, str], None]


def _change(user_id: UUID, change: Change, sentence: str) -> Response:
    """An act in our own database, and its row, in one transaction."""

    def act(actor: Actor, reason: str) -> str:
        with database().begin() as session:
            change(session, utc_now(), actor, user_id, reason)
        return sentence

    return _at_desk(user_id, act)


def _at_desk(user_id: UUID, act: Callable[[Actor, str], str]) -> Response:
    """Only for a user whose page is open, and who is somebody else. What is done says so."""
    staff = current_staff()
    with database().read() as session:
        if not desk.is_open(session, utc_now(), staff.user.user_id, user_id):
            return _to_search(user_id)
    try:
        desk.require_another(staff.actor(), user_id)
        said = act(staff.actor(), read_reason(request.form.get("reason", "")))
    except (ReasonMissing, Conflict, NotFound) as error:
        flash(str(error), "danger")
    else:
        flash(said, "success")
    return _to_user(user_id)


def _line() -> int | None:
    text = request.form.get("line", "")
    if not text:
        return None
    try:
        return whole_number(text)
    except ValueError:
        raise Problem(422, "bad_request", "Choose a line of the purchase.") from None


def _to_user(user_id: UUID) -> Response:
    return redirect(url_for("admin_support.single", user_id=user_id), 303)


def _to_search(user_id: UUID) -> Response:
    flash("Say first why you look at this user.", "info")
    return redirect(url_for("admin_support.search", whom=user_id), 303)
