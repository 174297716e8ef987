"""Webhooks: signed, retried, repeated, held back, out of order."""

import requests
import stripe

from tests.patience import PATIENCE_S, eventually
from tests.sandbox.conftest import Cards, Control, Receiver

PAID = "payment_intent.succeeded"


def test_every_event_arrives_signed(cards: Cards, customer: str, receiver: Receiver) -> None:
    cards.charge(cards.save())

    told = {
        "customer.created",
        "payment_method.attached",
        "payment_intent.created",
        "charge.succeeded",
        PAID,
    }
    eventually(lambda: told <= set(receiver.types(customer)))


def test_a_refused_webhook_is_sent_again_until_it_is_taken(
    cards: Cards, client: stripe.StripeClient, customer: str, receiver: Receiver
) -> None:
    receiver.refuse[customer] = 3

    def delivered() -> bool:
        found = client.v1.events.list({"type": "customer.created", "limit": 100}).data
        return any(
            event.pending_webhooks == 0 for event in found if event.data.object["id"] == customer
        )

    method = cards.save()
    eventually(lambda: receiver.refuse[customer] == 0 and delivered())
    assert method
    eventually(lambda: "payment_method.attached" in receiver.types(customer))


def test_a_webhook_can_be_repeated(
    cards: Cards, control: Control, customer: str, receiver: Receiver
) -> None:
    match = {"customer": customer, "type": PAID}
    control.post("switches", kind="webhook_repeat", copies=3, match=match)
    cards.charge(cards.save())

    eventually(lambda: receiver.types(customer).count(PAID) == 3)
    paid = [event.id for event in receiver.events(customer) if event.type == PAID]
    assert len(set(paid)) == 1


def test_webhooks_can_be_held_and_released(
    cards: Cards, control: Control, customer: str, receiver: Receiver
) -> None:
    match = {"customer": customer, "type": "payment_intent.*"}
    control.post("switches", kind="webhook_hold", times=None, match=match)
    cards.charge(cards.save())
    eventually(lambda: "charge.succeeded" in receiver.types(customer))
    before = receiver.types(customer)
    released = control.post("webhooks/release", match={"customer": customer})

    assert PAID not in before
    assert released == {"released": 2}
    eventually(lambda: PAID in receiver.types(customer))


def test_webhooks_can_arrive_newest_first(
    cards: Cards, control: Control, customer: str, receiver: Receiver
) -> None:
    match = {"metadata": {"topup_id": customer}}
    control.post("switches", kind="webhook_reorder", count=3, match=match)
    cards.charge(cards.save(), metadata={"topup_id": customer})

    eventually(lambda: "payment_intent.created" in receiver.types(customer))
    kinds = [kind for kind in receiver.types(customer) if kind.startswith(("payment_i", "charge"))]
    assert kinds == [PAID, "charge.succeeded", "payment_intent.created"]


def test_a_dropped_webhook_is_found_among_the_undelivered_and_can_be_resent(
    cards: Cards,
    client: stripe.StripeClient,
    control: Control,
    customer: str,
    receiver: Receiver,
) -> None:
    match = {"customer": customer, "type": PAID}
    control.post("switches", kind="webhook_drop", match=match)
    intent = cards.charge(cards.save())

    def missed() -> list[str]:
        found = client.v1.events.list(
            {"delivery_success": False, "types": [PAID], "limit": 100}
        ).data
        return [event.id for event in found if event.data.object["id"] == intent.id]

    (event_id,) = eventually(missed)
    control.post(f"webhooks/{event_id}/resend")
    eventually(lambda: PAID in receiver.types(customer))
    eventually(lambda: missed() == [])


def test_a_dispute_and_a_refund_reach_the_webhook_with_their_money(
    cards: Cards, control: Control, customer: str, receiver: Receiver
) -> None:
    method = cards.save()
    refunded, disputed = cards.charge(method), cards.charge(method)
    control.post(f"charges/{refunded.id}/refund", amount=700)
    dispute = control.post(f"charges/{disputed.id}/dispute")
    control.post(f"disputes/{dispute['id']}/close", outcome="won")

    def about(text: str) -> set[str]:
        return {
            stripe.Webhook.construct_event_without_verification(body).type
            for _headers, body in list(receiver.arrived)
            if text in body.decode()
        }

    eventually(lambda: about(refunded.id) >= {"refund.created", "charge.refunded"})
    eventually(
        lambda: (
            about(dispute["id"])
            >= {
                "charge.dispute.created",
                "charge.dispute.funds_withdrawn",
                "charge.dispute.closed",
                "charge.dispute.funds_reinstated",
            }
        )
    )


def test_deliveries_are_listed(sandbox_url: str, cards: Cards) -> None:
    cards.save()

    listed = requests.get(f"{sandbox_url}/_sandbox/webhooks", timeout=PATIENCE_S).json()["webhooks"]
    assert {"type", "state", "attempts"} <= set(listed[0])
