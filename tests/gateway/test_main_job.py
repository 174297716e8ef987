"""The product's main job through the HTTP API, with cards on the payment sandbox's pages."""

import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
import requests

from tests.gateway.conftest import Api, error_of, granted, read
from tests.patience import PATIENCE_S, eventually, min_of

GOOD_CARD = "4242424242424242"
DECLINES_LATER = "4000000000000341"
"""Can be saved, and is declined at every charge after that."""


def card_page(checkout_url: str, number: str) -> requests.Response:
    """Fill the hosted page in, as a person would."""
    form = {
        "number": number,
        "expiry": "12 / 34",
        "cvc": "123",
        "name": "Test Person",
        "email": "person@example.com",
        "save": "yes",
    }
    return requests.post(checkout_url, data=form, timeout=PATIENCE_S, allow_redirects=False)


def pay(checkout_url: str, number: str = GOOD_CARD) -> None:
    answer = card_page(checkout_url, number)
    assert answer.status_code == 303, answer.text[:2000]


def buy_credits(api: Api, amount: int, *, save_card: bool = True) -> dict[str, Any]:
    topup: dict[str, Any] = granted(
        api.command("/api/wallet/topups", {"amount": amount, "save_card": save_card})
    )
    pay(topup["checkout_url"])
    address = f"/api/wallet/topups/{topup['topup_id']}"
    eventually(lambda: granted(api.get(address)), lambda seen: seen["status"] == "credited")
    return topup


def switch_on_auto_topup(api: Api, **changes: object) -> dict[str, Any]:
    cards = eventually(lambda: granted(api.get("/api/wallet/payment-methods"))["payment_methods"])
    settings = {
        "enabled": True,
        "threshold_amount": 10,
        "topup_amount": 25,
        "payment_method_id": cards[0]["payment_method_id"],
        "consent": True,
        **changes,
    }
    answer = api.command("/api/wallet/auto-topup/configure", settings)
    assert answer.status_code == 200, answer.text
    status: dict[str, Any] = granted(answer)
    return status


@pytest.fixture
def dear(visitor: Api) -> dict[str, Any]:
    """A product of $15.00 a month."""
    found = granted(visitor.get("/api/products?q=VM-Production"))["products"]
    return next(item for item in found if item["price_usd"] == Decimal("15.00"))


def test_a_purchase_completes_by_itself_once_credits_were_bought(
    api: Api, product: dict[str, Any]
) -> None:
    purchase = granted(
        api.command("/api/wallet/instant-purchase", {"product_id": product["product_id"]})
    )
    buy_credits(api, 25)

    done = eventually(
        lambda: granted(api.get(f"/api/purchases/{purchase['purchase_id']}")),
        lambda seen: seen["status"] == "completed",
    )
    assert done["shortfall_usd"] == 0
    assert read(api.get("/api/wallet/info"))["balance"] == Decimal("20.00")
    assert read(api.get("/api/wallet/burn-rate-analysis"))["monthly_burn_rate"] == Decimal("5.00")


def test_an_automatic_topup_pays_within_one_request(
    new_member: Callable[[], Api], dear: dict[str, Any]
) -> None:
    def buys() -> tuple[Api, requests.Response]:
        api = new_member()
        buy_credits(api, 10)
        assert switch_on_auto_topup(api)["state"] == "active"
        body = {"product_id": dear["product_id"], "quantity": 1}
        return api, api.command("/api/wallet/purchase-with-topup", body)

    # The request waits ten seconds, which may be too few for a machine that stalls.
    api, answer = eventually(buys, lambda made: made[1].status_code == 200)

    assert read(answer)["status"] == "completed"
    follows = read(answer)["auto_topup"]
    assert (follows["charges"], follows["balance_after"]) == ([], Decimal("20.00"))
    told = granted(api.get(f"/api/purchases/{read(answer)['purchase_id']}"))
    assert told == {**read(answer), "auto_topup": None}
    assert read(api.get("/api/wallet/info"))["balance"] == Decimal("20.00")
    kinds = [
        (item["kind"], item["amount_usd"])
        for item in read(api.get("/api/wallet/transactions"))["transactions"]
    ]
    assert kinds == [
        ("purchase", Decimal("-15.00")),
        ("auto_topup", Decimal("25.00")),
        ("topup", Decimal("10.00")),
    ]


def test_an_automatic_charge_is_told_to_the_user(api: Api, dear: dict[str, Any]) -> None:
    buy_credits(api, 10)
    switch_on_auto_topup(api)
    api.command("/api/wallet/purchase-with-topup", {"product_id": dear["product_id"]})

    told = eventually(
        lambda: granted(api.get("/api/notifications"))["notifications"],
        lambda found: "auto_topup_credited" in [item["kind"] for item in found],
    )
    charge = next(item for item in told if item["kind"] == "auto_topup_credited")
    assert "$25.00" in charge["title"]


def test_a_dry_run_of_the_settings_says_what_saving_would_charge(api: Api) -> None:
    buy_credits(api, 10)

    told = switch_on_auto_topup(api, threshold_amount=50, dry_run=True)

    assert told["charge_now"] == Decimal("40.00")
    assert granted(api.get("/api/wallet/auto-topup/status"))["enabled"] is False


def test_affordability_shows_what_auto_topup_would_charge(api: Api) -> None:
    buy_credits(api, 10)
    switch_on_auto_topup(api)

    found = granted(api.get("/api/wallet/check-affordability?amount=50.00"))["shortfall_info"]

    assert (found["would_auto_topup"], found["topup_amount"]) == (True, Decimal("40.00"))
    assert found["card_last4"] == "4242"


