"""The HTTP API against the whole product: the main job, and what is whose."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
import requests

from contracts.wallet import Credit, Freeze
from tests.gateway.conftest import PASSWORD, Api, error_of, read
from tests.patience import PATIENCE_S, eventually, least_s


def give(system: Any, api: Api, amount_usd: int) -> None:
    """Credits without a card, so that a test of the API needs no payment."""
    assert api.user_id is not None
    system.rpc.call(
        Credit(
            idempotency_key=str(uuid4()),
            user_id=api.user_id,
            amount_micros=amount_usd * 1_000_000,
            description="For a test",
        )
    )


@pytest.fixture
def rich(system: Any, api: Api) -> Api:
    """A user with $25.00."""
    give(system, api, 25)
    return api


def test_registering_gives_a_token_and_an_empty_wallet(visitor: Api) -> None:
    answer = visitor.post(
        "/api/auth/register", {"email": f"{uuid4()}@example.com", "password": PASSWORD}
    )
    visitor.token = read(answer)["token"]

    assert answer.status_code == 201
    assert visitor.get("/api/wallet/info").text == (
        '{"balance": 0.00, "available": 0.00, "currency": "USD", "status": "open",'
        ' "auto_topup_enabled": false, "auto_topup_threshold": null}'
    )


def test_registering_twice_is_a_conflict(visitor: Api) -> None:
    body = {"email": f"{uuid4()}@example.com", "password": PASSWORD}
    visitor.post("/api/auth/register", body)

    assert error_of(visitor.post("/api/auth/register", body)) == (409, "email_taken")


def test_logging_in_gives_another_token(visitor: Api) -> None:
    body = {"email": f"{uuid4()}@example.com", "password": PASSWORD}
    registered = read(visitor.post("/api/auth/register", body))
    logged_in = read(visitor.post("/api/auth/login", body))

    assert logged_in["user_id"] == registered["user_id"]
    assert logged_in["token"] != registered["token"]


def test_buying_takes_the_money_and_deploys(rich: Api, product: dict[str, Any]) -> None:
    body = {"product_id": product["product_id"], "quantity": 1, "unit_price_usd": 5.00}
    purchase = read(rich.command("/api/wallet/instant-purchase", body))

    assert purchase["status"] == "completed"
    assert read(rich.get("/api/wallet/info"))["balance"] == Decimal("20.00")
    assert read(rich.get(f"/api/purchases/{purchase['purchase_id']}"))["status"] == "completed"
    deployments = eventually(
        lambda: read(rich.get("/api/deployments"))["deployments"],
        lambda found: [item["status"] for item in found] == ["active"],
    )
    assert deployments[0]["monthly_cost_usd"] == Decimal("5.00")
    rate = read(rich.get("/api/wallet/burn-rate-analysis"))
    assert (rate["monthly_burn_rate"], rate["projected_balance_30_days"]) == (
        Decimal(5),
        Decimal(15),
    )


def test_the_statement_shows_the_purchase_with_its_balance(
    rich: Api, product: dict[str, Any]
) -> None:
    rich.command("/api/wallet/instant-purchase", {"product_id": product["product_id"]})

    page = read(rich.get("/api/wallet/transactions?limit=1"))
    older = read(rich.get(f"/api/wallet/transactions?cursor={page['next_cursor']}"))
    only = read(rich.get("/api/wallet/transactions?kind=purchase"))

    newest = page["transactions"][0]
    assert (newest["kind"], newest["amount_usd"], newest["balance_after"]) == (
        "purchase",
        Decimal("-5.00"),
        Decimal("20.00"),
    )
    assert [item["kind"] for item in older["transactions"]] == ["topup"]
    assert len(only["transactions"]) == 1


def test_a_retried_purchase_buys_once(rich: Api, product: dict[str, Any]) -> None:
    body, key = {"product_id": product["product_id"]}, str(uuid4())

    first = read(rich.command("/api/wallet/instant-purchase", body, key))
    again = read(rich.command("/api/wallet/instant-purchase", body, key))

    assert again["purchase_id"] == first["purchase_id"]
    assert read(rich.get("/api/wallet/info"))["balance"] == Decimal("20.00")


def test_a_key_with_another_body_is_a_conflict(rich: Api, product: dict[str, Any]) -> None:
    body, key = {"product_id": product["product_id"]}, str(uuid4())
    rich.command("/api/wallet/instant-purchase", body, key)

    answer = rich.command("/api/wallet/instant-purchase", {**body, "quantity": 2}, key)

    assert error_of(answer) == (409, "idempotency_conflict")


def test_two_users_may_choose_the_same_key(
    system: Any, new_member: Callable[[], Api], product: dict[str, Any]
) -> None:
    key, body = str(uuid4()), {"product_id": product["product_id"]}
    buyers = [new_member(), new_member()]
    for buyer in buyers:
        give(system, buyer, 25)

    purchases = [read(b.command("/api/wallet/instant-purchase", body, key)) for b in buyers]

    assert purchases[0]["purchase_id"] != purchases[1]["purchase_id"]


def test_a_purchase_short_of_funds_waits_and_completes_with_the_money(
    system: Any, api: Api, product: dict[str, Any]
) -> None:
    answer = api.command("/api/wallet/instant-purchase", {"product_id": product["product_id"]})
    purchase = read(answer)
    give(system, api, 25)

    assert (answer.status_code, purchase["status"]) == (202, "awaiting_funds")
    assert purchase["shortfall_usd"] == Decimal("5.00")
    eventually(
        lambda: read(api.get(f"/api/purchases/{purchase['purchase_id']}"))["status"],
        lambda status: status == "completed",
    )


def test_waiting_for_a_topup_ends_as_soon_as_the_reason_is_known(
    api: Api, product: dict[str, Any]
) -> None:
    def asks() -> None:
        body = {"product_id": product["product_id"]}
        answer = api.command("/api/wallet/purchase-with-topup", body)
        assert answer.status_code == 202
        assert read(answer)["status_code"]

    assert least_s(asks, 8) < 8


def test_a_purchase_that_waits_can_be_given_up(api: Api, product: dict[str, Any]) -> None:
    purchase = read(
        api.command("/api/wallet/instant-purchase", {"product_id": product["product_id"]})
    )
    cancelled = read(api.post(f"/api/purchases/{purchase['purchase_id']}/cancel"))

    assert cancelled["status"] == "cancelled"


def test_what_lacks_is_told_with_what_auto_topup_would_do(rich: Api) -> None:
    enough = read(rich.get("/api/wallet/check-affordability?amount=25.00"))
    short = read(rich.get("/api/wallet/check-affordability?amount=30.50"))

    assert enough.pop("auto_topup")["charges"] == []
    assert enough == {
        "can_afford": True,
        "amount": Decimal("25.00"),
        "available": Decimal("25.00"),
        "shortfall_info": None,
    }
    assert short["shortfall_info"]["shortfall"] == Decimal("5.50")
    assert short["shortfall_info"]["would_auto_topup"] is False
    assert short["shortfall_info"]["reason_code"] == "disabled"


def test_the_burn_rate_names_as_many_as_are_asked_for(rich: Api, product: dict[str, Any]) -> None:
    body = {"product_id": product["product_id"], "quantity": 3}
    assert rich.command("/api/wallet/instant-purchase", body).status_code == 200

    burn = read(rich.get("/api/wallet/burn-rate-analysis?limit=2"))

    assert (len(burn["deployments"]), burn["deployments_total"]) == (2, 3)
    assert burn["monthly_burn_rate"] == Decimal("15.00")


def test_the_forecast_names_the_renewal_and_the_day_it_is_short(
    rich: Api, product: dict[str, Any]
) -> None:
    body = {"product_id": product["product_id"], "quantity": 3}
    rich.command("/api/wallet/instant-purchase", body)
    first, *_ = read(rich.get("/api/deployments"))["deployments"]

    told = read(rich.get("/api/wallet/forecast?days=62"))
    without = read(rich.get(f"/api/wallet/forecast?without={first['deployment_id']}"))
    fewer = read(rich.get("/api/wallet/forecast?days=62&events_max=1"))
    page = rich.get("/dashboard").text

    assert (told["available"], len(told["days"])) == (Decimal("10.00"), 63)
    paid = [event for day in told["days"] for event in day["events"]]
    assert [(event["kind"], event["amount_usd"]) for event in paid] == [("renewal", Decimal(5))] * 2
    assert told["due_next"][0]["date"] == first["paid_until"][:10] == told["short_on"]
    assert (told["short_by"], told["days"][-1]["balance"]) == (Decimal("5.00"), Decimal("0.00"))
    assert [
        (len(day["events"]), day["events_total"]) for day in fewer["days"] if day["events"]
    ] == [(1, 2)]
    assert [day["balance"] for day in fewer["days"]] == [day["balance"] for day in told["days"]]
    assert (without["short_on"], without["short_by"], without["days_until_empty"]) == (None,) * 3
    assert "Short by $5.00 on " in page
    assert 'class="chart-mark chart-mark-renewal"' in page


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("days=0", (422, "bad_request")),
        ("days=367", (422, "bad_request")),
        ("days=1e1", (422, "bad_request")),
        ("events_max=101", (422, "bad_request")),
        ("events_max=-1", (422, "bad_request")),
        ("without=nonsense", (422, "bad_request")),
        ("without=0fffffff-0000-4000-8000-000000000000", (404, "not_found")),
    ],
)
def test_a_forecast_of_nonsense_is_refused(api: Api, query: str, expected: tuple[int, str]) -> None:
    assert error_of(api.get(f"/api/wallet/forecast?{query}")) == expected


def test_a_forecast_without_another_users_deployment_is_not_found(
    rich: Api, new_member: Callable[[], Api], product: dict[str, Any]
) -> None:
    rich.command("/api/wallet/instant-purchase", {"product_id": product["product_id"]})
    (theirs,) = read(rich.get("/api/deployments"))["deployments"]

    answer = new_member().get(f"/api/wallet/forecast?without={theirs['deployment_id']}")

    assert error_of(answer) == (404, "not_found")


def test_a_balance_alert_is_set_told_and_dropped(rich: Api, product: dict[str, Any]) -> None:
    fresh = read(rich.get("/api/wallet/alert"))
    headers = {"Idempotency-Key": str(uuid4())}
    chosen = rich.request("PUT", "/api/wallet/alert", json={"threshold": 22.5}, headers=headers)
    rich.command("/api/wallet/instant-purchase", {"product_id": product["product_id"]})
    told = eventually(
        lambda: read(rich.get("/api/notifications"))["notifications"],
        lambda found: "balance_low" in [item["kind"] for item in found],
    )
    headers = {"Idempotency-Key": str(uuid4())}
    dropped = rich.request("PUT", "/api/wallet/alert", json={"threshold": None}, headers=headers)

    assert (fresh, read(chosen)) == ({"threshold": None}, {"threshold": Decimal("22.50")})
    assert "Your balance is $20.00" in [item["title"] for item in told]
    assert read(dropped) == read(rich.get("/api/wallet/alert")) == {"threshold": None}


def test_buying_credits_leads_to_the_hosted_page(api: Api) -> None:
    answer = api.command("/api/wallet/topups", {"amount": 25.00, "save_card": True})
    topup = read(answer)

    assert answer.status_code == 201
    assert requests.get(topup["checkout_url"], timeout=PATIENCE_S).status_code == 200
    assert read(api.get(f"/api/wallet/topups/{topup['topup_id']}"))["amount"] == Decimal("25.00")


def test_a_retried_topup_is_the_same_one(api: Api) -> None:
    key = str(uuid4())
    first = read(api.command("/api/wallet/topups", {"amount": 25}, key))
    again = read(api.command("/api/wallet/topups", {"amount": 25}, key))

    assert again["topup_id"] == first["topup_id"]


def test_what_belongs_to_somebody_else_is_not_found(
    api: Api, new_member: Callable[[], Api], product: dict[str, Any]
) -> None:
    purchase = read(
        api.command("/api/wallet/instant-purchase", {"product_id": product["product_id"]})
    )
    topup = read(api.command("/api/wallet/topups", {"amount": 25}))
    stranger = new_member()

    for answer in (
        stranger.get(f"/api/purchases/{purchase['purchase_id']}"),
        stranger.post(f"/api/purchases/{purchase['purchase_id']}/cancel"),
        stranger.get(f"/api/wallet/topups/{topup['topup_id']}"),
    ):
        assert error_of(answer) == (404, "not_found")
    assert read(stranger.get("/api/purchases"))["purchases"] == []


def test_auto_topup_is_off_by_default_and_shows_what_to_consent_to(api: Api) -> None:
    status = read(api.get("/api/wallet/auto-topup/status"))

    assert (status["enabled"], status["state"]) == (False, "off")
    assert status["consent_text"]


def test_switching_auto_topup_off_needs_nothing_else(api: Api) -> None:
    answer = api.command("/api/wallet/auto-topup/configure", {"enabled": False})

    assert (answer.status_code, read(answer)["state"]) == (200, "off")


def test_triggering_without_settings_says_why_not(api: Api) -> None:
    answer = api.command("/api/wallet/auto-topup/trigger")

    assert (answer.status_code, read(answer)["refusal_code"]) == (200, "disabled")


def test_the_navigation_bar_shows_the_balance(rich: Api) -> None:
    assert read(rich.get("/api/navbar/dropdown-data")) == {
        "wallet_balance_formatted": "$25.00",
        "available_balance_formatted": "$25.00",
        "display_currency": "USD",
        "auto_topup_enabled": False,
        "auto_topup_status": "Off",
    }


def test_a_new_user_has_no_cards(api: Api) -> None:
    assert read(api.get("/api/wallet/payment-methods")) == {
        "payment_methods": [],
        "next_cursor": None,
    }


def test_products_are_searched_filtered_sorted_and_paged(visitor: Api) -> None:
    cheapest = read(visitor.get("/api/products?sort=price&limit=2"))
    following = read(visitor.get(f"/api/products?sort=price&cursor={cheapest['next_cursor']}"))
    named = read(visitor.get("/api/products?q=gateway-eu"))
    sold = [item["price_usd"] for item in cheapest["products"] + following["products"]]

    assert sold == sorted(sold)
    assert "Gateway-EU" in [item["name"] for item in named["products"]]
    assert cheapest["total"] >= 40


def test_a_product_is_found_by_its_id_and_by_its_slug(
    visitor: Api, product: dict[str, Any]
) -> None:
    by_id = read(visitor.get(f"/api/products/{product['product_id']}"))

    assert by_id == product
    assert read(visitor.get(f"/api/products/{product['slug']}")) == product


def test_a_frozen_wallet_affords_nothing_and_says_why(system: Any, rich: Api) -> None:
    assert rich.user_id is not None
    system.rpc.call(
        Freeze(
            idempotency_key=str(uuid4()), user_id=rich.user_id, reason="Looked at", actor="support"
        )
    )

    found = read(rich.get("/api/wallet/check-affordability?amount=5"))

    assert (found["can_afford"], found["shortfall_info"]["reason_code"]) == (
        False,
        "account_frozen",
    )


def test_a_frozen_wallet_sells_no_credits(system: Any, rich: Api) -> None:
    assert rich.user_id is not None
    system.rpc.call(
        Freeze(
            idempotency_key=str(uuid4()), user_id=rich.user_id, reason="Looked at", actor="support"
        )
    )

    answer = rich.command("/api/wallet/topups", {"amount": 25})

    assert error_of(answer) == (403, "account_frozen")
    assert "Write to support" in read(answer)["error"]["message"]


def test_a_completed_purchase_becomes_a_notification(rich: Api, product: dict[str, Any]) -> None:
    rich.command("/api/wallet/instant-purchase", {"product_id": product["product_id"]})

    told = eventually(
        lambda: read(rich.get("/api/notifications"))["notifications"],
        lambda found: "purchase_completed" in [item["kind"] for item in found],
    )
    (message,) = [item for item in told if item["kind"] == "purchase_completed"]
    assert "$5.00" in message["body"]
