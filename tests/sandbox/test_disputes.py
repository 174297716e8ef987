"""Disputes: chargebacks, inquiries that may become one, several of a charge."""

from typing import Any

import pytest
import stripe

from tests.patience import eventually
from tests.sandbox.conftest import Cards, Control, Receiver


@pytest.fixture
def charge(cards: Cards, client: stripe.StripeClient) -> stripe.Charge:
    """A paid charge of $25.00."""
    return client.v1.charges.retrieve(cards.charge(cards.save()).latest_charge)


def moved(client: stripe.StripeClient, source: str) -> int:
    """What a dispute moved, with its fee."""
    return sum(move.net for move in client.v1.balance_transactions.list({"source": source}).data)


@pytest.mark.parametrize(("outcome", "left"), [("won", -1500), ("lost", -4000)])
def test_a_dispute_takes_the_funds_and_a_won_one_returns_them(
    client: stripe.StripeClient,
    control: Control,
    charge: stripe.Charge,
    outcome: str,
    left: int,
) -> None:
    dispute = control.post(f"charges/{charge.id}/dispute", reason="product_not_received")
    control.post(f"disputes/{dispute['id']}/close", outcome=outcome)

    found = client.v1.disputes.list({"payment_intent": charge.payment_intent}).data
    assert [item.status for item in found] == [outcome]
    assert moved(client, dispute["id"]) == left


def test_the_disputed_test_card_is_disputed_at_once(
    cards: Cards, client: stripe.StripeClient
) -> None:
    intent = cards.charge(cards.save("pm_card_createDispute"))

    assert client.v1.charges.retrieve(intent.latest_charge).disputed is True


def test_a_card_that_is_disputed_twice_has_two_disputes_of_its_amount(
    cards: Cards, client: stripe.StripeClient
) -> None:
    intent = cards.charge(cards.save("pm_card_createMultipleDisputes"))

    found = client.v1.disputes.list({"payment_intent": intent.id}).data
    assert [dispute.amount for dispute in found] == [1250, 1250]
    assert len({dispute.reason for dispute in found}) == 2


def test_several_disputes_take_no_more_than_the_charge(
    client: stripe.StripeClient, control: Control, charge: stripe.Charge
) -> None:
    first = control.post(f"charges/{charge.id}/dispute", amount=2000)
    second = control.post(f"charges/{charge.id}/dispute")
    with pytest.raises(AssertionError, match="0 cents that are not disputed"):
        control.post(f"charges/{charge.id}/dispute", amount=1)
    control.post(f"disputes/{first['id']}/close", outcome="won")

    assert (first["amount"], second["amount"]) == (2000, 500)
    assert control.post(f"charges/{charge.id}/dispute")["amount"] == 2000


def test_a_charge_that_was_charged_back_is_refunded_only_after_it_is_won(
    client: stripe.StripeClient, control: Control, charge: stripe.Charge
) -> None:
    dispute = control.post(f"charges/{charge.id}/dispute", amount=2000)
    with pytest.raises(stripe.InvalidRequestError) as raised:
        client.v1.refunds.create({"charge": charge.id, "amount": 100})
    control.post(f"disputes/{dispute['id']}/close", outcome="won")

    assert raised.value.code == "charge_disputed"
    assert client.v1.refunds.create({"charge": charge.id, "amount": 100}).status == "succeeded"


def test_an_inquiry_takes_no_funds_and_lets_refunds_through(
    client: stripe.StripeClient, control: Control, charge: stripe.Charge
) -> None:
    inquiry = control.post(f"charges/{charge.id}/dispute", reason="inquiry")

    refund = client.v1.refunds.create({"charge": charge.id, "amount": 100})
    assert (inquiry["status"], refund.status) == ("warning_needs_response", "succeeded")
    assert moved(client, inquiry["id"]) == 0


def test_an_inquiry_becomes_a_chargeback_under_its_id(
    client: stripe.StripeClient, control: Control, charge: stripe.Charge, receiver: Receiver
) -> None:
    inquiry = control.post(f"charges/{charge.id}/dispute", reason="inquiry")
    answered = client.v1.disputes.update(
        inquiry["id"], {"evidence": {"uncategorized_text": "escalate_inquiry_evidence"}}
    )
    control.post("later")

    found = client.v1.disputes.retrieve(inquiry["id"])
    assert (answered.status, found.status) == ("warning_under_review", "needs_response")
    assert found.payment_method_details.card.case_type == "chargeback"
    assert moved(client, inquiry["id"]) == -4000
    eventually(
        lambda: (
            {event.type: event.data.object.status for event in receiver.events(inquiry["id"])}
            == {
                "charge.dispute.created": "warning_needs_response",
                "charge.dispute.updated": "needs_response",
                "charge.dispute.funds_withdrawn": "needs_response",
            }
        )
    )


