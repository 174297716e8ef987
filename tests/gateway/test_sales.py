"""What who sells sees of it, over the API."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from chassis.clock import utc_now
from tests.billing.test_checkout import in_catalog
from tests.gateway.conftest import Api, error_of, granted
from tests.gateway.test_api import give

SELLER = "UPDATE products SET provider_id = :seller WHERE product_id = :product"


@pytest.fixture
def seller(system: Any, new_member: Callable[[], Api], product: dict[str, Any]) -> Iterator[Api]:
    """A user whose product is in the catalog."""
    member = new_member()
    was = "SELECT provider_id FROM products WHERE product_id = :product"
    before = in_catalog(system, was, product=product["product_id"])
    in_catalog(system, SELLER, seller=member.user_id, product=product["product_id"])
    yield member
    in_catalog(system, SELLER, seller=before, product=product["product_id"])


def test_who_sells_sees_what_was_sold_and_nobody_else_does(
    system: Any, api: Api, seller: Api, product: dict[str, Any]
) -> None:
    give(system, api, 25)
    body = {"product_id": product["product_id"], "quantity": 2}

    granted(api.command("/api/wallet/instant-purchase", body))

    (sold,) = granted(seller.get("/api/sales"))["sales"]
    assert (sold["product_id"], sold["product_name"]) == (product["product_id"], product["name"])
    assert (sold["units"], sold["renewals"], sold["units_refunded"]) == (2, 0, 0)
    amounts = [sold[f"{name}_usd"] for name in ("gross", "refunded", "fee", "net")]
    assert amounts == [Decimal(10), 0, Decimal(1), Decimal(9)]
    assert granted(seller.get("/api/wallet/info"))["balance"] == Decimal(9)
    assert granted(api.get("/api/sales")) == {"sales": [], "next_cursor": None}
    today = f"{utc_now():%Y-%m-%d}"
    total = granted(seller.get("/api/sales/total"))
    assert [total[f"{name}_usd"] for name in ("gross", "refunded", "fee", "net")] == amounts
    # It may be midnight.
    assert total["until"] in (today, f"{utc_now():%Y-%m-%d}")
    assert granted(api.get("/api/sales/total"))["gross_usd"] == 0
    assert error_of(seller.get("/api/sales/total?since=2026-11-02&until=2026-11-01"))[0] == 422
    tomorrow = utc_now() + timedelta(days=1)
    assert granted(seller.get(f"/api/sales?since={tomorrow:%Y-%m-%d}"))["sales"] == []


@pytest.mark.parametrize(
    "query", ["since=1", "since=2026-11-31", "until=2026-11-28T00:00:00Z", "cursor=x", "limit=0"]
)
def test_a_question_that_makes_no_sense_says_why(api: Api, query: str) -> None:
    assert error_of(api.get(f"/api/sales?{query}")) == (422, "bad_request")


def test_days_are_given_in_their_order(api: Api) -> None:
    answer = api.get("/api/sales?since=2026-11-02&until=2026-11-01")

    assert error_of(answer) == (422, "bad_request")
    granted(api.get("/api/sales?since=2026-11-01&until=2026-11-01"))
