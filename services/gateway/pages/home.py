"""/ : what Mycelium is."""

from flask import Blueprint, render_template

from contracts.catalog import ListProducts
from services.gateway.access import Who, open_to
from services.gateway.people.identity import current_user
from services.gateway.showcase import show_if_it_answers, show_part

blueprint = Blueprint("home", __name__)


@blueprint.get("/")
@open_to(Who.EVERYBODY)
def landing() -> str:
    featured = show_if_it_answers(ListProducts(limit=3))
    if featured is None:
        return render_template("home.html")
    cards = show_part(
        featured,
        current_user() is None,
        lambda: render_template("parts/product_list.html", products=featured.products),
    )
    return render_template("home.html", cards=cards)
