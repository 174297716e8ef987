"""/admin/promotions: promotional credit, which expires on a day."""

from datetime import timedelta
from uuid import UUID

from flask import Blueprint, flash, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from chassis.clock import start_of_day, utc_now
from chassis.money import InvalidAmount
from contracts.errors import NO_ANSWER, BadRequest, Conflict, NotFound
from services.gateway.access import Role
from services.gateway.backend import database
from services.gateway.errors import STATUSES
from services.gateway.pages.forms import command_key, positive_money_field
from services.gateway.people import users
from services.gateway.people.users import ReasonMissing
from services.gateway.staff import acts as audit
from services.gateway.staff import commands, grants
from services.gateway.staff.acts import read_reason
from services.gateway.staff.guard import acts, current_staff, reads

blueprint = Blueprint("admin_promotions", __name__, url_prefix="/admin/promotions")

SHOWN = 20
Answer = Response | tuple[str, int]


@blueprint.get("")
@reads(Role.SUPPORT, Role.FINANCE)
def form() -> str:
    return _page()


@blueprint.post("")
@acts(Role.SUPPORT, Role.FINANCE)
def give() -> Answer:
    typed = {name: request.form.get(name, "") for name in ("whom", "amount", "last_day", "reason")}
    staff = current_staff()
    try:
        amount_micros = positive_money_field("amount", "Amount")
        try:
            # All of that day: it ends with it.
            expires_at = start_of_day(typed["last_day"]) + timedelta(days=1)
        except (ValueError, OverflowError):
            return _page(typed=typed, field="last_day", error="A date is like 2026-11-22."), 422
        reason = read_reason(typed["reason"])
        with database().read() as session:
            user_id = grants.find(session, typed["whom"]).user_id
        key = command_key(staff.user.user_id, "promotion")
        commands.give(staff, user_id, amount_micros, expires_at, key, reason)
    except InvalidAmount as error:
        return _page(typed=typed, field="amount", error=str(error)), 422
    except ReasonMissing as error:
        return _page(typed=typed, field="reason", error=str(error)), 422
    except BadRequest as error:
        field = error.field if error.field in typed else "whom"
        return _page(typed=typed, field=field, error=str(error)), 422
    except (Conflict, NotFound) as error:
        return _page(typed=typed, field="whom", error=str(error)), STATUSES[error.code]
    except NO_ANSWER as error:
        # Perhaps it was given: the same form, with the same key, is the way to find out.
        said = f"{error} Pressing again is safe: it is given once."
        return _page(typed=typed, key=request.form.get("key"), warning=said), STATUSES[error.code]
    flash("It is in their wallet. They are told.", "success")
    return redirect(url_for("admin_promotions.form"), 303)


def _page(**said: object) -> str:
    with database().read() as session:
        given = audit.newest_not_refused(session, commands.PROMOTION, SHOWN)
        people = {act.actor_id for act, _ in given} | {UUID(act.subject) for act, _ in given}
        emails = users.emails(session, (each for each in people if each is not None))
    return render_template(
        "admin/promotions.html",
        given=given,
        emails={str(user_id): email for user_id, email in emails.items()},
        today=utc_now().date(),
        **said,
    )
