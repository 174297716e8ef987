"""Saved cards: add one on the hosted page, choose the default, remove."""

from flask import Blueprint, flash, redirect, request, url_for
from pydantic import ValidationError
from werkzeug.wrappers import Response

from contracts.errors import ServiceError
from contracts.topup import RemovePaymentMethod, SetDefaultPaymentMethod, StartCardSetup
from services.gateway.errors import Problem
from services.gateway.frame import call
from services.gateway.identity import login_required, signed_in_user
from services.gateway.pages.forms import command_key, return_path

blueprint = Blueprint("cards", __name__)


@blueprint.post("/cards")
@login_required
def add() -> Response:
    """To the hosted page that saves a card; it leads back to the page that asked."""
    user = signed_in_user()
    back = return_path(url_for("wallet.overview"))
    try:
        setup = call(
            StartCardSetup(
                idempotency_key=command_key(user.user_id, "card"),
                user_id=user.user_id,
                email=user.email,
                return_path=back,
            )
        )
    except ServiceError as error:
        flash(str(error), "danger")
        return redirect(back, 303)
    return redirect(setup.checkout_url, 303)


@blueprint.post("/cards/default")
@login_required
def make_default() -> Response:
    return _change(SetDefaultPaymentMethod, "This card is now the default.")


@blueprint.post("/cards/remove")
@login_required
def remove() -> Response:
    return _change(RemovePaymentMethod, "The card is removed.")


def _change(
    command: type[SetDefaultPaymentMethod] | type[RemovePaymentMethod], done: str
) -> Response:
    try:
        request_ = command(
            user_id=signed_in_user().user_id,
            payment_method_id=request.form.get("payment_method_id", ""),
        )
    except ValidationError:
        raise Problem(422, "bad_request", "Choose one of your cards.") from None
    try:
        call(request_)
        flash(done, "success")
    except ServiceError as error:
        flash(str(error), "danger")
    return redirect(return_path(url_for("wallet.overview")), 303)
