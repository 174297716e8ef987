"""/admin/adjustments: corrections of wallets, which one person proposes and another approves."""

from collections.abc import Mapping
from uuid import UUID

from flask import Blueprint, flash, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from chassis.money import InvalidAmount
from contracts.errors import NO_ANSWER, BadRequest, Conflict, InsufficientFunds, NotFound
from contracts.wallet import Adjustment, ListAdjustments
from services.gateway.access import Role
from services.gateway.backend import ask_all, database
from services.gateway.errors import STATUSES
from services.gateway.pages.forms import command_key, positive_money_field
from services.gateway.people import users
from services.gateway.people.users import ReasonMissing
from services.gateway.staff import commands, grants
from services.gateway.staff.acts import read_reason
from services.gateway.staff.guard import acts, current_staff, reads

blueprint = Blueprint("admin_adjustments", __name__, url_prefix="/admin/adjustments")

OPEN_MAX, NEWEST = 100, 50
Answer = Response | tuple[str, int]
REFUSED = (BadRequest, Conflict, InsufficientFunds, NotFound)


@blueprint.get("")
@reads(Role.FINANCE)
def listing() -> str:
    return _page()


@blueprint.post("")
@acts(Role.FINANCE)
def propose() -> Answer:
    typed = {name: request.form.get(name, "") for name in ("whom", "direction", "amount", "reason")}
    staff = current_staff()
    try:
        amount_micros = positive_money_field("amount", "Amount")
        reason = read_reason(typed["reason"])
        with database().read() as session:
            user_id = grants.find(session, typed["whom"]).user_id
        signed_micros = -amount_micros if typed["direction"] == "debit" else amount_micros
        key = command_key(staff.user.user_id, "adjustment")
        commands.propose(staff, user_id, signed_micros, key, reason)
    except InvalidAmount as error:
        return _page(typed=typed, field="amount", error=str(error)), 422
    except ReasonMissing as error:
        return _page(typed=typed, field="reason", error=str(error)), 422
    except REFUSED as error:
        return _page(typed=typed, field="whom", error=str(error)), STATUSES[error.code]
    except NO_ANSWER as error:
        # Perhaps it was proposed: the same form, with the same key, is the way to find out.
        said = f"{error} Pressing again is safe: it is proposed once."
        return _page(typed=typed, key=request.form.get("key"), refusal=said), STATUSES[error.code]
    flash("It is proposed. A colleague has seven days to approve it.", "success")
    return _back()


@blueprint.post("/<uuid:adjustment_id>/approve")
@acts(Role.FINANCE)
def approve(adjustment_id: UUID) -> Answer:
    return _decide(adjustment_id, is_approved=True)


@blueprint.post("/<uuid:adjustment_id>/reject")
@acts(Role.FINANCE)
def reject(adjustment_id: UUID) -> Answer:
    return _decide(adjustment_id, is_approved=False)


def _decide(adjustment_id: UUID, *, is_approved: bool) -> Answer:
    staff = current_staff()
    verb = "approve" if is_approved else "reject"
    try:
        reason = read_reason(request.form.get("reason", ""))
        # Of the form that was sent: the same one sent twice is told the same twice.
        key = command_key(staff.user.user_id, f"adjustment:{adjustment_id}:{verb}")
        commands.decide(staff, adjustment_id, is_approved=is_approved, key=key, reason=reason)
    except (ReasonMissing, *REFUSED, *NO_ANSWER) as error:
        return _page(refusal=str(error)), STATUSES[error.code]
    flash("It is posted." if is_approved else "It is rejected; nothing moved.", "success")
    return _back()


def _back() -> Response:
    return redirect(url_for("admin_adjustments.listing"), 303)


def _page(**said: object) -> str:
    waiting, newest = ask_all(
        ListAdjustments(only_open=True, limit=OPEN_MAX), ListAdjustments(limit=NEWEST)
    )
    shown = [*(waiting.adjustments if waiting else ()), *(newest.adjustments if newest else ())]
    return render_template(
        "admin/adjustments.html",
        waiting=waiting.adjustments if waiting else None,
        # The others: what waits stands above.
        newest=[each for each in newest.adjustments if each.status != "proposed"]
        if newest
        else None,
        emails=_emails(shown),
        me=current_staff().user.user_id,
        **said,
    )


def _emails(shown: list[Adjustment]) -> Mapping[UUID, str]:
    people = {
        each
        for adjustment in shown
        for each in (adjustment.user_id, adjustment.proposed_by, adjustment.decided_by)
        if each is not None
    }
    with database().read() as session:
        return users.emails(session, people)
