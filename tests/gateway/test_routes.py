"""Every route says who may use it, refuses everybody else, and takes no card's data."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from chassis.database import Connected
from contracts.errors import Unavailable
from services.gateway.access import Who
from services.gateway.api import OPERATIONS
from services.gateway.app import create_app
from services.gateway.backend import Backend
from services.gateway.routes import Route, routes_of
from tests.gateway.conftest import add_user, gateway_settings, token_for
from tests.gateway.test_site import csrf_token

ROOT = Path(__file__).resolve().parents[2]
ROUTES = routes_of(create_app(gateway_settings("postgresql+psycopg2://nobody@127.0.0.1:1/none")))
USERS = [route for route in ROUTES if route.access.who == Who.USERS]


@pytest.fixture
def app(
    databases: dict[str, str], database: Connected, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Flask]:
    """The website; its services are away, and say so at once."""

    def away(*_: Any) -> Any:
        raise Unavailable("It is away.")

    monkeypatch.setattr(Backend, "begin", away)
    app = create_app(gateway_settings(databases["gateway"], rate_limit_default="9000 per minute"))
    yield app
    app.extensions["mycelium"].close()


@pytest.fixture
def send(app: Flask) -> Callable[..., TestResponse]:
    """A request to a route, from a page of a visitor's browser; ``token``: of a program."""
    page = app.test_client().get("/login")
    cookie = page.headers["Set-Cookie"].partition(";")[0]
    by_page = {"X-CSRFToken": csrf_token(page.text), "Cookie": cookie}

    def ask(route: Route, token: str | None = None) -> TestResponse:
        headers = by_page if token is None else {"Authorization": f"Bearer {token}"}
        address = re.sub(r"<uuid:[^>]*>", str(uuid4()), route.path)
        address = re.sub(r"<[^>]*>", "any", address)
        client = app.test_client(use_cookies=False)
        return client.open(address, method=route.method, headers=headers)

    return ask


def test_a_route_that_says_nothing_is_an_error() -> None:
    app = create_app(gateway_settings("postgresql+psycopg2://nobody@127.0.0.1:1/none"))
    app.add_url_rule("/new", "new", lambda: "")

    with pytest.raises(LookupError, match="/new"):
        routes_of(app)


def asks_for_a_login(answer: TestResponse) -> bool:
    if answer.is_json:
        return answer.status_code == 401 and "authentication_required" in answer.text
    return answer.status_code == 303 and answer.headers["Location"].startswith("/login?next=")


def test_nobody_is_asked_for_a_login_wherever_users_alone_may_go_and_nowhere_else(
    send: Callable[..., TestResponse],
) -> None:
    answers = {(route.method, route.path): send(route) for route in ROUTES}

    asked = {name for name, answer in answers.items() if asks_for_a_login(answer)}
    assert asked == {(route.method, route.path) for route in USERS}
    assert {name for name, answer in answers.items() if answer.status_code == 403} == set()


def test_a_token_that_may_only_read_sends_no_form_of_a_page(
    send: Callable[..., TestResponse], database: Connected
) -> None:
    token = token_for(database, add_user(database, has_wallet=True))
    pages = [route for route in USERS if route.access.scopes is None]

    refused = {route for route in pages if send(route, token).status_code == 403}

    assert refused == {route for route in pages if route.method != "GET"}


def test_no_route_sends_a_request_back(app: Flask) -> None:
    assert app.test_client().open("/login", method="TRACE").status_code == 405


def test_what_others_may_use_is_refused_without_what_they_have(
    send: Callable[..., TestResponse],
) -> None:
    refused = {Who.LINK_HOLDERS: 410, Who.PROCESSOR: 400}
    guarded = [route for route in ROUTES if route.access.who in refused]

    assert {route.path for route in guarded} >= {"/password/reset", "/webhooks/stripe"}
    assert [
        (route.path, send(route).status_code)
        for route in guarded
        if send(route).status_code != refused[route.access.who]
    ] == []


def test_the_proxy_refuses_what_is_for_operators() -> None:
    rules = (ROOT / "deploy" / "compose" / "haproxy.cfg").read_text()
    inside = {route.path for route in ROUTES if route.access.who == Who.OPERATORS}

    assert inside == {"/metrics"}
    assert all(
        f"http-request deny deny_status 404 if {{ path {path} }}" in rules for path in inside
    )


CARD_FIELD = re.compile(
    r"\b(cc-|card.?(number|no|code)|pan\b|cvc|cvv|csc\b|exp(iry)?[_-]?(month|year))"
)
"""What a field for a card's data is called, or says of itself to the browser that fills it in."""


def test_no_card_s_data_can_be_typed_sent_or_led_elsewhere(app: Flask) -> None:
    """PCI DSS, SAQ A: cards are entered on the processor's own pages, to which a redirect leads."""
    fields = [
        field
        for page in (ROOT / "services/gateway/templates").rglob("*.html")
        for field in re.findall(r"<(?:input|select|textarea|iframe)[^>]*>", page.read_text())
    ]
    models = [model for each in OPERATIONS for model in (each.body, each.query) if model]
    names = [name for model in models for name in model.model_fields]
    policy = dict(
        part.split(" ", 1)
        for part in app.test_client().get("/login").headers["Content-Security-Policy"].split("; ")
    )

    assert len(fields) > 30
    assert [given for given in (*fields, *names) if CARD_FIELD.search(given.lower())] == []
    assert {"default-src": "'none'", "script-src": "'self'", "connect-src": "'self'"}.items() <= (
        policy.items()
    )
    assert "frame-src" not in policy
    assert policy["form-action"].split()[:2] == ["'self'", "https://checkout.stripe.com"]


def test_the_policy_of_a_site_under_tls_names_the_card_pages_and_no_other_site(
    databases: dict[str, str],
) -> None:
    settings = gateway_settings(databases["gateway"], public_url="https://mycelium.example")
    policy = create_app(settings).test_client().get("/login").headers["Content-Security-Policy"]

    assert re.findall(r"[a-z*]+:[^ ;]*", policy) == ["data:", "https://checkout.stripe.com"]
    assert "object-src 'none'; base-uri 'none'" in policy
    assert "frame-ancestors 'none'" in policy
