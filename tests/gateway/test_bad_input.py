"""Bad input on every endpoint, against the whole product: a clear error and never a 5xx."""

import re
from typing import Any
from uuid import uuid4

import pytest

from tests.gateway.conftest import DOCUMENT, PASSWORD, Api, error_of, read

SOME_ID = "0fffffff-0000-4000-8000-000000000000"
HUGE = "9" * 400

ALL = [
    (method.upper(), path, operation)
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
]
FOR_ROLES = [(m, p) for m, p, _ in ALL if p.startswith(("/api/admin/", "/api/selling/"))]
"""These refuse everybody else before they look at anything: what follows is for the others."""
OPERATIONS = [each for each in ALL if each[:2] not in FOR_ROLES]
GUARDED = [(m, p) for m, p, operation in ALL if operation.get("security") != []]
WITH_BODY = [(m, p) for m, p, operation in OPERATIONS if "requestBody" in operation]
BODY_OPTIONAL = [
    (m, p)
    for m, p, operation in OPERATIONS
    if not operation.get("requestBody", {}).get("required", 1)
]
WITH_ID = [(m, p) for m, p, _ in OPERATIONS if "{" in p]
COMMANDS = [
    (m, p)
    for m, p, operation in OPERATIONS
    if any(parameter["name"] == "Idempotency-Key" for parameter in operation["parameters"])
]
PURCHASES = ["/api/wallet/instant-purchase", "/api/wallet/purchase-with-topup"]


def address(path: str, identifier: str = SOME_ID) -> str:
    return re.sub(r"\{[^}]*\}", lambda _: identifier, path)


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_without_credentials_there_is_a_401(visitor: Api, method: str, path: str) -> None:
    answer = visitor.request(method, address(path), json={})

    assert error_of(answer) == (401, "authentication_required")


@pytest.mark.parametrize(("method", "path"), FOR_ROLES)
def test_what_is_for_roles_looks_at_nothing_of_anybody_else(
    api: Api, method: str, path: str
) -> None:
    answer = api.request(method, address(path), data="no JSON")

    assert error_of(answer) == (403, "scope_missing")


@pytest.mark.parametrize(("method", "path"), WITH_ID)
@pytest.mark.parametrize("identifier", ["nonsense", "-1", "0", HUGE, "%00", "a%2Fb", "💥"])
def test_a_malformed_id_is_not_found(api: Api, method: str, path: str, identifier: str) -> None:
    answer = api.request(method, address(path, identifier))

    assert error_of(answer) == (404, "not_found")


@pytest.mark.parametrize(("method", "path"), WITH_ID)
def test_an_unknown_id_is_not_found(api: Api, method: str, path: str) -> None:
    body = {"name": "Any"} if method == "PATCH" else {}
    if path.endswith("/resize"):
        body = {"product_id": SOME_ID}
    options = {} if method == "GET" else {"json": body}
    headers = {"Idempotency-Key": str(uuid4())}
    answer = api.request(method, address(path), headers=headers, **options)

    assert error_of(answer) == (404, "not_found")


@pytest.mark.parametrize(("method", "path"), COMMANDS)
@pytest.mark.parametrize(
    ("key", "code"),
    [
        (None, "idempotency_key_required"),
        ("", "idempotency_key_required"),
        ("x" * 129, "idempotency_key_malformed"),
        ("two words", "idempotency_key_malformed"),
    ],
)
def test_a_command_needs_a_sound_key(
    api: Api, method: str, path: str, key: str | None, code: str
) -> None:
    headers = {} if key is None else {"Idempotency-Key": key}
    answer = api.request(method, address(path), json={}, headers=headers)

    assert error_of(answer) == (400, code)


