"""/dashboard: the balance and what becomes of it; /dashboard/deployments: what runs."""

from uuid import UUID

from flask import Blueprint, render_template, request
from pydantic import ValidationError

from chassis.clock import utc_now
from contracts.billing import (
    DeploymentStatus,
    DueCharge,
    Forecast,
    ForecastKind,
    GetBurnRate,
    GetForecast,
    ListDeployments,
    ListPurchases,
    Purchase,
    PurchaseStatus,
)
from contracts.topup import AutoTopupState, AutoTopupStatus, GetAutoTopup, GetAutoTopupState
from contracts.wallet import GetWallet
from services.gateway.backend import ask, ask_all, call_while, note, settings
from services.gateway.errors import Problem
from services.gateway.pages import attention, forecast_chart
from services.gateway.pages.navbar import navbar
from services.gateway.pages.notifications import asking
from services.gateway.people.identity import login_required, signed_in_user

blueprint = Blueprint("dashboard", __name__)

DAYS = 31
"""A month, whichever: what was bought today is due again within them."""
DEAREST_MAX = 10
DUE_MAX = 5
WAITING_MAX = 5
PAGE_SIZE = 25


@blueprint.get("/dashboard")
@login_required
def overview() -> str:
    """The balance, the forecast, the burn rate, what runs, what needs attention."""
    user = signed_in_user()
    user_id = user.user_id
    forecast = ask(
        GetForecast(
            user_id=user_id,
            days=DAYS,
            dearest=DEAREST_MAX,
            waiting=WAITING_MAX,
            events_max=forecast_chart.EVENTS_ASKED,
            with_promotion_ends=True,
        )
    )
    # What the forecast was made of is not asked again, here or for the menu.
    if forecast is not None and forecast.wallet is not None:
        note(GetWallet(user_id=user_id), forecast.wallet)
    if forecast is not None and forecast.auto_topup is not None:
        note(GetAutoTopupState(user_id=user_id), forecast.auto_topup)
    wallet, state = ask_all(GetWallet(user_id=user_id), GetAutoTopupState(user_id=user_id))
    auto_topup = _auto_topup(user_id, state, forecast)
    return render_template(
        "overview.html",
        wallet=wallet,
        forecast=forecast,
        burn=forecast.burn_rate if forecast else None,
        auto_topup=auto_topup,
        chart=forecast_chart.draw(forecast, auto_topup) if forecast else None,
        renewals=_due_next(forecast, ForecastKind.RENEWAL),
        usage=_due_next(forecast, ForecastKind.USAGE),
        boxes=attention.boxes(
            wallet,
            auto_topup,
            forecast.waiting if forecast else _waiting(user_id),
            forecast,
            asking(user_id),
        )
        + (attention.reminders(user, utc_now()) if settings().smtp_url else []),
    )


def _auto_topup(
    user_id: UUID, state: AutoTopupState | None, forecast: Forecast | None
) -> AutoTopupStatus | None:
    """How auto top-up stands. Of whom it is off for, and nothing waits for it, no more is shown
    than the state, and no more is asked."""
    if state is None or state.enabled or forecast is None or forecast.waiting:
        return ask(GetAutoTopup(user_id=user_id))
    return AutoTopupStatus.model_validate(state, from_attributes=True)


def _waiting(user_id: UUID) -> list[Purchase]:
    """The purchases that wait, asked for by themselves where the forecast cannot be told."""
    statuses = [PurchaseStatus.AWAITING_FUNDS, PurchaseStatus.PENDING]
    page = ask(ListPurchases(user_id=user_id, statuses=statuses, limit=WAITING_MAX))
    return page.purchases if page else []


def _due_next(forecast: Forecast | None, kind: ForecastKind) -> list[DueCharge]:
    return [due for due in forecast.due_next if due.kind is kind][:DUE_MAX] if forecast else []


@blueprint.get("/dashboard/deployments")
@login_required
def deployments() -> str:
    """Everything that was deployed, or what is in one state; newest first, in pages."""
    user_id = signed_in_user().user_id
    state = request.args.get("state", "")
    try:
        question = ListDeployments(
            user_id=user_id,
            statuses=[state] if state else [],
            cursor=request.args.get("cursor") or None,
            limit=PAGE_SIZE,
        )
    except ValidationError:
        raise Problem(422, "bad_request", "This page of deployments does not exist.") from None
    page, (burn, _) = call_while(
        question, lambda: (ask(GetBurnRate(user_id=user_id, limit=1)), navbar())
    )
    return render_template(
        "deployments.html",
        page=page,
        burn=burn,
        is_later=bool(question.cursor),
        states=list(DeploymentStatus),
        chosen={"state": state} if state else {},
    )
