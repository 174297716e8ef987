"""/dashboard/wallet/auto-topup: the settings of automatic charges, and asking for one."""

import hashlib
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from pydantic import ValidationError
from werkzeug.wrappers import Response

from chassis.money import InvalidAmount
from contracts.errors import ServiceError
from contracts.topup import (
    AutoTopupStatus,
    ChargeForecast,
    ConfigureAutoTopup,
    ForecastCharges,
    GetAutoTopup,
    ListPaymentMethods,
    PaymentMethod,
    PlannedCharge,
    TriggerAutoTopup,
)
from services.gateway.backend import ask, call
from services.gateway.errors import STATUSES
from services.gateway.pages.cards import say_what_happened
from services.gateway.pages.formats import plain_dollars
from services.gateway.pages.forms import (
    charged_micros,
    command_key,
    keep_terms,
    money_field,
    optional_money_field,
    positive_money_field,
    said_field,
)
from services.gateway.people.identity import login_required, signed_in_user
from services.gateway.people.users import CurrentUser

blueprint = Blueprint("auto_topup", __name__)

THRESHOLD_SUGGESTED = "10"
AMOUNT_SUGGESTED = "25"

# The field of the form that an error of the service is about.
_FIELDS = {
    "threshold_micros": "threshold",
    "topup_amount_micros": "amount",
    "payment_method_id": "payment_method_id",
    "backup_payment_method_id": "backup_payment_method_id",
    "daily_limit_micros": "daily_limit",
    "monthly_limit_micros": "monthly_limit",
    "consent": "consent",
    "consent_version": "consent",
}

_TERMS = (
    "threshold",
    "amount",
    "payment_method_id",
    "backup_payment_method_id",
    "daily_limit",
    "monthly_limit",
)


@dataclass(frozen=True)
class SettingsForm:
    """The form's fields as text, either as they are saved or as they were typed."""

    enabled: bool
    threshold: str
    amount: str
    payment_method_id: str
    backup_payment_method_id: str
    daily_limit: str
    monthly_limit: str
    error: str = ""
    error_field: str = ""
    charges: tuple[PlannedCharge, ...] = ()
    """What the person is to know before it is saved: this is charged then."""
    agreed_terms: str = ""
    """The terms for which the box was ticked a moment ago; empty where it is to be ticked."""

    @property
    def charge_micros(self) -> int:
        return charged_micros(self.charges)


@blueprint.get("/dashboard/wallet/auto-topup")
@login_required
def settings() -> str | Response:
    user = signed_in_user()
    if request.args.get("card_setup") == "cancelled":
        say_what_happened()
        return redirect(url_for("auto_topup.settings"), 303)
    status = call(GetAutoTopup(user_id=user.user_id))
    return _page(user, status, _saved(status))


@blueprint.post("/dashboard/wallet/auto-topup")
@login_required
def configure() -> Response | str | tuple[str, int]:
    """Save. What would charge the card at once is said first, and saved when sent again."""
    user = signed_in_user()
    try:
        command = _command(user)
        charges = _charges(command)
        if charged_micros(charges) > said_field("charge_said"):
            agreed_terms = _terms() if command.consent else ""
            return _again(user, charges=tuple(charges), agreed_terms=agreed_terms)
        status = call(command)
    except InvalidAmount as error:
        return _again(user, error=str(error)), 422
    except ValidationError:
        wrong = {"error": "Choose one of your cards.", "error_field": "payment_method_id"}
        return _again(user, **wrong), 422
    except ServiceError as error:
        name = _FIELDS.get(error.details[0], "") if error.details else ""
        return _again(user, error=str(error), error_field=name), STATUSES.get(error.code, 502)
    if not status.enabled:
        flash("Auto top-up is off. Nothing is charged by itself any more.", "info")
    elif status.in_flight_topup_id:
        flash("Auto top-up is on, and your card is being charged now.", "success")
    else:
        flash("Auto top-up is on.", "success")
    return redirect(url_for("auto_topup.settings"), 303)


