"""Off-session charges: what each test card does, refunds, disputes, the balance."""

import pytest
import stripe

from deploy.stripe_sandbox.cards import BY_TOKEN, CARDS, luhn_valid
from tests.sandbox.conftest import Cards, Control

SUCCEEDING = [
    card
    for card in CARDS
    if card.decline is None
    and card.authentication not in ("always", "unless_set_up", "lookup_fails")
]
REFUSED = [card for card in CARDS if card.decline is not None and not card.attaches]
BLOCKED_LATER = [
    card
    for card in CARDS
    if card.decline is not None and card.attaches and card.authentication == "not_enrolled"
]


def test_an_off_session_charge_succeeds_with_its_receipt(cards: Cards) -> None:
    intent = cards.charge(cards.save(), expand=["latest_charge"])

    charge = intent.latest_charge
    assert (intent.status, charge.amount) == ("succeeded", 2500)
    assert charge.receipt_url
    assert charge.payment_method_details.card.last4 == "4242"
    assert intent.livemode is False


@pytest.mark.parametrize("card", SUCCEEDING, ids=lambda card: card.number)
def test_a_card_that_succeeds_is_charged(cards: Cards, card) -> None:
    charge = cards.charge(cards.save(card.number), expand=["latest_charge"]).latest_charge

    shown = charge.payment_method_details.card
    assert (charge.paid, shown.last4, shown.brand, shown.country, shown.funding) == (
        True,
        card.last4,
        card.brand,
        card.country,
        card.funding,
    )


@pytest.mark.parametrize("name", BY_TOKEN)
def test_a_ready_made_payment_method_is_its_card(client: stripe.StripeClient, name: str) -> None:
    made = client.v1.payment_intents.create(
        {"amount": 500, "currency": "usd", "payment_method": name, "expand": ["payment_method"]}
    )

    assert made.payment_method.card.last4 == BY_TOKEN[name].last4


def test_all_numbers_are_cards_but_the_one_that_is_wrong() -> None:
    assert [card.number for card in CARDS if not luhn_valid(card.number)] == ["4242424242424241"]


@pytest.mark.parametrize("card", BLOCKED_LATER, ids=lambda card: card.token)
def test_a_card_that_could_be_saved_is_declined_when_charged(cards: Cards, card) -> None:
    method = cards.save(card.number)
    with pytest.raises(stripe.CardError) as raised:
        cards.charge(method)

    assert raised.value.error.decline_code == card.decline.decline_code


@pytest.mark.parametrize(
    ("name", "checks"),
    [
        ("pm_card_visa", ("pass", None, None)),
        ("pm_card_cvcCheckFail", ("fail", None, None)),
        ("pm_card_avsZipFail", ("pass", None, "fail")),
        ("pm_card_avsLine1Fail", ("pass", "fail", None)),
        ("pm_card_avsFail", ("pass", "fail", "fail")),
        ("pm_card_avsUnchecked", ("pass", "unavailable", "unavailable")),
    ],
)
def test_the_issuers_checks_are_on_the_charge(
    cards: Cards, name: str, checks: tuple[str | None, ...]
) -> None:
    charge = cards.charge(cards.save(name), expand=["latest_charge"]).latest_charge

    found = charge.payment_method_details.card.checks
    assert checks == (
        found.cvc_check,
        found.address_line1_check,
        found.address_postal_code_check,
    )


def test_only_what_is_given_is_checked(client: stripe.StripeClient) -> None:
    card = {"number": "4000000000000010", "exp_month": 12, "exp_year": 2034}
    made = client.v1.payment_methods.create(
        {
            "type": "card",
            "card": card,
            "billing_details": {"address": {"postal_code": "10001"}},
        }
    )

    checks = made.card.checks
    assert (checks.cvc_check, checks.address_line1_check, checks.address_postal_code_check) == (
        None,
        None,
        "fail",
    )


def test_a_cobranded_card_names_both_networks(cards: Cards, client: stripe.StripeClient) -> None:
    method = client.v1.payment_methods.retrieve(cards.save("pm_card_visa_cartesBancaires"))

    assert method.card.networks.available == ["cartes_bancaires", "visa"]


def test_an_elevated_risk_is_told(cards: Cards) -> None:
    method = cards.save("pm_card_riskLevelElevated")

    assert cards.charge(method, expand=["latest_charge"]).latest_charge.outcome.risk_level == (
        "elevated"
    )


@pytest.mark.parametrize(
    ("number", "forced", "flow"),
    [
        ("4242424242424242", "any", None),
        ("378282246310005", "any", None),
        ("4000000032200000", "automatic", "frictionless"),
    ],
)
def test_a_card_is_authenticated_without_its_owner_or_not_at_all(
    cards: Cards, number: str, forced: str, flow: str | None
) -> None:
    options = {"card": {"request_three_d_secure": forced}}
    method = cards.save(number)
    intent = cards.charge(method, payment_method_options=options, expand=["latest_charge"])

    secure = intent.latest_charge.payment_method_details.card.three_d_secure
    assert (secure and secure.authentication_flow) == flow


@pytest.mark.parametrize(
    ("number", "forced"), [("4000008400001280", "automatic"), ("4000000000003097", "any")]
)
def test_an_authentication_that_cannot_begin_is_a_decline(
    cards: Cards, number: str, forced: str
) -> None:
    options = {"card": {"request_three_d_secure": forced}}
    method = cards.save(number)
    with pytest.raises(stripe.CardError) as raised:
        cards.charge(method, payment_method_options=options)

    assert raised.value.code == "card_declined"


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
