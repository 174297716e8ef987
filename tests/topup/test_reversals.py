"""Refunds and disputes: each takes the credit back once, and gives it back when it is undone."""

import base64
from typing import Any

import pytest

from contracts.topup import Receipt, ReceiptLine, RefusalCode
from services.topup.charging import outcomes, receipts, reversals
from services.topup.models import Topup
from tests.papers import texts_of
from tests.topup.conftest import SELLER, USD, Card, Customer, Desk


@pytest.fixture
def customer(desk: Desk) -> Customer:
    """Somebody whose card was charged 25 dollars, credited."""
    customer = desk.customer()
    customer.ask()
    customer.credited()
    desk.clock.advance(minutes=2)
    return customer


def payment_of(customer: Customer) -> str:
    return str(customer.topups()[0].payment_id)


def taken(customer: Customer) -> list[int]:
    return [event["amount_micros"] for event in customer.events("topup_reversed")]


def test_a_refund_takes_the_credit_back_once(desk: Desk, customer: Customer) -> None:
    desk.till.processor.refund(payment_of(customer), None, idempotency_key="all")

    for _ in range(3):
        reversals.take_refunds(desk.till, payment_of(customer))

    assert taken(customer) == [25 * USD]


def test_partial_refunds_take_their_own_amounts(desk: Desk, customer: Customer) -> None:
    for key, cents in (("a", 500), ("b", 700)):
        desk.till.processor.refund(payment_of(customer), cents, idempotency_key=key)
        reversals.take_refunds(desk.till, payment_of(customer))

    assert taken(customer) == [5 * USD, 7 * USD]


def test_a_refund_that_fails_afterwards_gives_the_credit_back(
    desk: Desk, customer: Customer
) -> None:
    refund = desk.till.processor.refund(payment_of(customer), 500, idempotency_key="a")
    reversals.take_refunds(desk.till, payment_of(customer))
    desk.sandbox.post(f"refunds/{refund['id']}/fail")

    for _ in range(2):
        reversals.take_refunds(desk.till, payment_of(customer))

    (restored,) = customer.events("topup_restored")
    assert restored["amount_micros"] == 5 * USD
    assert restored["description"] == "The refund failed: $5.00 returned"


def test_created_and_funds_withdrawn_are_one_dispute(desk: Desk, customer: Customer) -> None:
    dispute = desk.sandbox.post(f"charges/{payment_of(customer)}/dispute", reason="fraudulent")

    for _ in range(2):
        reversals.take_dispute(desk.till, dispute["id"])

    assert taken(customer) == [25 * USD]
    assert customer.events("topup_reversed")[0]["is_dispute"]


def test_a_dispute_stops_automatic_top_up(desk: Desk, customer: Customer) -> None:
    dispute = desk.sandbox.post(f"charges/{payment_of(customer)}/dispute")
    reversals.take_dispute(desk.till, dispute["id"])

    outcome = customer.ask()

    assert (outcome.code, customer.settings().paused_code) == (RefusalCode.PAUSED, "dispute")


def test_saving_the_settings_does_not_end_an_open_dispute(desk: Desk, customer: Customer) -> None:
    dispute = desk.sandbox.post(f"charges/{payment_of(customer)}/dispute")
    reversals.take_dispute(desk.till, dispute["id"])

    customer.configure()

    assert customer.settings().paused_code == "dispute"


def test_a_won_dispute_restores_the_credit_and_ends_the_pause(
    desk: Desk, customer: Customer
) -> None:
    dispute = desk.sandbox.post(f"charges/{payment_of(customer)}/dispute")
    reversals.take_dispute(desk.till, dispute["id"])
    desk.sandbox.post(f"disputes/{dispute['id']}/close", outcome="won")

    for _ in range(2):
        reversals.take_dispute(desk.till, dispute["id"])

    (restored,) = customer.events("topup_restored")
    assert restored["amount_micros"] == 25 * USD
    assert restored["description"] == "The dispute was won: $25.00 returned"
    assert customer.settings().paused_code == ""


