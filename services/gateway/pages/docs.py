"""/docs: the documentation, its search, and the API as people read it. /status: is all well?"""

import re
from functools import cache

from flask import Blueprint, current_app, redirect, render_template, request, url_for
from markupsafe import Markup
from werkzeug.wrappers import Response

from contracts import asyncapi
from services.gateway import assets, health
from services.gateway.access import Who, open_to
from services.gateway.api import OPERATIONS
from services.gateway.api.openapi import describe_api
from services.gateway.backend import settings
from services.gateway.errors import Problem
from services.gateway.handbook import CONTENTS, as_html, handbook, reference

blueprint = Blueprint("docs", __name__)

QUERY_LENGTH_MAX = 100
STATUS_PARTS = {
    "database": "The website",
    "catalog": "The marketplace",
    "wallet": "Balances and statements",
    "billing": "Purchases and deployments",
    "topup": "Buying credits and auto top-up",
}


@blueprint.get("/docs", defaults={"slug": "index"})
@blueprint.get("/docs/<string(maxlength=50):slug>")
@open_to(Who.EVERYBODY)
def page(slug: str) -> str:
    """One text of the handbook."""
    found = handbook(settings()).pages.get(slug)
    if found is None:
        raise Problem(404, "not_found", "There is no such page in the documentation.")
    return render_template("docs/page.html", page=found)


@blueprint.get("/docs/search")
@open_to(Who.EVERYBODY)
def search() -> str:
    typed = request.args.get("q", "").strip()[:QUERY_LENGTH_MAX]
    return render_template(
        "docs/search.html", typed=typed, found=handbook(settings()).search(typed)
    )


@blueprint.get("/docs/tfp")
@open_to(Who.EVERYBODY)
def moved() -> Response:
    """Where the points of the old system were explained."""
    return redirect(url_for("docs.page", slug="credits"), 301)


@blueprint.get("/docs/api")
@open_to(Who.EVERYBODY)
def api() -> str:
    """The HTTP interface, from the same document that programs read."""
    return render_template("docs/api.html", reference=_api())


@blueprint.get("/docs/messaging")
@open_to(Who.EVERYBODY)
def messaging() -> str:
    """What the services say on the broker, from the document that programs read."""
    return render_template("docs/messaging.html", spoken=_messages())


@blueprint.get("/docs/asyncapi.json")
@open_to(Who.EVERYBODY)
def asyncapi_document() -> Response:
    return current_app.response_class(_asyncapi_text(), mimetype="application/json")


@blueprint.get("/docs/design")
@open_to(Who.EVERYBODY)
def design() -> str:
    """The pieces that pages are made of, for who works on them: on their own machine only."""
    if settings().is_secure:
        raise Problem(404, "not_found", "There is no such page in the documentation.")
    return render_template("docs/design.html", ICONS=_icons())


@cache
def _icons() -> list[str]:
    drawn = (assets.STATIC / "img/icons.svg").read_text()
    return re.findall(r'<symbol id="([^"]+)"', drawn)


@cache
def _api() -> reference.Reference:
    return reference.read_api(describe_api(OPERATIONS))


@cache
def _asyncapi_text() -> str:
    return asyncapi.as_text()


@cache
def _messages() -> reference.Spoken:
    return reference.read_messages(asyncapi.document())


@blueprint.app_template_filter("markdown")
def _markdown(text: str) -> Markup:
    return as_html(text)


@blueprint.app_context_processor
def _contents() -> dict[str, object]:
    return {"DOCS_CONTENTS": CONTENTS}


@blueprint.get("/status")
@open_to(Who.EVERYBODY)
def status() -> str:
    """Which parts of the site answer at the moment."""
    return render_template("status.html", states=health.states(), STATUS_PARTS=STATUS_PARTS)
