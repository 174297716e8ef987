"""/dashboard: the balance and how long it lasts; /dashboard/deployments: what runs."""

from flask import Blueprint, render_template, request
from pydantic import ValidationError

from chassis.clock import utc_now
from contracts.billing import GetBurnRate, ListDeployments, ListPurchases, PurchaseStatus
from contracts.topup import GetAutoTopup
from contracts.wallet import GetWallet
from services.gateway.backend import ask, ask_all, call
from services.gateway.errors import Problem
from services.gateway.pages import attention
from services.gateway.pages.notifications import unread
from services.gateway.pages.projection import project
from services.gateway.people.identity import login_required, signed_in_user

blueprint = Blueprint("dashboard", __name__)

DEAREST_MAX = 10
PAGE_SIZE = 25


@blueprint.get("/dashboard")
@login_required
def overview() -> str:
    """The balance, the burn rate and its projection, what runs, what needs attention."""
    user_id = signed_in_user().user_id
    wallet, burn, auto_topup, waiting = ask_all(
        GetWallet(user_id=user_id),
        GetBurnRate(user_id=user_id, limit=DEAREST_MAX),
        GetAutoTopup(user_id=user_id),
        ListPurchases(
            user_id=user_id,
            statuses=[PurchaseStatus.AWAITING_FUNDS, PurchaseStatus.PENDING],
            limit=5,
        ),
    )
    return render_template(
        "overview.html",
        wallet=wallet,
        burn=burn,
        auto_topup=auto_topup,
        projection=project(utc_now(), burn, auto_topup) if burn else None,
        boxes=attention.boxes(
            wallet,
            auto_topup,
            waiting.purchases if waiting else [],
            burn,
            unread(user_id, attention.EVENTS_WITHOUT_A_STATE),
        ),
    )


@blueprint.get("/dashboard/deployments")
@login_required
def deployments() -> str:
    """Everything that was deployed, newest first, in pages."""
    user_id = signed_in_user().user_id
    try:
        question = ListDeployments(
            user_id=user_id, cursor=request.args.get("cursor") or None, limit=PAGE_SIZE
        )
    except ValidationError:
        raise Problem(422, "bad_request", "This page of deployments does not exist.") from None
    return render_template(
        "deployments.html",
        page=call(question),
        burn=ask(GetBurnRate(user_id=user_id, limit=1)),
        is_later=bool(question.cursor),
    )