def wants_switching_on() -> bool:
    """Whether the form buys with auto top-up, which it switches on."""
    return bool(request.form.get("switch_on"))


def check_switching_on() -> None:
    """Raises what saving these terms would, before anything is bought by them."""
    try:
        call(_switching_on(signed_in_user()).model_copy(update={"dry_run": True}))
    except (InvalidAmount, ServiceError):
        keep_terms()
        raise


def switch_on() -> None:
    """Save the terms that stand in the form that bought something: auto top-up pays for it then.

    More than the form announced is charged by nobody: where saving would set that off, it is left
    to the page of the settings, which says so first. Raises ``InvalidAmount`` and ``ServiceError``.
    """
    command = _switching_on(signed_in_user())
    charges = call(command.model_copy(update={"dry_run": True})).charges
    said_micros = max(said_field("lacking_said"), command.topup_amount_micros or 0)
    if len(charges) > 1 or charged_micros(charges) > said_micros:
        flash(
            "Auto top-up would charge more than you were told, so it was not switched on. Your"
            " purchase is kept: pay for it here, or look at the settings of auto top-up.",
            "warning",
        )
        return
    call(command)


def _switching_on(user: CurrentUser) -> ConfigureAutoTopup:
    """The few terms that a form has beside what it buys."""
    return ConfigureAutoTopup(
        idempotency_key=command_key(user.user_id, "auto-topup"),
        user_id=user.user_id,
        enabled=True,
        threshold_micros=money_field("threshold", "When credits are below"),
        topup_amount_micros=positive_money_field("topup_amount", "Purchase this amount"),
        payment_method_id=request.form.get("switch_on", "")[:255],
        consent=bool(request.form.get("consent")),
        consent_version=request.form.get("consent_version", "")[:40],
        client_address=(request.remote_addr or "")[:64],
    )


@blueprint.get("/dashboard/wallet/auto-topup/trigger")
@login_required
def confirm_trigger() -> str | Response:
    """What asking for an automatic top-up now would charge, and the button that does it."""
    forecast = _forecast_by_hand(signed_in_user())
    if not forecast.charges:
        flash(forecast.reason or "Nothing would be charged now.", "warning")
        return redirect(url_for("auto_topup.settings"), 303)
    return render_template(
        "auto_topup_now.html",
        forecast=forecast,
        charge_micros=charged_micros(forecast.charges),
    )


@blueprint.post("/dashboard/wallet/auto-topup/trigger")
@login_required
def trigger() -> Response:
    """Ask for an automatic top-up now, within the same settings and limits.

    Where it would charge more than the person was told, they are asked first.
    """
    user = signed_in_user()
    back = url_for("auto_topup.settings")
    forecast = _forecast_by_hand(user)
    if charged_micros(forecast.charges) > said_field("charge_said"):
        return redirect(url_for("auto_topup.confirm_trigger"), 303)
    try:
        outcome = call(
            TriggerAutoTopup(
                idempotency_key=command_key(user.user_id, "trigger"), user_id=user.user_id
            )
        )
    except ServiceError as error:
        flash(str(error), "danger")
        return redirect(back, 303)
    if outcome.topup is None:
        flash(outcome.refusal_reason, "warning")
        return redirect(back, 303)
    return redirect(url_for("topups.follow", topup_id=outcome.topup.topup_id), 303)


def _forecast_by_hand(user: CurrentUser) -> ChargeForecast:
    return call(ForecastCharges(user_id=user.user_id, is_by_hand=True))


