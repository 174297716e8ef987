"""/dashboard/wallet/transfer: credits to another user, in two steps."""

from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from chassis.money import InvalidAmount, format_usd
from contracts.errors import (
    NO_ANSWER,
    AccountFrozen,
    BadRequest,
    InsufficientFunds,
    KeyClosed,
    LimitExceeded,
    ServiceError,
)
from contracts.wallet import GetWallet
from services.gateway import transfers
from services.gateway.backend import ask, settings
from services.gateway.errors import STATUSES
from services.gateway.pages.forms import command_key, positive_money_field
from services.gateway.people.identity import login_required, signed_in_user
from services.gateway.people.users import AccountError, InvalidEmail, normalise_email

blueprint = Blueprint("transfers", __name__, url_prefix="/dashboard/wallet/transfer")

Answer = Response | str | tuple[str, int]


@blueprint.get("")
@login_required
def form() -> str:
    return _form()


@blueprint.post("/review")
@login_required
def review() -> Answer:
    """Everything once more, before anything moves. Whether the address has an account is not
    looked up for this."""
    try:
        email = normalise_email(request.form.get("to_email", ""))
        amount_micros = positive_money_field("amount", "Amount")
    except InvalidEmail as error:
        return _form(email_error=str(error)), 422
    except InvalidAmount as error:
        return _form(amount_error=str(error)), 422
    return _review(email, amount_micros)


@blueprint.post("")
@login_required
def send() -> Answer:
    user = signed_in_user()
    email, code = request.form.get("to_email", ""), request.form.get("code", "")
    try:
        amount_micros = positive_money_field("amount", "Amount")
        key = command_key(user.user_id, "transfer")
        transfers.send(user, email, amount_micros, key, code)
    except InvalidAmount as error:
        return _form(amount_error=str(error)), 422
    except AccountError as error:
        return _review(email, amount_micros, error=error), 422
    except BadRequest as error:
        # Without the name of the field, which the form says.
        said = str(error).partition(": ")[2] or str(error)
        sentence = said[:1].upper() + said[1:]
        place = "email_error" if error.field == "to_email" else "amount_error"
        return _form(**{place: sentence}), 422
    except (AccountFrozen, InsufficientFunds, LimitExceeded) as error:
        return _form(amount_error=str(error)), STATUSES[error.code]
    except KeyClosed as error:
        # The form has no key: its review comes with a new one.
        said = "Nothing was sent: this transfer took too long. Review it and send it again."
        return _form(amount_error=said), STATUSES[error.code]
    except NO_ANSWER as error:
        # Perhaps it was sent: the same form, with the same key, is the way to find out.
        said = f"{error} Pressing again is safe: it sends once."
        return _review(email, amount_micros, warning=said), STATUSES[error.code]
    except ServiceError as error:
        return _form(amount_error=str(error)), STATUSES.get(error.code, 502)
    flash(f"You sent {format_usd(amount_micros)} to {email}.", "success")
    return redirect(url_for("wallet.overview"), 303)


def _form(**errors: str) -> str:
    user = signed_in_user()
    return render_template(
        "transfer.html",
        wallet=ask(GetWallet(user_id=user.user_id)),
        allowance=transfers.allowance(user.user_id),
        terms=settings(),
        typed=request.form,
        **errors,
    )


def _review(email: str, amount_micros: int, **said: Any) -> str:
    user = signed_in_user()
    is_checked = amount_micros > transfers.allowance(user.user_id).unchecked_micros
    return render_template(
        "transfer_review.html",
        wallet=ask(GetWallet(user_id=user.user_id)),
        email=email,
        amount_micros=amount_micros,
        asks_for_code=is_checked and user.has_second_step,
        key=request.form.get("key"),
        **said,
    )
