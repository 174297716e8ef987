"""Saved cards: add one on the hosted page, choose the default, remove."""

from flask import Blueprint, flash, redirect, request, url_for
from pydantic import ValidationError
from werkzeug.wrappers import Response

from contracts.errors import ServiceError
from contracts.topup import (
    ListPaymentMethods,
    RemovePaymentMethod,
    SetDefaultPaymentMethod,
    StartCardSetup,
)
from services.gateway.backend import call
from services.gateway.errors import Problem
from services.gateway.pages.forms import command_key, return_path
from services.gateway.people.identity import login_required, signed_in_user

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
            ),
        )
    except ServiceError as error:
        flash(str(error), "danger")
        return redirect(back, 303)
    return redirect(setup.checkout_url, 303)


def say_what_happened() -> None:
    """What became of the visit to the card page, as the address says on the way back."""
    if request.args.get("card_setup") == "done":
        flash("Your card is saved.", "success")
    else:
        flash("You left the card page. Nothing was changed and nothing was charged.", "info")


@blueprint.get("/cards/saved")
@login_required
def saved() -> Response:
    """Asked by a page that waits for its first card: 204 until there is one, then reload."""
    cards = call(ListPaymentMethods(user_id=signed_in_user().user_id))
    if not cards.payment_methods:
        return Response(status=204)
    return Response(status=200, headers={"HX-Redirect": return_path(url_for("wallet.overview"))})


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
