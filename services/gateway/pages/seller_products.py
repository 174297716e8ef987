"""/dashboard/selling/products: what somebody sells: put up, changed, priced, counted, retired.

Whose a product is the catalog decides: each command says which provider wants it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

from flask import Blueprint, flash, redirect, render_template, request, url_for
from pydantic import BaseModel, ValidationError
from werkzeug.wrappers import Response

from chassis.clock import utc_now
from chassis.digits import whole_number
from chassis.money import InvalidAmount, format_usd
from contracts.billing import GetProductUses
from contracts.catalog import (
    BillingPeriod,
    Category,
    ChangeProduct,
    CreateProduct,
    FieldKind,
    GetPriceHistory,
    ListProducts,
    Product,
    ProductField,
    RetireProduct,
    SortOrder,
    SpecificationItem,
)
from contracts.errors import NO_ANSWER, ServiceError
from services.gateway.access import Role
from services.gateway.backend import ask_all, call, settings
from services.gateway.errors import STATUSES, Problem
from services.gateway.pages.formats import day, duration
from services.gateway.pages.forms import command_key, is_key, money_field, new_key
from services.gateway.people.identity import signed_in_user
from services.gateway.staff import products
from services.gateway.staff.guard import acts, current_staff

blueprint = Blueprint("seller_products", __name__, url_prefix="/dashboard/selling/products")

Answer = Response | str | tuple[str, int]

MessageT = TypeVar("MessageT", bound=BaseModel)

SHOWN = 50
LINES_MAX = 50
WHY = "By the seller, on the website"

SHEETS: dict[Category, dict[str, str]] = {
    Category.COMPUTE: {
        "vCPU": "2 dedicated",
        "Memory": "4 GB",
        "Disk": "80 GB NVMe",
        "Transfer": "2 TB a month",
        "Network": "IPv6 and IPv4",
    },
    Category.NODES: {
        "CPU": "8 cores",
        "Memory": "64 GB",
        "Disk": "2 × 1.9 TB NVMe",
        "Network": "10 Gbit/s",
        "Power": "120 W",
        "Warranty": "2 years",
    },
    Category.GATEWAYS: {
        "Transfer": "5 TB a month",
        "Address": "1 IPv4, 1 IPv6",
        "Certificates": "Automatic",
        "Names": "10",
        "Latency": "Below 20 ms in Europe",
    },
    Category.APPLICATIONS: {
        "Disk": "20 GB",
        "Memory": "2 GB",
        "People": "Up to 25",
        "Backups": "Every night",
    },
    Category.SERVICES: {
        "Duration": "2 hours",
        "Scope": "One system",
        "Hours": "Mon–Fri, 9–17 CET",
        "First answer": "Within a day",
    },
}
"""What a data sheet of each category says, with an example. The catalog filters by vCPU or CPU,
Memory and Disk."""

ASKED = {
    "host_name": ProductField(
        key="host_name",
        label="Host name",
        kind=FieldKind.TEXT,
        length_max=63,
        help="What the machine calls itself.",
    ),
    "ssh_key": ProductField(
        key="ssh_key",
        label="SSH public key",
        kind=FieldKind.SSH_KEY,
        help="The line in id_ed25519.pub or a file like it.",
    ),
    "domain": ProductField(
        key="domain",
        label="Domain",
        kind=FieldKind.TEXT,
        length_max=253,
        help="Where it is to be found. It needs to be yours.",
    ),
}
"""What buyers can be asked for."""

_TEXTS = ("name", "summary", "description", "location")
_AS_TYPED = (*_TEXTS, "category", "period", "price", "stock", "more", *ASKED)


class Wrong(Exception):
    """A field of the form, and what is wrong with it."""

    def __init__(self, field: str, sentence: str) -> None:
        super().__init__(sentence)
        self.field = field


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
        return _form(_typed())
    try:
        command = _creation(_key())
    except Wrong as error:
        return _form(_typed(), error), 422
    return _preview(command)


@blueprint.post("")
@acts(Role.SELLER)
def publish() -> Answer:
    try:
        command = _creation(_key())
        made = products.create(current_staff().actor(), command, WHY)
    except Wrong as error:
        return _form(_typed(), error), 422
    except NO_ANSWER as error:
        return _preview(command, warning=_once_more(error)), STATUSES[error.code]
    except ServiceError as error:
        return _form(_typed(), Wrong("", str(error))), STATUSES.get(error.code, 502)
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
        return _review(product, _wanted(product))
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
        sheet=SHEETS[category],
        asked=ASKED,
        error=error,
        key=_key(),
    )


def _preview(command: CreateProduct, warning: str = "") -> str:
    profile = products.profile(command.provider_id) if command.provider_id else None
    shown = Product.model_validate(
        {
            **command.model_dump(),
            "product_id": new_key(),
            "provider_name": profile.name if profile else "You",
        }
    )
    return render_template(
        "seller_product_preview.html",
        product=shown,
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
        typed=_typed() if request.method == "POST" else _as_typed(product),
        typed_before=_as_typed(product),
        sheet=SHEETS[product.category],
        asked=ASKED,
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


def _typed() -> dict[str, Any]:
    typed: dict[str, Any] = {name: request.form.get(name, "") for name in _AS_TYPED}
    typed["sheet"] = {
        name.removeprefix("sheet."): text
        for name, text in request.form.items()
        if name.startswith("sheet.")
    }
    if typed["category"] not in set(Category):
        typed["category"] = Category.COMPUTE.value
    return typed


def _as_typed(product: Product) -> dict[str, Any]:
    """A product as its form shows it."""
    sheet = SHEETS[product.category]
    labels = [item.label for item in product.specification]
    fixed = {
        item.label: item.value
        for item in product.specification
        if item.label in sheet and labels.count(item.label) == 1
    }
    more = [f"{item.label}: {item.value}" for item in product.specification]
    return {
        **{name: getattr(product, name) or "" for name in _TEXTS},
        "sheet": fixed,
        "more": "\n".join(
            line
            for line, item in zip(more, product.specification, strict=True)
            if item.label not in fixed
        ),
        **{field.key: "yes" for field in product.fields if field.key in ASKED},
    }


def _creation(key: str) -> CreateProduct:
    """What the form wants to be put up for sale. Raises :class:`Wrong`."""
    user_id = signed_in_user().user_id
    typed = _typed()
    category = Category(typed["category"])
    if typed["period"] not in set(BillingPeriod):
        raise Wrong("period", "Choose how it is paid.")
    return _checked(
        CreateProduct,
        idempotency_key=command_key(user_id, "product"),
        slug=products.slug_of(typed["name"], key[-6:]),
        category=category,
        **_said(typed, category),
        provider_id=user_id,
        price_micros=_price(),
        billing_period=typed["period"],
        stock=_stock(typed["stock"]),
        fields=[field for name, field in ASKED.items() if typed[name]],
        reason=WHY,
        actor=str(user_id),
    )


def _wanted(product: Product) -> Change:
    """What the form that was sent wants of a product. Raises :class:`Wrong`."""
    forms: dict[str, Callable[[Product], Change]] = {
        "texts": _texts_change,
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
    return _checked(
        ChangeProduct,
        idempotency_key=command_key(user_id, f"product-{request.form.get('act', '')}"),
        product_id=product.product_id,
        provider_id=user_id,
        actor=str(user_id),
        **{"reason": WHY, **given},
    )


def _texts_change(product: Product) -> Change:
    typed = _typed()
    said = _said(typed, product.category)
    others = [field for field in product.fields if field.key not in ASKED]
    known = {field.key: field for field in product.fields}
    fields = [known.get(name, field) for name, field in ASKED.items() if typed[name]]
    command = _change(product, **said, fields=[*others, *fields])
    changed = {name: value for name, value in said.items() if value is not None}
    return Change(
        command,
        f"Change {product.name}?",
        [],
        ["This is the product as buyers see it then. Who has it already keeps what they have."],
        "Change it",
        shown=product.model_copy(update={**changed, "fields": command.fields}),
    )


def _price_change(product: Product) -> Change:
    price_micros = _price()
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
        f"Ask for {format_usd(price_micros)}",
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
    wanted = None if is_endless else _stock(request.form.get("stock", "") or "none")
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
    return Change(
        command,
        f"Change the stock of {product.name}?",
        [("Now", _left(product.stock)), ("Then", _left(left))],
        ["Who has it keeps it. When none is left it stays listed, as sold out."],
        "Change the stock",
    )


def _left(stock: int | None) -> str:
    return "No limit" if stock is None else f"{stock:,} left"


def _retirement(product: Product) -> Change:
    user_id = signed_in_user().user_id
    command = _checked(
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


def _said(typed: Mapping[str, Any], category: Category) -> dict[str, Any]:
    """The texts and the data sheet of the form. Raises :class:`Wrong`."""
    location = typed["location"].strip()
    return {
        "name": " ".join(typed["name"].split()),
        "summary": " ".join(typed["summary"].split()),
        "description": typed["description"].replace("\r\n", "\n").strip(),
        **({"location": location} if location else {}),
        "specification": _specification(typed, category),
    }


def _specification(typed: Mapping[str, Any], category: Category) -> list[SpecificationItem]:
    lines = [
        (label, value)
        for label in SHEETS[category]
        if (value := typed["sheet"].get(label, "").strip())
    ]
    for line in typed["more"].splitlines():
        if line.strip():
            label, colon, value = (part.strip() for part in line.partition(":"))
            if not (label and colon and value):
                raise Wrong("more", "Write each line as a label, a colon and a value.")
            lines.append((label, value))
    if len(lines) > LINES_MAX:
        raise Wrong("more", f"A data sheet has {LINES_MAX} lines at most.")
    return [
        _checked(SpecificationItem, field="more", label=label, value=value)
        for label, value in lines
    ]


def _price() -> int:
    try:
        return money_field("price", "Price")
    except InvalidAmount as error:
        raise Wrong("price", str(error)) from None


def _stock(text: str) -> int | None:
    """How many there are; None for an empty field: no end to it."""
    if not text.strip():
        return None
    try:
        units = whole_number(text.strip())
    except ValueError:
        units = -1
    if not 0 <= units <= 1_000_000:
        raise Wrong("stock", "The stock is a whole number from 0 to 1,000,000.")
    return units


def _checked(kind: type[MessageT], field: str | None = None, **values: Any) -> MessageT:
    """The message, as its contract takes it. Raises :class:`Wrong` with a sentence."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
    name = field or (str(first["loc"][0]) if first["loc"] else "")
    limit = first.get("ctx", {}).get("max_length")
    if limit:
        raise Wrong(name, f"Write {limit} characters at most.")
    if first["type"] == "string_too_short":
        raise Wrong(name, "Enter a few words.")
    if name == "price_micros":
        raise Wrong("price", "A price is at most $1,000,000,000.")
    sentence = first["msg"].removeprefix("Value error, ")
    raise Wrong(name, f"{sentence[:1].upper()}{sentence[1:]}.")