def test_one_won_dispute_of_two_leaves_it_paused(desk: Desk, customer: Customer) -> None:
    customer.ask()
    customer.credited()
    first, second = (
        desk.sandbox.post(f"charges/{topup.payment_id}/dispute") for topup in customer.topups()
    )
    for dispute in (first, second):
        reversals.take_dispute(desk.till, dispute["id"])
    desk.sandbox.post(f"disputes/{first['id']}/close", outcome="won")

    reversals.take_dispute(desk.till, first["id"])

    assert customer.settings().paused_code == "dispute"


def test_a_dispute_while_it_was_off_stops_charges_once_it_is_on(
    desk: Desk, customer: Customer
) -> None:
    customer.configure(enabled=False, consent=False)
    dispute = desk.sandbox.post(f"charges/{payment_of(customer)}/dispute")
    reversals.take_dispute(desk.till, dispute["id"])
    customer.configure()

    outcome = customer.ask()

    assert (outcome.code, customer.charge_count()) == (RefusalCode.PAUSED, 1)


def test_what_a_dispute_kept_waiting_is_charged_once_it_is_won(
    desk: Desk, customer: Customer
) -> None:
    customer.configure(enabled=False, consent=False)
    dispute = desk.sandbox.post(f"charges/{payment_of(customer)}/dispute")
    reversals.take_dispute(desk.till, dispute["id"])
    customer.configure()
    customer.ask(needed_micros=90 * USD)
    before = customer.statuses()
    desk.sandbox.post(f"disputes/{dispute['id']}/close", outcome="won")
    reversals.take_dispute(desk.till, dispute["id"])

    desk.clock.advance(hours=1)
    desk.sweep()

    assert (before, customer.statuses()) == (["credited"], ["credited", "paid"])


def say(desk: Desk, dispute: Any, status: str) -> None:
    """The dispute is told of again, in another state."""
    desk.clock.advance(days=1)
    desk.till.processor.get_dispute = lambda _id: {  # type: ignore[method-assign]
        **dispute,
        "status": status,
    }
    reversals.take_dispute(desk.till, dispute["id"])


@pytest.mark.parametrize("status", ["appeal_needs_response", "appeal_under_review"])
def test_a_dispute_first_heard_of_in_appeal_takes_the_credit_back(
    desk: Desk, customer: Customer, status: str
) -> None:
    dispute = desk.sandbox.post(f"charges/{payment_of(customer)}/dispute")

    say(desk, dispute, status)

    assert (taken(customer), customer.settings().paused_code) == ([25 * USD], "dispute")


def test_a_won_dispute_that_is_lost_in_appeal_takes_the_credit_back_again(
    desk: Desk, customer: Customer
) -> None:
    dispute = desk.sandbox.post(f"charges/{payment_of(customer)}/dispute")

    for status in ("needs_response", "won", "appeal_under_review", "lost"):
        say(desk, dispute, status)

    ids = [event["reversal_id"] for event in customer.events("topup_reversed")]
    assert ids == [dispute["id"], f"{dispute['id']}:2"]
    assert len(customer.events("topup_restored")) == 1


def test_an_appeal_that_is_won_restores_its_own_take(desk: Desk, customer: Customer) -> None:
    dispute = desk.sandbox.post(f"charges/{payment_of(customer)}/dispute")

    for status in ("needs_response", "won", "appeal_under_review", "won", "won"):
        say(desk, dispute, status)

    ids = [event["reversal_id"] for event in customer.events("topup_restored")]
    assert ids == [dispute["id"], f"{dispute['id']}:2"]


