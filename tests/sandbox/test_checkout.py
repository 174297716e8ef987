"""The hosted card page, walked as a browser does: forms, redirects, the challenge."""

from collections.abc import Callable
from typing import Any
from urllib.parse import urljoin

import pytest
import requests
import stripe

from tests.patience import PATIENCE_S
from tests.sandbox.conftest import Cards, Control

NewSession = Callable[..., Any]


def submit(url: str, number: str = "4242 4242 4242 4242", **more: str) -> requests.Response:
    """Fill the card form in and press the button."""
    form = {"number": number, "expiry": "12 / 34", "cvc": "123", "name": "Test Person", **more}
    return requests.post(url, data=form, allow_redirects=False, timeout=PATIENCE_S)


def answer(reply: requests.Response, choice: str) -> requests.Response:
    """Follow the redirect to the challenge and press one of its buttons."""
    base = reply.url.split("/c/pay/")[0]
    page = requests.get(base + reply.headers["Location"], timeout=PATIENCE_S)
    assert "Complete" in page.text
    assert "Fail" in page.text
    return requests.post(
        page.url, data={"answer": choice}, allow_redirects=False, timeout=PATIENCE_S
    )


def test_a_person_pays_and_is_sent_back(
    client: stripe.StripeClient, new_session: NewSession
) -> None:
    session = new_session()
    reply = submit(session.url)

    paid = client.v1.checkout.sessions.retrieve(
        session.id, {"expand": ["payment_intent.latest_charge", "line_items"]}
    )
    assert reply.headers["Location"] == f"http://127.0.0.1:1/ok?session={session.id}"
    assert (paid.status, paid.payment_status, paid.amount_total) == ("complete", "paid", 2500)
    assert paid.payment_intent.metadata["topup_id"] == "topup-1"
    assert paid.payment_intent.latest_charge.paid
    assert paid.line_items.data[0].amount_total == 2500


def test_the_page_shows_the_amount_the_banner_and_escapes_what_it_is_given(
    new_session: NewSession,
) -> None:
    page = requests.get(new_session().url, timeout=PATIENCE_S)

    policy = page.headers["Content-Security-Policy"]
    assert "$25.00" in page.text
    assert "Test mode" in page.text
    assert "Credits &lt;b&gt;&amp; more&lt;/b&gt;" in page.text
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http://127.0.0.1:1" in policy.split("form-action")[1].split(";")[0]


def test_a_test_card_can_be_chosen_from_the_list(new_session: NewSession) -> None:
    page = requests.get(new_session().url + "?card=4000000000009995", timeout=PATIENCE_S)

    assert 'value="4000 0000 0000 9995"' in page.text


@pytest.mark.parametrize(
    ("number", "more", "message"),
    [
        ("4000000000009995", {}, "Your card has insufficient funds."),
        ("4242424242424241", {}, "Your card number is incorrect."),
        ("4000000000000069", {}, "Your card has expired."),
        ("4012888888881881", {}, "used a non test card"),
        ("4242424242424242", {"expiry": "01/20"}, "expiration year is invalid"),
        ("4242424242424242", {"expiry": "soon"}, "expiration date is incomplete"),
        ("4242424242424242", {"cvc": "12"}, "security code is invalid"),
    ],
)
def test_a_refused_card_is_explained_in_place_and_another_one_works(
    new_session: NewSession, number: str, more: dict[str, str], message: str
) -> None:
    session = new_session()
    reply = submit(session.url, number, **more)

    assert reply.status_code == 402
    assert 'role="alert"' in reply.text
    assert message in reply.text.replace("&#39;", "'")
    assert submit(session.url).status_code == 303


def test_a_completed_challenge_pays_and_the_saved_card_works_off_session(
    client: stripe.StripeClient, cards: Cards, customer: str, new_session: NewSession
) -> None:
    session = new_session(payment_intent_data={"setup_future_usage": "off_session"})
    back = answer(submit(session.url, "4000002500003155"), "complete")

    (method,) = client.v1.payment_methods.list({"customer": customer, "type": "card"}).data
    assert back.headers["Location"].startswith("http://127.0.0.1:1/ok")
    assert cards.charge(method.id).status == "succeeded"


def test_the_same_card_without_set_up_needs_its_owner(cards: Cards) -> None:
    with pytest.raises(stripe.CardError) as raised:
        cards.charge(cards.save("pm_card_authenticationRequiredOnSetup"))

    assert raised.value.code == "authentication_required"


def test_a_failed_challenge_comes_back_to_the_page_with_the_reason(
    client: stripe.StripeClient, new_session: NewSession
) -> None:
    session = new_session()
    back = answer(submit(session.url, "4000002760003184"), "fail")
    page = requests.get(session.url, timeout=PATIENCE_S)

    assert back.headers["Location"] == f"/c/pay/{session.id}"
    assert "We are unable to authenticate your payment method" in page.text
    assert client.v1.checkout.sessions.retrieve(session.id).payment_status == "unpaid"


def test_a_person_may_save_the_card_while_paying(
    client: stripe.StripeClient, customer: str, new_session: NewSession
) -> None:
    offered = {"payment_method_save": "enabled"}
    submit(new_session(saved_payment_method_options=offered).url, save="yes")
    submit(new_session(saved_payment_method_options=offered).url)

    saved = client.v1.payment_methods.list({"customer": customer}).data
    assert [method.card.last4 for method in saved] == ["4242"]


