"""Giving a purchase back, over the API and on its page."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from contracts.billing import PurchaseRefunded, RefundCause, SaleRefunded
from services.gateway.notifications import messages
from tests.gateway.conftest import PASSWORD, Api, error_of, granted, read
from tests.gateway.test_api import give
from tests.gateway.test_site import csrf_token
from tests.patience import Browser, eventually

AWAITED = """
UPDATE deployments SET status = 'requested', active_at = NULL, period_anchor_at = NULL,
    paid_until = NULL, due_at = NULL
WHERE purchase_id = :purchase
"""


@pytest.fixture
def buyer(system: Any, api: Api) -> Api:
    give(system, api, 25)
    return api


def bought(buyer: Api, product: dict[str, Any]) -> str:
    """The path of a purchase of $5.00 that has run."""
    body = {"product_id": product["product_id"]}
    purchase = granted(buyer.command("/api/wallet/instant-purchase", body))
    assert purchase["returnable_until"] is None
    return f"/api/purchases/{purchase['purchase_id']}"


def await_it(system: Any, path: str) -> None:
    """As a provisioner outside leaves it: nothing of it has run yet."""
    engine = create_engine(system.database_url("billing"))
    with engine.begin() as connection:
        connection.execute(text(AWAITED), {"purchase": path.rpartition("/")[2]})
    engine.dispose()


def test_a_purchase_that_has_not_run_is_given_back_once(
    system: Any, buyer: Api, product: dict[str, Any]
) -> None:
    path = bought(buyer, product)
    await_it(system, path)
    possible = granted(buyer.get(path))

    # Where the wallet takes long, the money follows by itself.
    returned = eventually(
        lambda: granted(buyer.command(f"{path}/refund", key="once")),
        lambda answer: answer["refunded_usd"] == Decimal(5),
    )
    again = granted(buyer.command(f"{path}/refund", key="once"))

    assert possible["returnable_until"] is not None
    assert returned["returnable_until"] is None
    assert again == returned
    assert error_of(buyer.command(f"{path}/refund")) == (409, "conflict")
    assert granted(buyer.get("/api/wallet/info"))["balance"] == Decimal(25)
    deployment = granted(buyer.get(f"/api/deployments/{returned['deployment_ids'][0]}"))
    assert deployment["status"] == "cancelled"
    told = eventually(
        lambda: read(buyer.get("/api/notifications"))["notifications"],
        lambda found: any(each["kind"] == "purchase_refunded" for each in found),
    )
    (message,) = [each for each in told if each["kind"] == "purchase_refunded"]
    assert message["title"] == f"$5.00 was refunded for {product['name']}"


def test_what_has_run_is_kept_and_anothers_is_not_found(
    system: Any, buyer: Api, product: dict[str, Any], new_member: Callable[[], Api]
) -> None:
    path = bought(buyer, product)

    assert error_of(buyer.command(f"{path}/refund")) == (409, "conflict")
    await_it(system, path)
    assert error_of(new_member().command(f"{path}/refund")) == (404, "not_found")
    assert error_of(buyer.post(f"{path}/refund")) == (400, "idempotency_key_required")
    assert granted(buyer.get(path))["refunded_usd"] == 0


def test_its_page_has_a_button_while_it_is_possible(
    system: Any, buyer: Api, product: dict[str, Any]
) -> None:
    path = bought(buyer, product)
    page = buyer.base_url + path.removeprefix("/api")
    browser = Browser()
    login = browser.get(f"{buyer.base_url}/login")
    form = {"email": buyer.email, "password": PASSWORD, "csrf_token": csrf_token(login.text)}
    browser.post(f"{buyer.base_url}/login", data=form)
    has_run = browser.get(page).text
    await_it(system, path)
    shown = browser.get(page).text

    answer = browser.post(f"{page}/refund", data={"csrf_token": csrf_token(shown)})

    assert ("Cancel and refund $5.00" in has_run, "Cancel and refund $5.00" in shown) == (
        False,
        True,
    )
    assert "Refunded. The credits are in your wallet." in answer.text
    assert "<dt>Refunded</dt><dd>$5.00</dd>" in answer.text
    assert "Cancel and refund" not in answer.text
    again = browser.post(f"{page}/refund", data={"csrf_token": csrf_token(answer.text)})
    assert "cannot be returned" in again.text


def test_a_deployment_that_is_being_set_up_is_cancelled_on_its_page(
    system: Any, buyer: Api, product: dict[str, Any]
) -> None:
    path = bought(buyer, product)
    await_it(system, path)
    deployment_id = granted(buyer.get(path))["deployment_ids"][0]

    cancelled = granted(buyer.command(f"/api/deployments/{deployment_id}/cancel", {}))

    assert cancelled["status"] == "cancelled"
    eventually(lambda: read(buyer.get(path))["refunded_usd"], lambda back: back == Decimal(5))


def event_of(event_class: Any, **fields: Any) -> Any:
    ids = dict.fromkeys(
        ("event_id", "user_id", "refund_id"), "00000000-0000-4000-8000-000000000000"
    )
    return event_class(occurred_at="2026-11-28T12:00:00Z", **ids, **fields)


def test_what_came_back_for_nothing_is_not_told() -> None:
    event = event_of(
        PurchaseRefunded,
        purchase_id="00000000-0000-4000-8000-000000000000",
        cause=RefundCause.BUYER,
        reason="You returned it.",
        amount_micros=0,
        description="VM",
    )

    assert messages.purchase_refunded(event) is None


OWED = (
    " $5.00 of it was not in your wallet: you owe it, and it is taken as soon as your wallet covers"
    " it."
)


@pytest.mark.parametrize(
    ("owed_micros", "severity", "lacking"), [(0, "info", ""), (5_000_000, "warning", OWED)]
)
def test_a_provider_hears_what_went_back_and_what_he_owes(
    owed_micros: int, severity: str, lacking: str
) -> None:
    event = event_of(
        SaleRefunded,
        product_names=["VM"],
        units=2,
        net_micros=18_000_000,
        owed_micros=owed_micros,
    )

    message = messages.sale_refunded(event)

    assert (message.severity, message.title) == (severity, "A sale of VM ×2 was refunded")
    assert message.body == f"$18.00 that you earned by it went back.{lacking}"
