"""The process is killed at each step of a charge: after its restart, one charge and one credit."""

import uuid
from pathlib import Path
from uuid import UUID

import pytest
import requests

from contracts.billing import GetPurchase
from contracts.topup import GetTopup, TriggerAutoTopup
from tests.conftest import StackFactory
from tests.crashes import into_a_crash, points
from tests.patience import PATIENCE_S, eventually
from tests.system import System
from tests.topup.conftest import USD
from tests.topup.test_service import Person, receive, sandbox_events

STEPS_OF_A_CHARGE = (
    "topup.before_reserve",
    "topup.after_reserve",
    "topup.before_charge",
    "topup.after_charge",
    "topup.after_record",
)


@pytest.fixture(scope="module")
def order(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that tells the process at which point to die."""
    return tmp_path_factory.mktemp("crashes") / "crash-at"


@pytest.fixture(scope="module")
def stack(service_stack: StackFactory, order: Path) -> System:
    return service_stack(
        "wallet",
        "catalog",
        "billing",
        "topup",
        "sandbox",
        settings={
            "AUTO_TOPUP_COOL_DOWN_S": "1",
            "JANITOR_LOOKS_S": "1,2,3,5",
            "MYCELIUM_CRASH_FILE": str(order),
        },
    )


def restart_after_crash(stack: System) -> None:
    eventually(lambda: not stack.is_running("topup"))
    stack.start("topup")


def charges_of(person: Person) -> int:
    found = [
        event
        for event in sandbox_events(person.stack, "payment_intent.succeeded")
        if event["data"]["object"]["metadata"].get("user_id") == str(person.user_id)
    ]
    return len(found)


def pages_of(person: Person) -> int:
    reply = requests.get(
        f"{person.stack.sandbox_url}/v1/checkout/sessions",
        params={"limit": 100},
        headers={"Authorization": "Bearer sk_test_x"},
        timeout=PATIENCE_S,
    )
    found = [
        page
        for page in reply.json()["data"]
        if page["mode"] == "payment" and page["metadata"]["user_id"] == str(person.user_id)
    ]
    return len(found)


@pytest.mark.parametrize(
    "point", points(STEPS_OF_A_CHARGE, "topup.before_charge", "topup.after_charge")
)
def test_a_crash_at_any_step_of_a_charge_ends_in_one_charge_and_one_credit(
    stack: System, order: Path, product_id: UUID, point: str
) -> None:
    person = Person(stack)
    person.add_card()
    person.configure(threshold_micros=0)
    order.write_text(point)
    purchase = person.buy(product_id)
    restart_after_crash(stack)

    asked = GetPurchase(user_id=person.user_id, purchase_id=purchase.purchase_id)
    eventually(lambda: stack.rpc.call(asked).status == "completed")
    eventually(lambda: [topup.status for topup in person.topups()] == ["credited"])

    assert (charges_of(person), person.balance()) == (1, 10 * USD)


@pytest.mark.parametrize(
    "point", points(["topup.after_trigger", "topup.after_record"], "topup.after_record")
)
def test_a_crash_after_somebody_asked_for_a_charge_by_hand_makes_one(
    stack: System, order: Path, point: str
) -> None:
    person = Person(stack)
    person.add_card()
    person.configure(threshold_micros=0)
    order.write_text(point)
    asked = TriggerAutoTopup(idempotency_key=str(uuid.uuid4()), user_id=person.user_id)
    into_a_crash(order, lambda: stack.rpc.call(asked, timeout_s=2))
    restart_after_crash(stack)

    eventually(lambda: [topup.status for topup in person.topups()] == ["credited"])
    assert (charges_of(person), person.balance()) == (1, 25 * USD)


@pytest.mark.parametrize(
    "point",
    points(
        ["topup.after_record", "topup.before_confirm_page", "topup.after_confirm_page"],
        "topup.after_confirm_page",
    ),
)
def test_a_crash_while_the_person_is_asked_to_confirm_leaves_one_page_and_one_charge(
    stack: System, order: Path, product_id: UUID, point: str
) -> None:
    person = Person(stack)
    person.sandbox.behave(person.add_card(), "pm_card_authenticationRequired")
    person.configure(threshold_micros=0)
    order.write_text(point)
    purchase = person.buy(product_id)
    restart_after_crash(stack)

    eventually(lambda: person.status().confirm_url is not None)
    (topup,) = person.topups()
    person.pay(topup)

    asked = GetPurchase(user_id=person.user_id, purchase_id=purchase.purchase_id)
    eventually(lambda: stack.rpc.call(asked).status == "completed")
    eventually(lambda: person.topup(topup.topup_id).status == "credited")
    assert (pages_of(person), charges_of(person), person.balance()) == (1, 1, 10 * USD)


@pytest.mark.parametrize(
    "point", points(["topup.before_session", "topup.after_session"], "topup.after_session")
)
def test_a_crash_while_the_page_is_opened_leaves_one_page_for_the_same_key(
    stack: System, order: Path, point: str
) -> None:
    person = Person(stack)
    key = str(uuid.uuid4())
    order.write_text(point)
    into_a_crash(order, lambda: person.start_topup(timeout_s=5, idempotency_key=key))
    restart_after_crash(stack)

    topup = person.start_topup(idempotency_key=key)
    person.pay(topup)

    asked = GetTopup(user_id=person.user_id, topup_id=topup.topup_id)
    eventually(lambda: stack.rpc.call(asked).status == "credited")
    assert (person.balance(), len(person.topups())) == (25 * USD, 1)


@pytest.mark.parametrize(
    ("point", "charges"),
    [
        pytest.param("topup.saved_card_begun", 1, marks=pytest.mark.soak),
        pytest.param("topup.before_saved_card", 0, marks=pytest.mark.soak),
        ("topup.after_saved_card", 1),
    ],
)
def test_a_crash_while_a_saved_card_is_charged_by_hand_charges_it_once_at_most(
    stack: System, order: Path, point: str, charges: int
) -> None:
    person = Person(stack)
    by_card = {"payment_method_id": person.add_card(), "idempotency_key": str(uuid.uuid4())}
    order.write_text(point)
    into_a_crash(order, lambda: person.start_topup(timeout_s=5, **by_card))
    restart_after_crash(stack)

    topup = person.start_topup(**by_card)

    assert topup.is_saved_card
    if charges:
        eventually(lambda: person.topup(topup.topup_id).status == "credited")
    else:
        # It may be on its way as far as anybody knows, and is not sent again.
        assert topup.status == "processing"
    assert (charges_of(person), person.balance()) == (charges, charges * 25 * USD)


def test_a_crash_right_after_a_webhook_was_stored_loses_nothing(stack: System, order: Path) -> None:
    person = Person(stack)
    topup = person.start_topup()
    person.pay(topup)
    order.write_text("topup.after_notice")
    (event,) = [
        event
        for event in sandbox_events(stack, "checkout.session.completed")
        if event["data"]["object"]["metadata"].get("user_id") == str(person.user_id)
    ]
    into_a_crash(order, lambda: receive(stack, event, timeout_s=5))
    restart_after_crash(stack)

    eventually(lambda: person.balance() == 25 * USD)
