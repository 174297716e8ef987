"""Each call that top-up makes, with its answer lost: asked again, it comes to the same, once."""

import uuid
from collections.abc import Callable
from datetime import timedelta

import pytest

from chassis.identifiers import new_id
from contracts.errors import DeadlineExceeded, Unavailable
from contracts.topup import RefusalCode, StartCardSetup
from contracts.wallet import MadeCredit, TransactionKind
from deploy.stripe_sandbox.server import SandboxServer
from services.topup import audit, reconcile
from services.topup.automatic import card_changes
from services.topup.automatic.rule import Refusal
from services.topup.cards import saved_cards
from services.topup.charging import checkout, webhooks
from services.topup.models import Comparison, CreditAudit
from services.topup.processor import OutcomeUnknown
from tests.topup.conftest import NOON, USD, Card, Customer, Desk
from tests.topup.test_webhooks import events_of, fail_delivery, pay_by_hand, receive

LOST = ("reset_before", "reset_after")
"""Before it had an effect, and after: nobody can tell from the other end."""

lost = pytest.mark.parametrize("kind", LOST)


def lose(desk: Desk, kind: str, method: str, path: str) -> None:
    desk.sandbox.switch(kind, match={"method": method, "path": path})


def count(server: SandboxServer, what: str) -> int:
    with server.sandbox.store.lock:
        return len(server.sandbox.store.newest(what))


# Buying credits, saving a card


@lost
@pytest.mark.parametrize("path", ["/v1/customers", "/v1/checkout/sessions"])
def test_a_page_to_pay_on_is_opened_once(
    desk: Desk, sandbox_server: SandboxServer, kind: str, path: str
) -> None:
    customer, key = Customer(desk, new_id()), str(uuid.uuid4())
    lose(desk, kind, "POST", path)

    with pytest.raises(Unavailable):
        customer.start_topup(idempotency_key=key)
    opened = [customer.start_topup(idempotency_key=key).checkout_url for _ in range(2)]

    assert len(set(opened)) == 1
    assert (count(sandbox_server, "customer"), count(sandbox_server, "checkout.session")) == (1, 1)
    assert customer.statuses() == ["processing"]


@lost
@pytest.mark.parametrize("path", ["/v1/customers", "/v1/checkout/sessions"])
def test_a_page_to_save_a_card_on_is_opened_once(
    desk: Desk, sandbox_server: SandboxServer, kind: str, path: str
) -> None:
    command = StartCardSetup(idempotency_key="key", user_id=new_id(), email="a@example.com")
    lose(desk, kind, "POST", path)

    with pytest.raises(Unavailable):
        checkout.start_card_setup(desk.till, command)
    opened = {checkout.start_card_setup(desk.till, command).checkout_url for _ in range(2)}

    assert len(opened) == 1
    assert (count(sandbox_server, "customer"), count(sandbox_server, "checkout.session")) == (1, 1)


@lost
def test_a_customer_is_looked_for_once_the_key_is_forgotten(
    desk: Desk, sandbox_server: SandboxServer, kind: str
) -> None:
    customer, key = Customer(desk, new_id()), str(uuid.uuid4())
    lose(desk, kind, "POST", "/v1/customers")
    with pytest.raises(Unavailable):
        customer.start_topup(idempotency_key=key)
    desk.clock.advance(hours=25)
    desk.sandbox.post("idempotency/prune")
    lose(desk, kind, "GET", "/v1/customers")

    with pytest.raises(Unavailable):
        customer.start_topup(idempotency_key=key)
    customer.start_topup(idempotency_key=key)

    assert count(sandbox_server, "customer") == 1


@lost
def test_the_return_page_learns_of_a_payment_at_the_next_look(desk: Desk, kind: str) -> None:
    customer = pay_by_hand(desk)
    (topup,) = customer.topups()
    lose(desk, kind, "GET", "/v1/checkout/sessions/*")

    seen = []
    for _ in range(2):
        checkout.refresh(desk.till, customer.user_id, topup.topup_id)
        desk.clock.advance(seconds=4)
        seen += customer.statuses()

    assert (seen, len(customer.events("topup_paid"))) == (["processing", "paid"], 1)


@lost
def test_a_page_for_a_card_is_looked_at_again_on_return(desk: Desk, kind: str) -> None:
    customer = desk.customer(enabled=False)
    command = StartCardSetup(
        idempotency_key="another", user_id=customer.user_id, email="a@example.com"
    )
    url = checkout.start_card_setup(desk.till, command).checkout_url
    desk.sandbox.pay(url.rsplit("/", 1)[-1].split("#")[0].split("?")[0], Card.MASTERCARD)
    lose(desk, kind, "GET", "/v1/checkout/sessions/*")

    seen = []
    for _ in range(2):
        checkout.refresh_setups(desk.till, customer.user_id)
        desk.clock.advance(seconds=4)
        seen.append(len(customer.cards()))

    assert seen == [1, 2]