def _command(user: CurrentUser) -> ConfigureAutoTopup:
    """What the form says. Switching off needs nothing else of it, and must always work.

    A field that the form lacks leaves its setting as it is saved.
    """
    key = command_key(user.user_id, "auto-topup")
    if not request.form.get("enabled"):
        return ConfigureAutoTopup(idempotency_key=key, user_id=user.user_id, enabled=False)
    given: dict[str, Any] = {}
    if request.form.get("payment_method_id"):
        given["payment_method_id"] = request.form["payment_method_id"]
    if "backup_payment_method_id" in request.form:
        given["backup_payment_method_id"] = request.form["backup_payment_method_id"] or None
    for name, label in (("daily_limit", "Daily limit"), ("monthly_limit", "Monthly limit")):
        if name in request.form:
            given[f"{name}_micros"] = _limit(name, label)
    return ConfigureAutoTopup(
        idempotency_key=key,
        user_id=user.user_id,
        enabled=True,
        threshold_micros=money_field("threshold", "When credits are below"),
        topup_amount_micros=positive_money_field("amount", "Purchase this amount"),
        consent=_agrees(),
        consent_version=request.form.get("consent_version", "")[:40],
        client_address=(request.remote_addr or "")[:64],
        **given,
    )


def _limit(name: str, label: str) -> int | None:
    """None where the field is empty, and nowhere else: zero is not a way to write no limit."""
    limit_micros = optional_money_field(name, label)
    if limit_micros == 0:
        raise InvalidAmount(f"{label}: enter more than $0, or leave it empty for no limit.")
    return limit_micros


def _agrees() -> bool:
    """Whether the box was ticked for these terms.

    A box that we ticked again, because the person had ticked it a moment ago, speaks for the
    terms that stood beside it then, and for no others.
    """
    ticked_for = request.form.get("agreed_terms")
    return bool(request.form.get("consent")) and ticked_for in (None, "", _terms())


def _terms() -> str:
    """The terms of the form that was sent, in a few characters."""
    fields = [request.form.get(name, "").strip() for name in _TERMS]
    return hashlib.sha256(repr(fields).encode()).hexdigest()[:16]


def _charges(command: ConfigureAutoTopup) -> list[PlannedCharge]:
    """What saving would set off. Switching off charges nothing, and must always work."""
    if not command.enabled:
        return []
    return call(command.model_copy(update={"dry_run": True})).charges


def _saved(status: AutoTopupStatus) -> SettingsForm:
    def dollars(amount_micros: int | None, otherwise: str) -> str:
        return otherwise if amount_micros is None else plain_dollars(amount_micros)

    def card_id(card: PaymentMethod | None) -> str:
        return card.payment_method_id if card else ""

    daily, monthly = status.daily_limit, status.monthly_limit
    return SettingsForm(
        enabled=status.enabled,
        threshold=dollars(status.threshold_micros, THRESHOLD_SUGGESTED),
        amount=dollars(status.topup_amount_micros, AMOUNT_SUGGESTED),
        payment_method_id=card_id(status.payment_method),
        backup_payment_method_id=card_id(status.backup_payment_method),
        daily_limit=dollars(daily.limit_micros if daily else None, ""),
        monthly_limit=dollars(monthly.limit_micros if monthly else None, ""),
    )


def _again(user: CurrentUser, **said: Any) -> str:
    """The form again, as it was typed, with what is wrong or what is to be known."""
    form = SettingsForm(
        enabled=bool(request.form.get("enabled")),
        threshold=request.form.get("threshold", ""),
        amount=request.form.get("amount", ""),
        payment_method_id=request.form.get("payment_method_id", ""),
        backup_payment_method_id=request.form.get("backup_payment_method_id", ""),
        daily_limit=request.form.get("daily_limit", ""),
        monthly_limit=request.form.get("monthly_limit", ""),
        **said,
    )
    return _page(user, call(GetAutoTopup(user_id=user.user_id)), form)


def _page(user: CurrentUser, status: AutoTopupStatus, form: SettingsForm) -> str:
    cards = ask(ListPaymentMethods(user_id=user.user_id))
    return render_template(
        "auto_topup.html",
        status=status,
        form=form,
        cards=cards.payment_methods if cards else [],
        card_is_coming=request.args.get("card_setup") == "done",
    )
