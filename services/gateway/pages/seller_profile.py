"""/dashboard/selling/profile: who sells, as buyers see them."""

from flask import Blueprint, flash, redirect, render_template, request, url_for
from pydantic import ValidationError
from werkzeug.wrappers import Response

from contracts.catalog import Provider, SetProvider
from contracts.errors import NO_ANSWER, BadRequest, ServiceError
from services.gateway.access import Role
from services.gateway.errors import STATUSES
from services.gateway.pages.forms import command_key, new_key
from services.gateway.people.identity import signed_in_user
from services.gateway.staff import products
from services.gateway.staff.guard import acts, current_staff

blueprint = Blueprint("seller_profile", __name__, url_prefix="/dashboard/selling/profile")

Answer = Response | str | tuple[str, int]

FIELDS = ("name", "about", "support_email", "support_url")
WHY = "By the seller, on the website"
WRONG = {
    "name": "A name has 2 to 80 characters.",
    "about": "Write 500 characters at most.",
    "support_email": "Write an address like help@example.com.",
    "support_url": "Write a page's address that begins with https://.",
}


@blueprint.get("")
@acts(Role.SELLER)
def form() -> str:
    known = _known()
    typed = {name: getattr(known, name) if known else "" for name in FIELDS}
    return _page(typed)


@blueprint.post("/review")
@acts(Role.SELLER)
def review() -> Answer:
    """The name that buyers see once more, before their pages show it."""
    try:
        command = _command()
    except BadRequest as error:
        return _page(_typed(), error), 422
    return _review(command)


@blueprint.post("")
@acts(Role.SELLER)
def save() -> Answer:
    try:
        command = _command()
        products.write_profile(current_staff().actor(), command, WHY)
    except NO_ANSWER as error:
        said = f"{error} Pressing again is safe: it is done once."
        return _review(command, warning=said), STATUSES[error.code]
    except ServiceError as error:
        return _page(_typed(), error), STATUSES.get(error.code, 502)
    flash("Your profile is saved.", "success")
    return redirect(url_for("seller_products.listing"), 303)


def _known() -> Provider | None:
    return products.profile(signed_in_user().user_id)


def _command() -> SetProvider:
    """What the form says. Raises ``BadRequest`` with the field."""
    user_id = signed_in_user().user_id
    typed = _typed()
    typed["about"] = typed["about"].replace("\r\n", "\n")
    try:
        return SetProvider.model_validate(
            {
                **typed,
                "idempotency_key": command_key(user_id, "profile"),
                "provider_id": user_id,
                "reason": WHY,
                "actor": str(user_id),
            }
        )
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        raise BadRequest(WRONG.get(name, "Check what you entered."), name) from None


def _typed() -> dict[str, str]:
    return {name: request.form.get(name, "").strip() for name in FIELDS}


def _page(typed: dict[str, str], error: ServiceError | None = None) -> str:
    at = error.field if isinstance(error, BadRequest) else "name"
    return render_template("seller_profile.html", typed=typed, error=error, at=at)


def _review(command: SetProvider, warning: str = "") -> str:
    return render_template(
        "seller_profile_review.html",
        wanted=command,
        known=_known() if not warning else None,
        fields=_typed(),
        key=request.form.get("key") or new_key(),
        warning=warning,
    )
