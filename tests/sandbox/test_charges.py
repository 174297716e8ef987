"""Off-session charges: what each test card does, refunds, disputes, the balance."""

import pytest
import stripe

from deploy.stripe_sandbox.cards import CARDS
from tests.sandbox.conftest import Cards, Control

SUCCEEDING = [
    card
    for card in CARDS
    if card.decline is None and card.authentication not in ("always", "unless_set_up")
]
REFUSED = [card for card in CARDS if card.decline is not None and not card.attaches]


def test_an_off_session_charge_succeeds_with_its_receipt_and_balance(cards: Cards) -> None:
    intent = cards.charge(cards.save(), expand=["latest_charge.balance_transaction"])

    charge = intent.latest_charge
    assert (intent.status, charge.amount, charge.balance_transaction.fee) == (
        "succeeded",
        2500,
        103,
    )
    assert charge.receipt_url
    assert charge.payment_method_details.card.last4 == "4242"
    assert intent.livemode is False


@pytest.mark.parametrize("card", SUCCEEDING, ids=lambda card: card.token)
def test_a_card_that_succeeds_is_charged(cards: Cards, card) -> None:
    method = cards.save(f"pm_card_{card.token}")

    assert cards.charge(method).status == "succeeded"


@pytest.mark.parametrize("card", REFUSED, ids=lambda card: card.token)
def test_a_declined_card_says_why_when_saved_and_when_charged(cards: Cards, card) -> None:
    why = card.decline
    with pytest.raises(stripe.CardError) as saving:
        cards.save(f"pm_card_{card.token}")
    with pytest.raises(stripe.CardError) as charging:
        cards.charge(f"pm_card_{card.token}")

    for raised in (saving.value, charging.value):
        assert raised.http_status == 402
        assert raised.code == why.code
        assert raised.error.decline_code == why.decline_code
        assert raised.error.advice_code == why.advice_code
        assert raised.user_message == why.message


def test_a_decline_leaves_a_failed_charge_and_an_intent_that_wants_another_card(
    cards: Cards, client: stripe.StripeClient
) -> None:
    with pytest.raises(stripe.CardError) as raised:
        cards.charge(cards.save("pm_card_chargeCustomerFail"))

    intent = client.v1.payment_intents.retrieve(raised.value.error.payment_intent["id"])
    charge = client.v1.charges.retrieve(intent.latest_charge)
    assert intent.status == "requires_payment_method"
    assert intent.last_payment_error.decline_code == "generic_decline"
    assert (charge.status, charge.paid) == ("failed", False)
    assert charge.outcome.network_decline_code == "05"


def test_a_card_that_always_authenticates_is_declined_off_session(cards: Cards) -> None:
    with pytest.raises(stripe.CardError) as raised:
        cards.charge(cards.save("pm_card_authenticationRequired"))

    assert raised.value.code == "authentication_required"


def test_an_on_session_confirmation_asks_for_the_owner(
    cards: Cards, client: stripe.StripeClient, customer: str
) -> None:
    intent = client.v1.payment_intents.create(
        {
            "amount": 2500,
            "currency": "usd",
            "customer": customer,
            "payment_method": cards.save("pm_card_authenticationRequired"),
            "confirm": True,
            "return_url": "http://127.0.0.1:1/back",
        }
    )

    assert intent.status == "requires_action"
    assert "/3ds/" in intent.next_action.redirect_to_url.url


def test_a_saved_card_can_be_made_to_decline_later(cards: Cards, control: Control) -> None:
    method = cards.save()
    card = {"as": "pm_card_chargeDeclinedInsufficientFunds"}
    control.post(f"payment_methods/{method}/behave", **card)

    with pytest.raises(stripe.CardError) as raised:
        cards.charge(method)

    assert raised.value.error.decline_code == "insufficient_funds"


def test_another_customers_card_cannot_be_charged(
    cards: Cards, client: stripe.StripeClient
) -> None:
    stranger = client.v1.customers.create({})
    method = client.v1.payment_methods.attach("pm_card_visa", {"customer": stranger.id})

    with pytest.raises(stripe.InvalidRequestError):
        cards.charge(method.id)


def test_a_detached_card_is_never_charged_again(cards: Cards, client: stripe.StripeClient) -> None:
    method = cards.save()
    client.v1.payment_methods.detach(method)

    with pytest.raises(stripe.InvalidRequestError):
        cards.charge(method)


