"""A saved card that its owner has charged: at once, and once."""

import threading
import uuid
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import requests

from chassis.identifiers import new_id
from contracts.errors import (
    AccountFrozen,
    Conflict,
    IdempotencyConflict,
    NotFound,
    Unavailable,
)
from contracts.topup import RefusalCode, StartTopup, TopupStatus, Trigger
from services.topup import topups
from services.topup.automatic import pages
from services.topup.automatic.rule import Refusal
from services.topup.charging import checkout, saved_card
from services.topup.models import Topup
from services.topup.policy import Policy
from services.topup.processor import Missing, Unreached
from tests.crashes import Died, dies_at
from tests.patience import PATIENCE_S, insist
from tests.topup.conftest import USD, Card, Customer, Desk
from tests.topup.test_lost_answers import lose, lost

INTENTS = "/v1/payment_intents"


def pay(customer: Customer, **changes: Any) -> Any:
    return customer.start_topup(**{"payment_method_id": customer.cards()[0], **changes})


def shopper(desk: Desk, card: str = Card.GOOD) -> Customer:
    return desk.customer(card, enabled=False)


def answer_bank(url: str, answer: str = "complete") -> None:
    told = requests.post(url, data={"answer": answer}, timeout=PATIENCE_S, allow_redirects=False)
    assert told.ok


def answer_too_late(url: str) -> None:
    requests.post(url, data={"answer": "complete"}, timeout=PATIENCE_S, allow_redirects=False)


def look(customer: Customer) -> str:
    """As the page does that somebody waits on."""
    customer.desk.clock.advance(seconds=4)
    (*_, latest) = customer.topups()
    return str(checkout.refresh(customer.desk.till, customer.user_id, latest.topup_id).status)


def test_a_saved_card_pays_at_once_and_once_for_a_key(desk: Desk) -> None:
    customer = shopper(desk)
    first, again = (pay(customer, idempotency_key="key") for _ in range(2))

    assert (first.status, first.checkout_url, first.is_saved_card) == ("paid", None, True)
    assert (first.card_brand, first.card_last4) == ("visa", "4242")
    assert (again.topup_id, again.replayed) == (first.topup_id, True)
    assert (customer.charged_cents(), len(customer.events("topup_paid"))) == (2_500, 1)
    with pytest.raises(IdempotencyConflict):
        pay(customer, idempotency_key="key", amount_micros=10 * USD)


def test_nothing_is_charged_to_a_card_of_somebody_elses_or_for_a_frozen_wallet(desk: Desk) -> None:
    customer, other = shopper(desk), shopper(desk)
    with pytest.raises(NotFound):
        pay(customer, payment_method_id=other.cards()[0])
    desk.wallet.frozen.add(customer.user_id)
    with pytest.raises(AccountFrozen):
        pay(customer)

    assert (customer.topups(), other.charge_count()) == ([], 0)


def test_who_has_not_seen_the_last_payment_does_not_pay_again(desk: Desk) -> None:
    """Two tabs, or a page from before an answer that was lost."""
    customer = shopper(desk)
    pay(customer, paid_topups_seen=0)
    with pytest.raises(Conflict, match="is being confirmed"):
        pay(customer, paid_topups_seen=1)
    customer.credited()

    with pytest.raises(Conflict, match="since this page was shown"):
        pay(customer, paid_topups_seen=0)
    assert customer.charged_cents() == 2_500
    assert pay(customer, paid_topups_seen=1).status == "paid"


