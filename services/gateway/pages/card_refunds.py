"""/dashboard/wallet/refunds: unused credit back to its card, in two steps."""

from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from chassis.money import InvalidAmount, format_usd
from contracts.errors import NO_ANSWER, ServiceError
from contracts.topup import (
    CardRefund,
    CardRefundStatus,
    ListCardRefunds,
    ListRefundable,
    RefundableTopup,
    RefundableTopups,
)
from contracts.wallet import GetWallet
from services.gateway import card_refunds
from services.gateway.backend import ask, ask_all, settings
from services.gateway.errors import STATUSES
from services.gateway.pages.forms import command_key, money_field, read_id
from services.gateway.people.identity import login_required, signed_in_user
from services.gateway.people.users import AccountError

blueprint = Blueprint("card_refunds", __name__, url_prefix="/dashboard/wallet/refunds")

Answer = Response | str | tuple[str, int]

_BEING_MADE = ("Being made", "wait")
STATES = {
    CardRefundStatus.REQUESTED: _BEING_MADE,
    CardRefundStatus.HELD: _BEING_MADE,
    CardRefundStatus.SENT: _BEING_MADE,
    CardRefundStatus.PENDING: ("On its way", "wait"),
    CardRefundStatus.SUCCEEDED: ("Paid back", "good"),
    CardRefundStatus.FAILED: ("Sent back by the bank", "bad"),
    CardRefundStatus.DECLINED: ("Not made", "bad"),
    CardRefundStatus.REFUSED: ("Not made", "bad"),
}
"""What a refund is called, and whether it is good news, a wait or bad news."""

IS_GONE = "So much of these credits can\u2019t be paid back any more. Nothing was paid back."


@blueprint.get("")
@login_required
def listing() -> str:
    return _listing()


@blueprint.post("/review")
@login_required
def review() -> Answer:
    """Everything once more, before anything moves."""
    offers = ask(ListRefundable(user_id=signed_in_user().user_id))
    offer = _chosen(offers)
    if offers is None or offer is None or offers.blocked_reason:
        return _listing(error=IS_GONE if offers else ""), 409
    if "amount" not in request.form:
        return _review(offers, offer, offer.refundable_micros)
    try:
        amount_micros = money_field("amount", "Amount")
        if not 0 < amount_micros <= offer.refundable_micros:
            raise InvalidAmount(
                f"Amount: enter up to {format_usd(offer.refundable_micros)}, what of it is unused."
            )
    except InvalidAmount as refused:
        page = _review(offers, offer, offer.refundable_micros, refused=str(refused))
        return page, 422
    return _review(offers, offer, amount_micros)


@blueprint.post("")
@login_required
def give_back() -> Answer:
    """Confirming brings the amount that was shown: where less is unused by now, nothing moves."""
    user = signed_in_user()
    try:
        amount_micros = money_field("amount", "Amount")
        topup_id = read_id(request.form.get("topup_id", ""))
        key = command_key(user.user_id, "card-refund")
        code = request.form.get("code", "")
        made = card_refunds.give_back(user, topup_id, amount_micros, key, code)
    except (InvalidAmount, ValueError):
        return _listing(error=IS_GONE), 422
    except AccountError as error:
        return _again(amount_micros, error=error), 422
    except NO_ANSWER as error:
        # Perhaps it was made: the same form, with the same key, is the way to find out.
        said = f"{error} Pressing again is safe: it is paid back once."
        return _again(amount_micros, warning=said), STATUSES[error.code]
    except ServiceError as error:
        return _listing(error=str(error)), STATUSES.get(error.code, 502)
    flash(*_said(made))
    return redirect(url_for("card_refunds.listing"), 303)


def _said(made: CardRefund) -> tuple[str, str]:
    amount = format_usd(made.amount_micros)
    if made.status in (CardRefundStatus.SUCCEEDED, CardRefundStatus.PENDING):
        return f"{amount} is on its way to your card. Your bank may take up to ten days.", "success"
    return f"{amount} is set aside for your card. You will see here when it has left.", "info"


def _chosen(offers: RefundableTopups | None) -> RefundableTopup | None:
    wanted = request.form.get("topup_id", "").lower()
    found = [each for each in offers.topups if str(each.topup_id) == wanted] if offers else []
    return found[0] if found else None


def _again(amount_micros: int, **said: Any) -> str:
    """The review once more: of what was shown, though it may be under way by now."""
    offers = ask(ListRefundable(user_id=signed_in_user().user_id))
    return _review(offers, _chosen(offers), amount_micros, **said)


def _review(
    offers: RefundableTopups | None,
    offer: RefundableTopup | None,
    amount_micros: int,
    **said: Any,
) -> str:
    user = signed_in_user()
    return render_template(
        "card_refund_review.html",
        offer=offer,
        topup_id=request.form.get("topup_id", ""),
        amount_micros=amount_micros,
        switches_off=offers is not None and offers.switches_off_auto_topup,
        wallet=ask(GetWallet(user_id=user.user_id)),
        asks_for_code=user.has_second_step,
        key=request.form.get("key"),
        **said,
    )


def _listing(error: str = "") -> str:
    user_id = signed_in_user().user_id
    cursor = request.args.get("cursor") or None
    offers, page = ask_all(
        ListRefundable(user_id=user_id), ListCardRefunds(user_id=user_id, cursor=cursor)
    )
    return render_template(
        "card_refunds.html",
        offers=offers,
        page=page,
        is_later=bool(cursor),
        states=STATES,
        window_s=settings().card_refund_window_s,
        error=error,
    )