@lost
def test_another_page_for_a_purchase_is_opened_once_the_first_is_closed(
    desk: Desk, kind: str
) -> None:
    customer, purchase_id = desk.customer(enabled=False), new_id()
    customer.start_topup(purchase_id=purchase_id)
    lose(desk, kind, "POST", "/v1/checkout/sessions/*/expire")

    with pytest.raises(Unavailable):
        customer.start_topup(purchase_id=purchase_id)
    customer.start_topup(purchase_id=purchase_id)

    first, second = customer.topups()
    pages = [desk.till.processor.get_session(str(t.session_id)) for t in (first, second)]
    assert [page["status"] for page in pages] == ["expired", "open"]
    assert (first.status, second.status) == ("cancelled", "processing")


# Cards


@lost
def test_a_removed_card_is_detached(desk: Desk, kind: str) -> None:
    customer = desk.customer(enabled=False)
    (card,) = customer.cards()
    with desk.till.database.begin() as session:
        card_changes.remove(session, customer.user_id, card, desk.clock())
    lose(desk, kind, "POST", "/v1/payment_methods/*/detach")

    def left() -> list[str]:
        with desk.till.database.begin() as session:
            return list(saved_cards.to_detach(session, desk.clock.advance(minutes=6)))

    seen = []
    for _ in range(2):
        saved_cards.detach(desk.till, card)
        seen.append(left())

    assert seen == [[card], []]
    assert desk.till.processor.get_payment_method(card)["customer"] is None


# A charge that its owner has to confirm


@lost
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/payment_intents/*"),
        ("POST", "/v1/payment_intents/*/cancel"),
        ("POST", "/v1/checkout/sessions"),
    ],
)
def test_the_link_to_confirm_a_charge_is_sent_once(
    desk: Desk, kind: str, method: str, path: str
) -> None:
    customer = desk.customer()
    desk.sandbox.behave(customer.cards()[0], "pm_card_authenticationRequired")
    lose(desk, kind, method, path)

    customer.ask()
    before = customer.topups()[0].session_id
    for _ in range(3):
        desk.clock.advance(minutes=2)
        desk.sweep()

    (topup,) = customer.topups()
    told = [e["confirm_url"] for e in customer.events("auto_topup_paused") if e["confirm_url"]]
    assert (before, topup.status, told) == (None, "action_required", [topup.checkout_url])
    assert desk.till.processor.get_payment(str(topup.payment_id))["status"] == "canceled"


# The processor's notices


def paid(desk: Desk) -> Customer:
    """Somebody who bought credits by hand, which were credited."""
    customer = pay_by_hand(desk)
    (topup,) = customer.topups()
    checkout.settle_session(desk.till, str(topup.session_id))
    customer.credited()
    return customer


def refunded(desk: Desk) -> Callable[[], int]:
    customer = paid(desk)
    payment_id = str(customer.topups()[0].payment_id)
    desk.till.processor.refund(payment_id, None, idempotency_key="all")
    return lambda: len(customer.events("topup_reversed"))


def disputed(desk: Desk) -> Callable[[], int]:
    customer = paid(desk)
    desk.sandbox.post(f"charges/{customer.topups()[0].payment_id}/dispute")
    return lambda: len(customer.events("topup_reversed"))


def paid_on_the_page(desk: Desk) -> Callable[[], int]:
    customer = pay_by_hand(desk)
    return lambda: len(customer.events("topup_paid"))


def card_saved(desk: Desk) -> Callable[[], int]:
    customer = pay_by_hand(desk, Card.MASTERCARD, save_card=True)
    return lambda: len(customer.cards()) - 1


def customer_deleted(desk: Desk) -> Callable[[], int]:
    customer = desk.customer(enabled=False)
    desk.sandbox.delete_customer(customer.customer_id)
    return lambda: 1 - len(customer.cards())


