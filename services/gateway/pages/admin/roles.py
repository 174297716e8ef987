"""/admin/roles: who has which role, and giving and taking them."""

from flask import Blueprint, flash, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from chassis.clock import utc_now
from contracts.errors import Conflict, NotFound
from services.gateway.access import Role
from services.gateway.backend import database, settings
from services.gateway.errors import STATUSES, Problem
from services.gateway.people.users import ReasonMissing
from services.gateway.staff import grants
from services.gateway.staff.acts import read_reason
from services.gateway.staff.guard import acts, current_staff, reads

blueprint = Blueprint("admin_roles", __name__, url_prefix="/admin/roles")

Answer = Response | tuple[str, int]


@blueprint.get("")
@reads(Role.OPERATOR)
def overview() -> str:
    return _page()


@blueprint.post("/grant")
@acts(Role.OPERATOR)
def grant() -> Answer:
    return _change(grants.grant, "It is given.")


@blueprint.post("/take")
@acts(Role.OPERATOR)
def take() -> Answer:
    return _change(grants.take, "It is taken away.")


def _change(change: grants.Change, sentence: str) -> Answer:
    typed = {name: request.form.get(name, "") for name in ("whom", "role", "reason")}
    try:
        reason = read_reason(typed["reason"])
        with database().begin() as session:
            user = grants.find(session, typed["whom"])
            if change is grants.grant:
                grants.check_address(user, sends_mails=settings().smtp_url is not None)
            change(
                session,
                utc_now(),
                current_staff().actor(),
                user.user_id,
                _role(typed["role"]),
                reason,
            )
    except (ReasonMissing, Conflict, NotFound) as error:
        return _page(typed=typed, error=error), STATUSES[error.code]
    flash(sentence, "success")
    return redirect(url_for("admin_roles.overview"), 303)


def _role(name: str) -> Role:
    role = next((role for role in grants.GIVEN if role == name), None)
    if role is None:
        raise Problem(422, "bad_request", "Choose a role of the list.", {"field": "role"})
    return role


def _page(**said: object) -> str:
    with database().read() as session:
        holders = grants.holders(session)
    return render_template("admin/roles.html", holders=holders, given=grants.GIVEN, **said)
