"""Idempotency keys, and what the switches can do to a request."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
import stripe

from tests.patience import PATIENCE_S
from tests.sandbox.conftest import Cards, Control, client_of


def test_the_same_key_charges_once_and_replays_the_reply(
    cards: Cards, control: Control, customer: str
) -> None:
    method = cards.save()
    first = cards.charge(method, "once-" + customer)
    again = cards.charge(method, "once-" + customer)

    assert again.id == first.id
    assert again.last_response.headers["Idempotent-Replayed"] == "true"
    assert control.totals(customer)["charges"] == 1


def test_the_same_key_with_other_parameters_is_an_error(cards: Cards, customer: str) -> None:
    method = cards.save()
    cards.charge(method, "other-" + customer)

    with pytest.raises(stripe.IdempotencyError):
        cards.charge(method, "other-" + customer, amount=3000)


def test_a_decline_is_replayed_too(cards: Cards, control: Control, customer: str) -> None:
    method = cards.save("pm_card_chargeCustomerFail")
    errors = []
    for _ in range(2):
        with pytest.raises(stripe.CardError) as raised:
            cards.charge(method, "declined-" + customer)
        errors.append(raised.value.error.charge)

    assert errors[0] == errors[1]
    assert control.totals(customer)["attempts"] == 1


def test_a_request_that_never_began_keeps_nothing(cards: Cards, customer: str) -> None:
    method = cards.save()
    with pytest.raises(stripe.InvalidRequestError):
        cards.charge(method, "typo-" + customer, amuont=1)

    assert cards.charge(method, "typo-" + customer).status == "succeeded"


def test_a_key_in_use_is_refused_with_409(cards: Cards, control: Control, customer: str) -> None:
    method, key = cards.save(), "busy-" + customer
    control.post("switches", kind="latency", seconds=6, match={"idempotency_key": key})

    def charge(_number: int) -> str | None:
        try:
            return cards.charge(method, key).status
        except stripe.APIError as error:
            return f"{error.http_status} {error.error and error.error.code}"

    with ThreadPoolExecutor(2) as pool:
        outcomes = sorted(pool.map(charge, range(2)), key=str)

    assert outcomes == ["409 idempotency_key_in_use", "succeeded"]
    assert control.totals(customer)["charges"] == 1


def test_a_time_out_after_the_charge_then_the_same_key_gives_one_charge(
    cards: Cards, control: Control, customer: str, sandbox_url: str
) -> None:
    method, key = cards.save(), "slow-" + customer
    control.post("switches", kind="timeout_after", seconds=2, match={"customer": customer})
    impatient = Cards(client_of(sandbox_url, timeout=0.5), customer)
    with pytest.raises(stripe.APIConnectionError):
        impatient.charge(method, key)

    assert cards.charge(method, key).status == "succeeded"
    assert control.totals(customer)["charges"] == 1


@pytest.mark.parametrize(("kind", "charges"), [("reset_after", 1), ("reset_before", 0)])
def test_a_dropped_connection_before_or_after_the_effect(
    cards: Cards, control: Control, customer: str, kind: str, charges: int
) -> None:
    method = cards.save()
    control.post("switches", kind=kind, match={"metadata": {"topup_id": customer}})
    with pytest.raises(stripe.APIConnectionError):
        cards.charge(method, "drop-" + customer, metadata={"topup_id": customer})

    assert control.totals(customer)["charges"] == charges
    cards.charge(method, "drop-" + customer, metadata={"topup_id": customer})
    assert control.totals(customer)["charges"] == 1


@pytest.mark.parametrize(("kind", "charges"), [("error_after", 1), ("error_before", 0)])
def test_a_500_is_kept_and_replayed(
    cards: Cards, control: Control, customer: str, kind: str, charges: int
) -> None:
    method, key = cards.save(), "broken-" + customer
    control.post("switches", kind=kind, match={"customer": customer})
    for _ in range(2):
        with pytest.raises(stripe.APIError) as raised:
            cards.charge(method, key)
        assert raised.value.http_status == 500

    assert control.totals(customer)["charges"] == charges


def test_a_pruned_key_charges_again(cards: Cards, control: Control, customer: str) -> None:
    method, key = cards.save(), "old-" + customer
    cards.charge(method, key)
    control.post("idempotency/prune", key=key)
    cards.charge(method, key)

    assert control.totals(customer)["charges"] == 2


def test_a_key_that_is_forgotten_in_a_while_is_kept_until_then(
    cards: Cards, control: Control, customer: str
) -> None:
    method, key = cards.save(), "soon-" + customer
    cards.charge(method, key)
    control.post("idempotency/prune", in_s=2_000)
    charges = []
    try:
        for offset_s in (1_000, 2_001):
            control.post("clock", offset_s=offset_s)
            cards.charge(method, key)
            charges.append(control.totals(customer)["charges"])
    finally:
        control.post("clock", offset_s=0)

    assert charges == [1, 2]


def test_a_switch_of_one_customer_leaves_others_alone(
    cards: Cards, control: Control, client: stripe.StripeClient
) -> None:
    other = client.v1.customers.create({}).id
    control.post("switches", kind="error_before", times=None, match={"customer": other})

    assert cards.charge(cards.save()).status == "succeeded"


def test_a_rate_limit_can_be_asked_for(cards: Cards, control: Control, customer: str) -> None:
    method = cards.save()
    control.post("switches", kind="rate_limit", match={"customer": customer})
    with pytest.raises(stripe.RateLimitError):
        cards.charge(method)

    assert cards.charge(method).status == "succeeded"


def test_the_switches_refuse_other_sites(sandbox_url: str) -> None:
    reply = requests.post(
        f"{sandbox_url}/_sandbox/reset",
        json={},
        headers={"Origin": "http://evil.example"},
        timeout=PATIENCE_S,
    )

    assert reply.status_code == 403
