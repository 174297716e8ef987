"""The service as a process, through the real broker, beside the real wallet, billing, sandbox."""

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
import requests
import stripe

from chassis.identifiers import new_id
from contracts.billing import GetPurchase, Purchase, PurchaseLine, StartPurchase
from contracts.errors import BadRequest, IdempotencyConflict, NotFound
from contracts.topup import (
    AutoTopupStatus,
    ConfigureAutoTopup,
    GetAutoTopup,
    GetAutoTopupState,
    GetAutoTopupStates,
    GetTopup,
    GetTopupOverview,
    ListPaymentMethods,
    ListTopups,
    ReceiveWebhook,
    RenderReceipt,
    StartCardSetup,
    StartTopup,
    Topup,
    TriggerAutoTopup,
)
from contracts.wallet import Debit, GetWallet, OpenAccount, Statement
from tests.conftest import StackFactory
from tests.patience import PATIENCE_S, eventually
from tests.system import System
from tests.topup.conftest import USD, Card, Sandbox

COOL_DOWN_S = 2
GIVES_UP_AFTER_S = 8
"""With the card processor: less than its silences last here, more than a busy machine is silent."""


PURCHASES_AT_ONCE = 50


@pytest.fixture(scope="module")
def stack(service_stack: StackFactory) -> System:
    return service_stack(
        "wallet",
        "catalog",
        "billing",
        "topup",
        "sandbox",
        settings={
            "AUTO_TOPUP_COOL_DOWN_S": str(COOL_DOWN_S),
            "JANITOR_LOOKS_S": "1,2,3,5",
            "STRIPE_READ_TIMEOUT_S": str(GIVES_UP_AFTER_S),
            "STRIPE_NETWORK_RETRIES": "0",
            "WAITING_PURCHASES_MAX": str(PURCHASES_AT_ONCE),
        },
    )


class Person:
    def __init__(self, stack: System) -> None:
        self.stack = stack
        self.rpc = stack.rpc
        self.sandbox = Sandbox(stack.sandbox_url)
        self.user_id = new_id()
        self.rpc.call(OpenAccount(user_id=self.user_id, idempotency_key=f"open-{self.user_id}"))

    def start_topup(
        self, amount_micros: int = 25 * USD, timeout_s: float | None = None, **changes: Any
    ) -> Topup:
        values = {
            "user_id": self.user_id,
            "email": "person@example.com",
            "amount_micros": amount_micros,
            "idempotency_key": str(uuid.uuid4()),
            **changes,
        }
        return self.rpc.call(StartTopup(**values), timeout_s)

    def pay(self, topup: Topup, number: str = Card.GOOD) -> None:
        assert topup.checkout_url is not None
        self.sandbox.pay(session_of(topup.checkout_url), number)

    def add_card(self, number: str = Card.GOOD) -> str:
        setup = self.rpc.call(
            StartCardSetup(
                user_id=self.user_id,
                email="person@example.com",
                idempotency_key=str(uuid.uuid4()),
            )
        )
        self.sandbox.pay(session_of(setup.checkout_url), number)
        cards = self.rpc.call(ListPaymentMethods(user_id=self.user_id)).payment_methods
        return cards[0].payment_method_id

    def configure(self, **changes: Any) -> AutoTopupStatus:
        values = {
            "user_id": self.user_id,
            "enabled": True,
            "threshold_micros": 10 * USD,
            "topup_amount_micros": 25 * USD,
            "consent": True,
            "idempotency_key": str(uuid.uuid4()),
            **changes,
        }
        return self.rpc.call(ConfigureAutoTopup(**values))

    def buy(self, product_id: UUID) -> Purchase:
        return self.rpc.call(
            StartPurchase(
                user_id=self.user_id,
                lines=[PurchaseLine(product_id=product_id)],
                idempotency_key=str(uuid.uuid4()),
            )
        )

    def status(self) -> AutoTopupStatus:
        return self.rpc.call(GetAutoTopup(user_id=self.user_id))

    def balance(self) -> int:
        return self.rpc.call(GetWallet(user_id=self.user_id)).balance_micros

    def spend(self, amount_micros: int) -> None:
        self.rpc.call(
            Debit(
                user_id=self.user_id,
                amount_micros=amount_micros,
                description="Something",
                idempotency_key=str(uuid.uuid4()),
            )
        )

    def topups(self) -> list[Topup]:
        return self.rpc.call(ListTopups(user_id=self.user_id)).topups

    def topup(self, topup_id: UUID) -> Topup:
        return self.rpc.call(GetTopup(user_id=self.user_id, topup_id=topup_id))