@pytest.mark.parametrize(("method", "path"), WITH_BODY)
@pytest.mark.parametrize(
    ("body", "content_type", "error"),
    [
        ("amount=5", "application/x-www-form-urlencoded", (415, "unsupported_media_type")),
        ("{}", "text/plain", (415, "unsupported_media_type")),
        ("", "application/json", (400, "malformed_json")),
        ("{", "application/json", (400, "malformed_json")),
        ('{"amount": NaN}', "application/json", (400, "malformed_json")),
        ('{"amount": 5, "amount": 50}', "application/json", (400, "malformed_json")),
        ('{"a": [{"b": 1, "b": 1}]}', "application/json", (400, "malformed_json")),
        ('{"amount": 1' + "0" * 6000 + "}", "application/json", (400, "malformed_json")),
        ("[" * 30_000, "application/json", (400, "malformed_json")),
        (b"\xff\xfe", "application/json", (400, "malformed_json")),
        ("[]", "application/json", (422, "bad_request")),
        ('"text"', "application/json", (422, "bad_request")),
        ("null", "application/json", (422, "bad_request")),
        ('{"surprise": 1}', "application/json", (422, "bad_request")),
        ('{"a": "' + "x" * 70_000 + '"}', "application/json", (413, "body_too_large")),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_body_that_is_no_such_thing_is_refused(
    api: Api, method: str, path: str, body: str | bytes, content_type: str, error: tuple[int, str]
) -> None:
    headers = {"Content-Type": content_type, "Idempotency-Key": str(uuid4())}
    answer = api.request(method, address(path), data=body, headers=headers)

    if not body and (method, path) in BODY_OPTIONAL:
        # As if nothing was said of what is sent: there is no such thing, and a cart is empty.
        error = (404, "not_found") if "{" in path else (409, "conflict")
    assert error_of(answer) == error


@pytest.mark.parametrize(
    "change",
    [
        {"email": None},
        {"email": 5},
        {"email": ["ann@example.com"]},
        {"email": ""},
        {"email": "ann"},
        {"email": "ann\u0000@example.com"},
        {"email": "x" * 5000 + "@example.com"},
        {"email": "\ud800@example.com"},
        {"password": None},
        {"password": 12345678},
        {"password": "short"},
        {"password": "x" * 5000},
        {"password": {"$ne": ""}},
    ],
    ids=str,
)
def test_bad_registrations_name_the_field(visitor: Api, change: dict[str, Any]) -> None:
    body = {"email": f"{uuid4()}@example.com", "password": PASSWORD, **change}
    answer = visitor.post("/api/auth/register", body)

    assert answer.status_code == 422, answer.text
    assert read(answer)["error"]["field"] == next(iter(change))


@pytest.mark.parametrize("body", [{}, {"email": "ann@example.com"}, {"email": 1, "password": 2}])
def test_bad_logins_are_refused(visitor: Api, body: dict[str, Any]) -> None:
    assert visitor.post("/api/auth/login", body).status_code == 422


@pytest.mark.parametrize(
    "amount",
    [None, "25", "25.00", True, [], {}, 0, -1, -0.01, 0.0000001, 25.001, 1e10, 1e300, 10**30],
    ids=str,
)
def test_a_bad_amount_buys_no_credits(api: Api, amount: object) -> None:
    answer = api.command("/api/wallet/topups", {"amount": amount})

    assert answer.status_code == 422, answer.text


@pytest.mark.parametrize("amount", ["1e999999", "1e99999999999999999999", "-1e999999", "1E-999999"])
def test_an_absurd_exponent_buys_no_credits(api: Api, amount: str) -> None:
    headers = {"Content-Type": "application/json", "Idempotency-Key": str(uuid4())}
    answer = api.post("/api/wallet/topups", data=f'{{"amount": {amount}}}', headers=headers)

    assert answer.status_code in (400, 422), answer.text


@pytest.mark.parametrize("change", [{"save_card": "yes"}, {"save_card": 1}, {"currency": "EUR"}])
def test_a_bad_topup_is_refused(api: Api, change: dict[str, Any]) -> None:
    assert api.command("/api/wallet/topups", {"amount": 25, **change}).status_code == 422


@pytest.mark.parametrize("path", PURCHASES)
@pytest.mark.parametrize(
    "change",
    [
        {"product_id": None},
        {"product_id": 5},
        {"product_id": "nonsense"},
        {"product_id": HUGE},
        {"quantity": 0},
        {"quantity": -1},
        {"quantity": 101},
        {"quantity": 10**30},
        {"quantity": 1.5},
        {"quantity": "1"},
        {"quantity": True},
        {"quantity": None},
        {"unit_price_usd": -5},
        {"unit_price_usd": "5.00"},
        {"unit_price_usd": 1e12},
        {"product_name": 5},
        {"user_id": SOME_ID},
    ],
    ids=str,
)
def test_a_bad_purchase_is_refused(
    api: Api, product: dict[str, Any], path: str, change: dict[str, Any]
) -> None:
    answer = api.command(path, {"product_id": product["product_id"], **change})

    assert answer.status_code == 422, answer.text


@pytest.mark.parametrize("path", PURCHASES)
def test_an_unknown_product_is_not_found(api: Api, path: str) -> None:
    assert error_of(api.command(path, {"product_id": SOME_ID})) == (404, "not_found")


@pytest.mark.parametrize("path", PURCHASES)
def test_another_price_than_the_catalogs_is_refused_with_the_right_one(
    api: Api, product: dict[str, Any], path: str
) -> None:
    body = {"product_id": product["product_id"], "unit_price_usd": 0.01}
    answer = api.command(path, body)

    assert error_of(answer) == (409, "price_changed")
    assert read(answer)["error"]["unit_price_usd"] == product["price_usd"]


SETTINGS: dict[str, Any] = {
    "enabled": True,
    "threshold_amount": 10,
    "topup_amount": 25,
    "payment_method_id": "pm_unknown",
    "consent": True,
}


@pytest.mark.parametrize(
    "change",
    [
        {"enabled": "yes"},
        {"enabled": None},
        {"threshold_amount": None},
        {"threshold_amount": -1},
        {"threshold_amount": "10"},
        {"threshold_amount": 1e12},
        {"topup_amount": 0},
        {"topup_amount": -25},
        {"topup_amount": "25"},
        {"topup_amount": 1e12},
        {"topup_amount": 25.001},
        {"payment_method_id": None},
        {"payment_method_id": ""},
        {"payment_method_id": 5},
        {"payment_method_id": "x" * 300},
        {"payment_method_id": "pm\u0000"},
        {"daily_limit": -1},
        {"daily_limit": "100"},
        {"daily_limit_micros": 50_000_000},
        {"threshold_micros": 10_000_000},
        {"monthly_limit": 0},
        {"consent": False},
        {"consent": "true"},
        {"consent_version": "x" * 41},
        {"surprise": 1},
    ],
    ids=str,
)
def test_bad_auto_topup_settings_are_refused(api: Api, change: dict[str, Any]) -> None:
    answer = api.command("/api/wallet/auto-topup/configure", {**SETTINGS, **change})

    assert answer.status_code == 422, answer.text


def test_somebody_elses_or_an_unknown_card_is_not_found(api: Api) -> None:
    answer = api.command("/api/wallet/auto-topup/configure", SETTINGS)

    assert error_of(answer) == (404, "not_found")


@pytest.mark.parametrize(
    "query",
    [
        "/api/products?category=cars",
        "/api/products?sort=colour",
        "/api/products?limit=0",
        "/api/products?limit=-1",
        "/api/products?limit=201",
        f"/api/products?limit={HUGE}",
        "/api/products?limit=ten",
        "/api/products?limit=1_0",
        "/api/products?limit=%EF%BC%91%EF%BC%92",
        "/api/products?limit=%201",
        "/api/products?limit=1.0",
        "/api/products?limit=%2B1",
        "/api/products?max_price_usd=1_0",
        "/api/products?max_price_micros=50000000",
        "/api/products?cursor=nonsense",
        "/api/products?cursor=%F0%9F%92%A5",
        f"/api/products?q={'x' * 101}",
        "/api/products?q=%01",
        "/api/products?max_price_usd=-1",
        "/api/products?surprise=1",
        "/api/products?category=compute&category=services",
        "/api/wallet/transactions?kind=gift",
        "/api/wallet/transactions?limit=0",
        "/api/wallet/transactions?limit=201",
        "/api/wallet/transactions?cursor=nonsense",
        "/api/wallet/transactions?since=yesterday",
        "/api/wallet/transactions?since=2026-01-01T00:00:00",
        "/api/wallet/transactions?since=2026-02-01T00:00:00Z&until=2026-01-01T00:00:00Z",
        "/api/wallet/check-affordability",
        "/api/wallet/check-affordability?amount=",
        "/api/wallet/check-affordability?amount=five",
        "/api/wallet/check-affordability?amount=0",
        "/api/wallet/check-affordability?amount=-5",
        "/api/wallet/check-affordability?amount=NaN",
        "/api/wallet/check-affordability?amount=1_0",
        "/api/wallet/check-affordability?amount=1e2",
        "/api/wallet/check-affordability?amount=12,50",
        "/api/wallet/check-affordability?amount=%EF%BC%91%EF%BC%92",
        "/api/wallet/check-affordability?amount_micros=5",
        "/api/wallet/check-affordability?amount=Infinity",
        "/api/wallet/check-affordability?amount=1e999999",
        f"/api/wallet/check-affordability?amount={HUGE}",
        "/api/wallet/check-affordability?amount=5&amount=6",
        "/api/purchases?status=lost",
        "/api/purchases?limit=0",
        "/api/purchases?cursor=nonsense",
        "/api/notifications?limit=0",
        "/api/notifications?cursor=nonsense",
        "/api/notifications?unread=perhaps",
        "/api/notifications?unread=yes",
        "/api/notifications?unread=1",
        "/api/notifications?before=0fffffff-0000-4000-8000-000000000000",
    ],
    ids=lambda query: query[:60],
)
def test_a_bad_query_is_refused(api: Api, query: str) -> None:
    assert error_of(api.get(query)) == (422, "bad_request")


def test_what_concerns_no_one_field_is_a_sentence_of_its_own(api: Api) -> None:
    answer = api.get("/api/sales/total?since=2026-02-01&until=2026-01-01")

    assert read(answer)["error"]["message"] == "since must not be after until."


def test_a_name_that_is_given_twice_is_named(api: Api) -> None:
    headers = {"Content-Type": "application/json", "Idempotency-Key": str(uuid4())}
    answer = api.post("/api/wallet/topups", data='{"amount": 5, "amount": 50}', headers=headers)

    assert "'amount' is given twice" in read(answer)["error"]["message"]


def test_a_zero_byte_in_a_query_is_refused(api: Api) -> None:
    assert error_of(api.get("/api/products?q=%00")) == (422, "bad_request")


@pytest.mark.parametrize(
    ("headers", "body", "error"),
    [
        ({}, b"{}", (400, "bad_signature")),
        ({"Stripe-Signature": "nonsense"}, b"{}", (400, "bad_signature")),
        ({"Stripe-Signature": "t=1,v1=00"}, b"{}", (400, "bad_signature")),
        ({"Stripe-Signature": "x" * 3000}, b"{}", (400, "bad_signature")),
        ({"Stripe-Signature": "t=1,v1=00"}, b"\xff", (400, "malformed_request")),
        ({"Stripe-Signature": "t=1,v1=00"}, b"x" * 1_100_000, (413, "body_too_large")),
    ],
    ids=["missing", "nonsense", "wrong", "huge header", "not text", "huge body"],
)
def test_a_webhook_that_is_not_the_processors_is_refused(
    visitor: Api, headers: dict[str, str], body: bytes, error: tuple[int, str]
) -> None:
    assert error_of(visitor.post("/webhooks/stripe", data=body, headers=headers)) == error
