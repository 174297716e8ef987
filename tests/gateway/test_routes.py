"""Every route says who may use it, refuses everybody else, and takes no card's data."""

import re
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from chassis.clock import utc_now
from chassis.database import Connected
from services.gateway.access import Role, Who
from services.gateway.api import OPERATIONS
from services.gateway.app import create_app
from services.gateway.models import RoleGrant, User
from services.gateway.routes import Route, routes_of
from services.gateway.staff.grants import GIVEN
from tests.gateway.conftest import add_user, gateway_settings, token_for
from tests.gateway.test_site import csrf_token, logged_in

ROOT = Path(__file__).resolve().parents[2]
ROUTES = routes_of(
    create_app(gateway_settings("postgresql+psycopg2://nobody@127.0.0.1:1/none", pools_page=True))
)
USERS = [route for route in ROUTES if route.access.who == Who.USERS]
ROLES = [route for route in ROUTES if route.access.who == Who.ROLES]
OPERATORS, READERS = "operator", "operator auditor"
STAFF = "support finance operator auditor"
LETTERS = "/api/admin/dead-letters/<string(maxlength=40):service>"

MAY = {
    ("GET", "/admin"): STAFF,
    ("GET", "/admin/live"): STAFF,
    ("GET", "/admin/users"): "support auditor",
    ("POST", "/admin/users"): "support auditor",
    ("GET", "/admin/users/<uuid:user_id>"): "support auditor",
    ("POST", "/admin/users/<uuid:user_id>/logins"): "support",
    ("POST", "/admin/users/<uuid:user_id>/second-step"): "support",
    ("POST", "/admin/users/<uuid:user_id>/mails/<uuid:mail_id>"): "support",
    ("POST", "/admin/users/<uuid:user_id>/purchases/<uuid:purchase_id>/refund"): "support",
    ("GET", "/admin/charges"): "finance operator auditor",
    ("POST", "/admin/charges/stop"): OPERATORS,
    ("POST", "/admin/charges/release"): OPERATORS,
    ("GET", "/admin/finance"): "finance auditor",
    ("GET", "/admin/finance/journal.csv"): "finance auditor",
    ("GET", "/admin/finance/sellers"): "finance auditor",
    ("POST", "/admin/finance/verify"): "finance",
    ("POST", "/admin/finance/disputes/<string(maxlength=255):dispute_id>/payment.csv"): "finance",
    ("POST", "/admin/finance/payouts/<uuid:payout_id>/review"): "finance",
    ("POST", "/admin/finance/payouts/<uuid:payout_id>/paid"): "finance",
    ("POST", "/admin/finance/payouts/<uuid:payout_id>/refused"): "finance",
    ("GET", "/admin/adjustments"): "finance auditor",
    ("POST", "/admin/adjustments"): "finance",
    ("POST", "/admin/adjustments/<uuid:adjustment_id>/approve"): "finance",
    ("POST", "/admin/adjustments/<uuid:adjustment_id>/reject"): "finance",
    ("GET", "/admin/operations"): READERS,
    ("GET", "/admin/operations/<string(maxlength=40):service>"): READERS,
    (
        "POST",
        "/admin/operations/<string(maxlength=40):service>/<string(maxlength=40):message>/replay",
    ): OPERATORS,
    (
        "POST",
        "/admin/operations/<string(maxlength=40):service>/<string(maxlength=40):message>/discard",
    ): OPERATORS,
    ("GET", "/admin/promotions"): "support finance auditor",
    ("POST", "/admin/promotions"): "support finance",
    ("GET", "/admin/roles"): READERS,
    ("POST", "/admin/roles/grant"): OPERATORS,
    ("POST", "/admin/roles/take"): OPERATORS,
    ("GET", "/admin/audit"): READERS,
    ("GET", "/admin/audit/export"): READERS,
    ("POST", "/api/admin/users"): "support auditor",
    ("GET", "/api/admin/users/<uuid:user_id>"): "support auditor",
    ("POST", "/api/admin/users/<uuid:user_id>/purchases/<uuid:purchase_id>/refund"): "support",
    ("GET", "/api/admin/charges"): "finance operator auditor",
    ("POST", "/api/admin/charges/stop"): OPERATORS,
    ("POST", "/api/admin/charges/release"): OPERATORS,
    ("GET", f"{LETTERS}"): READERS,
    ("POST", f"{LETTERS}/<string(maxlength=40):message>/replay"): OPERATORS,
    ("POST", f"{LETTERS}/<string(maxlength=40):message>/discard"): OPERATORS,
    ("GET", "/api/admin/adjustments"): "finance auditor",
    ("POST", "/api/admin/adjustments"): "finance",
    ("POST", "/api/admin/adjustments/<uuid:adjustment_id>/approve"): "finance",
    ("POST", "/api/admin/adjustments/<uuid:adjustment_id>/reject"): "finance",
    ("GET", "/api/admin/promotions"): "support finance auditor",
    ("POST", "/api/admin/promotions"): "support finance",
    ("GET", "/api/admin/finance"): "finance auditor",
    ("POST", "/api/admin/finance/verify"): "finance",
    ("POST", "/api/admin/finance/disputes/<string(maxlength=255):dispute_id>/payment"): "finance",
    ("POST", "/api/admin/payouts/<uuid:payout_id>/paid"): "finance",
    ("POST", "/api/admin/payouts/<uuid:payout_id>/refused"): "finance",
    ("GET", "/api/admin/finance/journal"): "finance auditor",
    ("GET", "/api/admin/finance/sellers"): "finance auditor",
    ("GET", "/api/admin/kpis"): STAFF,
    ("GET", "/api/admin/numbers"): STAFF,
    ("GET", "/api/admin/alerts"): STAFF,
    ("GET", "/api/admin/popular-products"): STAFF,
    ("GET", "/api/admin/retention"): STAFF,
    ("GET", "/api/admin/services"): READERS,
    ("GET", "/api/admin/problems"): "finance operator auditor",
    ("GET", "/api/admin/roles"): READERS,
    ("POST", "/api/admin/roles/grant"): OPERATORS,
    ("POST", "/api/admin/roles/take"): OPERATORS,
    ("POST", "/api/admin/users/<uuid:user_id>/logins"): "support",
    ("POST", "/api/admin/users/<uuid:user_id>/second-step"): "support",
    ("POST", "/api/admin/users/<uuid:user_id>/mails/<uuid:mail_id>"): "support",
    ("GET", "/api/selling/products"): "seller",
    ("POST", "/api/selling/products"): "seller",
    ("GET", "/api/selling/products/<uuid:product_id>"): "seller",
    ("PATCH", "/api/selling/products/<uuid:product_id>"): "seller",
    ("POST", "/api/selling/products/<uuid:product_id>/retire"): "seller",
    ("GET", "/api/selling/profile"): "seller",
    ("PUT", "/api/selling/profile"): "seller",
    ("GET", "/api/admin/audit"): READERS,
    ("GET", "/dashboard/selling/products"): "seller",
    ("POST", "/dashboard/selling/products"): "seller",
    ("GET", "/dashboard/selling/products/new"): "seller",
    ("POST", "/dashboard/selling/products/preview"): "seller",
    ("GET", "/dashboard/selling/products/<uuid:product_id>"): "seller",
    ("POST", "/dashboard/selling/products/<uuid:product_id>"): "seller",
    ("POST", "/dashboard/selling/products/<uuid:product_id>/review"): "seller",
    ("GET", "/dashboard/selling/profile"): "seller",
    ("POST", "/dashboard/selling/profile"): "seller",
    ("POST", "/dashboard/selling/profile/review"): "seller",
}
"""Who of the roles may use which route for roles. One without a row here fails a test."""