@lost
@pytest.mark.parametrize(
    ("happens", "kinds", "path"),
    [
        (paid_on_the_page, "checkout.session.completed", "/v1/checkout/sessions/*"),
        (paid_on_the_page, "payment_intent.succeeded", "/v1/payment_intents/*"),
        (card_saved, "payment_method.attached", "/v1/payment_methods/*"),
        (customer_deleted, "customer.deleted", "/v1/customers/*"),
        (refunded, "refund.created", "/v1/payment_intents/*"),
        (refunded, "refund.created", "/v1/refunds"),
        (disputed, "charge.dispute.created", "/v1/disputes/*"),
        (disputed, "charge.dispute.created", "/v1/payment_intents/*"),
    ],
)
def test_a_notice_is_worked_off_when_the_processor_answers_again(
    desk: Desk, kind: str, happens: Callable[[Desk], Callable[[], int]], kinds: str, path: str
) -> None:
    effect = happens(desk)
    event = events_of(desk, kinds)[0]
    lose(desk, kind, "GET", path)

    receive(desk, event)
    seen = [effect()]
    for _ in range(2):
        desk.clock.advance(seconds=6)
        desk.sweep()
        seen.append(effect())

    assert seen == [0, 1, 1]


@lost
def test_what_was_never_delivered_is_fetched_by_the_next_sweep(
    desk: Desk, sandbox_server: SandboxServer, kind: str
) -> None:
    customer = pay_by_hand(desk)
    fail_delivery(sandbox_server, events_of(desk, "checkout.session.completed")[0])
    lose(desk, kind, "GET", "/v1/events")

    with pytest.raises(OutcomeUnknown):
        webhooks.sweep_undelivered(desk.till)
    fresh = webhooks.sweep_undelivered(desk.till)
    desk.drain()

    assert (fresh, customer.statuses()) == (1, ["paid"])


# What became of a charge: its own answer is in test_unknown_outcomes


@lost
def test_the_janitor_that_hears_nothing_plans_another_look(desk: Desk, kind: str) -> None:
    customer = desk.customer()
    desk.sandbox.switch("reset_after", match={"method": "POST", "path": "/v1/payment_intents"})
    customer.ask()
    lose(desk, kind, "GET", "/v1/payment_intents")

    seen = []
    for _ in range(2):
        desk.clock.advance(minutes=1, seconds=1)
        desk.sweep()
        seen += customer.statuses()

    assert (seen, customer.charge_count()) == (["unknown", "paid"], 1)


# Questions to the wallet

NO_ANSWER = DeadlineExceeded("no answer")


def test_a_balance_that_cannot_be_read_charges_nothing_until_it_can(desk: Desk) -> None:
    customer = desk.customer()
    desk.wallet.failure = NO_ANSWER
    refused = customer.ask(raised_at=desk.clock() - timedelta(minutes=6))
    desk.wallet.failure = None

    for _ in range(2):
        desk.clock.advance(minutes=1)
        desk.sweep()

    assert isinstance(refused, Refusal)
    assert (refused.code, customer.charge_count()) == (RefusalCode.WALLET_UNAVAILABLE, 1)


def test_credits_of_which_nothing_was_heard_are_looked_at_the_next_time(desk: Desk) -> None:
    audit.look(desk.till, ())
    user_id = new_id()
    desk.wallet.made.append(
        MadeCredit(
            transaction_id=new_id(), user_id=user_id, kind=TransactionKind.TOPUP,
            amount_micros=USD, caller="somebody", description="x", metadata={},
            recorded_at=desk.clock(),
        )
    )  # fmt: skip

    def position() -> int:
        with desk.till.database.read() as session:
            return session.get_one(CreditAudit, 1).position

    desk.wallet.failure = NO_ANSWER
    with pytest.raises(DeadlineExceeded):
        audit.look(desk.till, ())
    before = position()
    desk.wallet.failure = None
    audit.look(desk.till, ())

    assert (before, position()) == (0, 1)


def comparisons(desk: Desk) -> int:
    with desk.till.database.read() as session:
        return session.query(Comparison).count()


def a_day_later(desk: Desk) -> None:
    desk.clock.set(NOON + timedelta(days=1))


def test_books_are_not_compared_while_the_wallet_does_not_answer(desk: Desk) -> None:
    customer = desk.customer()
    customer.ask()
    customer.credited()
    a_day_later(desk)
    desk.wallet.failure = NO_ANSWER
    with pytest.raises(DeadlineExceeded):
        reconcile.daily(desk.till)
    before = comparisons(desk)
    desk.wallet.failure = None

    reconcile.daily(desk.till)

    assert (before, comparisons(desk)) == (0, 1)


@lost
@pytest.mark.parametrize("path", ["/v1/payment_intents", "/v1/balance_transactions"])
def test_books_are_not_compared_while_the_processor_does_not_answer(
    desk: Desk, kind: str, path: str
) -> None:
    customer = desk.customer()
    customer.ask()
    customer.credited()
    a_day_later(desk)
    lose(desk, kind, "GET", path)

    with pytest.raises(OutcomeUnknown):
        reconcile.daily(desk.till)
    before = comparisons(desk)
    reconcile.daily(desk.till)

    assert (before, comparisons(desk)) == (0, 1)
