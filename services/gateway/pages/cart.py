"""/cart: what a visitor or a user collects, and buying all of it at once."""

import logging
from collections.abc import Mapping
from uuid import UUID

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask import session as cookie
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from werkzeug.wrappers import Response

from chassis.clock import utc_now
from chassis.money import InvalidAmount
from contracts.billing import LINE_NAME_LENGTH_MAX, PurchaseWay
from contracts.catalog import GetProduct, Product
from contracts.errors import Conflict, ServiceError
from contracts.gateway import PathStep
from services.gateway.access import Who, open_to
from services.gateway.backend import database
from services.gateway.cart import checkout, storage
from services.gateway.cart.contents import Contents, Line, chosen, contents_of
from services.gateway.cart.storage import Item, Owner
from services.gateway.errors import wants_json
from services.gateway.models import CartCheckout
from services.gateway.pages.auto_topup import wants_switching_on
from services.gateway.pages.forms import (
    are_more_than_said,
    chosen_fields,
    command_key,
    is_key,
    new_key,
    read_quantity,
    refuse_credits,
)
from services.gateway.pages.glance import forget_glance, glance
from services.gateway.pages.offers import charges_of, make_payment
from services.gateway.pages.purchases import chosen_micros, lead_to
from services.gateway.pages.steps import took
from services.gateway.people.bearer_secrets import new_secret
from services.gateway.people.identity import (
    CART_FIELD,
    current_user,
    login_required,
    signed_in_user,
)
from services.gateway.people.way_back import page_of_form
from services.gateway.security import place, throttle
from services.gateway.showcase import show

log = logging.getLogger(__name__)

blueprint = Blueprint("cart", __name__)

CHECKING = (
    "It is not known yet whether this went through. We are checking: your cart cannot be bought"
    " again meanwhile, and nothing is bought twice."
)


@blueprint.get("/cart")
@open_to(Who.EVERYBODY)
def overview() -> str | Response:
    """The lines at the prices of now, what stands in the way, and how it would be paid."""
    user = current_user()
    owner = owner_of_cart()
    under_way = None
    if user is not None:
        under_way, purchase = checkout.look_after(user.user_id)
        if purchase is not None:
            flash("Your last checkout went through. This is its purchase.", "success")
            return redirect(url_for("purchases.follow", purchase_id=purchase.purchase_id), 303)
    contents = contents_of(owner)
    if contents.lines:
        took(PurchaseWay.CART, PathStep.CART_PAGE)
    can_buy = user is not None and contents.lines and not contents.problem and not under_way
    return render_template(
        "cart.html",
        contents=contents,
        under_way=under_way,
        payment=make_payment(user.user_id, contents.total_micros) if can_buy and user else None,
        key=new_key(),
        LINE_NAME_LENGTH_MAX=LINE_NAME_LENGTH_MAX,
    )


@blueprint.post("/cart")
@open_to(Who.EVERYBODY)
def add() -> Response:
    """Put so many of a product in; from the list the person stays there."""
    _throttle_visitor()
    product = show(GetProduct(product_id=request.values.get("product", "")[:100] or "-"))
    back = url_for("cart.overview")
    list_page = page_of_form() if request.form.get("stay") else None
    if list_page is not None:
        back = f"{list_page}#product-{product.slug}"
    key = request.values.get("key", "")
    try:
        if not product.available:
            raise Conflict(f"{product.name} is not for sale at the moment.")
        item = Item(
            product_id=product.product_id,
            product_name=product.name,
            price_micros=product.price_micros,
            quantity=read_quantity(request.form.get("quantity", "1")),
            name=_name(),
            choices=chosen(product, _fields_of(product)),
        )
        with database().begin() as session:
            owner = owner_of_cart(make=True)
            storage.add(session, utc_now(), owner, item, key if is_key(key) else new_key())
    except ServiceError as error:
        flash(str(error), "danger")
    else:
        took(PurchaseWay.CART, PathStep.FILLED)
        flash(f"{product.name} is in your cart.", "success")
    return redirect(back, 303)


@blueprint.post("/cart/lines/<uuid:line_id>")
@open_to(Who.EVERYBODY)
def change(line_id: UUID) -> Response:
    """Another quantity, name or choice; or out with it."""
    _throttle_visitor()
    owner, now = owner_of_cart(), utc_now()
    try:
        if "remove" in request.form:
            with database().begin() as session:
                gone = storage.remove(session, now, owner, line_id)
            flash(f"{gone.product_name} is no longer in your cart.", "info")
            return redirect(url_for("cart.overview"), 303)
        quantity = read_quantity(request.form.get("quantity", "1"))
        product = _line(contents_of(owner), line_id).product
        with database().begin() as session:
            storage.change(
                session,
                now,
                owner,
                line_id,
                quantity=quantity,
                name=_name(),
                choices=chosen(product, _fields_of(product)) if product else None,
                price_micros=product.price_micros if product else None,
            )
    except ServiceError as error:
        flash(str(error), "danger")
    else:
        flash("Your cart is updated.", "success")
    return redirect(f"{url_for('cart.overview')}#line-{line_id}", 303)


