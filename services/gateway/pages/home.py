"""/ : what Mycelium is."""

from flask import Blueprint, render_template

from contracts.catalog import ListProducts
from services.gateway.showcase import show_if_it_answers

blueprint = Blueprint("home", __name__)


@blueprint.get("/")
def landing() -> str:
    featured = show_if_it_answers(ListProducts(limit=3))
    return render_template("home.html", featured=featured.products if featured else [])
