"""What was used of a deployment, over the API and on its page."""

import json
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from html import unescape
from typing import Any
from uuid import uuid4

import pytest
import requests
import simplejson
from sqlalchemy import create_engine, text

from contracts.billing import RecordUsage, UsageRecord
from contracts.catalog import Meter, MeterTier
from services.gateway.pages.formats import meter_price
from tests.billing.test_checkout import in_catalog
from tests.gateway.conftest import PASSWORD, Api, error_of, granted
from tests.gateway.test_api import give
from tests.gateway.test_site import csrf_token
from tests.patience import Browser

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


def test_usage_is_foretold_and_burns(api: Api, path: str) -> None:
    told = granted(api.get("/api/wallet/forecast?days=1"))
    burn = granted(api.get("/api/wallet/burn-rate-analysis"))

    used = [event for day in told["days"] for event in day["events"]]
    assert {event["kind"] for event in used} == {"usage"}
    assert {due["kind"] for due in told["due_next"]} == {"usage"}
    # 150 GB on its first day are 4,500 in 30: 900 at $0.02 and 3,500 at $0.01.
    assert (burn["monthly_usage"], burn["monthly_burn_rate"]) == (Decimal(53), Decimal(58))


PAID_LAST_MONTH = """
WITH moment AS (
    SELECT (date_trunc('month', now() AT TIME ZONE 'UTC') - interval '2 hours')
        AT TIME ZONE 'UTC' AS at
), charge AS (
    INSERT INTO usage_charges (charge_id, user_id, amount_micros, description, transaction_id,
        created_at, paid_at)
    SELECT gen_random_uuid(), user_id, 2000000, 'Usage', gen_random_uuid(), at, at
    FROM deployments, moment WHERE deployment_id = :deployment
    RETURNING charge_id
)
INSERT INTO usage_charge_lines
SELECT charge_id, :deployment, 'traffic', at, 200, 2000000 FROM charge, moment
"""


def test_a_months_usage_has_a_receipt_that_is_issued_and_saved(
    system: Any, api: Api, path: str, new_member: Callable[[], Api]
) -> None:
    engine = create_engine(system.database_url("billing"))
    with engine.begin() as connection:
        connection.execute(text(PAID_LAST_MONTH), {"deployment": path.rpartition("/")[2]})
    engine.dispose()

    (paid,) = granted(api.get("/api/usage-receipts"))["months"]
    address = f"/api/usage-receipts/{paid['month']}"
    draft = granted(api.get(address))
    issued = granted(api.post(address))
    document = api.get(issued["pdf_url"])
    stranger = new_member()

    assert (paid["total_usd"], paid["number"]) == (Decimal(2), None)
    assert (draft["number"], draft["pdf_url"], draft["transaction_id"]) == (None, None, None)
    assert [line["label"].partition(": ")[2] for line in issued["lines"]] == ["Traffic"]
    assert f"receipt-{issued['number']}.pdf" in document.headers["Content-Disposition"]
    assert granted(api.get("/api/usage-receipts"))["months"][0]["number"] == issued["number"]
    assert granted(stranger.get("/api/usage-receipts"))["months"] == []
    assert error_of(stranger.get(address)) == (404, "not_found")
    page = signed_in(api)
    assert issued["number"] in page.get(f"{api.base_url}/dashboard/usage").text
    receipt = page.get(f"{api.base_url}/dashboard/usage/{paid['month']}/receipt").text
    assert "Traffic" in receipt
    assert "200 GB" in receipt
    assert page.get(f"{api.base_url}/dashboard/usage/2026-13/receipt").status_code == 404


def signed_in(api: Api) -> requests.Session:
    browser = Browser()
    login = browser.get(f"{api.base_url}/login")
    form = {"email": api.email, "password": PASSWORD, "csrf_token": csrf_token(login.text)}
    browser.post(f"{api.base_url}/login", data=form)
    return browser


def test_what_use_costs_is_seen_before_it_is_bought_and_held_to(
    system: Any, api: Api, metered: str
) -> None:
    give(system, api, 25)
    product = granted(api.get(f"/api/products/{metered}"))
    body = {"product_id": metered, "meters": product["meters"]}
    dearer = [{**product["meters"][0], "price_usd": Decimal("0.01")}]
    browser = signed_in(api)
    shown = browser.get(f"{api.base_url}/marketplace/{product['slug']}/buy").text
    form = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', shown))
    form = {name: unescape(value) for name, value in form.items()}

    refused = buy(api, {**body, "meters": dearer})
    nonsense = buy(api, {**body, "meters": [{**dearer[0], "included_units": 2_000}]})
    by_form = browser.post(
        f"{api.base_url}/purchases",
        data={**form, "meters": form["meters"].replace("20000", "10000")},
    )
    bought = granted(buy(api, body))

    assert meter_price(TRAFFIC) in shown
    assert error_of(refused) == (409, "price_changed")
    assert error_of(nonsense) == (409, "price_changed")
    assert "What is charged for the use of" in by_form.text
    assert bought["lines"][0]["meters"] == product["meters"]
    assert browser.post(f"{api.base_url}/purchases", data=form).url.startswith(
        f"{api.base_url}/purchases/"
    )
    form["meters"] = "nonsense"
    assert browser.post(f"{api.base_url}/purchases", data=form).status_code == 422


def buy(api: Api, body: dict[str, Any]) -> requests.Response:
    text = simplejson.dumps(body, use_decimal=True)
    headers = {"Idempotency-Key": str(uuid4()), "Content-Type": "application/json"}
    return api.request("POST", "/api/wallet/instant-purchase", data=text, headers=headers)


@pytest.mark.parametrize("days", ["0", "367", "x", ""])
def test_days_that_make_no_sense_are_refused(api: Api, path: str, days: str) -> None:
    assert error_of(api.get(f"{path}/usage?days={days}")) == (422, "bad_request")


def test_the_page_shows_it_and_the_product_says_what_use_costs(
    api: Api, path: str, metered: str
) -> None:
    browser = signed_in(api)

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
