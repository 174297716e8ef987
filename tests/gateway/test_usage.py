"""What was used of a deployment, over the API and on its page."""

import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
import requests

from contracts.billing import RecordUsage, UsageRecord
from contracts.catalog import Meter, MeterTier
from services.gateway.pages.formats import meter_price
from tests.billing.test_checkout import in_catalog
from tests.gateway.conftest import PASSWORD, Api, error_of, granted
from tests.gateway.test_api import give
from tests.gateway.test_site import csrf_token

TRAFFIC = Meter(
    key="traffic",
    label="Traffic",
    unit="GB",
    price_micros=20_000,
    included_units=100,
    tiers=[MeterTier(above_units=1_000, price_micros=10_000)],
)
SET_METERS = "UPDATE products SET meters = CAST(:meters AS jsonb) WHERE product_id = :product"


@pytest.fixture
def metered(system: Any, product: dict[str, Any]) -> Iterator[str]:
    """The id of a product whose traffic is measured."""
    meters = json.dumps([TRAFFIC.model_dump()])
    in_catalog(system, SET_METERS, meters=meters, product=product["product_id"])
    yield product["product_id"]
    in_catalog(system, SET_METERS, meters="[]", product=product["product_id"])


@pytest.fixture
def path(system: Any, api: Api, metered: str) -> str:
    """Of a deployment that used 150 GB today."""
    give(system, api, 25)
    body = {"product_id": metered}
    deployment_id = granted(api.command("/api/wallet/instant-purchase", body))["deployment_ids"][0]
    deployment = granted(api.get(f"/api/deployments/{deployment_id}"))
    record = UsageRecord(
        record_id="a",
        deployment_id=deployment_id,
        meter="traffic",
        quantity=150,
        used_at=deployment["active_at"],
    )
    (result,) = system.rpc.call(RecordUsage(records=[record])).results
    assert result.answer == "accepted", result.message
    return f"/api/deployments/{deployment_id}"


def test_its_owner_sees_what_was_used_and_nobody_else_does(
    api: Api, path: str, new_member: Callable[[], Api]
) -> None:
    usage = granted(api.get(f"{path}/usage?days=2"))

    (day,) = usage["days"]
    assert (day["meter"], day["label"], day["unit"]) == ("traffic", "Traffic", "GB")
    assert (day["quantity"], day["amount_usd"], usage["due_usd"]) == (150, Decimal(1), Decimal(1))
    assert error_of(new_member().get(f"{path}/usage")) == (404, "not_found")


@pytest.mark.parametrize("days", ["0", "367", "x", ""])
def test_days_that_make_no_sense_are_refused(api: Api, path: str, days: str) -> None:
    assert error_of(api.get(f"{path}/usage?days={days}")) == (422, "bad_request")


def test_the_page_shows_it_and_the_product_says_what_use_costs(
    api: Api, path: str, metered: str
) -> None:
    browser = requests.Session()
    login = browser.get(f"{api.base_url}/login")
    form = {"email": api.email, "password": PASSWORD, "csrf_token": csrf_token(login.text)}
    browser.post(f"{api.base_url}/login", data=form)

    page = browser.get(api.base_url + path.replace("/api", "/dashboard")).text
    product = granted(api.get(f"/api/products/{metered}"))
    offer = browser.get(f"{api.base_url}/marketplace/{product['slug']}").text

    assert "150 GB" in page
    assert "$1.00 of all that was used is not paid yet." in page
    assert meter_price(TRAFFIC) in offer
    assert product["meters"][0]["tiers"] == [{"above_units": 1_000, "price_usd": Decimal("0.01")}]


def test_a_meters_price_is_said_in_words() -> None:
    assert meter_price(TRAFFIC) == (
        "100 GB free, then $0.02 per GB; above 1,000 GB $0.01 per GB, each month"
    )
    calls = Meter(key="calls", label="Calls", unit="calls", price_micros=1_500, per_units=1_000)
    assert meter_price(calls) == "$0.0015 per 1,000 calls, each month"
