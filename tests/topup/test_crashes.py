"""The process is killed at each step of a charge: after its restart, one charge and one credit."""

import uuid
from uuid import UUID

import pytest

from contracts.billing import GetPurchase, PurchaseLine, StartPurchase
from contracts.catalog import ListProducts
from contracts.errors import ServiceError
from contracts.topup import GetTopup
from tests.conftest import StackFactory
from tests.system import System
from tests.topup.conftest import USD
from tests.topup.test_service import Person, eventually, receive, sandbox_events

STEPS_OF_A_CHARGE = (
    "topup.after_trigger",
    "topup.before_reserve",
    "topup.after_reserve",
    "topup.before_charge",
    "topup.after_charge",
    "topup.after_record",
)


@pytest.fixture(scope="module")
def stack(service_stack: StackFactory) -> System:
    return service_stack(
        "wallet",
        "catalog",
        "billing",
        "topup",
        "sandbox",
        settings={
            "AUTO_TOPUP_COOL_DOWN_S": "1",
            "JANITOR_LOOKS_S": "1,2,3,5",
            "STRIPE_READ_TIMEOUT_S": "5",
        },
    )


@pytest.fixture(scope="module")
def product_id(stack: System) -> UUID:
    products = stack.rpc.call(ListProducts(q="VM", limit=50)).products
    return next(p.product_id for p in products if p.price_micros == 15 * USD)


def crash_at(stack: System, point: str) -> None:
    stack.kill("topup")
    stack.start("topup", {"MYCELIUM_CRASH_AT": point})


def restart_after_crash(stack: System) -> None:
    eventually(lambda: not stack.is_running("topup"), 30)
    stack.start("topup")


def charges_of(person: Person) -> int:
    found = [
        event
        for event in sandbox_events(person.stack, "payment_intent.succeeded")
        if event["data"]["object"]["metadata"].get("user_id") == str(person.user_id)
    ]
    return len(found)


@pytest.mark.parametrize("point", STEPS_OF_A_CHARGE)
def test_a_crash_at_any_step_of_a_charge_ends_in_one_charge_and_one_credit(
    stack: System, product_id: UUID, point: str
) -> None:
    person = Person(stack)
    person.add_card()
    person.configure(threshold_micros=0)
    crash_at(stack, point)
    purchase = stack.rpc.call(
        StartPurchase(
            user_id=person.user_id,
            lines=[PurchaseLine(product_id=product_id)],
            idempotency_key=str(uuid.uuid4()),
        )
    )
    restart_after_crash(stack)

    asked = GetPurchase(user_id=person.user_id, purchase_id=purchase.purchase_id)
    eventually(lambda: stack.rpc.call(asked).status == "completed", 40)
    eventually(lambda: [topup.status for topup in person.topups()] == ["credited"])

    assert (charges_of(person), person.balance()) == (1, 10 * USD)


@pytest.mark.parametrize("point", ["topup.before_session", "topup.after_session"])
def test_a_crash_while_the_page_is_opened_leaves_one_page_for_the_same_key(
    stack: System, point: str
) -> None:
    person = Person(stack)
    key = str(uuid.uuid4())
    crash_at(stack, point)
    with pytest.raises(ServiceError):
        person.start_topup(idempotency_key=key)
    restart_after_crash(stack)

    topup = person.start_topup(idempotency_key=key)
    person.pay(topup)

    asked = GetTopup(user_id=person.user_id, topup_id=topup.topup_id)
    eventually(lambda: stack.rpc.call(asked).status == "credited")
    assert (person.balance(), len(person.topups())) == (25 * USD, 1)


def test_a_crash_right_after_a_webhook_was_stored_loses_nothing(stack: System) -> None:
    person = Person(stack)
    topup = person.start_topup()
    person.pay(topup)
    crash_at(stack, "topup.after_notice")
    (event,) = [
        event
        for event in sandbox_events(stack, "checkout.session.completed")
        if event["data"]["object"]["metadata"].get("user_id") == str(person.user_id)
    ]
    with pytest.raises(ServiceError):
        receive(stack, event)
    restart_after_crash(stack)

    eventually(lambda: person.balance() == 25 * USD, 90)
