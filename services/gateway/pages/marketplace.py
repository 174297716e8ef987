"""/marketplace: the products, one product, and the Buy Now dialog."""

from flask import Blueprint, redirect, render_template, request, url_for
from pydantic import ValidationError
from werkzeug.wrappers import Response

from chassis.money import InvalidAmount
from contracts.catalog import GetProduct, ListProducts, SortOrder
from services.gateway.errors import Problem
from services.gateway.pages.forms import (
    is_key,
    new_key,
    optional_money,
    read_quantity,
    selected_fields,
)
from services.gateway.pages.offers import make_offer
from services.gateway.people.identity import current_user, login_required, signed_in_user
from services.gateway.showcase import show, show_part

blueprint = Blueprint("marketplace", __name__)

PAGE_SIZE = 12


@blueprint.get("/marketplace")
def listing() -> str:
    """Products by category, text, price and order; htmx asks for further pages of cards only."""
    chosen = {
        name: request.args[name]
        for name in ("category", "q", "sort", "max_price")
        if request.args.get(name)
    }
    question = _question(chosen, request.args.get("cursor"))
    page = show(question)
    cards = show_part(
        page,
        (*sorted(chosen.items()), current_user() is None),
        lambda: render_template("parts/product_cards.html", page=page, chosen=chosen),
    )
    if "HX-Request" in request.headers:
        return cards
    return render_template(
        "marketplace.html",
        page=page,
        cards=cards,
        question=question,
        chosen=chosen,
        SortOrder=SortOrder,
        is_first_page=question.cursor is None,
    )


@blueprint.get("/marketplace/<string(maxlength=100):slug>")
def product(slug: str) -> str:
    return render_template("product.html", product=show(GetProduct(product_id=slug)))


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
    return render_template(
        "parts/buy_dialog.html" if in_dialog else "buy.html",
        offer=make_offer(signed_in_user().user_id, product, quantity),
        key=key if is_key(key) else new_key(),
        typed=selected_fields(product),
    )


def _question(chosen: dict[str, str], cursor: str | None) -> ListProducts:
    try:
        return ListProducts.model_validate(
            {
                "category": chosen.get("category"),
                "q": chosen.get("q", ""),
                "sort": chosen.get("sort", SortOrder.FEATURED),
                "max_price_micros": optional_money(chosen.get("max_price", ""), "Highest price"),
                "cursor": cursor,
                "limit": PAGE_SIZE,
            }
        )
    except (ValidationError, InvalidAmount) as error:
        sentence = str(error) if isinstance(error, InvalidAmount) else "No such filter or order."
        raise Problem(422, "bad_request", f"{sentence} Go back to the marketplace.") from None