def session_of(url: str) -> str:
    """The page's id, which the sandbox and Stripe put into its address."""
    return next(part for part in url.split("/") if part.startswith("cs_"))


@pytest.fixture
def person(stack: System) -> Person:
    return Person(stack)


def test_the_overview_tells_what_three_questions_do(person: Person) -> None:
    person.add_card()
    person.configure()
    person.start_topup()
    newest = person.start_topup()

    overview = person.rpc.call(GetTopupOverview(user_id=person.user_id, topups=1))

    assert overview.auto_topup == person.status()
    cards = person.rpc.call(ListPaymentMethods(user_id=person.user_id))
    assert overview.payment_methods == cards
    assert [topup.topup_id for topup in overview.topups.topups] == [newest.topup_id]


def test_the_states_of_several_are_told_in_their_order(person: Person) -> None:
    person.add_card()
    person.configure(threshold_micros=0)
    users = [new_id(), person.user_id, new_id()]

    states = person.rpc.call(GetAutoTopupStates(user_ids=users)).states

    assert [each.state for each in states] == ["off", "active", "off"]
    assert states[1] == person.rpc.call(GetAutoTopupState(user_id=person.user_id))


def test_credits_bought_by_hand_arrive_though_no_webhook_came(person: Person) -> None:
    topup = person.start_topup()
    person.pay(topup)

    eventually(lambda: person.topup(topup.topup_id).status == "credited")

    assert person.balance() == 25 * USD


def test_the_same_request_twice_opens_the_same_page(person: Person) -> None:
    key = str(uuid.uuid4())
    first = person.start_topup(idempotency_key=key)

    again = person.start_topup(idempotency_key=key)

    assert (again.topup_id, again.checkout_url, again.replayed) == (
        first.topup_id,
        first.checkout_url,
        True,
    )


def test_the_same_key_with_another_amount_is_a_conflict(person: Person) -> None:
    key = str(uuid.uuid4())
    person.start_topup(idempotency_key=key)

    with pytest.raises(IdempotencyConflict):
        person.start_topup(30 * USD, idempotency_key=key)


@pytest.mark.parametrize("amount_micros", [4_990_000, 2_000_010_000, 5_000_001])
def test_an_amount_out_of_bounds_or_with_parts_of_cents_is_refused(
    person: Person, amount_micros: int
) -> None:
    with pytest.raises(BadRequest):
        person.start_topup(amount_micros)


def test_somebody_elses_topup_is_not_found(stack: System, person: Person) -> None:
    topup = person.start_topup()

    with pytest.raises(NotFound):
        Person(stack).topup(topup.topup_id)


def test_a_debit_below_the_threshold_tops_up_by_itself(person: Person) -> None:
    topup = person.start_topup()
    person.pay(topup)
    eventually(lambda: person.topup(topup.topup_id).status == "credited")
    person.add_card()
    person.configure()

    person.spend(20 * USD)

    eventually(lambda: person.balance() == 30 * USD)
    (entry,) = [
        entry
        for entry in person.rpc.call(Statement(user_id=person.user_id)).transactions
        if entry.kind == "auto_topup"
    ]
    assert entry.metadata["trigger"] == "low_balance"


def test_a_purchase_short_of_funds_completes_by_itself(person: Person, product_id: UUID) -> None:
    person.add_card()
    person.configure(threshold_micros=0)

    purchase = person.buy(product_id)

    asked = GetPurchase(user_id=person.user_id, purchase_id=purchase.purchase_id)
    eventually(lambda: person.rpc.call(asked).status == "completed")
    assert person.balance() == 10 * USD


