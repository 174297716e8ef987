"""Buying credits: the form's target, and the page that follows a top-up to the balance."""

from dataclasses import dataclass
from uuid import UUID

from flask import Blueprint, flash, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from chassis.money import InvalidAmount
from contracts.errors import ServiceError
from contracts.topup import GetTopup, ListTopups, StartTopup, Topup, TopupKind, TopupStatus
from contracts.wallet import GetWallet
from services.gateway.frame import call
from services.gateway.identity import login_required, signed_in_user
from services.gateway.pages.asking import ask
from services.gateway.pages.forms import chosen_credits, command_key, return_path

blueprint = Blueprint("topups", __name__)

ARRIVING = frozenset({TopupStatus.PROCESSING, TopupStatus.UNKNOWN, TopupStatus.PAID})
"""The card page is behind the person, the credits are still ahead."""

_MOVING = frozenset(TopupStatus) - {
    TopupStatus.CREDITED,
    TopupStatus.FAILED,
    TopupStatus.CANCELLED,
}


def begin_topup(amount_micros: int, back_to: str, purpose: str) -> Response:
    """Start a top-up and send the browser to the hosted card page; ``back_to`` on refusal."""
    user = signed_in_user()
    try:
        topup = call(
            StartTopup(
                idempotency_key=command_key(user.user_id, purpose),
                user_id=user.user_id,
                email=user.email,
                amount_micros=amount_micros,
                save_card=bool(request.form.get("save_card")),
                return_path=back_to,
            )
        )
    except ServiceError as error:
        flash(str(error), "danger")
        return redirect(back_to, 303)
    page = url_for("topups.follow", topup_id=topup.topup_id)
    if topup.status is TopupStatus.CREATED and topup.checkout_url:
        return redirect(topup.checkout_url, 303)
    return redirect(page, 303)


def is_payment_arriving(user_id: UUID) -> bool:
    """Whether the card has paid, or is being charged, for credits that are not there yet."""
    latest = ask(ListTopups(user_id=user_id, limit=5))
    return latest is not None and any(
        topup.kind is TopupKind.MANUAL and topup.status in ARRIVING for topup in latest.topups
    )


@blueprint.post("/topups")
@login_required
def start() -> Response:
    """Buy Credits, on the wallet's page."""
    wallet_page = url_for("wallet.overview")
    try:
        amount_micros = chosen_credits()
    except InvalidAmount as error:
        flash(str(error), "danger")
        return redirect(wallet_page, 303)
    if amount_micros is None:
        flash("Choose an amount of credits.", "danger")
        return redirect(wallet_page, 303)
    return begin_topup(amount_micros, wallet_page, "credits")


@blueprint.get("/topups/<uuid:topup_id>")
@login_required
def follow(topup_id: UUID) -> str:
    return render_template("topup.html", view=_view(topup_id))


@blueprint.get("/topups/<uuid:topup_id>/status")
@login_required
def status(topup_id: UUID) -> str | tuple[str, int]:
    """The part of the page that changes; 204 while what the browser shows is still true."""
    view = _view(topup_id)
    if request.args.get("seen") == view.topup.status:
        return "", 204
    return render_template("parts/topup_status.html", view=view)


@dataclass(frozen=True)
class TopupView:
    topup: Topup
    balance_micros: int | None
    next_path: str

    @property
    def is_moving(self) -> bool:
        return self.topup.status in _MOVING


def _view(topup_id: UUID) -> TopupView:
    user_id = signed_in_user().user_id
    topup = call(GetTopup(user_id=user_id, topup_id=topup_id))
    wallet = ask(GetWallet(user_id=user_id))
    return TopupView(
        topup=topup,
        balance_micros=wallet.available_micros if wallet else None,
        next_path=return_path(url_for("wallet.overview")),
    )
