"""What we rely on at the card processor.

Against the sandbox always; against Stripe itself, in test mode, by ``make test-stripe`` with a
``STRIPE_API_KEY`` of your own (``sk_test_…``). What holds for both is what the sandbox is for.
"""

import os
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import stripe

from deploy.stripe_sandbox.server import SandboxServer
from services.topup.processor import (
    BadSignature,
    CustomerGone,
    Declined,
    KeySpent,
    Missing,
    Object,
    Processor,
    Rejected,
)
from tests.patience import eventually
from tests.topup.conftest import SECRET, signed

STRIPE_KEY = os.environ.get("STRIPE_API_KEY", "")

pytestmark = pytest.mark.stripe_contract


@pytest.fixture(scope="module")
def address(request: pytest.FixtureRequest) -> dict[str, str]:
    """Where the processor is: Stripe when a key of its test mode is given, else the sandbox."""
    if STRIPE_KEY:
        assert STRIPE_KEY.startswith("sk_test_"), "only a test key may be used here"
        return {"api_key": STRIPE_KEY, "api_base": ""}
    server: SandboxServer = request.getfixturevalue("sandbox_server")
    return {"api_key": "sk_test_of_the_tests", "api_base": server.url}


@pytest.fixture(scope="module")
def processor(address: dict[str, str]) -> Processor:
    return Processor(**address, webhook_secret=SECRET)


@pytest.fixture(scope="module")
def customer_id(processor: Processor) -> str:
    key = str(uuid.uuid4())
    created = processor.create_customer(key, "contract@example.com", idempotency_key=key)
    return str(created["id"])


@pytest.fixture(scope="module")
def card(address: dict[str, str], customer_id: str) -> Callable[[str], str]:
    """Save one of the documented test cards."""
    base = {"api": address["api_base"]} if address["api_base"] else {}
    client = stripe.StripeClient(address["api_key"], base_addresses=base)

    def attach(name: str) -> str:
        return client.v1.payment_methods.attach(name, {"customer": customer_id}).id

    return attach


@pytest.fixture(scope="module")
def charge(
    processor: Processor, customer_id: str, card: Callable[[str], str]
) -> Callable[..., Object]:
    good = card("pm_card_visa")

    def make(topup_id: str | None = None, cents: int = 2_500, method: str = good) -> Object:
        return processor.charge_off_session(
            customer_id=customer_id,
            payment_method_id=method,
            amount_cents=cents,
            topup_id=topup_id or str(uuid.uuid4()),
            user_id="user-of-the-contract",
        )

    return make


def test_a_customer_is_made_once_for_a_key(processor: Processor) -> None:
    key = str(uuid.uuid4())
    made = [
        processor.create_customer(key, "twice@example.com", idempotency_key=key)["id"]
        for _ in range(2)
    ]

    assert made[0] == made[1]


def test_a_charge_succeeds_with_everything_we_read(charge: Callable[..., Object]) -> None:
    topup_id = str(uuid.uuid4())
    payment = charge(topup_id)

    details = payment["latest_charge"]["payment_method_details"]["card"]
    assert (
        payment["status"],
        payment["amount_received"],
        payment["currency"],
        payment["metadata"]["topup_id"],
        details["brand"],
        details["last4"],
    ) == ("succeeded", 2_500, "usd", topup_id, "visa", "4242")


def test_a_reply_is_plain_data(charge: Callable[..., Object]) -> None:
    def is_plain(value: Any) -> bool:
        if isinstance(value, dict):
            return type(value) is dict and all(is_plain(item) for item in value.values())
        if isinstance(value, list):
            return all(is_plain(item) for item in value)
        return value is None or isinstance(value, str | int | float | bool)

    assert is_plain(charge())


def test_the_same_key_charges_once(charge: Callable[..., Object]) -> None:
    topup_id = str(uuid.uuid4())

    assert charge(topup_id)["id"] == charge(topup_id)["id"]


def test_the_same_key_with_another_amount_is_not_taken_for_a_refusal(
    charge: Callable[..., Object],
) -> None:
    topup_id = str(uuid.uuid4())
    charge(topup_id)

    with pytest.raises(KeySpent):
        charge(topup_id, cents=2_600)


def test_a_declined_card_tells_its_code(
    charge: Callable[..., Object], card: Callable[[str], str]
) -> None:
    with pytest.raises(Declined) as caught:
        charge(method=card("pm_card_chargeCustomerFail"))

    assert (caught.value.code, caught.value.decline_code) == ("card_declined", "generic_decline")
    assert caught.value.payment is not None


def test_a_card_that_needs_its_owner_is_declined_as_such(
    charge: Callable[..., Object], card: Callable[[str], str]
) -> None:
    with pytest.raises(Declined) as caught:
        charge(method=card("pm_card_authenticationRequired"))

    assert caught.value.code == "authentication_required"


def test_a_card_of_nobodys_is_rejected(charge: Callable[..., Object]) -> None:
    with pytest.raises(Rejected):
        charge(method="pm_of_nobody")


def test_a_payment_is_found_by_the_topup_it_names(
    processor: Processor, charge: Callable[..., Object], customer_id: str
) -> None:
    topup_id = str(uuid.uuid4())
    payment = charge(topup_id)

    found = processor.find_payments(customer_id, topup_id, int(time.time()) - 3_600)

    assert [item["id"] for item in found] == [payment["id"]]


