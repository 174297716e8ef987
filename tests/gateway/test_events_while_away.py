"""A service that is down while something happens hears of it when it is back."""

from typing import Any

import pytest

from tests.gateway.conftest import Api, granted, read
from tests.gateway.test_main_job import buy_credits, pay, switch_on_auto_topup
from tests.patience import eventually


def ends_completed(api: Api, purchase: dict[str, Any]) -> dict[str, Any]:
    seen: dict[str, Any] = eventually(
        lambda: granted(api.get(f"/api/purchases/{purchase['purchase_id']}")),
        lambda seen: seen["status"] not in ("pending", "awaiting_funds"),
    )
    return seen


@pytest.mark.parametrize("name", ["wallet", "billing"])
def test_credits_that_were_paid_while_a_service_was_down_complete_the_purchase(
    system: Any, api: Api, product: dict[str, Any], name: str
) -> None:
    purchase = granted(
        api.command("/api/wallet/instant-purchase", {"product_id": product["product_id"]})
    )
    topup = granted(api.command("/api/wallet/topups", {"amount": 25}))
    system.stop(name)
    try:
        pay(topup["checkout_url"])
        eventually(
            lambda: granted(api.get(f"/api/wallet/topups/{topup['topup_id']}"))["status"],
            lambda status: status in ("paid", "credited"),
        )
    finally:
        system.start(name)

    assert ends_completed(api, purchase)["status"] == "completed"
    assert read(api.get("/api/wallet/info"))["balance"] == 20


def test_a_purchase_that_asked_for_a_charge_while_topup_was_down_completes(
    system: Any, api: Api, product: dict[str, Any]
) -> None:
    buy_credits(api, 10)
    switch_on_auto_topup(api)
    system.stop("topup")
    try:
        purchase = granted(
            # What auto top-up will do is not known while it is down.
            api.at_once.command(
                "/api/wallet/instant-purchase",
                {"product_id": product["product_id"], "quantity": 4},
            )
        )
    finally:
        system.start("topup")

    assert purchase["status"] == "awaiting_funds"
    assert ends_completed(api, purchase)["status"] == "completed"
    assert read(api.get("/api/wallet/info"))["balance"] == 15