def test_an_answer_that_came_late_does_not_take_the_credit_back_again(
    desk: Desk, customer: Customer
) -> None:
    dispute = desk.sandbox.post(f"charges/{payment_of(customer)}/dispute")
    for status in ("needs_response", "won"):
        say(desk, dispute, status)

    desk.clock.advance(hours=-30)
    with pytest.raises(reversals.Overtaken):
        say(desk, dispute, "needs_response")

    assert (len(taken(customer)), customer.settings().paused_code) == (1, "")


def test_a_lost_dispute_takes_nothing_more(desk: Desk, customer: Customer) -> None:
    dispute = desk.sandbox.post(f"charges/{payment_of(customer)}/dispute")
    reversals.take_dispute(desk.till, dispute["id"])
    desk.sandbox.post(f"disputes/{dispute['id']}/close", outcome="lost")

    reversals.take_dispute(desk.till, dispute["id"])

    assert (taken(customer), customer.events("topup_restored")) == ([25 * USD], [])


def test_a_refund_that_is_pending_and_then_succeeds_takes_the_credit_once(desk: Desk) -> None:
    customer = paying_with(desk, Card.REFUNDS_LATE)
    refund = desk.till.processor.refund(payment_of(customer), 500, idempotency_key="a")
    reversals.take_refunds(desk.till, payment_of(customer))
    desk.clock.advance(hours=1)
    reversals.take_refunds(desk.till, payment_of(customer))

    (now,) = desk.till.processor.refunds_of(payment_of(customer))
    assert (refund["status"], now["status"]) == ("pending", "succeeded")
    assert (taken(customer), customer.events("topup_restored")) == ([5 * USD], [])


def test_a_refund_that_comes_back_by_itself_gives_the_credit_back(desk: Desk) -> None:
    customer = paying_with(desk, Card.REFUNDS_FAIL)
    refund = desk.till.processor.refund(payment_of(customer), 500, idempotency_key="a")
    reversals.take_refunds(desk.till, payment_of(customer))
    desk.clock.advance(hours=1)
    reversals.take_refunds(desk.till, payment_of(customer))

    assert (refund["status"], taken(customer)) == ("succeeded", [5 * USD])
    assert [event["amount_micros"] for event in customer.events("topup_restored")] == [5 * USD]


def paying_with(desk: Desk, number: str) -> Customer:
    customer = desk.customer(number)
    customer.ask()
    customer.credited()
    return customer


def test_an_inquiry_that_becomes_a_chargeback_takes_the_credit_once(
    desk: Desk, customer: Customer
) -> None:
    inquiry = desk.sandbox.post(f"charges/{payment_of(customer)}/dispute", reason="inquiry")
    reversals.take_dispute(desk.till, inquiry["id"])
    before = customer.settings().paused_code
    desk.sandbox.post(f"disputes/{inquiry['id']}/escalate")

    for _ in range(2):
        reversals.take_dispute(desk.till, inquiry["id"])

    (event,) = customer.events("topup_reversed")
    assert (event["reversal_id"], event["amount_micros"]) == (inquiry["id"], 25 * USD)
    assert (before, customer.settings().paused_code) == ("", "dispute")


def test_an_inquiry_that_is_closed_takes_nothing(desk: Desk, customer: Customer) -> None:
    inquiry = desk.sandbox.post(f"charges/{payment_of(customer)}/dispute", reason="inquiry")
    reversals.take_dispute(desk.till, inquiry["id"])
    desk.sandbox.post(f"disputes/{inquiry['id']}/close", outcome="lost")

    reversals.take_dispute(desk.till, inquiry["id"])

    assert (taken(customer), customer.settings().paused_code) == ([], "")