@pytest.fixture
def send(alone: Flask) -> Callable[..., TestResponse]:
    """A request to a route, from a page of a visitor's browser; ``token``: of a program."""
    page = alone.test_client().get("/login")
    cookie = page.headers["Set-Cookie"].partition(";")[0]
    by_page = {"X-CSRFToken": csrf_token(page.text), "Cookie": cookie}

    def ask(route: Route, token: str | None = None) -> TestResponse:
        headers = by_page if token is None else {"Authorization": f"Bearer {token}"}
        address = re.sub(r"<uuid:[^>]*>", str(uuid4()), route.path)
        address = re.sub(r"<[^>]*>", "any", address)
        client = alone.test_client(use_cookies=False)
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
    assert asked == {(route.method, route.path) for route in (*USERS, *ROLES)}
    assert {name for name, answer in answers.items() if answer.status_code == 403} == set()


def test_a_token_that_may_only_read_sends_no_form_of_a_page(
    send: Callable[..., TestResponse], database: Connected
) -> None:
    token = token_for(database, add_user(database, has_wallet=True))
    pages = [route for route in USERS if route.access.scopes is None]

    refused = {route for route in pages if send(route, token).status_code == 403}

    assert refused == {route for route in pages if route.method != "GET"}


def test_every_route_for_roles_has_a_row() -> None:
    named = {(route.method, route.path) for route in ROUTES if "admin" in route.path.split("/")}

    assert named <= {(route.method, route.path) for route in ROLES} == set(MAY)


