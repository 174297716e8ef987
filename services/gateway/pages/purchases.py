"""Purchases: Buy Now, the page that follows one to its end, and the list of them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any
from uuid import UUID

from flask import Blueprint, flash, redirect, render_template, request, url_for
from pydantic import TypeAdapter, ValidationError
from werkzeug.wrappers import Response

from chassis.clock import utc_now
from chassis.money import InvalidAmount
from contracts.billing import (
    CancelPurchase,
    GetPurchase,
    ListPurchases,
    Purchase,
    PurchaseLine,
    PurchaseStatus,
    PurchaseWay,
    ReturnPurchase,
    StartPurchase,
)
from contracts.catalog import GetProduct, Meter
from contracts.errors import NO_ANSWER, BadRequest, ServiceError
from contracts.gateway import PathStep
from contracts.topup import (
    AutoTopupPreview,
    ChargeForecast,
    ForecastCharges,
    GetTopup,
    GetTopupOverview,
    PreviewAutoTopup,
    RefusalCode,
    Topup,
    TopupStatus,
)
from contracts.wallet import AccountStatus, GetWallet
from services.gateway.backend import ask, ask_all, call, database
from services.gateway.cart import checkout
from services.gateway.errors import Problem
from services.gateway.pages.auto_topup import (
    check_switching_on,
    switch_on,
    wants_switching_on,
)
from services.gateway.pages.forms import (
    addressed,
    are_more_than_said,
    chosen_credits,
    chosen_fields,
    command_key,
    read_id,
    read_quantity,
    refuse_credits,
    selected_fields,
    whole_number_field,
)
from services.gateway.pages.offers import ByCard, by_card, charges_of, make_offer
from services.gateway.pages.steps import took
from services.gateway.pages.topups import (
    begin_chosen_topup,
    begin_topup,
    latest_topups,
    payments_arriving,
)
from services.gateway.people.identity import login_required, signed_in_user
from services.gateway.showcase import show

blueprint = Blueprint("purchases", __name__)

QUICK_FOR = timedelta(minutes=2)
"""A purchase that moved this recently is asked about every second, an older one less often."""

_PASSING = (RefusalCode.COOL_DOWN, RefusalCode.CARD_PAGE_OPEN)
"""Reasons why no charge was made that have passed a moment later."""
_NOT_PAID = (TopupStatus.FAILED, TopupStatus.CANCELLED)
_MOVING = (PurchaseStatus.PENDING, PurchaseStatus.AWAITING_FUNDS)


@blueprint.post("/purchases")
@login_required
def start() -> Response | str | tuple[str, int]:
    """Buy Now. Where credits were chosen with it, the hosted card page comes next.

    Where it sets off more charges than the person was told, they are asked again.
    """
    user = signed_in_user()
    slug = request.form.get("slug", "")
    back = url_for("marketplace.product", slug=slug) if slug else url_for("marketplace.listing")
    line = _line()
    unit_micros = (line.expected_unit_price_micros or 0) - (line.expected_unit_discount_micros or 0)
    spend_micros = max(unit_micros, 0) * line.quantity
    try:
        amount_micros = chosen_micros()
        may_charge = amount_micros is None and not wants_switching_on()
        if may_charge and are_more_than_said(charges_of(user.user_id, spend_micros)):
            flash(
                "Auto top-up would charge more than you were told. This press bought nothing:"
                " look at the new figures, then press again. Pressing again buys once.",
                "warning",
            )
            return _same_form(slug)
        purchase = call(
            StartPurchase(
                idempotency_key=command_key(user.user_id, "purchase"),
                user_id=user.user_id,
                lines=[line],
                way=PurchaseWay.BUY_NOW,
            )
        )
    except NO_ANSWER as error:
        # Perhaps it was bought: the same form, with the same key, is the way to find out.
        flash(f"{error} Pressing again is safe: it buys once.", "warning")
        return _same_form(slug)
    except InvalidAmount as error:
        refuse_credits(str(error))
        return _same_form(slug)
    except BadRequest as error:
        if not chosen_fields():
            flash(str(error), "danger")
            return redirect(back, 303)
        return _same_form(slug, error)
    except ServiceError as error:
        flash(str(error), "danger")
        return redirect(back, 303)
    return lead_to(purchase, amount_micros)


def chosen_micros() -> int | None:
    """The credits that are to be paid by card with what is bought; none where auto top-up is to
    pay, of which the terms are looked at before anything is bought. Raises ``InvalidAmount``."""
    if not wants_switching_on():
        return chosen_credits()
    try:
        check_switching_on()
    except BadRequest as error:
        raise InvalidAmount(f"Auto top-up: {error}") from None
    return None


def lead_to(purchase: Purchase, amount_micros: int | None) -> Response:
    """To the page that follows a purchase; to the card first, where credits were chosen for it."""
    page = url_for("purchases.follow", purchase_id=purchase.purchase_id)
    if purchase.status is PurchaseStatus.AWAITING_FUNDS and amount_micros is not None:
        return begin_topup(
            amount_micros, page, "purchase-credits", purchase.purchase_id, purchase.way
        )
    if wants_switching_on() and purchase.status in _MOVING:
        try:
            switch_on()
        except NO_ANSWER as error:
            said = "Whether auto top-up is on now is not known: its page says so."
            flash(f"{error} {said}", "warning")
        except (InvalidAmount, ServiceError) as error:
            flash(f"Auto top-up was not switched on: {error}", "warning")
        return redirect(page, 303)
    if purchase.replayed:
        flash("This is the purchase that you have already made. Nothing was bought twice.", "info")
    return redirect(page, 303)


@blueprint.get("/purchases/<uuid:purchase_id>")
@login_required
def follow(purchase_id: UUID) -> str | Response:
    if "cancelled" in request.args:
        _say_what_the_card_page_left(purchase_id)
        return redirect(url_for("purchases.follow", purchase_id=purchase_id), 303)
    if "payment_intent_client_secret" in request.args:
        # The bank's page adds what is no business of an address that stays in a history.
        topup_id = request.args.get("topup")
        here = url_for("purchases.follow", purchase_id=purchase_id, topup=topup_id)
        return redirect(here, 303)
    return render_template("purchase.html", view=_view(purchase_id))


def _say_what_the_card_page_left(purchase_id: UUID) -> None:
    """Back from the card page without paying: left by the person, or closed meanwhile."""
    purchase = call(GetPurchase(user_id=signed_in_user().user_id, purchase_id=purchase_id))
    if purchase.status is PurchaseStatus.COMPLETED:
        flash("This purchase is already paid. Nothing was charged on the card page.", "info")
    elif purchase.status in _MOVING:
        flash("You left the card page without paying. Your purchase is kept.", "info")
    else:
        flash("This purchase has ended. Nothing was charged on the card page.", "info")


@blueprint.get("/purchases/<uuid:purchase_id>/status")
@login_required
def status(purchase_id: UUID) -> str | tuple[str, int]:
    """The part of the page that changes; 204 while what the browser shows is still true.

    Nothing is replaced under the hands of somebody who is typing an amount.
    """
    view = _view(purchase_id)
    if request.args.get("seen") == view.version:
        return "", 204
    return render_template("parts/purchase_status.html", view=view, is_news=True)


@blueprint.post("/purchases/<uuid:purchase_id>/credits")
@login_required
def buy_credits(purchase_id: UUID) -> Response:
    """Pay by hand for a purchase that waits; it completes by itself when the money is there."""
    page = url_for("purchases.follow", purchase_id=purchase_id)
    return begin_chosen_topup(page, "purchase-credits", purchase_id, _way())


@blueprint.post("/purchases/<uuid:purchase_id>/cancel")
@login_required
def cancel(purchase_id: UUID) -> Response:
    user_id = signed_in_user().user_id
    try:
        call(CancelPurchase(user_id=user_id, purchase_id=purchase_id))
        with database().begin() as session:
            is_in_cart = checkout.put_back(session, utc_now(), user_id, purchase_id)
        back = " What it was to buy is in your cart again." if is_in_cart else ""
        flash(f"The purchase is cancelled. Nothing was charged for it.{back}", "info")
    except ServiceError as error:
        flash(str(error), "danger")
    return redirect(url_for("purchases.follow", purchase_id=purchase_id), 303)


@blueprint.post("/purchases/<uuid:purchase_id>/refund")
@login_required
def give_back(purchase_id: UUID) -> Response:
    user_id = signed_in_user().user_id
    command = ReturnPurchase(
        idempotency_key=command_key(user_id, "return"), user_id=user_id, purchase_id=purchase_id
    )
    try:
        purchase = call(command)
        is_back = purchase.refunded_micros == purchase.total_micros
        flash(
            "Refunded. The credits are in your wallet."
            if is_back
            else "Your refund is on its way. The credits arrive by themselves.",
            "success",
        )
    except ServiceError as error:
        flash(str(error), "danger")
    return redirect(url_for("purchases.follow", purchase_id=purchase_id), 303)


@blueprint.get("/dashboard/purchases")
@login_required
def listing() -> str:
    try:
        question = ListPurchases(
            user_id=signed_in_user().user_id, cursor=request.args.get("cursor") or None
        )
    except ValidationError:
        raise Problem(422, "bad_request", "This page of purchases does not exist.") from None
    return render_template("purchases.html", page=call(question), is_later=bool(question.cursor))


@dataclass(frozen=True)
class PurchaseView:
    """A purchase, and what will happen to it next. None stands for what nobody could say."""

    purchase: Purchase
    balance_micros: int | None
    auto_topup: AutoTopupPreview | None
    is_paying: bool
    is_frozen: bool
    poll_every_s: int
    topups: Sequence[Topup] = ()
    follows: ChargeForecast | None = None
    """What is charged because of it; None where that is unknown, and once it is long paid."""

    @cached_property
    def by_card(self) -> ByCard:
        """Asked for where the page is drawn, and not each time it is followed."""
        overview = ask(GetTopupOverview(user_id=self.purchase.user_id))
        return by_card(overview, self.purchase.shortfall_micros)

    @property
    def latest(self) -> Topup | None:
        """The last payment that was begun for this purchase by hand."""
        mine = [each for each in self.topups if each.purchase_id == self.purchase.purchase_id]
        return mine[0] if mine else None

    @property
    def card_refusal(self) -> str:
        """Why the saved card that was charged for it last did not pay."""
        latest = self.latest
        is_refused = latest is not None and latest.is_saved_card and latest.status in _NOT_PAID
        return latest.failure_message if latest is not None and is_refused else ""

    @property
    def bank_url(self) -> str | None:
        """Where the bank wants a charge of the saved card confirmed."""
        latest = self.latest
        return latest.checkout_url if latest is not None and latest.is_saved_card else None

    @property
    def refusal(self) -> str:
        """Why auto top-up does not pay until somebody does something.

        Not worth a word where it was never switched on, and not said of what passes by itself.
        """
        preview = self.auto_topup
        if preview is None or preview.retry_at is not None:
            return ""
        if preview.refusal_code in (None, RefusalCode.DISABLED):
            return ""
        return preview.reason

    @property
    def pays_later(self) -> AutoTopupPreview | None:
        """The charge that auto top-up makes by itself when what is in its way has passed."""
        preview = self.auto_topup
        is_held_up = preview is not None and preview.retry_at and preview.amount_micros
        return preview if is_held_up else None

    @property
    def card_page_url(self) -> str | None:
        """The card page that is open for this purchase."""
        return self.auto_topup.card_page_url if self.auto_topup else None

    @property
    def may_pay_by_hand(self) -> bool:
        """Not while a payment is being confirmed that may cover it: that would be a second one.

        Nor from a frozen wallet, whose credits cannot be spent.
        """
        is_confirmed = self.auto_topup is not None and self.auto_topup.is_being_confirmed
        return not self.is_paying and not is_confirmed and not self.is_frozen

    @property
    def reason(self) -> str:
        """Why it was not paid when that was last tried, unless that passes or passed by itself, or
        the person is to answer the bank. That auto top-up is off is no reason worth a word."""
        is_silent = self.purchase.status_code in (*_PASSING, RefusalCode.DISABLED)
        return "" if is_silent or self.bank_url else self.purchase.status_reason

    @property
    def charge_follows(self) -> bool:
        """Whether a purchase that is paid has set off a charge, to come or under way."""
        follows = self.follows
        is_paid = self.purchase.status is PurchaseStatus.COMPLETED
        return is_paid and bool(follows and (follows.charges or follows.in_flight_topup_id))

    @property
    def is_moving(self) -> bool:
        return self.purchase.status in _MOVING or self.charge_follows

    @property
    def is_charging(self) -> bool:
        """Whether auto top-up is about to pay, or paying, for this purchase."""
        return (
            self.purchase.status is PurchaseStatus.AWAITING_FUNDS
            and self.auto_topup is not None
            and (
                self.auto_topup.would_topup or self.auto_topup.refusal_code is RefusalCode.IN_FLIGHT
            )
        )

    @property
    def confirm_url(self) -> str | None:
        """Where the person's bank waits for a word about the charge for this purchase."""
        return self.auto_topup.confirm_url if self.auto_topup else None

    @property
    def may_be_returned(self) -> bool:
        """Whether the buyer may give it back by himself now."""
        until = self.purchase.returnable_until
        return until is not None and until > utc_now()

    @property
    def version(self) -> str:
        """Changes when the page would say something else."""
        says = (
            self.purchase.status,
            self.purchase.status_code,
            self.purchase.status_reason,
            self.purchase.shortfall_micros,
            self.is_charging,
            self.is_paying,
            self.may_pay_by_hand,
            self.card_page_url,
            self.bank_url,
            self.card_refusal,
            self.pays_later and self.pays_later.model_dump(exclude={"reason"}),
            "" if self.is_charging else self.refusal,
            self.confirm_url,
            self.purchase.stock_held_until,
            self.purchase.refunded_micros,
            self.may_be_returned,
            [str(deployment) for deployment in self.purchase.deployment_ids],
            self.poll_every_s,
            self.follows and self.follows.in_flight_topup_id,
            self.follows and [charge.amount_micros for charge in self.follows.charges],
        )
        return hashlib.sha256(repr(says).encode()).hexdigest()[:16]