@pytest.mark.parametrize(("age", "given_back"), [(0, [5 * USD]), (10, [])])
def test_a_refund_during_an_inquiry_is_given_back_only_if_the_chargeback_stopped_it(
    desk: Desk, customer: Customer, age: int, given_back: list[int]
) -> None:
    inquiry = desk.sandbox.post(f"charges/{payment_of(customer)}/dispute", reason="inquiry")
    desk.till.processor.refund(payment_of(customer), 500, idempotency_key="goodwill")
    reversals.take_refunds(desk.till, payment_of(customer))
    desk.clock.advance(minutes=age)
    desk.sandbox.post(f"disputes/{inquiry['id']}/escalate")

    reversals.take_refunds(desk.till, payment_of(customer))
    reversals.take_dispute(desk.till, inquiry["id"])

    assert taken(customer) == [5 * USD, 25 * USD]
    assert [event["amount_micros"] for event in customer.events("topup_restored")] == given_back


def test_two_disputes_of_one_payment_are_taken_and_decided_one_by_one(
    desk: Desk, customer: Customer
) -> None:
    disputes = [
        desk.sandbox.post(f"charges/{payment_of(customer)}/dispute", amount=cents)
        for cents in (1_000, 1_500)
    ]
    pauses = []
    for dispute in disputes:
        reversals.take_dispute(desk.till, dispute["id"])
    for dispute in disputes:
        desk.sandbox.post(f"disputes/{dispute['id']}/close", outcome="won")
        reversals.take_dispute(desk.till, dispute["id"])
        pauses.append(customer.settings().paused_code)

    assert (taken(customer), pauses) == ([10 * USD, 15 * USD], ["dispute", ""])
    returned = [event["amount_micros"] for event in customer.events("topup_restored")]
    assert returned == [10 * USD, 15 * USD]


def test_a_second_dispute_after_the_first_was_won_takes_the_credit_again(
    desk: Desk, customer: Customer
) -> None:
    for outcome in ("won", "lost"):
        dispute = desk.sandbox.post(f"charges/{payment_of(customer)}/dispute")
        reversals.take_dispute(desk.till, dispute["id"])
        desk.sandbox.post(f"disputes/{dispute['id']}/close", outcome=outcome)
        reversals.take_dispute(desk.till, dispute["id"])

    assert taken(customer) == [25 * USD, 25 * USD]
    assert len(customer.events("topup_restored")) == 1


def test_an_inquiry_moves_no_money(desk: Desk, customer: Customer) -> None:
    dispute = desk.sandbox.post(f"charges/{payment_of(customer)}/dispute", reason="inquiry")

    reversals.take_dispute(desk.till, dispute["id"])

    assert taken(customer) == []


def pay_again(desk: Desk, customer: Customer) -> str:
    """A second payment of the same top-up, which is flagged and never credited."""
    (topup,) = customer.topups()
    second = customer.charge_again()
    with desk.till.database.begin() as session:
        outcomes.record(session, desk.till.policy, topup.topup_id, second, desk.clock())
    return str(second["id"])


def test_a_refund_of_a_second_payment_leaves_the_credit(desk: Desk, customer: Customer) -> None:
    second = pay_again(desk, customer)
    desk.till.processor.refund(second, None, idempotency_key="second")

    reversals.take_refunds(desk.till, second)

    assert taken(customer) == []


def test_a_dispute_of_a_second_payment_leaves_the_credit(desk: Desk, customer: Customer) -> None:
    second = pay_again(desk, customer)
    dispute = desk.sandbox.post(f"charges/{second}/dispute")

    reversals.take_dispute(desk.till, dispute["id"])

    assert taken(customer) == []


def test_a_dispute_that_names_no_payment_is_not_about_credits(
    desk: Desk, customer: Customer
) -> None:
    dispute = desk.sandbox.post(f"charges/{payment_of(customer)}/dispute")
    desk.till.processor.get_dispute = lambda _id: {  # type: ignore[method-assign]
        **dispute,
        "payment_intent": None,
    }

    reversals.take_dispute(desk.till, dispute["id"])

    assert taken(customer) == []


