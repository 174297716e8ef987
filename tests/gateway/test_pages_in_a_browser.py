"""What a page says once and before it acts, as a browser's requests show it."""

import re
from decimal import Decimal
from typing import Any

import pytest
import requests

from contracts.wallet import Debit, TransactionKind
from tests.gateway.conftest import PASSWORD, Api, granted, read
from tests.gateway.test_main_job import buy_credits, switch_on_auto_topup
from tests.gateway.test_site import csrf_token
from tests.patience import PATIENCE_S, Browser


@pytest.fixture
def browser(system: Any, api: Api) -> requests.Session:
    """A browser in which the user is logged in."""
    opened = Browser()
    page = opened.get(f"{system.base_url}/login")
    form = {"email": api.email, "password": PASSWORD, "csrf_token": csrf_token(page.text)}
    assert opened.post(f"{system.base_url}/login", data=form).status_code == 200
    return opened


def fields(page: str) -> dict[str, str]:
    """The hidden fields of the form that buys."""
    form = page.partition('action="/purchases"')[2].partition("</form>")[0]
    return dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', form))


def test_charges_that_grew_since_buy_now_was_shown_are_announced_before_anything_is_bought(
    system: Any, browser: requests.Session, api: Api, product: dict[str, Any]
) -> None:
    buy_credits(api, 25)
    switch_on_auto_topup(api, threshold_amount=10, topup_amount=25)
    shown = browser.get(f"{system.base_url}/marketplace/{product['slug']}/buy")
    spent = Debit(
        idempotency_key="spent elsewhere",
        user_id=api.user_id,
        amount_micros=15_000_000,
        kind=TransactionKind.PURCHASE,
        description="Elsewhere",
    )
    system.rpc.call(spent)

    again = browser.post(f"{system.base_url}/purchases", data=fields(shown.text))
    held_back = read(api.get("/api/purchases"))["purchases"]
    done = browser.post(f"{system.base_url}/purchases", data=fields(again.text))

    assert fields(shown.text)["charges_said"] == "0"
    assert "would charge more than you were told" in again.text
    assert fields(again.text) == {
        **fields(shown.text),
        "csrf_token": fields(again.text)["csrf_token"],
        "charges_said": "1",
        "charge_said": "25000000",
    }
    assert held_back == []
    assert re.fullmatch(r".*/purchases/[0-9a-f-]{36}", done.url)
    [bought] = read(api.get("/api/purchases"))["purchases"]
    assert bought["total_usd"] == Decimal(5)


def test_what_a_page_fetches_brings_no_message_back_that_was_shown(
    system: Any, browser: requests.Session, api: Api, product: dict[str, Any]
) -> None:
    body = {"product_id": product["product_id"]}
    order = granted(api.command("/api/wallet/instant-purchase", body))
    page = f"{system.base_url}/purchases/{order['purchase_id']}"
    form = {"csrf_token": csrf_token(browser.get(page).text)}
    left = browser.post(f"{page}/cancel", data=form, allow_redirects=False)
    # Sent before the page was opened again, answered after it.
    late = requests.get(
        f"{page}/status",
        cookies=dict(browser.cookies),
        headers={"HX-Request": "true"},
        timeout=PATIENCE_S,
    )
    opened = browser.get(page)

    assert left.status_code == 303
    assert "Set-Cookie" not in late.headers
    assert opened.text.count("The purchase is cancelled") == 1
    assert "The purchase is cancelled" not in browser.get(page).text


def test_a_balance_alert_is_typed_refused_and_dropped(
    system: Any, browser: requests.Session, api: Api
) -> None:
    page = f"{system.base_url}/dashboard/notifications"

    def saves(typed: str) -> str:
        token = csrf_token(browser.get(page).text)
        form = {"csrf_token": token, "threshold": typed}
        return browser.post(f"{page}/alert", data=form).text

    refused, saved = saves("1,250"), saves("12.50")
    kept = read(api.get("/api/wallet/alert"))
    dropped = saves("")

    assert "Balance alert: write dollars with a point before the cents" in refused
    assert "You will be told when your balance is below $12.50." in saved
    assert 'value="12.50"' in saved
    assert kept == {"threshold": Decimal("12.50")}
    assert "The balance alert is off." in dropped
    assert read(api.get("/api/wallet/alert")) == {"threshold": None}