def test_a_payment_that_does_not_exist_is_missing(processor: Processor) -> None:
    with pytest.raises(Missing):
        processor.get_payment("pi_of_nobody")


def test_a_page_for_paying_opens_once_for_a_key_and_closes(
    processor: Processor, customer_id: str
) -> None:
    topup_id = str(uuid.uuid4())
    opened = [
        processor.create_payment_session(
            customer_id=customer_id,
            amount_cents=2_500,
            topup_id=topup_id,
            user_id="user-of-the-contract",
            save_card=True,
            success_url="https://example.com/done",
            cancel_url="https://example.com/cancelled",
            idempotency_key=topup_id,
        )
        for _ in range(2)
    ]
    page = processor.get_session(opened[0]["id"])
    found = processor.find_open_session(customer_id, topup_id)
    closed = processor.expire_session(opened[0]["id"])

    assert opened[0]["id"] == opened[1]["id"]
    assert found is not None
    assert (found["id"], found["url"]) == (opened[0]["id"], opened[0]["url"])
    assert processor.find_open_session(customer_id, topup_id) is None
    assert opened[0]["url"].startswith("http")
    assert (page["mode"], page["status"], page["payment_status"], page["metadata"]["topup_id"]) == (
        "payment",
        "open",
        "unpaid",
        topup_id,
    )
    assert closed["status"] == "expired"


def test_a_page_for_saving_a_card_opens(processor: Processor, customer_id: str) -> None:
    page = processor.create_setup_session(
        customer_id=customer_id,
        user_id="user-of-the-contract",
        success_url="https://example.com/done",
        cancel_url="https://example.com/cancelled",
        idempotency_key=str(uuid.uuid4()),
    )

    assert (page["mode"], page["status"]) == ("setup", "open")


def test_a_deleted_customer_is_told_from_other_things_that_are_missing(
    processor: Processor, address: dict[str, str]
) -> None:
    key = str(uuid.uuid4())
    customer_id = processor.create_customer(key, "gone@example.com", idempotency_key=key)["id"]
    base = {"api": address["api_base"]} if address["api_base"] else {}
    stripe.StripeClient(address["api_key"], base_addresses=base).v1.customers.delete(customer_id)

    with pytest.raises(CustomerGone):
        processor.create_setup_session(
            customer_id=customer_id,
            user_id="user-of-the-contract",
            success_url="https://example.com/done",
            cancel_url="https://example.com/cancelled",
            idempotency_key=str(uuid.uuid4()),
        )
    assert processor.get_customer(customer_id)["deleted"]


def test_refunds_are_listed_one_by_one(processor: Processor, charge: Callable[..., Object]) -> None:
    payment = charge()
    for cents in (500, 700):
        processor.refund(payment["id"], cents, idempotency_key=str(uuid.uuid4()))

    refunds = processor.refunds_of(payment["id"])

    assert sorted(refund["amount"] for refund in refunds) == [500, 700]
    assert {refund["status"] for refund in refunds} <= {"succeeded", "pending"}


def test_a_payment_is_listed_with_what_its_charge_moved(
    processor: Processor, charge: Callable[..., Object]
) -> None:
    payment = charge()
    made = int(payment["created"])

    def movements() -> list[Object]:
        """None at first: with ``automatic_async`` the money reaches the balance later."""
        listed = processor.payments_between(made - 600, made + 600)
        charges = [found["latest_charge"] for found in listed if found["id"] == payment["id"]]
        return [one["balance_transaction"] for one in charges if one["balance_transaction"]]

    assert [movement["amount"] for movement in eventually(movements)] == [2_500]


def test_a_refund_is_in_the_balance_with_its_payment(
    processor: Processor, charge: Callable[..., Object]
) -> None:
    payment = charge()
    refund = processor.refund(payment["id"], 500, idempotency_key=str(uuid.uuid4()))
    made = int(refund["created"])

    listed = processor.movements_between(made - 600, made + 600)

    mine = [
        (item["source"]["id"], item["source"]["payment_intent"], item["amount"])
        for item in listed
        if item["reporting_category"] == "refund"
    ]
    assert (refund["id"], payment["id"], -500) in mine


def test_what_a_refund_moved_is_found_by_its_id(
    processor: Processor, charge: Callable[..., Object]
) -> None:
    refund = processor.refund(charge()["id"], 500, idempotency_key=str(uuid.uuid4()))

    movements = processor.movements_of(refund["id"])

    assert [(item["amount"], item["reporting_category"]) for item in movements] == [
        (-500, "refund")
    ]


def test_a_removed_card_belongs_to_nobody(processor: Processor, card: Callable[[str], str]) -> None:
    method = card("pm_card_mastercard")

    assert processor.detach_payment_method(method)["customer"] is None


def test_undelivered_events_can_be_asked_for(processor: Processor) -> None:
    assert isinstance(processor.undelivered_events(int(time.time()) - 3_600), list)


def test_a_signature_of_the_librarys_own_is_believed(processor: Processor) -> None:
    processor.verify_notice('{"object": "event"}', signed('{"object": "event"}'))

    with pytest.raises(BadSignature):
        processor.verify_notice('{"object": "event2"}', signed('{"object": "event"}'))