@blueprint.post("/cart/checkout")
@login_required
def check_out() -> Response:
    """Buy everything that was shown, or nothing. Where credits were chosen with it, the card comes
    next."""
    user_id = signed_in_user().user_id
    back = url_for("cart.overview")
    key = command_key(user_id, "cart")
    begun = _begun(user_id, key)
    try:
        amount_micros = chosen_micros()
        if begun is not None:
            purchase = checkout.again(user_id, begun.key)
        else:
            contents = contents_of(Owner(user_id))
            if contents.lines and contents.version != request.form.get("shown"):
                flash(
                    "Your cart or a price changed since you saw it. Nothing was bought: look"
                    " again, then press again.",
                    "warning",
                )
                return redirect(back, 303)
            may_charge = amount_micros is None and not wants_switching_on()
            if may_charge and are_more_than_said(charges_of(user_id, contents.total_micros)):
                flash(
                    "Auto top-up would charge more than you were told. Nothing was bought: look at"
                    " the new figures, then press again.",
                    "warning",
                )
                return redirect(back, 303)
            purchase = checkout.check_out(user_id, key, contents)
    except InvalidAmount as error:
        refuse_credits(str(error))
        return redirect(back, 303)
    except (*checkout.REFUSALS, Conflict) as error:
        flash(str(error), "danger")
        return redirect(back, 303)
    except ServiceError as error:
        if _begun(user_id, key) is None:
            # It came before the checkout: all lines are in the cart.
            flash(f"{error} Nothing was bought.", "warning")
            return redirect(back, 303)
        log.warning("a checkout has no known end yet", extra={"reason": str(error)})
        flash(CHECKING, "warning")
        return redirect(back, 303)
    return lead_to(purchase, amount_micros)


def owner_of_cart(*, make: bool = False) -> Owner:
    """Whose cart this request is about. After a login what the visitor had collected comes along,
    with the first page that is opened; ``make`` gives a visitor a cart who has none."""
    user = current_user()
    secret = cookie.get(CART_FIELD)
    secret = secret if isinstance(secret, str) else ""
    if user is not None:
        if secret and not wants_json() and "HX-Request" not in request.headers:
            _bring_along(secret, user.user_id)
        return Owner(user.user_id)
    if make and not secret:
        cookie[CART_FIELD] = secret = new_secret()
        cookie.permanent = True
    return Owner(secret=secret)


def _throttle_visitor() -> None:
    """Who has no account stores no more than a person would."""
    if current_user() is None:
        throttle("cart", place())


def _bring_along(secret: str, user_id: UUID) -> None:
    with database().begin() as session:
        names = storage.adopt(session, utc_now(), secret, user_id)
    cookie.pop(CART_FIELD, None)
    forget_glance()
    if names:
        flash(f"Added to your cart, from before you logged in: {', '.join(names)}.", "info")


@blueprint.app_template_global()
def cart_count() -> int:
    """How many things are in the cart, for the header of every page."""
    try:
        owner = owner_of_cart()
        if owner.user_id is not None:
            return glance(owner.user_id).in_cart
        return database().answer(storage.counts, owner.secret) if owner.secret else 0
    except (OperationalError, PoolTimeoutError):
        # The page says by itself that the database is away.
        return 0


def _begun(user_id: UUID, key: str) -> CartCheckout | None:
    """What is finished: a checkout that this form began before, or the one under way."""
    if "finish" not in request.form:
        return checkout.known(user_id, key)
    with database().read() as session:
        return checkout.under_way(session, user_id)


def _line(contents: Contents, line_id: UUID) -> Line:
    found = [line for line in contents.lines if line.row.line_id == line_id]
    if not found:
        raise Conflict("This is not in your cart any more.")
    return found[0]


def _name() -> str:
    return request.form.get("name", "").strip()[:LINE_NAME_LENGTH_MAX]


def _fields_of(product: Product) -> Mapping[str, str]:
    """What the form says in this product's fields, and nothing else."""
    asked = {field.key for field in product.fields}
    return {key: text for key, text in chosen_fields().items() if key in asked}