def test_a_dry_run_says_what_saving_would_charge_and_does_nothing(person: Person) -> None:
    person.add_card()

    low = person.configure(dry_run=True, threshold_micros=40 * USD)
    enough = person.configure(dry_run=True, threshold_micros=0)

    assert (low.charge_now_micros, enough.charge_now_micros) == (40 * USD, 0)
    assert (person.status().enabled, person.topups(), person.balance()) == (False, [], 0)


def test_a_dry_run_and_the_save_after_it_share_a_key(person: Person) -> None:
    person.add_card()
    once: dict[str, Any] = {"idempotency_key": "once", "threshold_micros": 0}
    person.configure(**once, dry_run=True)

    assert person.configure(**once).enabled


def test_saving_the_settings_when_already_below_says_what_is_in_flight(person: Person) -> None:
    person.add_card()

    status = person.configure()

    eventually(lambda: person.balance() == 25 * USD)
    assert status.last_topup is not None
    assert status.last_topup.trigger == "settings_saved"


def test_asking_by_hand_answers_with_the_topup_or_the_reason(person: Person) -> None:
    person.add_card()
    person.configure(threshold_micros=0)
    key = str(uuid.uuid4())

    outcome = person.rpc.call(TriggerAutoTopup(user_id=person.user_id, idempotency_key=key))
    again = person.rpc.call(TriggerAutoTopup(user_id=person.user_id, idempotency_key=key))

    assert outcome.topup is not None
    assert again.topup is not None
    assert again.topup.topup_id == outcome.topup.topup_id


def test_asking_by_hand_again_under_the_same_key_never_charges_again(person: Person) -> None:
    person.add_card()
    person.configure(threshold_micros=0)
    command = TriggerAutoTopup(user_id=person.user_id, idempotency_key="once")
    outcome = person.rpc.call(command)
    eventually(lambda: [topup.status for topup in person.topups()] == ["credited"])
    eventually(lambda: person.status().cool_down_until is None)

    again = person.rpc.call(command)

    assert outcome.topup is not None
    assert again.topup is not None
    assert again.topup.topup_id == outcome.topup.topup_id
    assert len(person.topups()) == 1


def test_without_settings_the_reason_is_that_it_is_off(person: Person) -> None:
    outcome = person.rpc.call(TriggerAutoTopup(user_id=person.user_id, idempotency_key="once"))

    assert (outcome.topup, outcome.refusal_code) == (None, "disabled")


def test_a_webhook_credits_without_anybody_asking(stack: System, person: Person) -> None:
    topup = person.start_topup()
    person.pay(topup)

    for event in sandbox_events(stack, "checkout.session.completed"):
        receive(stack, event)

    eventually(lambda: person.balance() == 25 * USD)


def test_a_webhook_with_a_wrong_signature_is_refused(stack: System) -> None:
    with pytest.raises(BadRequest):
        stack.rpc.call(ReceiveWebhook(payload='{"object": "event"}', signature="t=1,v1=00"))


def test_the_receipt_is_a_pdf(person: Person) -> None:
    topup = person.start_topup()
    person.pay(topup)
    eventually(lambda: person.topup(topup.topup_id).status == "credited")

    rendered = person.rpc.call(RenderReceipt(user_id=person.user_id, topup_id=topup.topup_id))

    assert rendered.pdf_base64.startswith("JVBERi0")  # %PDF-


@pytest.mark.parametrize(
    "what", ["timeout_after", "reset_after", "error_after", "timeout_before", "error_before"]
)
def test_an_answer_that_is_lost_ends_in_one_charge_and_one_credit(
    stack: System, person: Person, what: str
) -> None:
    person.add_card()
    person.configure(threshold_micros=0)
    person.sandbox.switch(
        what,
        match={
            "method": "POST",
            "path": "/v1/payment_intents",
            "metadata": {"user_id": str(person.user_id)},
        },
        seconds=GIVES_UP_AFTER_S + 4,
        keep=False,
    )

    person.rpc.call(TriggerAutoTopup(user_id=person.user_id, idempotency_key="once"))

    eventually(lambda: [topup.status for topup in person.topups()] == ["credited"])
    assert person.balance() == 25 * USD