def test_news_of_a_refund_may_come_before_that_of_the_payment(desk: Desk) -> None:
    customer = desk.customer()
    desk.sandbox.switch("reset_after", match={"method": "POST", "path": "/v1/payment_intents"})
    customer.ask()
    (topup,) = customer.topups()
    (payment,) = desk.till.processor.find_payments(customer.customer_id, str(topup.topup_id), 0)
    desk.till.processor.refund(payment["id"], None, idempotency_key="early")

    reversals.take_refunds(desk.till, payment["id"])

    assert (customer.statuses(), taken(customer)) == (["paid"], [25 * USD])


def test_the_receipt_shows_what_went_back(desk: Desk, customer: Customer) -> None:
    desk.till.processor.refund(payment_of(customer), 500, idempotency_key="a")
    reversals.take_refunds(desk.till, payment_of(customer))

    with desk.till.database.read() as session:
        paper = receipts.receipt(session, customer.user_id, customer.topups()[0].topup_id)

    assert [line.amount_micros for line in paper.lines] == [25 * USD, -5 * USD]
    assert paper.net_micros == 20 * USD


def test_the_receipt_says_when_what_was_disputed_came_back(desk: Desk, customer: Customer) -> None:
    dispute = desk.sandbox.post(f"charges/{payment_of(customer)}/dispute")
    for status in ("needs_response", "won"):
        say(desk, dispute, status)

    with desk.till.database.read() as session:
        paper = receipts.receipt(session, customer.user_id, customer.topups()[0].topup_id)

    assert [(line.label, line.amount_micros) for line in paper.lines] == [
        ("Automatic top-up", 25 * USD),
        ("Disputed on 2027-03-11", -25 * USD),
        ("Returned on 2027-03-12", 25 * USD),
    ]
    assert paper.net_micros == 25 * USD


def test_the_same_receipt_is_the_same_document(desk: Desk, customer: Customer) -> None:
    with desk.till.database.read() as session:
        receipt = receipts.receipt(session, customer.user_id, customer.topups()[0].topup_id)

    assert receipts.rendered(receipt, SELLER) == receipts.rendered(receipt, SELLER)


def test_a_receipt_names_who_sold_on_its_day_whoever_sells_later(
    desk: Desk, customer: Customer
) -> None:
    """And what was paid before that was kept, who sells now."""
    topup_id = customer.topups()[0].topup_id
    with desk.till.database.begin() as session:
        receipt = receipts.receipt(session, customer.user_id, topup_id)
        then = receipts.seller(session, receipt, ("Somebody else",))
        session.get_one(Topup, topup_id).seller = None
        before = receipts.seller(session, receipt, ("Somebody else",))

    assert (then, before) == (SELLER, ("Somebody else",))


def test_a_receipt_of_any_length_has_all_its_amounts_and_the_total_on_paper(
    desk: Desk, customer: Customer
) -> None:
    with desk.till.database.read() as session:
        receipt = receipts.receipt(session, customer.user_id, customer.topups()[0].topup_id)
    more = [ReceiptLine(label="Refunded", amount_micros=-USD // 10) for _ in range(200)]
    long = receipt.model_copy(update={"lines": receipt.lines + more})

    texts = printed(long)

    assert texts.count("Refunded") == 200
    assert texts.count("Total") == 1
    assert {*SELLER, f"Receipt {receipt.number}", receipt.payment_id} <= set(texts)


def printed(receipt: Receipt) -> list[str]:
    return texts_of(base64.b64decode(receipts.rendered(receipt, SELLER).pdf_base64))


@pytest.mark.parametrize(
    ("brand", "name"),
    [("jcb", "JCB"), ("cartes_bancaires", "Cartes Bancaires"), ("something_new", "Card")],
)
def test_a_brand_is_called_what_people_call_it(
    desk: Desk, customer: Customer, brand: str, name: str
) -> None:
    with desk.till.database.begin() as session:
        topup = session.get_one(Topup, customer.topups()[0].topup_id)
        topup.card_brand = brand
        receipt = receipts.receipt(session, customer.user_id, topup.topup_id)

    assert f"{name} ending in 4242" in printed(receipt)
