"""Buying credits: the form's target, and the page that follows a top-up to the balance."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from flask import Blueprint, flash, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from chassis.money import InvalidAmount
from contracts.billing import PurchaseWay
from contracts.errors import DeadlineExceeded, ServiceError
from contracts.gateway import PathStep
from contracts.topup import (
    GetReceipt,
    GetTopup,
    ListTopups,
    RenderReceipt,
    StartTopup,
    Topup,
    TopupKind,
    TopupPage,
    TopupStatus,
)
from contracts.wallet import GetWallet
from services.gateway.backend import ask, call
from services.gateway.pages.forms import (
    chosen_credits,
    command_key,
    refuse_credits,
    return_path,
    said_field,
)
from services.gateway.pages.receipts import pdf_response
from services.gateway.pages.steps import took
from services.gateway.people.identity import login_required, signed_in_user

blueprint = Blueprint("topups", __name__)

_ENDED = (TopupStatus.CREDITED, TopupStatus.FAILED, TopupStatus.CANCELLED)
_PAID_FOR = (TopupStatus.PAID, TopupStatus.UNKNOWN)


def begin_topup(
    amount_micros: int,
    back_to: str,
    purpose: str,
    purchase_id: UUID | None = None,
    way: PurchaseWay | None = None,
) -> Response:
    """Start a top-up: by the saved card that the form names, or on the hosted card page, to which
    the browser is sent. ``back_to`` on refusal.

    ``purchase_id``: the credits are for this purchase, which nothing else pays meanwhile; ``way``
    is how it was ordered, where that is known.
    """
    user = signed_in_user()
    card: dict[str, Any] = {}
    if request.form.get("pay_with"):
        card["payment_method_id"] = request.form["pay_with"][:255]
        card["paid_topups_seen"] = said_field("paid_topups_seen")
    try:
        topup = call(
            StartTopup(
                idempotency_key=command_key(user.user_id, purpose),
                user_id=user.user_id,
                email=user.email,
                amount_micros=amount_micros,
                save_card=bool(request.form.get("save_card")) and not card,
                return_path=back_to,
                purchase_id=purchase_id,
                **card,
            ),
        )
    except DeadlineExceeded as error:
        # Perhaps the card was charged: another press finds that out, or is refused.
        flash(f"{error} If your card was charged, the credits arrive by themselves.", "warning")
        return redirect(back_to, 303)
    except ServiceError as error:
        refuse_credits(str(error))
        return redirect(back_to, 303)
    if topup.is_saved_card:
        return _follow_saved_card(topup, back_to)
    if topup.checkout_url and way is not None:
        took(way, PathStep.CARD_PAGE)
    follow_it = url_for("topups.follow", topup_id=topup.topup_id)
    return redirect(topup.checkout_url or follow_it, 303)


def _follow_saved_card(topup: Topup, back_to: str) -> Response:
    """To where it is followed, the bank's question too: a form leads to this site alone."""
    if topup.purchase_id is not None:
        return redirect(back_to, 303)
    return redirect(url_for("topups.follow", topup_id=topup.topup_id), 303)


def begin_chosen_topup(
    back_to: str, purpose: str, purchase_id: UUID | None = None, way: PurchaseWay | None = None
) -> Response:
    """The same for the amount that was picked in the form, which must be one."""
    try:
        amount_micros = chosen_credits()
    except InvalidAmount as error:
        refuse_credits(str(error))
        return redirect(back_to, 303)
    if amount_micros is None:
        flash("Choose an amount of credits.", "danger")
        return redirect(back_to, 303)
    return begin_topup(amount_micros, back_to, purpose, purchase_id, way)


def latest_topups(user_id: UUID) -> ListTopups:
    """The question that :func:`payments_arriving` needs the answer to."""
    return ListTopups(user_id=user_id, limit=10)


def payments_arriving(latest: TopupPage | None) -> list[Topup]:
    """Top-ups by hand that the card has paid, or may have paid, and that are not credited yet.

    The card page leads back with the top-up in the address: then it was paid, although the
    processor's own notice may still be on its way.
    """
    came_back_from = request.args.get("topup") if "cancelled" not in request.args else None
    return [
        topup
        for topup in (latest.topups if latest else [])
        if topup.kind is TopupKind.MANUAL
        and topup.status not in _ENDED
        and (
            topup.status in _PAID_FOR
            or (topup.is_saved_card and topup.status is not TopupStatus.ACTION_REQUIRED)
            or (not topup.is_saved_card and str(topup.topup_id) == came_back_from)
        )
    ]


@blueprint.post("/topups")
@login_required
def start() -> Response:
    """Buy Credits, on the wallet's page."""
    return begin_chosen_topup(url_for("wallet.overview"), "credits")


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
    return render_template("parts/topup_status.html", view=view, is_news=True)


@blueprint.get("/topups/<uuid:topup_id>/receipt")
@login_required
def receipt(topup_id: UUID) -> str:
    found = call(GetReceipt(user_id=signed_in_user().user_id, topup_id=topup_id))
    return render_template("receipt.html", receipt=found)


@blueprint.get("/topups/<uuid:topup_id>/receipt.pdf")
@login_required
def receipt_document(topup_id: UUID) -> Response:
    found = call(RenderReceipt(user_id=signed_in_user().user_id, topup_id=topup_id))
    return pdf_response(found)


@dataclass(frozen=True)
class TopupView:
    topup: Topup
    balance_micros: int | None
    next_path: str

    @property
    def is_moving(self) -> bool:
        return self.topup.status not in _ENDED


def _view(topup_id: UUID) -> TopupView:
    user_id = signed_in_user().user_id
    topup = call(GetTopup(user_id=user_id, topup_id=topup_id))
    wallet = ask(GetWallet(user_id=user_id))
    return TopupView(
        topup=topup,
        balance_micros=wallet.available_micros if wallet else None,
        next_path=return_path(url_for("wallet.overview")),
    )
