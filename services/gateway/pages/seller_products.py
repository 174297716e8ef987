"""/dashboard/selling/products: what somebody sells: put up, changed, priced, counted, retired.

Whose a product is the catalog decides: each command says which provider wants it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from flask import Blueprint, flash, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from chassis.clock import utc_now
from chassis.digits import whole_number
from chassis.money import format_usd
from contracts.billing import GetProductUses
from contracts.catalog import (
    BillingPeriod,
    Category,
    ChangeProduct,
    CreateProduct,
    GetPriceHistory,
    ListProducts,
    Product,
    RetireProduct,
    SortOrder,
)
from contracts.errors import NO_ANSWER, ServiceError
from services.gateway.access import Role
from services.gateway.backend import ask, ask_all, call, settings
from services.gateway.errors import STATUSES, Problem
from services.gateway.pages import seller_fields
from services.gateway.pages.formats import day, duration, meter_price
from services.gateway.pages.forms import command_key, is_key, new_key
from services.gateway.pages.seller_fields import Wrong
from services.gateway.people.identity import signed_in_user
from services.gateway.showcase import sizes_of
from services.gateway.staff import products
from services.gateway.staff.guard import acts, current_staff

blueprint = Blueprint("seller_products", __name__, url_prefix="/dashboard/selling/products")

Answer = Response | str | tuple[str, int]

SHOWN = 50
FAMILIES_OF = 200
WHY = "By the seller, on the website"


@blueprint.get("")
@acts(Role.SELLER)
def listing() -> str:
    user_id = signed_in_user().user_id
    cursor = request.args.get("cursor") or None
    page = call(
        ListProducts(
            provider_id=user_id,
            with_retired=True,
            sort=SortOrder.NEWEST,
            cursor=cursor,
            limit=SHOWN,
        )
    )
    return render_template(
        "seller_products.html",
        page=page,
        uses=products.uses(user_id, page.products),
        profile=products.profile(user_id),
        is_later=bool(cursor),
    )


@blueprint.get("/new")
@acts(Role.SELLER)
def new() -> Answer:
    if products.profile(signed_in_user().user_id) is None:
        flash("Say first who sells: buyers see this at each product.", "info")
        return redirect(url_for("seller_profile.form"), 303)
    try:
        category = Category(request.args.get("category", Category.COMPUTE))
    except ValueError:
        category = Category.COMPUTE
    return _form({"category": category.value, "period": "month"})


@blueprint.post("/preview")
@acts(Role.SELLER)
def preview() -> Answer:
    """The card and the page as buyers would see them; nothing is published. Or the form again."""
    if request.form.get("back"):
        return _form(seller_fields.as_sent())
    try:
        command = _creation(_key())
        shown = _as_product(command)
        _refuse_anothers(shown)
    except Wrong as error:
        return _form(seller_fields.as_sent(), error), 422
    return _preview(shown)


@blueprint.post("")
@acts(Role.SELLER)
def publish() -> Answer:
    try:
        command = _creation(_key())
        made = products.create(current_staff().actor(), command, WHY)
    except Wrong as error:
        return _form(seller_fields.as_sent(), error), 422
    except NO_ANSWER as error:
        return _preview(_as_product(command), warning=_once_more(error)), STATUSES[error.code]
    except ServiceError as error:
        return _form(seller_fields.as_sent(), Wrong("", str(error))), STATUSES.get(error.code, 502)
    flash(f"{made.name} is for sale.", "success")
    return redirect(url_for("seller_products.single", product_id=made.product_id), 303)


@blueprint.get("/<uuid:product_id>")
@acts(Role.SELLER)
def single(product_id: UUID) -> Answer:
    return _page(products.own(signed_in_user().user_id, product_id))


@dataclass(frozen=True)
class Change:
    """What a form wants: the command, what it is called, and what it says before it is pressed."""

    command: ChangeProduct | RetireProduct
    title: str
    lines: list[tuple[str, str]]
    sentences: list[str]
    button: str
    shown: Product | None = None


@blueprint.post("/<uuid:product_id>/review")
@acts(Role.SELLER)
def review(product_id: UUID) -> Answer:
    """What a form would do, before anything is changed."""
    product = products.own(signed_in_user().user_id, product_id)
    try:
        wanted = _wanted(product)
        if wanted.shown:
            _refuse_anothers(wanted.shown)
        return _review(product, wanted)
    except Wrong as error:
        return _page(product, error), 422


@blueprint.post("/<uuid:product_id>")
@acts(Role.SELLER)
def change(product_id: UUID) -> Answer:
    product = products.own(signed_in_user().user_id, product_id)
    try:
        wanted = _wanted(product)
        made = products.change(current_staff().actor(), product, wanted.command, WHY)
    except Wrong as error:
        return _page(product, error), 422
    except NO_ANSWER as error:
        return _review(product, wanted, warning=_once_more(error)), STATUSES[error.code]
    except ServiceError as error:
        return _page(product, Wrong("", str(error))), STATUSES.get(error.code, 502)
    flash(f"{made.name}: {'no longer sold' if made.is_retired else 'changed'}.", "success")
    return redirect(url_for("seller_products.single", product_id=product_id), 303)


def _once_more(error: ServiceError) -> str:
    # Perhaps it was done: the same form, with the same key, is the way to find out.
    return f"{error} Pressing again is safe: it is done once."


def _form(typed: Mapping[str, Any], error: Wrong | None = None) -> str:
    category = Category(typed["category"])
    return render_template(
        "seller_product_new.html",
        typed=typed,
        sheet=seller_fields.SHEETS[category],
        asked=seller_fields.ASKED,
        METERS_MAX=seller_fields.METERS_MAX,
        families=_families(),
        error=error,
        key=_key(),
    )


def _families() -> list[str]:
    """Those of which the seller has sizes, to choose from."""
    own = ask(ListProducts(provider_id=signed_in_user().user_id, limit=FAMILIES_OF))
    return sorted({each.family for each in own.products if each.family}) if own else []


def _as_product(command: CreateProduct) -> Product:
    """What is not published yet, as it would be shown."""
    profile = products.profile(command.provider_id) if command.provider_id else None
    return Product.model_validate(
        {
            **command.model_dump(),
            "product_id": new_key(),
            "provider_name": profile.name if profile else "You",
        }
    )


def _refuse_anothers(shown: Product) -> None:
    """Raises :class:`Wrong` for a family in which somebody else is seen to sell: the catalog would
    refuse it at the last step."""
    if any(size.provider_id != shown.provider_id for size in sizes_of(shown)):
        raise Wrong("family", f"Somebody else sells sizes as {shown.family}. Choose another one.")


def _sizes(shown: Product) -> list[Product]:
    """The sizes as buyers would see them, with this one as it would be."""
    if shown.family is None:
        return []
    others = [size for size in sizes_of(shown) if size.slug != shown.slug]
    return sorted([*others, shown], key=lambda size: size.price_micros)


def _about_sizes(shown: Product) -> str:
    """Whether buyers will change between it and the others of its family; empty without one."""
    if shown.family is None:
        return ""
    if shown.billing_period is BillingPeriod.MONTH and shown.stock is None:
        return f"Who has it can change to the other sizes of {shown.family} that you sell like it."
    return (
        f"It is listed with the sizes of {shown.family}, but nobody can change to it or from it:"
        " that takes a monthly price and no limit to its stock."
    )


def _preview(shown: Product, warning: str = "") -> str:
    return render_template(
        "seller_product_preview.html",
        product=shown,
        sizes=_sizes(shown),
        about_sizes=_about_sizes(shown),
        fields=_sent(),
        key=_key(),
        warning=warning,
    )


def _page(product: Product, error: Wrong | None = None) -> str:
    user_id = signed_in_user().user_id
    history, uses = ask_all(
        GetPriceHistory(product_id=product.product_id, provider_id=user_id),
        GetProductUses(user_id=user_id, product_ids=[product.product_id]),
    )
    return render_template(
        "seller_product.html",
        product=product,
        history=history,
        use=uses.products[0] if uses else None,
        typed=seller_fields.as_sent()
        if request.method == "POST"
        else seller_fields.as_typed(product),
        typed_before=seller_fields.as_typed(product),
        sheet=seller_fields.SHEETS[product.category],
        asked=seller_fields.ASKED,
        METERS_MAX=seller_fields.METERS_MAX,
        families=_families(),
        error=error,
        act=request.form.get("act", ""),
    )


def _review(product: Product, wanted: Change, warning: str = "") -> str:
    return render_template(
        "seller_review.html",
        back=url_for("seller_products.single", product_id=product.product_id),
        back_name=product.name,
        action=url_for("seller_products.change", product_id=product.product_id),
        wanted=wanted,
        sizes=_sizes(wanted.shown) if wanted.shown else [],
        fields=_sent(),
        key=_key(),
        warning=warning,
    )


def _key() -> str:
    key = request.form.get("key", "")
    return key if is_key(key) else new_key()


def _sent() -> dict[str, str]:
    """The fields that were sent, for the form that confirms them."""
    return {
        name: text
        for name, text in request.form.items()
        if name not in ("csrf_token", "key", "back")
    }


def _creation(key: str) -> CreateProduct:
    """What the form wants to be put up for sale. Raises :class:`Wrong`."""
    user_id = signed_in_user().user_id
    typed = seller_fields.as_sent()
    category = Category(typed["category"])
    if typed["period"] not in set(BillingPeriod):
        raise Wrong("period", "Choose how it is paid.")
    return seller_fields.checked(
        CreateProduct,
        idempotency_key=command_key(user_id, "product"),
        slug=products.slug_of(typed["name"], key[-6:]),
        category=category,
        **seller_fields.said(typed, category),
        provider_id=user_id,
        price_micros=seller_fields.price(),
        billing_period=typed["period"],
        stock=seller_fields.stock(typed["stock"]),
        fields=[field for name, field in seller_fields.ASKED.items() if typed[name]],
        meters=seller_fields.meters(typed),
        reason=WHY,
        actor=str(user_id),
    )


def _wanted(product: Product) -> Change:
    """What the form that was sent wants of a product. Raises :class:`Wrong`."""
    forms: dict[str, Callable[[Product], Change]] = {
        "texts": _texts_change,
        "meters": _meters_change,
        "price": _price_change,
        "stock": _stock_change,
        "retire": _retirement,
    }
    act = request.form.get("act", "")
    if act not in forms:
        raise Problem(422, "bad_request", "There is no such form. Go back to the product.")
    return forms[act](product)


def _change(product: Product, **given: Any) -> ChangeProduct:
    user_id = signed_in_user().user_id
    return seller_fields.checked(
        ChangeProduct,
        idempotency_key=command_key(user_id, f"product-{request.form.get('act', '')}"),
        product_id=product.product_id,
        provider_id=user_id,
        actor=str(user_id),
        **{"reason": WHY, **given},
    )


def _texts_change(product: Product) -> Change:
    typed = seller_fields.as_sent()
    said = seller_fields.said(typed, product.category)
    if product.family and "family" not in said:
        raise Wrong("family", "A product can't leave its family. Enter a different family instead.")
    others = [field for field in product.fields if field.key not in seller_fields.ASKED]
    known = {field.key: field for field in product.fields}
    fields = [known.get(name, field) for name, field in seller_fields.ASKED.items() if typed[name]]
    command = _change(product, **said, fields=[*others, *fields])
    shown = product.model_copy(update={**said, "fields": command.fields})
    about = "This is the product as buyers see it then. Who has it already keeps what they have."
    return Change(
        command,
        f"Change {product.name}?",
        [],
        [about, *filter(None, [_about_sizes(shown)])],
        "Change it",
        shown=shown,
    )


def _meters_change(product: Product) -> Change:
    meters = seller_fields.meters(seller_fields.as_sent())
    command = _change(product, meters=meters)
    now = {meter.key: meter for meter in product.meters}
    then = {meter.key: meter for meter in meters}
    lines = [
        (f"{(then.get(key) or now[key]).label}, {when}", meter_price(of[key]) if key in of else "–")
        for key in {**now, **then}
        for when, of in (("now", now), ("then", then))
    ]
    return Change(
        command,
        f"Change what use of {product.name} costs?",
        lines,
        [
            "New purchases are charged so from the moment you confirm.",
            "Who has it keeps the prices that it was bought with.",
        ],
        "Change it",
        shown=product.model_copy(update={"meters": meters}),
    )


def _price_change(product: Product) -> Change:
    price_micros = seller_fields.price()
    why = " ".join(request.form.get("why", "").split())
    if len(why) > 200:
        raise Wrong("why", "Say why in 200 characters.")
    command = _change(product, price_micros=price_micros, reason=why or WHY)
    suffix = "/month" if product.billing_period is BillingPeriod.MONTH else ""
    lines = [
        ("Now", format_usd(product.price_micros) + suffix),
        ("Then", format_usd(price_micros) + suffix),
    ]
    sentences = [f"New purchases cost {format_usd(price_micros)} from the moment you confirm."]
    if product.billing_period is BillingPeriod.ONCE:
        sentences.append("Who bought it has paid, and pays nothing more.")
    else:
        use = products.uses(signed_in_user().user_id, [product]).get(product.product_id)
        lines.append(("Rented now", f"{use.rented}" if use else "Cannot be told at the moment"))
        sentences.append(_notice(product, price_micros))
    return Change(
        command,
        f"Change the price of {product.name}?",
        lines,
        sentences,
        f"Change price to {format_usd(price_micros)}",
    )


def _notice(product: Product, price_micros: int) -> str:
    """From when those who rent it pay the new price."""
    if price_micros <= product.price_micros:
        return "Whoever rents it is told, and pays the new price from their next month."
    notice_s = settings().price_notice_s
    from_when = day(utc_now() + timedelta(seconds=notice_s))
    return (
        f"Whoever rents it is told at once, {duration(notice_s)} ahead: they pay the old price for"
        f" each month that begins before {from_when}, and the new one for those after it."
    )


def _stock_change(product: Product) -> Change:
    """Units are added or taken, so that what was sold since the page was shown stays sold."""
    seen = request.form.get("seen", "")
    is_endless = bool(request.form.get("endless"))
    wanted = None if is_endless else seller_fields.stock(request.form.get("stock", "") or "none")
    if wanted is None:
        command, left = _change(product, is_endless=True), None
    elif not seen:
        command, left = _change(product, stock=wanted), wanted
    else:
        try:
            units = wanted - whole_number(seen)
        except ValueError:
            raise Wrong("stock", "Look at the stock again: it has changed.") from None
        command, left = _change(product, stock_change=units), (product.stock or 0) + units
    sentences = ["Who has it keeps it. When none is left it stays listed, as sold out."]
    if (left is None) != (product.stock is None):
        sentences += filter(None, [_about_sizes(product.model_copy(update={"stock": left}))])
    return Change(
        command,
        f"Change the stock of {product.name}?",
        [("Now", _left(product.stock)), ("Then", _left(left))],
        sentences,
        "Change the stock",
    )


def _left(stock: int | None) -> str:
    return "No limit" if stock is None else f"{stock:,} left"


def _retirement(product: Product) -> Change:
    user_id = signed_in_user().user_id
    command = seller_fields.checked(
        RetireProduct,
        idempotency_key=command_key(user_id, "product-retire"),
        product_id=product.product_id,
        provider_id=user_id,
        actor=str(user_id),
        reason=WHY,
    )
    use = products.uses(user_id, [product]).get(product.product_id)
    renting = f"{use.rented} rented now" if use else "what is rented now"
    return Change(
        command,
        f"Sell {product.name} no more?",
        [],
        [
            "It leaves the marketplace at once, and cannot come back: you would put up a new one.",
            f"Existing customers go on ({renting}): keep running it, and earn by each month.",
        ],
        "Sell it no more",
    )
