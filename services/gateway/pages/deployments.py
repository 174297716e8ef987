"""/dashboard/deployments/<id>: one deployment, what it is going to cost, and what can be done."""

from datetime import datetime
from typing import Any
from uuid import UUID

from flask import Blueprint, flash, redirect, render_template, request, url_for
from pydantic import ValidationError
from werkzeug.wrappers import Response

from chassis.clock import utc_now
from contracts.billing import (
    CancelDeployment,
    CancelWhen,
    Deployment,
    DeploymentStatus,
    GetDeployment,
    GetForecast,
    GetUsage,
    ListResizes,
    RenameDeployment,
    ResizeDeployment,
    StartDeployment,
    StopDeployment,
)
from contracts.catalog import GetProduct
from contracts.errors import ServiceError
from contracts.messages import Command
from contracts.wallet import AccountStatus, GetWallet
from services.gateway.backend import ask_all, call, settings
from services.gateway.errors import Problem
from services.gateway.pages.forms import command_key, read_id
from services.gateway.people.identity import login_required, signed_in_user
from services.gateway.showcase import show_if_it_answers

WHAT_IF_DAYS = 92
"""Three months, whichever."""

blueprint = Blueprint(
    "deployments", __name__, url_prefix="/dashboard/deployments/<uuid:deployment_id>"
)


@blueprint.get("")
@login_required
def single(deployment_id: UUID) -> str:
    user_id = signed_in_user().user_id
    deployment = call(GetDeployment(user_id=user_id, deployment_id=deployment_id))
    product = show_if_it_answers(GetProduct(product_id=str(deployment.product_id)))
    runs = deployment.status is DeploymentStatus.ACTIVE
    usage, sizes, wallet, forecast, without = ask_all(
        GetUsage(user_id=user_id, deployment_id=deployment_id),
        ListResizes(user_id=user_id, deployment_id=deployment_id),
        GetWallet(user_id=user_id) if deployment.owed_micros else None,
        _three_months(user_id) if runs else None,
        _three_months(user_id, without=deployment_id) if runs else None,
    )
    now = utc_now()
    return render_template(
        "deployment.html",
        deployment=deployment,
        sizes=sizes.options if sizes else [],
        labels={field.key: field.label for field in product.fields} if product else {},
        usage=usage,
        forecast=forecast,
        without=without,
        is_metered=bool(
            (product and product.meters) or (usage and (usage.days or usage.due_micros))
        ),
        is_frozen=wallet is not None and wallet.status is AccountStatus.FROZEN,
        debt_micros=max(-wallet.available_micros, 0) if wallet else 0,
        now=now,
        owed_for_time_micros=_owed_for_time(deployment),
        month_micros=_month_micros(deployment, now),
        kept_s=settings().kept_s,
    )


@blueprint.post("/name")
@login_required
def rename(deployment_id: UUID) -> Response:
    try:
        command = RenameDeployment(
            **_asked("rename", deployment_id), name=request.form.get("name", "")
        )
    except ValidationError:
        raise Problem(422, "bad_request", "A name has 1 to 100 characters.") from None
    return _carry_out(command, deployment_id, "It is renamed.")


@blueprint.post("/stop")
@login_required
def stop(deployment_id: UUID) -> Response:
    command = StopDeployment(**_asked("stop", deployment_id))
    return _carry_out(command, deployment_id, "It is stopped. Start it again whenever you like.")


@blueprint.post("/start")
@login_required
def start(deployment_id: UUID) -> Response:
    try:
        amount_micros = int(request.form.get("amount_micros", ""))
        command = StartDeployment(
            **_asked("start", deployment_id), expected_amount_micros=amount_micros
        )
    except ValueError:
        raise Problem(422, "bad_request", "Look at what it costs, and start it again.") from None
    return _carry_out(command, deployment_id, "It runs.")


@blueprint.post("/cancel")
@login_required
def cancel(deployment_id: UUID) -> Response:
    try:
        when = CancelWhen(request.form.get("when", ""))
    except ValueError:
        raise Problem(422, "bad_request", "Choose when it is to end.") from None
    command = CancelDeployment(**_asked("cancel", deployment_id), when=when)
    done = "It is deleted." if when is CancelWhen.NOW else "It ends with its month."
    return _carry_out(command, deployment_id, done)


@blueprint.get("/resize")
@login_required
def confirm_resize(deployment_id: UUID) -> str:
    """What another size costs, before it is wished for."""
    user_id = signed_in_user().user_id
    deployment = call(GetDeployment(user_id=user_id, deployment_id=deployment_id))
    sizes = call(ListResizes(user_id=user_id, deployment_id=deployment_id))
    wanted = request.args.get("product_id", "")
    size = next((each for each in sizes.options if str(each.product_id) == wanted), None)
    if size is None:
        raise Problem(404, "not_found", "It has no such size. Go back and choose another one.")
    return render_template(
        "resize.html", deployment=deployment, size=size, quoted_at=sizes.quoted_at.isoformat()
    )


@blueprint.post("/resize")
@login_required
def resize(deployment_id: UUID) -> Response:
    try:
        command = ResizeDeployment(
            **_asked("resize", deployment_id),
            product_id=read_id(request.form.get("product_id", "")),
            expected_amount_micros=int(request.form.get("amount_micros", "")),
            quoted_at=request.form.get("quoted_at", ""),
        )
    except ValueError:
        raise Problem(422, "bad_request", "Choose a size, and look at what it costs.") from None
    return _carry_out(command, deployment_id, "It is resized.")


def _three_months(user_id: UUID, without: UUID | None = None) -> GetForecast:
    return GetForecast(user_id=user_id, days=WHAT_IF_DAYS, without=without, events_max=0)


def _asked(purpose: str, deployment_id: UUID) -> dict[str, Any]:
    """What each command of an owner carries."""
    user_id = signed_in_user().user_id
    return {
        "idempotency_key": command_key(user_id, purpose),
        "user_id": user_id,
        "deployment_id": deployment_id,
    }


def _carry_out(command: Command[Deployment], deployment_id: UUID, done: str) -> Response:
    try:
        call(command)
        flash(done, "success")
    except ServiceError as error:
        flash(str(error), "danger")
    return redirect(url_for("deployments.single", deployment_id=deployment_id), 303)


def _owed_for_time(deployment: Deployment) -> int:
    """What is owed beside what was used: a month, or time that ran."""
    return deployment.owed_micros - deployment.owed_usage_micros


def _month_micros(deployment: Deployment, now: datetime) -> int:
    """What a month that begins now costs."""
    if deployment.new_price_from is not None and deployment.new_price_from <= now:
        return deployment.new_price_micros or 0
    return deployment.monthly_cost_micros
