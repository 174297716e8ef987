"""/marketplace: the products, one product, and the Buy Now dialog."""

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from chassis.digits import whole_number
from chassis.money import InvalidAmount
from contracts.billing import PurchaseWay
from contracts.catalog import (
    CountProducts,
    GetProduct,
    GetProvider,
    ListProducts,
    ProductFilters,
    Provider,
    SortOrder,
)
from contracts.errors import ServiceError
from contracts.gateway import PathStep
from services.gateway.access import Who, open_to
from services.gateway.errors import Problem
from services.gateway.pages.forms import (
    is_key,
    new_key,
    optional_money,
    read_quantity,
    selected_fields,
)
from services.gateway.pages.offers import make_offer
from services.gateway.pages.steps import took
from services.gateway.people.identity import current_user, login_required, signed_in_user
from services.gateway.showcase import show, show_if_it_answers, show_part, sizes_of

blueprint = Blueprint("marketplace", __name__)

PAGE_SIZE = 12
COMPARED_MAX = 4

FILTERS = {
    "category": "category",
    "q": "q",
    "provider": "provider_name",
    "location": "location",
    "period": "billing_period",
    "vcpu": "min_vcpu",
    "memory": "min_memory_gb",
    "disk": "min_disk_gb",
}
"""What stands in the page's address, and what the catalog calls it; the price is read apart."""

MEASURES = {
    "vcpu": ("vCPU", "", (2, 4, 8, 16, 32)),
    "memory": ("Memory", " GB", (4, 8, 16, 32, 64, 128)),
    "disk": ("Disk", " GB", (50, 100, 200, 500, 1_000, 4_000)),
}
"""What can be asked for at least: its name, its unit, and how much."""


@blueprint.get("/marketplace")
@open_to(Who.EVERYBODY)
def listing() -> str:
    """Products by what they have to be, and in an order; htmx asks for further cards only."""
    chosen = {
        name: request.args[name]
        for name in (*FILTERS, "sort", "max_price")
        if request.args.get(name)
    }
    question = _question(chosen, request.args.get("cursor"))
    page = show(question)
    cards = show_part(
        page,
        (*sorted(chosen.items()), current_user() is None),
        lambda: render_template(
            "parts/product_cards.html",
            page=page,
            chosen=chosen,
            is_first_page=question.cursor is None,
        ),
    )
    if "HX-Request" in request.headers:
        return cards
    return render_template(
        "marketplace.html",
        page=page,
        cards=cards,
        question=question,
        chosen=chosen,
        facets=show_if_it_answers(_count(question)),
        provider=_profile(question.provider_name) if question.provider_name else None,
        MEASURES=MEASURES,
        SortOrder=SortOrder,
        is_first_page=question.cursor is None,
    )


@blueprint.get("/compare")
@open_to(Who.EVERYBODY)
def compare() -> str:
    """Two to four products beside each other: ``slug`` for each."""
    slugs = list(dict.fromkeys(request.args.getlist("slug")))[:COMPARED_MAX]
    products = [show(GetProduct(product_id=slug)) for slug in slugs if 0 < len(slug) <= 100]
    labels = dict.fromkeys(item.label for one in products for item in one.specification)
    return render_template("compare.html", products=products, labels=list(labels))


@blueprint.get("/marketplace/<string(maxlength=100):slug>")
@open_to(Who.EVERYBODY)
def product(slug: str) -> str:
    """One product, and the sizes of it that there are."""
    product = show(GetProduct(product_id=slug))
    took(PurchaseWay.BUY_NOW, PathStep.PRODUCT_PAGE)
    return render_template("product.html", product=product, sizes=sizes_of(product))


@blueprint.get("/marketplace/<string(maxlength=100):slug>/buy")
@login_required
def buy(slug: str) -> str | Response:
    """What Buy Now will do: the price, a top-up if one is needed, the balance after.

    The page's address carries the form's key, so that going back to it or reloading it
    shows the same form again, which buys once.
    """
    quantity = read_quantity(request.args.get("quantity", "1"))
    in_dialog = "HX-Request" in request.headers
    key = request.args.get("key", "")
    if not in_dialog and not is_key(key):
        again = url_for("marketplace.buy", slug=slug, quantity=quantity, key=new_key())
        return redirect(again, 303)
    product = show(GetProduct(product_id=slug))
    offer = make_offer(signed_in_user().user_id, product, quantity)
    took(PurchaseWay.BUY_NOW, PathStep.DIALOG)
    return render_template(
        "parts/buy_dialog.html" if in_dialog else "buy.html",
        offer=offer,
        key=key if is_key(key) else new_key(),
        typed=selected_fields(product),
    )


def _question(chosen: dict[str, str], cursor: str | None) -> ListProducts:
    try:
        return ListProducts.model_validate(
            {
                **{FILTERS[name]: value for name, value in chosen.items() if name in FILTERS},
                **{
                    FILTERS[name]: whole_number(chosen[name]) for name in MEASURES if name in chosen
                },
                "sort": chosen.get("sort", SortOrder.FEATURED),
                "max_price_micros": optional_money(chosen.get("max_price", ""), "Highest price"),
                "cursor": cursor,
                "limit": PAGE_SIZE,
            }
        )
    except ValueError as error:
        sentence = str(error) if isinstance(error, InvalidAmount) else "No such filter or order."
        raise Problem(422, "bad_request", f"{sentence} Go back to the marketplace.") from None


def _profile(name: str) -> Provider | None:
    """What a provider says of themself; most of ours say nothing, and the page does without."""
    try:
        return show(GetProvider(name=name))
    except ServiceError:
        return None


def _count(question: ListProducts) -> CountProducts:
    """What can be chosen, for the filters of this list."""
    return CountProducts.model_validate(
        question.model_dump(include=set(ProductFilters.model_fields), exclude_none=True)
    )