def test_two_presses_at_the_same_moment_are_one_charge(desk: Desk) -> None:
    customer = shopper(desk)
    outcomes: list[object] = []
    both = threading.Barrier(2)

    def press() -> None:
        key = str(uuid.uuid4())
        both.wait(PATIENCE_S)
        try:
            outcomes.append(insist(lambda: pay(customer, idempotency_key=key)).status)
        except Conflict:
            outcomes.append("conflict")

    threads = [threading.Thread(target=press) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(map(str, outcomes)) == ["conflict", "paid"]
    assert customer.charge_count() == 1


@lost
def test_after_a_lost_answer_the_card_is_charged_once_at_most(desk: Desk, kind: str) -> None:
    customer = shopper(desk)
    lose(desk, kind, "POST", INTENTS)
    first = pay(customer, idempotency_key="key", paid_topups_seen=0)
    again = pay(customer, idempotency_key="key", paid_topups_seen=0)
    assert (first.card_brand, first.card_last4) == ("visa", "4242")
    with pytest.raises(Conflict, match="is being confirmed"):
        pay(customer, paid_topups_seen=0)

    assert [first.status, again.status] == ["unknown", "unknown"]
    was_charged = kind == "reset_after"
    assert look(customer) == ("paid" if was_charged else "unknown")
    for seconds in (60, 300, 1_800):
        desk.clock.advance(seconds=seconds)
        desk.sweep()
    assert customer.statuses() == ["paid" if was_charged else "failed"]
    assert customer.charge_count() == was_charged


def test_a_decline_is_told_and_auto_topup_does_not_hear_of_it(desk: Desk) -> None:
    customer = desk.customer(Card.DECLINED_WHEN_CHARGED)
    topup = pay(customer)

    assert (topup.status, customer.settings().declines) == ("failed", 0)
    assert "Use another card" in topup.failure_message
    assert not customer.settings().paused_code
    assert pay(customer, idempotency_key=str(uuid.uuid4())).topup_id != topup.topup_id


@pytest.mark.parametrize(
    ("answer", "status", "cents"), [("complete", "paid", 2_500), ("fail", "failed", 0)]
)
def test_the_bank_is_answered_by_the_cards_owner(
    desk: Desk, answer: str, status: str, cents: int
) -> None:
    customer = shopper(desk, Card.ASKS_ALWAYS)
    asked = pay(customer, idempotency_key="key")
    assert (asked.status, customer.events("topup_failed")) == ("action_required", [])
    assert pay(customer, idempotency_key="key").checkout_url == asked.checkout_url

    answer_bank(asked.checkout_url, answer)

    assert look(customer) == status
    assert customer.charged_cents() == cents
    said = customer.topups()[0].failure_message
    assert ("did not get the confirmation" in said) == (status == "failed")


def test_a_payment_that_the_processor_does_not_know_any_more_is_in_nobodys_way(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(_payment_id: str) -> None:
        raise Missing("No such payment_intent", "resource_missing")

    customer = shopper(desk, Card.ASKS_ALWAYS)
    pay(customer)
    with monkeypatch.context() as patched:
        for name in ("get_payment", "cancel_payment"):
            patched.setattr(desk.till.processor, name, missing)
        customer.add_card(Card.GOOD)
        assert pay(customer, payment_method_id=customer.cards()[1]).status == "paid"

    assert customer.statuses() == ["cancelled", "paid"]


@pytest.mark.parametrize("late", [-1, 0])
def test_a_question_of_the_banks_that_nobody_answers_is_withdrawn_after_half_an_hour(
    desk: Desk, late: int
) -> None:
    customer = shopper(desk, Card.ASKS_ALWAYS)
    url = pay(customer).checkout_url
    desk.clock.advance(minutes=30, seconds=late)
    desk.sweep()

    is_over = late == 0
    assert customer.statuses() == ["cancelled" if is_over else "action_required"]
    answer_too_late(url)
    desk.clock.advance(hours=2)
    desk.sweep()
    assert customer.charged_cents() == (0 if is_over else 2_500)


PURCHASE = UUID("00000000-0000-7000-8000-000000000001")


def wait_for_money(customer: Customer) -> Any:
    customer.desk.clock.advance(seconds=1)
    return customer.ask(Trigger.PURCHASE, reference=str(PURCHASE), needed_micros=25 * USD)


def asking(desk: Desk) -> Customer:
    """Somebody with a card whose bank asks, and auto top-up from another one."""
    customer = desk.customer(Card.ASKS_ALWAYS)
    customer.add_card(Card.GOOD)
    desk.wallet.balances[customer.user_id] = 10**12
    customer.configure(payment_method_id=customer.cards()[1])
    desk.wallet.balances[customer.user_id] = 0
    return customer


def test_a_purchase_that_a_saved_card_pays_for_is_left_alone_by_auto_topup_until_it_fails(
    desk: Desk,
) -> None:
    customer = asking(desk)
    before = customer.charge_count()
    asked = pay(customer, purchase_id=PURCHASE)

    refused = wait_for_money(customer)
    assert isinstance(refused, Refusal)
    assert refused.code is RefusalCode.CARD_PAGE_OPEN
    answer_bank(asked.checkout_url, "fail")
    assert look(customer) == "failed"
    desk.clock.advance(seconds=10)
    desk.sweep()

    assert customer.topups()[-1].trigger == Trigger.PURCHASE
    assert customer.charge_count() > before


LOOKED_AT_EVERY_MINUTE = Policy(janitor_delays=tuple(timedelta(minutes=n) for n in range(1, 30)))


@pytest.mark.parametrize("policy", [LOOKED_AT_EVERY_MINUTE])
def test_a_purchase_is_handed_back_once_no_payment_by_its_card_was_found(desk: Desk) -> None:
    customer = desk.customer()
    lose(desk, "reset_before", "POST", INTENTS)
    pay(customer, purchase_id=PURCHASE)
    wait_for_money(customer)

    for _ in range(7):
        desk.clock.advance(minutes=1)
        desk.sweep()

    assert customer.statuses() == ["failed", "paid"]
    assert customer.charged_cents() == 2_500


def test_a_purchase_is_handed_back_once_the_processor_has_cancelled_the_payment(
    desk: Desk,
) -> None:
    customer = asking(desk)
    pay(customer, purchase_id=PURCHASE)
    wait_for_money(customer)
    desk.till.processor.cancel_payment(str(customer.topups()[0].payment_id))
    assert look(customer) == "cancelled"

    desk.clock.advance(seconds=6)
    desk.sweep()

    assert customer.statuses() == ["cancelled", "paid"]


def test_a_purchase_is_handed_back_once_its_card_could_not_be_charged_at_all(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreached(**_: object) -> None:
        wait_for_money(customer)
        raise Unreached("refused", "processor_unreached")

    customer = desk.customer()
    monkeypatch.setattr(desk.till.processor, "charge_on_session", unreached)
    pay(customer, purchase_id=PURCHASE)

    desk.clock.advance(seconds=6)
    desk.sweep()

    assert customer.statuses() == ["cancelled", "paid"]


def test_a_saved_card_does_not_pay_beside_a_page_that_was_opened_just_now(desk: Desk) -> None:
    customer = shopper(desk)
    with desk.till.database.begin() as session:
        page = command(customer, purchase_id=PURCHASE, payment_method_id=None)
        checkout.begin(session, desk.clock(), page, desk.till.policy)

    with pytest.raises(Conflict, match="pay there"):
        pay(customer, purchase_id=PURCHASE)
    assert customer.charge_count() == 0


def test_a_page_that_nobody_uses_is_in_no_saved_cards_way(desk: Desk) -> None:
    customer = shopper(desk)
    customer.start_topup()

    assert pay(customer).status == "paid"


def test_a_page_for_something_else_leaves_the_banks_question(desk: Desk) -> None:
    customer = shopper(desk, Card.ASKS_ALWAYS)
    asked = pay(customer, purchase_id=PURCHASE)
    customer.start_topup(purchase_id=uuid.uuid4())
    customer.start_topup()
    answer_bank(asked.checkout_url)

    assert customer.statuses() == ["action_required", "processing", "processing"]


def test_a_question_that_could_not_be_withdrawn_is_withdrawn_by_the_janitor(desk: Desk) -> None:
    customer = shopper(desk, Card.ASKS_ALWAYS)
    asked = pay(customer, purchase_id=PURCHASE)
    lose(desk, "reset_before", "POST", f"{INTENTS}/*/cancel")
    with pytest.raises(Unavailable, match="Nothing was charged"):
        customer.start_topup(purchase_id=PURCHASE)

    desk.sweep()
    answer_too_late(asked.checkout_url)

    (topup,) = customer.topups()
    assert (topup.status, topup.failure_message) == ("cancelled", saved_card.ANOTHER)
    assert customer.charged_cents() == 0


def test_a_question_whose_withdrawing_died_is_withdrawn_by_the_janitor(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    customer = shopper(desk, Card.ASKS_ALWAYS)
    asked = pay(customer, purchase_id=PURCHASE)
    dies_at(monkeypatch, saved_card, "topup.before_leaving")
    with pytest.raises(Died):
        customer.start_topup(purchase_id=PURCHASE)

    desk.sweep()
    answer_too_late(asked.checkout_url)

    assert (customer.statuses(), customer.charged_cents()) == (["cancelled"], 0)


def test_another_card_takes_the_place_of_a_charge_that_waits_for_the_bank(desk: Desk) -> None:
    customer = shopper(desk, Card.ASKS_ALWAYS)
    asked = pay(customer, purchase_id=PURCHASE)
    assert asked.status == "action_required"
    page = customer.start_topup(purchase_id=PURCHASE)
    answer_too_late(asked.checkout_url)

    assert (page.status, customer.charged_cents()) == ("processing", 0)
    assert customer.statuses() == ["cancelled", "processing"]


def test_what_was_confirmed_a_moment_ago_is_found_before_another_card_is_charged(
    desk: Desk,
) -> None:
    customer = shopper(desk, Card.ASKS_ALWAYS)
    answer_bank(pay(customer, purchase_id=PURCHASE).checkout_url)
    customer.add_card(Card.GOOD)

    for way in ({}, {"payment_method_id": customer.cards()[1]}):
        with pytest.raises(Conflict, match="being confirmed"):
            customer.start_topup(purchase_id=PURCHASE, **way)

    assert customer.charged_cents() == 2_500


def test_the_end_of_a_purchase_withdraws_the_banks_question(desk: Desk) -> None:
    customer = shopper(desk, Card.ASKS_ALWAYS)
    pay(customer, purchase_id=PURCHASE)
    customer.end_purchase(str(PURCHASE))
    desk.sweep()

    assert customer.statuses() == ["cancelled"]
    with pytest.raises(Conflict, match="already paid, or has ended"):
        pay(customer, purchase_id=PURCHASE)


# What a crash leaves.


def command(customer: Customer, **changes: Any) -> StartTopup:
    return StartTopup(
        **{
            "idempotency_key": "key",
            "user_id": customer.user_id,
            "email": "a@example.com",
            "amount_micros": 25 * USD,
            "payment_method_id": customer.cards()[0],
            **changes,
        }
    )


def begun(desk: Desk, customer: Customer, **changes: Any) -> Topup:
    asked = command(customer, **changes)
    with desk.till.database.begin() as session:
        return saved_card.begin(session, desk.clock(), asked, desk.till.policy)[0]


@pytest.mark.parametrize(("late", "status"), [(-1, "paid"), (0, "cancelled")])
def test_what_was_begun_and_not_sent_is_sent_by_its_key_for_two_minutes_only(
    desk: Desk, late: int, status: str
) -> None:
    customer = shopper(desk)
    begun(desk, customer)
    desk.clock.advance(minutes=2, seconds=late)

    assert checkout.start(desk.till, command(customer)).status == status
    desk.sweep()
    assert (customer.statuses(), customer.charge_count()) == ([status], int(status == "paid"))


def test_what_was_begun_and_not_sent_is_given_up_by_the_janitor(desk: Desk) -> None:
    customer = shopper(desk)
    begun(desk, customer)
    desk.clock.advance(minutes=2)
    desk.sweep()

    assert checkout.start(desk.till, command(customer)).status == "cancelled"
    assert customer.charge_count() == 0


def test_what_was_begun_is_not_sent_once_its_purchase_has_ended(desk: Desk) -> None:
    customer = shopper(desk)
    begun(desk, customer, purchase_id=PURCHASE)
    customer.end_purchase(str(PURCHASE), pages.PAID_OTHERWISE)

    topup = pay(customer, idempotency_key="key", purchase_id=PURCHASE)

    assert (topup.status, topup.failure_message) == ("cancelled", pages.PAID_OTHERWISE)
    assert customer.charge_count() == 0


@pytest.mark.parametrize("late", [timedelta(0), timedelta(microseconds=1)])
def test_a_charge_that_was_held_up_is_sent_for_five_minutes_only(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, late: timedelta
) -> None:
    def held_up(name: str) -> None:
        if name == "topup.before_saved_card":
            desk.clock.set(desk.clock() + desk.till.policy.stale_after + late)

    customer = shopper(desk)
    monkeypatch.setattr(saved_card, "crash_point", held_up)

    assert pay(customer).status == ("processing" if late else "paid")
    assert customer.charge_count() == (0 if late else 1)


def test_after_its_customer_was_deleted_a_saved_card_is_there_no_more(desk: Desk) -> None:
    customer = shopper(desk)
    desk.sandbox.delete_customer(customer.customer_id)

    assert pay(customer).status == "failed"
    assert customer.cards() == []


def test_what_was_marked_as_sent_is_never_sent_again(desk: Desk) -> None:
    customer = shopper(desk)
    topup = begun(desk, customer)
    with desk.till.database.begin() as session:
        row = topups.lock(session, topup.topup_id)
        row.customer_id, row.sent_at = customer.customer_id, desk.clock()
        topups.move(row, TopupStatus.PROCESSING, desk.clock())

    assert checkout.start(desk.till, command(customer)).status == "processing"
    # As the second of two who saw it before it was marked.
    assert saved_card._send(desk.till, topup.topup_id).status == "processing"
    for seconds in (120, 300, 1_800, 7_200):
        desk.clock.advance(seconds=seconds)
        desk.sweep()

    assert (customer.statuses(), customer.charge_count()) == (["failed"], 0)


def test_a_charge_that_never_left_this_machine_is_over_at_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreached(**_: object) -> None:
        raise Unreached("refused", "processor_unreached")

    customer = shopper(desk)
    with monkeypatch.context() as patched:
        patched.setattr(desk.till.processor, "charge_on_session", unreached)
        assert pay(customer).status == "cancelled"

    assert pay(customer).status == "paid"


def test_one_user_does_not_wait_for_another(desk: Desk) -> None:
    asks, other = shopper(desk, Card.ASKS_ALWAYS), shopper(desk)
    pay(asks)

    assert pay(other, paid_topups_seen=0).status == "paid"
    assert Customer(desk, new_id()).topups() == []