def sandbox_events(stack: System, kind: str) -> list[dict[str, Any]]:
    reply = requests.get(
        f"{stack.sandbox_url}/v1/events",
        params={"type": kind, "limit": 100},
        headers={"Authorization": "Bearer sk_test_x"},
        timeout=PATIENCE_S,
    )
    events: list[dict[str, Any]] = reply.json()["data"]
    return events


def receive(stack: System, event: dict[str, Any], timeout_s: float | None = None) -> None:
    """Hand an event to the service as the gateway hands on what the processor sends."""
    payload = json.dumps(event)
    signature = stripe.WebhookSignature.generate_signature_header(
        payload, stack.secrets.stripe_webhook_secret
    )
    stack.rpc.call(ReceiveWebhook(payload=payload, signature=signature), timeout_s)


def test_sixty_refunds_of_one_payment_hold_up_nobody_elses_charge(
    stack: System, person: Person
) -> None:
    topup = person.start_topup()
    person.pay(topup)
    eventually(lambda: person.topup(topup.topup_id).status == "credited")
    other = Person(stack)
    other.add_card()
    other.configure(threshold_micros=0)
    (payment,) = [
        event["data"]["object"]
        for event in sandbox_events(stack, "payment_intent.succeeded")
        if event["data"]["object"]["metadata"].get("topup_id") == str(topup.topup_id)
    ]
    slow = f"/v1/payment_intents/{payment['id']}"
    person.sandbox.switch("latency", match={"path": slow}, seconds=4, times=None)
    for number in range(60):
        refund = {"id": f"re_{number}", "object": "refund", "payment_intent": payment["id"]}
        receive(
            stack,
            {
                "object": "event",
                "id": f"evt_{topup.topup_id}_{number}",
                "type": "refund.created",
                "data": {"object": refund},
            },
        )

    other.rpc.call(TriggerAutoTopup(user_id=other.user_id, idempotency_key="once"))

    eventually(lambda: [topup.status for topup in other.topups()] == ["credited"])
    switches = requests.get(f"{stack.sandbox_url}/_sandbox/switches", timeout=PATIENCE_S).json()[
        "switches"
    ]
    person.sandbox.mend()
    (counted,) = [switch for switch in switches if switch["match"].get("path") == slow]
    assert counted["used"] < 20


def test_fifty_purchases_at_once_stay_within_the_limit_and_each_says_why_not(
    person: Person, product_id: UUID
) -> None:
    person.add_card()
    person.configure(
        threshold_micros=0, topup_amount_micros=100 * USD, daily_limit_micros=200 * USD
    )

    def buy(number: int) -> UUID:
        command = StartPurchase(
            user_id=person.user_id,
            lines=[PurchaseLine(product_id=product_id)],
            idempotency_key=f"purchase-{number}",
        )
        return person.rpc.call(command).purchase_id

    with ThreadPoolExecutor(PURCHASES_AT_ONCE) as pool:
        purchase_ids = list(pool.map(buy, range(PURCHASES_AT_ONCE)))

    def purchases() -> list[Purchase]:
        return [
            person.rpc.call(GetPurchase(user_id=person.user_id, purchase_id=purchase_id))
            for purchase_id in purchase_ids
        ]

    def charged_for() -> list[Topup]:
        """Without those whose purchase an earlier one paid, before they went out."""
        return [topup for topup in person.topups() if topup.status != "cancelled"]

    def is_at_rest() -> bool:
        ended = [item.status == "completed" or item.status_code != "" for item in purchases()]
        return all(ended) and {topup.status for topup in charged_for()} == {"credited"}

    def completed_charged_and_left() -> tuple[int, int, int]:
        completed = sum(item.status == "completed" for item in purchases())
        charged = sum(topup.amount_micros for topup in charged_for())
        return completed, charged, person.balance()

    def is_as_far_as_the_limit_goes(seen: tuple[int, int, int]) -> bool:
        return seen == (13, 200 * USD, 5 * USD)

    eventually(completed_charged_and_left, is_as_far_as_the_limit_goes)
    eventually(lambda: person.status().last_refusal is not None and is_at_rest())
    assert is_as_far_as_the_limit_goes(completed_charged_and_left())
