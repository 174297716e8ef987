"""What happens some time after the answer, by itself: captures, and refunds of some cards."""

import stripe

from tests.patience import eventually
from tests.sandbox.conftest import Cards, Control, Receiver


def test_the_balance_transaction_of_a_charge_comes_later_with_an_event(
    cards: Cards,
    client: stripe.StripeClient,
    control: Control,
    customer: str,
    receiver: Receiver,
) -> None:
    intent = cards.charge(cards.save(), expand=["latest_charge.balance_transaction"])
    control.post("later")

    charge = client.v1.charges.retrieve(
        intent.latest_charge.id, {"expand": ["balance_transaction"]}
    )
    assert intent.latest_charge.balance_transaction is None
    assert (charge.balance_transaction.amount, charge.balance_transaction.fee) == (2500, 103)
    told = {"charge.succeeded": None, "charge.updated": charge.balance_transaction.id}
    eventually(
        lambda: {
            event.type: event.data.object.balance_transaction
            for event in receiver.events(customer)
            if event.type.startswith("charge.")
        },
        lambda seen: seen == told,
    )


def test_a_charge_that_is_captured_with_the_answer_has_it_at_once(cards: Cards) -> None:
    intent = cards.charge(
        cards.save(), capture_method="automatic", expand=["latest_charge.balance_transaction"]
    )

    assert intent.latest_charge.balance_transaction.amount == 2500


def test_money_that_goes_back_has_arrived_before(
    cards: Cards, client: stripe.StripeClient, control: Control
) -> None:
    intent = cards.charge(cards.save())
    client.v1.refunds.create({"payment_intent": intent.id})
    control.post("later")

    found = client.v1.balance_transactions.list({"source": intent.latest_charge}).data
    assert [item.amount for item in found] == [2500]


def test_the_time_comes_by_the_sandboxs_clock(
    cards: Cards, client: stripe.StripeClient, control: Control
) -> None:
    intent = cards.charge(cards.save())
    control.post("clock", offset_s=3_600)
    try:
        charge = client.v1.charges.retrieve(intent.latest_charge)
    finally:
        control.post("clock", offset_s=0)

    assert charge.balance_transaction


def test_funds_that_bypass_the_pending_balance_are_available(
    cards: Cards, client: stripe.StripeClient, control: Control
) -> None:
    before = client.v1.balance.retrieve().available[0].amount
    cards.charge(cards.save("pm_card_bypassPending"))
    control.post("later")

    assert client.v1.balance.retrieve().available[0].amount == before + 2500 - 103


def test_a_pending_refund_succeeds_later(
    cards: Cards, client: stripe.StripeClient, control: Control, receiver: Receiver
) -> None:
    intent = cards.charge(cards.save("pm_card_pendingRefund"))
    refund = client.v1.refunds.create({"payment_intent": intent.id})
    control.post("later")

    assert refund.status == "pending"
    assert client.v1.refunds.retrieve(refund.id).status == "succeeded"
    told = {"refund.created": "pending", "refund.updated": "succeeded"}
    eventually(lambda: statuses(receiver, refund.id), lambda seen: told.items() <= seen.items())


def test_a_refund_that_succeeded_fails_later_and_the_money_is_back_in_the_balance(
    cards: Cards, client: stripe.StripeClient, control: Control, receiver: Receiver
) -> None:
    intent = cards.charge(cards.save("pm_card_refundFail"))
    refund = client.v1.refunds.create({"payment_intent": intent.id})
    control.post("later")

    failed = client.v1.refunds.retrieve(refund.id)
    moves = client.v1.balance_transactions.list({"source": refund.id}).data
    assert refund.status == "succeeded"
    assert (failed.status, failed.failure_reason) == ("failed", "expired_or_canceled_card")
    assert sorted(move.amount for move in moves) == [-2500, 2500]
    eventually(lambda: statuses(receiver, refund.id).get("refund.failed") == "failed")


def statuses(receiver: Receiver, refund_id: str) -> dict[str, str]:
    """What was told of a refund, by the event's type."""
    return {
        event.type: event.data.object.status
        for event in receiver.events(refund_id)
        if event.data.object.id == refund_id
    }