def test_a_card_is_saved_without_a_payment(
    client: stripe.StripeClient, customer: str, new_setup_session: NewSession
) -> None:
    session = new_setup_session()
    answer(submit(session.url, "4000002760003184"), "complete")

    done = client.v1.checkout.sessions.retrieve(session.id, {"expand": ["setup_intent"]})
    assert (done.status, done.payment_status) == ("complete", "no_payment_required")
    assert done.setup_intent.status == "succeeded"
    assert done.setup_intent.metadata["user"] == "1"
    assert client.v1.payment_methods.retrieve(done.setup_intent.payment_method).customer == customer


def test_pressing_pay_twice_pays_once(
    control: Control, customer: str, new_session: NewSession
) -> None:
    session = new_session()
    replies = [submit(session.url), submit(session.url)]

    assert [reply.status_code for reply in replies] == [303, 303]
    assert control.totals(customer)["charges"] == 1


def test_an_expired_session_takes_no_card(
    client: stripe.StripeClient, control: Control, customer: str, new_session: NewSession
) -> None:
    session = new_session()
    client.v1.checkout.sessions.expire(session.id)

    assert submit(session.url).status_code == 410
    assert control.totals(customer)["attempts"] == 0


def test_an_authentication_that_ends_after_the_session_expired_pays_nothing(
    client: stripe.StripeClient, control: Control, customer: str, new_session: NewSession
) -> None:
    session = new_session()
    challenge = submit(session.url, number="4000002760003184").headers["Location"]
    client.v1.checkout.sessions.expire(session.id)

    answer = requests.post(
        urljoin(session.url, challenge), data={"answer": "complete"}, timeout=PATIENCE_S
    )

    assert answer.status_code == 410
    assert control.totals(customer)["paid_cents"] == 0


@pytest.mark.parametrize("verb", ["confirm", "cancel"])
def test_what_a_page_is_to_pay_cannot_be_confirmed_or_cancelled_directly(
    client: stripe.StripeClient, control: Control, customer: str, new_session: NewSession, verb: str
) -> None:
    session = new_session()
    submit(session.url, "4000000000000341")
    intent = client.v1.checkout.sessions.retrieve(session.id).payment_intent
    params = {"payment_method": "pm_card_visa"} if verb == "confirm" else {}
    with pytest.raises(stripe.InvalidRequestError) as raised:
        getattr(client.v1.payment_intents, verb)(intent, params)
    submit(session.url)

    assert "created by Checkout" in str(raised.value)
    assert control.totals(customer)["charges"] == 1


def test_what_a_page_is_to_pay_keeps_its_amount(
    client: stripe.StripeClient, new_session: NewSession
) -> None:
    session = new_session()
    submit(session.url, "4000000000000341")
    intent = client.v1.checkout.sessions.retrieve(session.id).payment_intent
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.payment_intents.update(intent, {"amount": 50})

    assert client.v1.payment_intents.update(intent, {"metadata": {"note": "x"}}).amount == 2500


@pytest.mark.parametrize("verb", ["confirm", "cancel"])
def test_what_a_page_is_to_set_up_cannot_be_confirmed_or_cancelled_directly(
    client: stripe.StripeClient, new_setup_session: NewSession, verb: str
) -> None:
    session = new_setup_session()
    with pytest.raises(stripe.InvalidRequestError) as raised:
        getattr(client.v1.setup_intents, verb)(session.setup_intent)

    assert "created by Checkout" in str(raised.value)


def test_an_authentication_that_ends_after_the_session_expired_saves_no_card(
    client: stripe.StripeClient, customer: str, new_setup_session: NewSession
) -> None:
    session = new_setup_session()
    challenge = submit(session.url, number="4000002760003184").headers["Location"]
    client.v1.checkout.sessions.expire(session.id)

    answer = requests.post(
        urljoin(session.url, challenge), data={"answer": "complete"}, timeout=PATIENCE_S
    )

    assert answer.status_code == 410
    assert client.v1.payment_methods.list({"customer": customer}).data == []


def test_a_page_of_a_deleted_customer_takes_no_card(
    client: stripe.StripeClient, control: Control, customer: str, new_session: NewSession
) -> None:
    session = new_session()
    client.v1.customers.delete(customer)

    reply = submit(session.url)

    assert (reply.status_code, "No such customer" in reply.text) == (400, True)
    assert control.totals(customer)["attempts"] == 0


def test_a_form_from_another_site_is_refused(new_session: NewSession) -> None:
    reply = requests.post(
        new_session().url, data={}, headers={"Origin": "http://evil.example"}, timeout=PATIENCE_S
    )

    assert reply.status_code == 403


def test_an_unknown_page_is_a_404(sandbox_url: str) -> None:
    assert (
        requests.get(f"{sandbox_url}/c/pay/cs_test_unknown", timeout=PATIENCE_S).status_code == 404
    )


def test_the_front_page_and_the_receipt_show_the_payment(sandbox_url: str, cards: Cards) -> None:
    intent = cards.charge(cards.save(), expand=["latest_charge"])

    assert intent.id in requests.get(sandbox_url, timeout=PATIENCE_S).text
    assert "$25.00" in requests.get(intent.latest_charge.receipt_url, timeout=PATIENCE_S).text