def _view(purchase_id: UUID) -> PurchaseView:
    user_id = signed_in_user().user_id
    purchase = call(GetPurchase(user_id=user_id, purchase_id=purchase_id))
    is_waiting = purchase.status is PurchaseStatus.AWAITING_FUNDS
    is_paid = purchase.status is PurchaseStatus.COMPLETED
    is_recent = utc_now() - purchase.updated_at < QUICK_FOR
    if purchase.way and is_paid and is_recent and not purchase.refunded_micros:
        took(purchase.way, PathStep.COMPLETED)
    lacking = purchase.shortfall_micros if is_waiting else 0
    is_followed = purchase.total_micros and (is_waiting or (is_paid and is_recent))
    wallet, _, preview, follows = ask_all(
        GetWallet(user_id=user_id),
        _question_about_return(user_id) if is_waiting else None,
        PreviewAutoTopup(user_id=user_id, shortfall_micros=lacking, purchase_id=purchase_id)
        if lacking
        else None,
        ForecastCharges(
            user_id=user_id,
            spend_micros=purchase.total_micros,
            purchase_id=purchase_id,
            is_spent=is_paid,
        )
        if is_followed
        else None,
    )
    latest = ask(latest_topups(user_id)) if is_waiting else None
    return PurchaseView(
        purchase=purchase,
        balance_micros=wallet.available_micros if wallet else None,
        auto_topup=preview,
        is_paying=bool(payments_arriving(latest)),
        topups=latest.topups if latest else (),
        is_frozen=wallet is not None and wallet.status is AccountStatus.FROZEN,
        poll_every_s=1 if is_recent else 4,
        follows=follows,
    )