def test_what_passes_by_itself_is_told_with_its_time_and_the_charge_that_follows(
    api: Api, dear: dict[str, Any]
) -> None:
    buy_credits(api, 10)
    switch_on_auto_topup(api)
    granted(api.command("/api/wallet/purchase-with-topup", {"product_id": dear["product_id"]}))

    found = eventually(
        lambda: granted(api.get("/api/wallet/check-affordability?amount=50.00"))["shortfall_info"],
        lambda told: (told["reason_code"], told["topup_amount"]) == ("cool_down", Decimal("30.00")),
    )

    assert found["retry_at"] is not None
    assert found["would_auto_topup"] is False


def test_what_does_not_pass_by_itself_is_told_without_a_time(api: Api) -> None:
    buy_credits(api, 10)
    switch_on_auto_topup(api, daily_limit=25)

    found = granted(api.get("/api/wallet/check-affordability?amount=50.00"))["shortfall_info"]

    assert (found["reason_code"], found["retry_at"]) == ("daily_limit", None)


def test_no_card_page_is_opened_for_a_purchase_that_is_paid(
    api: Api, product: dict[str, Any]
) -> None:
    buy_credits(api, 10)
    bought = {"product_id": product["product_id"]}
    purchase = granted(api.command("/api/wallet/instant-purchase", bought))
    body = {"amount": 5, "purchase_id": purchase["purchase_id"]}

    answer = eventually(
        lambda: api.command("/api/wallet/topups", body), lambda found: found.status_code == 409
    )

    assert error_of(answer) == (409, "conflict")


def test_a_save_that_leaves_limits_out_keeps_them_and_null_takes_them_away(api: Api) -> None:
    buy_credits(api, 25)
    switch_on_auto_topup(api, daily_limit=50, monthly_limit=200)
    configure = "/api/wallet/auto-topup/configure"

    kept = granted(api.command(configure, {"enabled": True}))
    without_consent = api.command(configure, {"enabled": True, "daily_limit": None})
    dropped = granted(
        api.command(configure, {"enabled": True, "daily_limit": None, "consent": True})
    )

    assert kept["daily_limit"]["limit"] == Decimal("50.00")
    assert (without_consent.status_code, read(without_consent)["error"]["field"]) == (
        422,
        "consent",
    )
    assert (dropped["daily_limit"], dropped["monthly_limit"]["limit"]) == (None, Decimal("200.00"))


def test_a_refused_setting_is_named_as_the_document_names_it(api: Api) -> None:
    buy_credits(api, 10)

    answer = api.command(
        "/api/wallet/auto-topup/configure", {"enabled": True, "topup_amount": 25, "consent": True}
    )

    assert (answer.status_code, read(answer)["error"]["field"]) == (422, "threshold_amount")


def test_a_purchase_says_what_the_threshold_sets_off_before_and_when_it_is_made(
    api: Api, dear: dict[str, Any]
) -> None:
    buy_credits(api, 20)
    switch_on_auto_topup(api)

    before = granted(api.get("/api/wallet/check-affordability?amount=15.00"))
    bought = granted(
        api.command("/api/wallet/instant-purchase", {"product_id": dear["product_id"]})
    )

    assert (before["can_afford"], before["shortfall_info"]) == (True, None)
    (charge,) = before["auto_topup"]["charges"]
    assert (charge["amount"], charge["trigger"], charge["card_last4"]) == (
        Decimal("25.00"),
        "low_balance",
        "4242",
    )
    assert before["auto_topup"]["balance_after"] == Decimal("30.00")
    assert (bought["status"], bought["auto_topup"]["balance_after"]) == (
        "completed",
        Decimal("30.00"),
    )
    eventually(
        lambda: granted(api.get("/api/wallet/info"))["balance"],
        lambda balance: balance == Decimal("30.00"),
    )


def test_a_declined_card_is_told_at_once_and_the_purchase_waits(
    new_member: Callable[[], Api], dear: dict[str, Any]
) -> None:
    def hears_after_s() -> float:
        api = new_member()
        buy_credits(api, 12)
        _save_another_card(api, DECLINES_LATER)
        began_s = time.monotonic()
        answer = api.command("/api/wallet/purchase-with-topup", {"product_id": dear["product_id"]})
        took_s = time.monotonic() - began_s
        purchase = granted(answer)
        assert (answer.status_code, purchase["status"]) == (202, "awaiting_funds")
        assert purchase["status_reason"]
        return took_s

    assert min_of(hears_after_s, 9) < 9


def test_somebody_elses_card_cannot_be_used(api: Api, new_member: Callable[[], Api]) -> None:
    buy_credits(api, 10)
    card = granted(api.get("/api/wallet/payment-methods"))["payment_methods"][0]
    thief = new_member()

    answer = thief.command(
        "/api/wallet/auto-topup/configure",
        {
            "enabled": True,
            "threshold_amount": 10,
            "topup_amount": 25,
            "payment_method_id": card["payment_method_id"],
            "consent": True,
        },
    )

    assert answer.status_code == 404
    assert read(thief.get("/api/wallet/payment-methods"))["payment_methods"] == []


def _save_another_card(api: Api, number: str) -> None:
    """Save a card without a payment, and make it the one to charge."""
    before = {card["payment_method_id"] for card in _cards(api)}
    pay(granted(api.command("/api/wallet/payment-methods"))["checkout_url"], number)
    eventually(lambda: len(_cards(api)), lambda count: count > len(before))
    new = next(card for card in _cards(api) if card["payment_method_id"] not in before)
    switch_on_auto_topup(api, payment_method_id=new["payment_method_id"])


def _cards(api: Api) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = granted(api.get("/api/wallet/payment-methods"))["payment_methods"]
    return found
