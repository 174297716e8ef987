"""Receipts over the API and on pages: a draft, whom it is made out to, the one that is kept."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
import requests
from sqlalchemy import create_engine, text

from tests.gateway.conftest import PASSWORD, Api, error_of, granted
from tests.gateway.test_api import give
from tests.gateway.test_site import csrf_token
from tests.papers import texts_of
from tests.patience import Browser

DETAILS = {"name": "محمد Łódź", "address": "1 Main St\nOslo", "country": "Norway", "tax_id": "NO1"}
CHARGE = """
INSERT INTO periods (deployment_id, starts_at, kind, ends_at, user_id, amount_micros, status,
    transaction_id, created_at, changed_at)
SELECT deployment_id, paid_until, 'month', paid_until + interval '1 month', user_id, 5000000,
    'paid', :transaction, now(), now()
FROM deployments WHERE purchase_id = :purchase
"""


@pytest.fixture
def path(system: Any, api: Api, product: dict[str, Any]) -> str:
    """Of a purchase of $5.00."""
    give(system, api, 25)
    body = {"product_id": product["product_id"]}
    purchase = granted(api.command("/api/wallet/instant-purchase", body))
    return f"/api/purchases/{purchase['purchase_id']}"


def put(api: Api, details: object) -> requests.Response:
    return api.request("PUT", "/api/billing-details", json=details)


def test_a_receipt_is_a_draft_until_it_is_issued_and_then_stays(api: Api, path: str) -> None:
    draft = granted(api.get(f"{path}/receipt"))
    saved = granted(put(api, DETAILS))
    issued = granted(api.post(f"{path}/receipt"))
    granted(put(api, {"name": "Somebody else"}))
    again = granted(api.post(f"{path}/receipt"))

    assert (draft["number"], draft["pdf_url"]) == (None, None)
    assert saved == DETAILS
    assert issued["number"]
    assert (issued["buyer"], issued["total_usd"]) == (DETAILS, Decimal("5.00"))
    assert again == issued
    assert granted(api.get(f"{path}/receipt")) == issued


def test_the_document_comes_with_the_same_token(api: Api, path: str) -> None:
    granted(put(api, DETAILS))
    receipt = granted(api.post(f"{path}/receipt"))

    answer = api.get(receipt["pdf_url"])

    assert answer.headers["Content-Type"] == "application/pdf"
    assert f"receipt-{receipt['number']}.pdf" in answer.headers["Content-Disposition"]
    assert {DETAILS["name"], "Oslo", "Tax ID NO1", "$5.00"} <= set(texts_of(answer.content))


def test_a_charge_after_the_purchase_has_its_own(system: Any, api: Api, path: str) -> None:
    engine = create_engine(system.database_url("billing"))
    with engine.begin() as connection:
        named = {"transaction": uuid4(), "purchase": path.rpartition("/")[2]}
        connection.execute(text(CHARGE), named)
    engine.dispose()
    (deployment_id,) = granted(api.get(path))["deployment_ids"]
    (charge,) = granted(api.get(f"/api/deployments/{deployment_id}"))["charges"]
    address = f"/api/deployments/{deployment_id}/charges/{charge['transaction_id']}/receipt"

    issued = granted(api.post(address))

    assert charge["kind"] == "month"
    assert (issued["deployment_id"], issued["total_usd"]) == (deployment_id, Decimal("5.00"))
    assert issued["number"] != granted(api.post(f"{path}/receipt"))["number"]
    assert issued["number"] in "".join(texts_of(api.get(issued["pdf_url"]).content))


def test_somebody_elses_receipt_is_not_found(
    new_member: Callable[[], Api], api: Api, path: str
) -> None:
    receipt = granted(api.post(f"{path}/receipt"))
    stranger = new_member()

    assert error_of(stranger.get(f"{path}/receipt")) == (404, "not_found")
    assert error_of(stranger.post(f"{path}/receipt")) == (404, "not_found")
    assert stranger.get(receipt["pdf_url"]).status_code == 404
    assert granted(stranger.get("/api/billing-details"))["name"] == ""


def test_a_draft_is_no_document(api: Api, path: str) -> None:
    answer = api.get(path.removeprefix("/api") + "/receipt.pdf")

    assert answer.status_code == 409


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "x" * 201},
        {"name": "a\u0007b"},
        {"name": None},
        {"address": "\n".join("abcdefg")},
        {"vat": "NO1"},
    ],
)
def test_details_that_cannot_be_printed_are_refused(api: Api, wrong: dict[str, Any]) -> None:
    assert error_of(put(api, wrong)) == (422, "bad_request")


def test_a_person_issues_it_on_its_page(system: Any, api: Api, path: str) -> None:
    browser = Browser()
    login = browser.get(f"{system.base_url}/login")
    form = {"email": api.email, "password": PASSWORD, "csrf_token": csrf_token(login.text)}
    browser.post(f"{system.base_url}/login", data=form)
    page = system.base_url + path.removeprefix("/api")
    draft = browser.get(f"{page}/receipt")
    token = {"csrf_token": csrf_token(draft.text)}

    refused = browser.post(f"{page}/receipt", data={**token, **DETAILS, "name": "a\u0007b"})
    issued = browser.post(f"{page}/receipt", data={**token, **DETAILS})

    assert "Not issued yet" in draft.text
    assert (refused.status_code, "can't be printed" in refused.text) == (422, True)
    number = granted(api.get(f"{path}/receipt"))["number"]
    assert number in issued.text
    assert DETAILS["name"] in issued.text
    assert "Issue receipt" not in issued.text
    assert f'href="{path.removeprefix("/api")}/receipt"' in browser.get(page).text
    assert browser.get(f"{page}/receipt.pdf").content.startswith(b"%PDF-")