def _way() -> PurchaseWay | None:
    """How the purchase was ordered, as its page says: it is counted, and nothing else."""
    try:
        return PurchaseWay(request.form.get("way", ""))
    except ValueError:
        return None


def _question_about_return(user_id: UUID) -> GetTopup | None:
    """Somebody comes back from the card page or the bank: asking has the card processor asked."""
    try:
        return GetTopup(user_id=user_id, topup_id=read_id(request.args.get("topup", "")))
    except ValueError:
        return None


def _same_form(slug: str, refusal: BadRequest | None = None) -> Response | tuple[str, int]:
    """The page with the form that was sent, and its key.

    What was typed into a product's fields is shown again at once: it goes into no address, which
    is logged, and into no cookie.
    """
    quantity, key = request.form.get("quantity", "1"), request.form.get("key", "")
    typed = {name: text for name, text in chosen_fields().items() if text.strip()}
    product = show(GetProduct(product_id=slug))
    selected = selected_fields(product)
    if refusal is None and typed.keys() == selected.keys():
        values: dict[str, Any] = {"quantity": quantity, "key": key, **addressed(selected)}
        return redirect(url_for("marketplace.buy", slug=slug, **values), 303)
    shown = {name: text for name, text in typed.items() if "PRIVATE KEY" not in text}
    offer = make_offer(signed_in_user().user_id, product, read_quantity(quantity))
    page = render_template("buy.html", offer=offer, key=key, typed=shown, refusal=refusal)
    return page, 422 if refusal else 200


def _line() -> PurchaseLine:
    """The line of the form; the price that the person saw goes with it and is held to."""
    try:
        return PurchaseLine(
            product_id=read_id(request.form.get("product_id", "")),
            quantity=whole_number_field("quantity", otherwise=1),
            expected_unit_price_micros=whole_number_field("unit_price_micros"),
            expected_unit_discount_micros=whole_number_field("unit_discount_micros", otherwise=0),
            choices=chosen_fields(),
            expected_meters=_shown_meters(),
        )
    except ValueError:
        raise Problem(422, "bad_request", "This is not a product that can be bought.") from None


def _shown_meters() -> list[Meter] | None:
    """What the person saw is charged by use. Raises ``ValueError``."""
    text = request.form.get("meters")
    return TypeAdapter(list[Meter]).validate_json(text) if text else None
