"""/admin/charges: the switch that stops all automatic charges, and payments that need a look."""

from collections.abc import Callable

from flask import Blueprint, flash, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from contracts.topup import GetOperatorSwitch, ListProblems
from services.gateway.access import Role
from services.gateway.backend import ask_all
from services.gateway.people.users import ReasonMissing
from services.gateway.staff import commands
from services.gateway.staff.acts import Actor, read_reason
from services.gateway.staff.guard import acts, current_staff, reads

blueprint = Blueprint("admin_charges", __name__, url_prefix="/admin/charges")

PROBLEMS_MAX = 100


@blueprint.get("")
@reads(Role.OPERATOR, Role.FINANCE)
def overview() -> str:
    return _page()


@blueprint.post("/stop")
@acts(Role.OPERATOR)
def stop() -> Response | tuple[str, int]:
    return _turn(commands.stop_charges, "are stopped")


@blueprint.post("/release")
@acts(Role.OPERATOR)
def release() -> Response | tuple[str, int]:
    return _turn(commands.release_charges, "go out again")


def _turn(turn: Callable[[Actor, str], None], are: str) -> Response | tuple[str, int]:
    typed = request.form.get("reason", "")
    try:
        turn(current_staff().actor(), read_reason(typed))
    except ReasonMissing as error:
        return _page(typed=typed, error=error), 422
    flash(f"Automatic charges {are}.", "success")
    return redirect(url_for("admin_charges.overview"), 303)


def _page(**said: object) -> str:
    switch, problems = ask_all(GetOperatorSwitch(), ListProblems(limit=PROBLEMS_MAX))
    return render_template(
        "admin/charges.html",
        switch=switch,
        problems=problems.problems if problems else None,
        **said,
    )