@pytest.fixture
def become(alone: Flask, database: Connected) -> Callable[..., Callable[[Route], TestResponse]]:
    """Somebody new with a role, logged in, as a function that asks for a route."""

    def start(role: str, *, second_step: bool = True) -> Callable[[Route], TestResponse]:
        user = add_user(database, has_wallet=True)
        client = logged_in(alone, user)
        token = csrf_token(client.get("/docs/none").text)
        with database.begin() as session:
            if second_step:
                session.get_one(User, user.user_id).second_step_since = utc_now()
            if role != Role.BUYER:
                session.add(RoleGrant(user_id=user.user_id, role=role, granted_at=utc_now()))

        def ask(route: Route) -> TestResponse:
            address = re.sub(r"<uuid:[^>]*>", str(uuid4()), route.path)
            address = re.sub(r"<[^>]*>", "any", address)
            return client.open(address, method=route.method, headers={"X-CSRFToken": token})

        return ask

    return start


@pytest.mark.parametrize("role", [str(role) for role in Role])
def test_each_role_may_use_its_own_routes_and_is_refused_all_others(
    become: Callable[..., Callable[[Route], TestResponse]], role: str
) -> None:
    ask = become(role)

    answers = {(route.method, route.path): ask(route) for route in ROLES}

    refused = {name for name, answer in answers.items() if answer.status_code == 403}
    assert {name for name in MAY if role not in MAY[name].split()} == refused
    assert all("You need the" in answers[name].text for name in refused)
    # The services are away; none of the gateway's own code fails.
    assert {answer.status_code for answer in answers.values()} <= {
        *(200, 303, 400, 403, 404, 409, 415, 422, 503)
    }


@pytest.mark.parametrize("role", [str(role) for role in Role if role != Role.BUYER])
def test_without_a_second_step_no_role_opens_anything_and_the_way_to_one_is_shown(
    become: Callable[..., Callable[[Route], TestResponse]], role: str
) -> None:
    ask = become(role, second_step=False)
    own = [route for route in ROLES if role in MAY[route.method, route.path].split()]

    answers = [ask(route) for route in own]

    assert [answer.status_code for answer in answers] == [403] * len(own)
    assert all("/dashboard/account#second-step" in answer.text for answer in answers)


def test_no_token_opens_a_page_for_roles(
    send: Callable[..., TestResponse], database: Connected
) -> None:
    user = add_user(database, has_wallet=True)
    with database.begin() as session:
        session.get_one(User, user.user_id).second_step_since = utc_now()
        session.add_all(
            RoleGrant(user_id=user.user_id, role=role, granted_at=utc_now()) for role in GIVEN
        )
    token = token_for(database, user)

    assert {send(route, token).status_code for route in ROLES} == {403}


def test_an_auditor_sends_no_form_but_the_one_that_says_why_they_look() -> None:
    forms = [name for name, roles in MAY.items() if name[0] != "GET" and "auditor" in roles]

    assert forms == [("POST", "/admin/users"), ("POST", "/api/admin/users")]


def test_no_route_sends_a_request_back(alone: Flask) -> None:
    assert alone.test_client().open("/login", method="TRACE").status_code == 405


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


def test_the_proxy_refuses_what_is_asked_inside() -> None:
    rules = (ROOT / "deploy" / "compose" / "haproxy.cfg").read_text()
    inside = {route.path for route in ROUTES if route.access.who == Who.INSIDE}

    assert inside == {"/metrics"}
    assert all(
        f"http-request deny deny_status 404 if {{ path,url_dec {path} }}" in rules
        for path in inside
    )


CARD_FIELD = re.compile(
    r"\b(cc-|card.?(number|no|code)|pan\b|cvc|cvv|csc\b|exp(iry)?[_-]?(month|year))"
)
"""What a field for a card's data is called, or says of itself to the browser that fills it in."""


def test_no_card_s_data_can_be_typed_sent_or_led_elsewhere(alone: Flask) -> None:
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
        for part in alone.test_client().get("/login").headers["Content-Security-Policy"].split("; ")
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
