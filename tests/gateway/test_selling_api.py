"""/api/selling: what a token with the scope ``sell`` does, for whom, and what is recorded of it."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask

from chassis.clock import utc_now
from chassis.database import Connected
from contracts.catalog import (
    BillingPeriod,
    ChangeProduct,
    CreateProduct,
    GetPriceHistory,
    ListProducts,
    PastPrice,
    PriceHistory,
    RetireProduct,
    SetProvider,
)
from contracts.errors import DeadlineExceeded, LimitExceeded, Unavailable
from contracts.messages import Command
from services.gateway.access import Role
from services.gateway.models import SellerAgreement, User
from services.gateway.people import tokens
from services.gateway.people.tokens import Scope
from services.gateway.staff import grants
from tests.gateway import test_seller_products
from tests.gateway.conftest import add_user, answers_with
from tests.gateway.test_admin_api import Ask, become, code_of
from tests.gateway.test_roles import COMMAND, WHY, Desk, last_acts

__all__ = ["become"]

PRODUCTS, PROFILE = "/api/selling/products", "/api/selling/profile"
BODY = {
    "name": "Hill-VM",
    "category": "compute",
    "summary": "A machine.",
    "price_usd": 12.5,
    "billing_period": "month",
    "specification": [{"label": "vCPU", "value": "4"}],
    "stock": 8,
    "fields": [{"key": "ssh_key", "label": "SSH key", "kind": "ssh_key"}],
    "family": "hill-vms",
    "meters": [{"key": "traffic", "label": "Traffic", "unit": "GB", "price_usd": 0.01}],
}
USD = 1_000_000


@pytest.fixture
def ask(become: Callable[..., Ask]) -> Ask:
    return become(Role.SELLER, scopes=(Scope.SELL,))


@pytest.fixture
def catalog(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> test_seller_products.Services:
    stand_in = test_seller_products.Services(ask.user.user_id)  # type: ignore[attr-defined]
    answers_with(monkeypatch, stand_in)
    return stand_in


def key(text: str = "one") -> dict[str, str]:
    return {"Idempotency-Key": text}


def test_a_seller_puts_something_up_once_for_a_key(
    ask: Ask, catalog: test_seller_products.Services
) -> None:
    answers = [ask("POST", PRODUCTS, BODY, **key("a-key-of-mine")) for _ in range(2)]

    first, again = catalog.of(CreateProduct)
    assert [each.status_code for each in answers] == [201, 201]
    assert (first, first.provider_id, first.provider_name) == (again, catalog.seller_id, None)
    assert first.slug.startswith("hill-vm-")
    assert (first.price_micros, first.stock, first.family) == (12_500_000, 8, "hill-vms")
    assert (first.meters[0].price_micros, first.fields[0].key) == (10_000, "ssh_key")
    assert answers[0].get_json()["units_sold"] == 9


def test_what_is_put_up_stands_in_the_log(
    database: Connected, ask: Ask, catalog: test_seller_products.Services
) -> None:
    ask("POST", PRODUCTS, BODY, **key())

    begun, done = last_acts(database, 2)
    assert (begun.action, begun.before) == (
        "product.create", {"name": "Hill-VM", "price_micros": 12_500_000},
    )  # fmt: skip
    assert (begun.actor_id, begun.reason) == (catalog.seller_id, "By the seller, through the API")
    assert (done.completes, (done.after or {})["outcome"]) == (begun.position, "done")


def test_what_sellers_do_has_a_rate_and_is_not_recorded_beyond_it(
    alone: Flask, database: Connected, ask: Ask, catalog: test_seller_products.Services
) -> None:
    """The log is never deleted, and whatever a role does waits for its turn there."""
    backend = alone.extensions["mycelium"]
    slow = backend.settings.model_copy(update={"rate_limit_selling": "2 per hour"})
    backend.settings = slow
    body = {"name": "Hill"}
    told = [ask("PUT", PROFILE, body, **key(f"{number}")).status_code for number in range(3)]
    acts = last_acts(database, 9)

    assert told == [200, 200, 429]
    assert [act.action for act in acts].count("seller.profile") == 4


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"name": ""}, "name"),
        ({"price_usd": 0}, "price_usd"),
        ({"price_usd": "5"}, "price_usd"),
        ({"stock": -1}, "stock"),
        ({"category": "boats"}, "category"),
        ({"provider_name": "Bank"}, "provider_name"),
        ({"fields": [{"key": "a", "label": "A", "kind": "text"}] * 2}, "fields"),
        ({"meters": [{"key": "a", "label": "", "unit": "GB", "price_usd": 1}]}, "meters.0.label"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named_and_nothing_is_put_up(
    ask: Ask, catalog: test_seller_products.Services, changed: dict[str, Any], field: str
) -> None:
    answer = ask("POST", PRODUCTS, {**BODY, **changed}, **key())

    assert code_of(answer) == (422, "bad_request")
    assert answer.get_json()["error"]["field"] == field
    assert catalog.of(CreateProduct) == []


def test_their_own_are_listed_with_what_was_sold(
    ask: Ask, catalog: test_seller_products.Services
) -> None:
    told = ask("GET", f"{PRODUCTS}?limit=5").get_json()

    [asked] = catalog.of(ListProducts)
    assert (asked.provider_id, asked.with_retired, asked.limit) == (catalog.seller_id, True, 5)
    [one] = told["products"]
    assert (one["product_id"], one["units_sold"], one["rented"]) == (
        str(catalog.mine.product_id), 9, 3,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("body", "sent", "action"),
    [
        ({"name": "Hill 2"}, {"name": "Hill 2"}, "product.change"),
        ({"family": "hills"}, {"family": "hills"}, "product.change"),
        ({"price_usd": 12, "reason": "Power"}, {"price_micros": 12 * USD, "reason": "Power"},
         "product.price"),
        ({"stock_change": -2}, {"stock_change": -2}, "product.change"),
        ({"is_endless": True}, {"is_endless": True}, "product.change"),
        ({"stock": 3}, {"stock": 3}, "product.change"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_given_is_changed_and_the_rest_stays(
    database: Connected,
    ask: Ask,
    catalog: test_seller_products.Services,
    body: dict[str, Any],
    sent: dict[str, Any],
    action: str,
) -> None:
    path = f"{PRODUCTS}/{catalog.mine.product_id}"

    answer = ask("PATCH", path, body, **key())

    [asked] = catalog.of(ChangeProduct)
    given = asked.model_dump(exclude_defaults=True)
    assert answer.status_code == 200
    assert given == {
        "reason": "By the seller, through the API",
        **sent,
        "idempotency_key": f"{catalog.seller_id}:one",
        "product_id": catalog.mine.product_id,
        "provider_id": catalog.seller_id,
        "actor": str(catalog.seller_id),
    }
    assert last_acts(database, 2)[0].action == action


@pytest.mark.parametrize(
    "body", [{}, {"reason": "None"}, {"stock": 1, "is_endless": True}], ids=str
)
def test_a_change_says_one_thing_of_the_stock_and_something_at_all(
    ask: Ask, catalog: test_seller_products.Services, body: dict[str, Any]
) -> None:
    answer = ask("PATCH", f"{PRODUCTS}/{catalog.mine.product_id}", body, **key())

    assert (code_of(answer), catalog.of(ChangeProduct)) == ((422, "bad_request"), [])


@pytest.mark.parametrize(
    ("prices", "period", "notice"),
    [
        ([12, 10], BillingPeriod.MONTH, timedelta(days=30)),
        ([10, 12], BillingPeriod.MONTH, timedelta(0)),
        ([12, 10], BillingPeriod.ONCE, None),
        ([12], BillingPeriod.MONTH, None),
    ],
    ids=["dearer", "cheaper", "paid once", "its first price"],
)
def test_from_when_those_who_rent_it_pay_the_price_is_told(
    ask: Ask,
    catalog: test_seller_products.Services,
    monkeypatch: pytest.MonkeyPatch,
    prices: list[int],
    period: BillingPeriod,
    notice: timedelta | None,
) -> None:
    since = utc_now()
    catalog.mine = catalog.mine.model_copy(update={"billing_period": period})
    history = PriceHistory(
        prices=[
            PastPrice(price_micros=usd * USD, since=since, reason="Power", actor="a")
            for usd in prices
        ]
    )
    answer = catalog.answer
    monkeypatch.setattr(
        catalog,
        "answer",
        lambda asked: history if isinstance(asked, GetPriceHistory) else answer(asked),
    )

    told = ask("GET", f"{PRODUCTS}/{catalog.mine.product_id}").get_json()

    wanted = None if notice is None else (since + notice).isoformat().replace("+00:00", "Z")
    assert told["renters_pay_it_from"] == wanted
    assert [each["price_usd"] for each in told["prices"]] == prices


def test_what_is_retired_is_retired_for_its_seller(
    ask: Ask, catalog: test_seller_products.Services
) -> None:
    ask("POST", f"{PRODUCTS}/{catalog.mine.product_id}/retire", **key())

    [asked] = catalog.of(RetireProduct)
    assert (asked.product_id, asked.provider_id) == (catalog.mine.product_id, catalog.seller_id)


def test_a_product_of_somebody_else_is_not_there(
    ask: Ask, catalog: test_seller_products.Services
) -> None:
    path = f"{PRODUCTS}/{catalog.others.product_id}"

    answers = [
        ask("GET", path),
        ask("PATCH", path, {"name": "Mine"}, **key()),
        ask("POST", f"{path}/retire", **key()),
    ]

    assert [each.status_code for each in answers] == [404] * 3
    assert [each for each in catalog.asked if isinstance(each, Command)] == []


def test_a_profile_is_read_and_written(ask: Ask, catalog: test_seller_products.Services) -> None:
    read = ask("GET", PROFILE).get_json()
    saved = ask("PUT", PROFILE, {"name": "Hill & Co"}, **key())
    wrong = ask("PUT", PROFILE, {"name": "Hill", "support_url": "javascript:1"}, **key("two"))
    catalog.profile = None
    none = ask("GET", PROFILE)

    assert (read["name"], saved.get_json()["name"]) == ("Hilltop", "Hill & Co")
    [asked] = catalog.of(SetProvider)
    assert (asked.provider_id, asked.idempotency_key) == (
        catalog.seller_id, f"{catalog.seller_id}:one",
    )  # fmt: skip
    assert (code_of(wrong), none.status_code) == ((422, "bad_request"), 404)


def test_a_lost_answer_has_no_outcome_and_what_the_catalog_refuses_is_said(
    database: Connected, ask: Ask, catalog: test_seller_products.Services
) -> None:
    catalog.fails = DeadlineExceeded("No answer.")
    lost = ask("POST", PRODUCTS, BODY, **key())
    [begun] = last_acts(database, 1)
    catalog.fails = LimitExceeded("You have 100 products for sale.")
    refused = ask("POST", PRODUCTS, BODY, **key())

    assert (lost.status_code, begun.completes) == (504, None)
    assert (refused.status_code, "100 products" in refused.text) == (409, True)


def test_with_billing_away_products_are_shown_without_what_was_sold(
    ask: Ask, catalog: test_seller_products.Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = catalog.begin

    def away(backend: Any, asked: Any, timeout_s: float) -> Any:
        if asked.service == "billing":
            raise Unavailable("It is away.")
        return begin(backend, asked, timeout_s)

    monkeypatch.setattr(catalog, "begin", away)

    told = ask("GET", f"{PRODUCTS}/{catalog.mine.product_id}").get_json()
    [listed] = ask("GET", PRODUCTS).get_json()["products"]

    assert (told["units_sold"], told["rented"], listed["rented"]) == (None, None, None)


# Who may.


@pytest.mark.parametrize("scopes", [tuple(sorted(tokens.EVERYTHING)), (Scope.ADMIN,)], ids=str)
def test_what_may_do_everything_else_sells_nothing(
    become: Callable[..., Ask], scopes: tuple[Scope, ...]
) -> None:
    ask = become(Role.SELLER, Role.OPERATOR, scopes=scopes)

    assert code_of(ask("GET", PRODUCTS)) == (403, "scope_missing")


def test_without_the_role_the_scope_opens_nothing(become: Callable[..., Ask]) -> None:
    assert code_of(become(Role.OPERATOR, scopes=(Scope.SELL,))("GET", PRODUCTS)) == (
        403, "role_missing",
    )  # fmt: skip


NEW = {"name": "shop", "scopes": ["sell"], "expires_in_days": None}


def test_a_token_that_sells_takes_the_role_and_a_code_and_ends_with_the_role(
    database: Connected, become: Callable[..., Ask]
) -> None:
    able = (*Scope,)
    ask = become(Role.SELLER, scopes=able)
    user_id, code = ask.user.user_id, ask.code  # type: ignore[attr-defined]

    without_code = ask("POST", "/api/tokens", NEW)
    made = ask("POST", "/api/tokens", {**NEW, "code": code})
    [act] = last_acts(database, 1)
    with database.begin() as session:
        grants.take(session, utc_now(), COMMAND, user_id, Role.SELLER, WHY)
    with database.read() as session:
        left = tokens.living(session, utc_now(), user_id)

    assert code_of(without_code) == (401, "second_step_required")
    assert (made.status_code, made.get_json()["scopes"]) == (201, ["read", "sell"])
    assert (act.action, (act.after or {})["scopes"]) == ("token.make", ["sell"])
    assert left == []
    for roles in ((), (Role.OPERATOR,)):
        other = become(*roles, scopes=able)
        refused = other("POST", "/api/tokens", {**NEW, "code": other.code})  # type: ignore[attr-defined]
        assert code_of(refused) == (403, "role_missing")
    seller = become(Role.SELLER, scopes=(*tokens.EVERYTHING,))
    assert code_of(seller("POST", "/api/tokens", NEW)) == (403, "scope_missing")


def test_the_account_page_offers_it_to_sellers_alone(alone: Flask, database: Connected) -> None:
    pages = []
    for role in (Role.SELLER, None):
        user = add_user(database, has_wallet=True)
        if role:
            with database.begin() as session:
                grants.grant(session, utc_now(), COMMAND, user.user_id, role, WHY)
        pages.append(Desk(alone, database, user).get("/dashboard/account").text)

    assert ['value="sell"' in page for page in pages] == [True, False]
    assert ['value="admin"' in page for page in pages] == [False, False]
    assert ['id="token-code"' in page for page in pages] == [True, False]


@pytest.mark.parametrize(
    ("is_seller", "code"), [(False, "role_missing"), (True, "second_step_missing")]
)
def test_who_may_make_no_token_that_sells_is_told_beside_the_form_and_it_is_kept(
    alone: Flask, database: Connected, is_seller: bool, code: str
) -> None:
    """Of who sold once the menu leads to their sales still; that is no role."""
    user = add_user(database, has_wallet=True)
    with database.begin() as session:
        session.add(
            SellerAgreement(
                user_id=user.user_id,
                terms_version="1",
                fee_bps=500,
                agreed_at=utc_now(),
                address="127.0.0.1",
            )
        )
        if is_seller:
            grants.grant(session, utc_now(), COMMAND, user.user_id, Role.SELLER, WHY)
    desk = Desk(alone, database, user)
    if is_seller:
        with database.begin() as session:
            session.get_one(User, user.user_id).second_step_since = None
    form = {"name": "My shop", "scopes": ["buy", "sell"], "expires_in_days": "366", "code": "1"}

    page = desk.get("/dashboard/account").text
    refused = desk.post("/dashboard/account/tokens", **form)

    assert 'href="/dashboard/selling"' in page
    assert ('value="sell"' in page) is is_seller
    assert refused.status_code == 403
    section = refused.text[refused.text.index('id="tokens"') :]
    section = section[: section.index("</section>")]
    assert "<details open>" in section
    assert 'role="alert">' in section
    assert ('href="#second-step"' in section) is (code == "second_step_missing")
    assert 'value="My shop"' in section
    assert 'value="buy" checked' in section
    assert ('value="sell" checked' in section) is is_seller
    assert 'value="366" selected' in section
    with database.read() as session:
        assert tokens.living(session, utc_now(), user.user_id) == []
