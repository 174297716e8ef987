"""/admin/operations: which services live, what waits in their queues, and their dead letters."""

from collections.abc import Callable
from datetime import timedelta

from flask import Blueprint, flash, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from chassis.clock import utc_now
from contracts import operating
from contracts.analytics import GetNumbers, Step
from contracts.errors import Conflict, NotFound
from contracts.operating import SERVICES, GetDeadLetters
from contracts.topup import GetOperatorSwitch
from services.gateway.access import Role
from services.gateway.backend import ask_all, call
from services.gateway.errors import STATUSES, Problem
from services.gateway.people.users import ReasonMissing
from services.gateway.staff import commands, services
from services.gateway.staff.acts import Actor, read_reason
from services.gateway.staff.guard import acts, current_staff, reads

blueprint = Blueprint("admin_operations", __name__, url_prefix="/admin/operations")

TOPUPS_FOR = timedelta(days=7)
LETTERS_MAX = 50
CAUSES_MAX = 15

Answer = Response | str | tuple[str, int]


@blueprint.get("")
@reads(Role.OPERATOR)
def overview() -> str:
    now = utc_now()
    found = services.ask()
    numbers, switch = ask_all(
        GetNumbers(since=now - TOPUPS_FOR, until=now, step=Step.DAY), GetOperatorSwitch()
    )
    return render_template(
        "admin/operations.html",
        services=found,
        failed=numbers.topups_failed[:CAUSES_MAX] if numbers else None,
        days=TOPUPS_FOR.days,
        charges=switch,
        switches=services.switches(),
    )


@blueprint.get("/<string(maxlength=40):service>")
@reads(Role.OPERATOR)
def dead_letters(service: str) -> str:
    return _letters(_known(service))


@blueprint.post("/<string(maxlength=40):service>/<string(maxlength=40):message>/replay")
@acts(Role.OPERATOR)
def replay(service: str, message: str) -> Answer:
    return _act(service, message, commands.replay, "It is back in its queue, its tries anew.")


@blueprint.post("/<string(maxlength=40):service>/<string(maxlength=40):message>/discard")
@acts(Role.OPERATOR)
def discard(service: str, message: str) -> Answer:
    return _act(service, message, commands.discard, "It is discarded.")


def _act(
    service: str, message: str, act: Callable[[Actor, str, str, str], object], sentence: str
) -> Answer:
    name, typed = _known(service), request.form.get("reason", "")
    try:
        act(current_staff().actor(), name, message, read_reason(typed))
    except (ReasonMissing, Conflict, NotFound) as error:
        said = {"message": message, "typed": typed, "error": error}
        return _letters(name, **said), STATUSES[error.code]
    flash(sentence, "success")
    return redirect(url_for("admin_operations.dead_letters", service=name), 303)


def _letters(service: str, **said: object) -> str:
    found = call(operating.of(service, GetDeadLetters)(limit=LETTERS_MAX))
    return render_template("admin/dead_letters.html", service=service, found=found, **said)


def _known(service: str) -> str:
    if service not in SERVICES:
        raise Problem(404, "not_found", "There is no service of this name.")
    return service