def test_a_card_of_a_deleted_customer_is_never_charged_again(
    cards: Cards, client: stripe.StripeClient, control: Control, customer: str
) -> None:
    method = cards.save()
    other = client.v1.customers.create({}).id
    client.v1.customers.delete(customer)

    for owner in ({}, {"customer": customer}, {"customer": other}):
        with pytest.raises(stripe.InvalidRequestError):
            client.v1.payment_intents.create(
                {"amount": 500, "currency": "usd", "payment_method": method, "confirm": True}
                | owner
            )
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.payment_methods.attach(method, {"customer": other})


def test_an_intent_of_a_deleted_customer_is_never_confirmed(
    client: stripe.StripeClient, control: Control, customer: str
) -> None:
    intent = client.v1.payment_intents.create(
        {"amount": 500, "currency": "usd", "customer": customer}
    )
    client.v1.customers.delete(customer)

    with pytest.raises(stripe.InvalidRequestError) as raised:
        client.v1.payment_intents.confirm(intent.id, {"payment_method": "pm_card_visa"})

    assert (raised.value.code, raised.value.param) == ("resource_missing", "customer")
    assert control.totals(customer)["attempts"] == 0


@pytest.mark.parametrize("amount", [49, 0, -5, 100_000_000])
def test_an_amount_out_of_bounds_is_refused(cards: Cards, amount: int) -> None:
    with pytest.raises(stripe.InvalidRequestError) as raised:
        cards.charge(cards.save(), amount=amount)

    assert raised.value.param == "amount"


def test_partial_refunds_add_up_and_stop_at_the_charge(
    cards: Cards, client: stripe.StripeClient
) -> None:
    intent = cards.charge(cards.save())
    first = client.v1.refunds.create({"payment_intent": intent.id, "amount": 1000})
    rest = client.v1.refunds.create({"payment_intent": intent.id})
    with pytest.raises(stripe.InvalidRequestError) as raised:
        client.v1.refunds.create({"payment_intent": intent.id})

    charge = client.v1.charges.retrieve(intent.latest_charge, {"expand": ["refunds"]})
    assert (first.amount, rest.amount, charge.amount_refunded) == (1000, 1500, 2500)
    assert charge.refunded
    assert len(charge.refunds.data) == 2
    assert raised.value.code == "charge_already_refunded"


def test_a_refund_that_fails_gives_the_money_back_to_the_balance(
    cards: Cards, client: stripe.StripeClient
) -> None:
    intent = cards.charge(cards.save("pm_card_refundFail"))
    refund = client.v1.refunds.create({"payment_intent": intent.id})

    moves = client.v1.balance_transactions.list({"source": refund.id}).data
    assert refund.status == "failed"
    assert sorted(move.amount for move in moves) == [-2500, 2500]


@pytest.mark.parametrize(("outcome", "left"), [("won", -1500), ("lost", -4000)])
def test_a_dispute_takes_the_funds_and_a_won_one_returns_them(
    cards: Cards, client: stripe.StripeClient, control: Control, outcome: str, left: int
) -> None:
    intent = cards.charge(cards.save())
    dispute = control.post(f"charges/{intent.id}/dispute", reason="product_not_received")
    control.post(f"disputes/{dispute['id']}/close", outcome=outcome)

    found = client.v1.disputes.list({"payment_intent": intent.id}).data
    moves = client.v1.balance_transactions.list({"source": dispute["id"]}).data
    assert [item.status for item in found] == [outcome]
    assert sum(move.net for move in moves) == left


def test_the_disputed_test_card_is_disputed_at_once(
    cards: Cards, client: stripe.StripeClient
) -> None:
    intent = cards.charge(cards.save("pm_card_createDispute"))

    assert client.v1.charges.retrieve(intent.latest_charge).disputed is True


def test_payments_are_found_by_metadata_customer_and_time(
    cards: Cards, client: stripe.StripeClient, customer: str
) -> None:
    intent = cards.charge(cards.save(), metadata={"topup_id": customer})

    query = f'metadata["topup_id"]:"{customer}" AND status:"succeeded"'
    by_metadata = client.v1.payment_intents.search({"query": query}).data
    window = {"customer": customer, "created": {"gte": intent.created, "lte": intent.created}}
    by_customer = client.v1.payment_intents.list(window).data
    assert [item.id for item in by_metadata] == [item.id for item in by_customer] == [intent.id]


def test_lists_are_paged_newest_first(
    cards: Cards, client: stripe.StripeClient, customer: str
) -> None:
    method = cards.save()
    made = [cards.charge(method).id for _ in range(5)]

    first = client.v1.payment_intents.list({"customer": customer, "limit": 2})
    everything = [item.id for item in first.auto_paging_iter()]
    assert first.has_more is True
    assert everything == made[::-1]
