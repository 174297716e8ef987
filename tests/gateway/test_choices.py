"""A product's fields on its Buy Now form and over the API, and what its deployment shows."""

from typing import Any
from uuid import uuid4

import pytest
import requests

from tests.gateway.conftest import PASSWORD, Api, error_of, granted, read
from tests.gateway.test_api import give
from tests.gateway.test_site import csrf_token
from tests.patience import Browser

PUBLIC_KEY = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKYnM4cyOF3pDv+t5H1PXPjTdnJK5TnT/JnyYiVCoNfj ann@example"
)


@pytest.fixture
def buyer(system: Any, api: Api) -> Api:
    give(system, api, 50)
    return api


@pytest.fixture
def machine(buyer: Api) -> dict[str, Any]:
    return granted(buyer.get("/api/products/vm-starter"))


@pytest.fixture
def browser(buyer: Api) -> requests.Session:
    session = Browser()
    login = session.get(f"{buyer.base_url}/login")
    form = {"email": buyer.email, "password": PASSWORD, "csrf_token": csrf_token(login.text)}
    session.post(f"{buyer.base_url}/login", data=form)
    return session


def press(buyer: Api, browser: requests.Session, **fields: str) -> requests.Response:
    """Buy Now, as the form without scripts sends it."""
    product = granted(buyer.get("/api/products/vm-starter"))
    form = browser.get(f"{buyer.base_url}/marketplace/vm-starter/buy").text
    body = {
        "csrf_token": csrf_token(form),
        "key": str(uuid4()),
        "product_id": product["product_id"],
        "slug": "vm-starter",
        "quantity": "1",
        "unit_price_micros": "5000000",
        **fields,
    }
    return browser.post(f"{buyer.base_url}/purchases", data=body)


def test_a_product_says_what_it_asks_of_its_buyer(machine: dict[str, Any]) -> None:
    asked = {field["key"]: field["kind"] for field in machine["fields"]}

    assert asked == {
        "image": "choice",
        "region": "choice",
        "host_name": "text",
        "ssh_key": "ssh_key",
    }


def test_choices_over_the_api_stand_in_the_purchase_and_the_deployment(
    buyer: Api, machine: dict[str, Any]
) -> None:
    chosen = {"image": "Alpine 3.20", "region": "Vienna, Austria", "ssh_key": PUBLIC_KEY}
    body = {"product_id": machine["product_id"], "choices": chosen}

    purchase = granted(buyer.command("/api/wallet/instant-purchase", body))
    deployment = granted(buyer.get(f"/api/deployments/{purchase['deployment_ids'][0]}"))

    assert purchase["lines"][0]["choices"] == deployment["choices"] == chosen
    assert deployment["access"]["address"].startswith("203.0.113.")


@pytest.mark.parametrize(
    "choices",
    [
        {"image": "Windows"},
        {"region": "eu"},
        {"ssh_key": "ssh-ed25519 AAAA"},
        {"Image": "Debian 12"},
        {"image": None},
        {"host_name": "x" * 64},
        {"host_name": "x" * 5000},
        {f"key_{number}": "x" for number in range(21)},
        [],
        "image",
    ],
    ids=lambda choices: str(choices)[:30],
)
def test_bad_choices_buy_nothing_and_name_the_field(
    buyer: Api, machine: dict[str, Any], choices: object
) -> None:
    body = {"product_id": machine["product_id"], "choices": choices}
    answer = buyer.command("/api/wallet/instant-purchase", body)

    assert error_of(answer) == (422, "bad_request")
    assert read(answer)["error"]["field"].startswith("choices")
    assert read(buyer.get("/api/purchases"))["purchases"] == []


def test_a_missing_choice_is_named(buyer: Api) -> None:
    product = granted(buyer.get("/api/products/app-gitea"))
    answer = buyer.command("/api/wallet/instant-purchase", {"product_id": product["product_id"]})

    assert (error_of(answer), read(answer)["error"]["field"]) == (
        (422, "bad_request"),
        "choices.domain",
    )


def test_the_form_without_scripts_asks_for_them_and_the_deployment_shows_them(
    buyer: Api, browser: requests.Session
) -> None:
    form = browser.get(f"{buyer.base_url}/marketplace/vm-starter/buy").text
    bought = press(
        buyer, browser, **{"choices.image": "Ubuntu 24.04", "choices.ssh_key": PUBLIC_KEY}
    )
    (deployment,) = read(buyer.get("/api/deployments"))["deployments"]
    page = browser.get(f"{buyer.base_url}/dashboard/deployments/{deployment['deployment_id']}").text

    assert "<option>Ubuntu 24.04</option>" in form
    assert "/purchases/" in bought.url
    assert '<dt>Image</dt><dd class="text-break">Ubuntu 24.04</dd>' in page
    assert deployment["access"]["address"] in page


def test_what_was_typed_is_shown_again_with_what_is_wrong_and_stands_in_no_address(
    buyer: Api, browser: requests.Session
) -> None:
    typed = {"choices.host_name": "shop & more", "choices.ssh_key": "ssh-ed25519 AAAA"}
    answer = press(buyer, browser, **typed)

    assert answer.status_code == 422
    assert "damaged or cut off" in answer.text
    assert 'value="shop &amp; more"' in answer.text
    assert "AAAA" not in answer.url
    assert read(buyer.get("/api/purchases"))["purchases"] == []


def test_what_was_selected_stands_in_the_address_of_the_form_that_is_shown_again(
    buyer: Api, browser: requests.Session
) -> None:
    answer = press(
        buyer,
        browser,
        **{"choices.image": "Ubuntu 24.04", "choices.ssh_key": ""},
        amount="custom",
        custom_amount="12,50",
    )

    assert "/marketplace/vm-starter/buy?" in answer.url
    assert "choices.image=Ubuntu" in answer.url
    assert "<option selected>Ubuntu 24.04</option>" in answer.text
    assert read(buyer.get("/api/purchases"))["purchases"] == []