@pytest.mark.parametrize(("age_s", "status"), [(0, "failed"), (3_000, "succeeded")])
def test_a_refund_on_its_way_fails_when_the_inquiry_becomes_a_chargeback(
    client: stripe.StripeClient,
    control: Control,
    charge: stripe.Charge,
    age_s: int,
    status: str,
) -> None:
    inquiry = control.post(f"charges/{charge.id}/dispute", reason="inquiry")
    refund = client.v1.refunds.create({"charge": charge.id, "amount": 100})
    control.post("clock", offset_s=age_s)
    try:
        control.post(f"disputes/{inquiry['id']}/escalate")
    finally:
        control.post("clock", offset_s=0)

    assert client.v1.refunds.retrieve(refund.id).status == status


@pytest.mark.parametrize(
    ("reason", "evidence", "status"),
    [
        ("fraudulent", "winning_evidence", "won"),
        ("fraudulent", "losing_evidence", "lost"),
        ("fraudulent", "nothing special", "under_review"),
        ("inquiry", "losing_evidence", "warning_closed"),
    ],
)
def test_the_bank_decides_some_time_after_the_evidence(
    client: stripe.StripeClient,
    control: Control,
    charge: stripe.Charge,
    reason: str,
    evidence: str,
    status: str,
) -> None:
    dispute = control.post(f"charges/{charge.id}/dispute", reason=reason)
    params = {"evidence": {"uncategorized_text": evidence}}
    answered = client.v1.disputes.update(dispute["id"], params)
    control.post("later")

    assert answered.status.endswith("under_review")
    assert client.v1.disputes.retrieve(dispute["id"]).status == status


def test_a_closed_dispute_takes_no_evidence_and_is_not_closed_again(
    client: stripe.StripeClient, control: Control, charge: stripe.Charge
) -> None:
    dispute = control.post(f"charges/{charge.id}/dispute")
    control.post(f"disputes/{dispute['id']}/close", outcome="won")

    for act in (client.v1.disputes.close, client.v1.disputes.update):
        with pytest.raises(stripe.InvalidRequestError, match="already closed"):
            act(dispute["id"])


def test_a_draft_counts_as_evidence_and_not_as_submitted(
    client: stripe.StripeClient, control: Control, charge: stripe.Charge
) -> None:
    dispute = control.post(f"charges/{charge.id}/dispute")
    draft = client.v1.disputes.update(
        dispute["id"], {"evidence": {"product_description": "Credits"}, "submit": False}
    )
    submitted = client.v1.disputes.update(dispute["id"], {"submit": True})

    assert (draft.status, submitted.status) == ("needs_response", "under_review")
    details = [each.evidence_details for each in (draft, submitted)]
    assert [(each.has_evidence, each.submission_count) for each in details] == [
        (True, 0),
        (True, 1),
    ]
    assert details[0].submission_method == "not_submitted"


def test_evidence_that_was_submitted_is_final(
    client: stripe.StripeClient, control: Control, charge: stripe.Charge
) -> None:
    dispute = control.post(f"charges/{charge.id}/dispute")
    evidence: Any = {"evidence": {"product_description": "Credits"}}
    client.v1.disputes.update(dispute["id"], evidence)

    with pytest.raises(stripe.InvalidRequestError, match="is final"):
        client.v1.disputes.update(dispute["id"], evidence)
    assert client.v1.disputes.update(dispute["id"], {"metadata": {"a": "b"}}).metadata["a"] == "b"


@pytest.mark.parametrize(("offset_s", "past_due"), [(-60, False), (1, True)])
def test_evidence_that_comes_after_its_time_is_past_due(
    client: stripe.StripeClient,
    control: Control,
    charge: stripe.Charge,
    offset_s: int,
    past_due: bool,
) -> None:
    dispute = control.post(f"charges/{charge.id}/dispute")
    details = dispute["evidence_details"]
    control.post("clock", offset_s=details["due_by"] - dispute["created"] + offset_s)
    try:
        waiting = client.v1.disputes.retrieve(dispute["id"])
        answered = client.v1.disputes.update(
            dispute["id"], {"evidence": {"product_description": "Credits"}}
        )
    finally:
        control.post("clock", offset_s=0)

    assert waiting.evidence_details.past_due is False
    assert answered.evidence_details.past_due is past_due


def test_a_bank_that_hears_nobody_takes_no_evidence(
    client: stripe.StripeClient, control: Control, charge: stripe.Charge
) -> None:
    dispute = control.post(f"charges/{charge.id}/dispute", takes_evidence=False)

    assert dispute["evidence_details"]["due_by"] == 0
    with pytest.raises(stripe.InvalidRequestError, match="takes no evidence"):
        client.v1.disputes.update(
            dispute["id"], {"evidence": {"product_description": "Credits"}, "submit": False}
        )


def test_a_fraud_warning_comes_with_its_card(
    cards: Cards, client: stripe.StripeClient, receiver: Receiver
) -> None:
    intent = cards.charge(cards.save("pm_card_createIssuerFraudRecord"))

    eventually(
        lambda: (
            "radar.early_fraud_warning.created"
            in [event.type for event in receiver.events(intent.id)]
        )
    )
    assert client.v1.charges.retrieve(intent.latest_charge).disputed is False
