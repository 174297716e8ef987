"""Requests and replies are those of the pinned `stripe` package; only test keys are taken."""

import ast
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import stripe

from deploy.stripe_sandbox import routes
from deploy.stripe_sandbox.params import load
from tests.sandbox.conftest import Cards, Control, client_of


@pytest.mark.parametrize("route", routes.ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_endpoint_has_the_packages_typed_parameters(route: routes.Route) -> None:
    load(route.params)


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"payment_method_types": ["card"]}, "payment_method_types"),
        ({"amount": "many"}, "amount"),
        ({"currency": None}, "currency"),
        ({"confirm": "perhaps"}, "confirm"),
        ({"metadata": "text"}, "metadata"),
        (
            {"payment_method_options": {"card": {"bogus": 1}}},
            "payment_method_options[card][bogus]",
        ),
    ],
)
def test_a_wrong_parameter_is_named(cards: Cards, more: dict[str, Any], param: str) -> None:
    with pytest.raises(stripe.InvalidRequestError) as raised:
        cards.charge("pm_card_visa", **more)

    assert (raised.value.http_status, raised.value.param) == (400, param)


def test_a_wrong_parameter_deep_in_a_list_is_named(new_session: Callable[..., Any]) -> None:
    with pytest.raises(stripe.InvalidRequestError) as raised:
        new_session(line_items=[{"quantity": "x", "price_data": {"currency": "usd"}}])

    assert raised.value.param == "line_items[0][quantity]"


@pytest.mark.parametrize("key", ["sk_live_51abc", "rk_live_51abc", "pk_test_1"])
def test_only_test_keys_are_taken(sandbox_url: str, key: str) -> None:
    with pytest.raises(stripe.AuthenticationError) as raised:
        client_of(sandbox_url, key).v1.customers.create({})

    assert "sk_test_" in str(raised.value)


def test_an_unknown_endpoint_says_which_there_are(client: stripe.StripeClient) -> None:
    with pytest.raises(stripe.InvalidRequestError) as raised:
        client.v1.subscriptions.list()

    assert raised.value.http_status == 404
    assert "POST /v1/payment_intents" in str(raised.value)


def test_what_cannot_be_expanded_is_refused(cards: Cards) -> None:
    with pytest.raises(stripe.InvalidRequestError) as raised:
        cards.charge(cards.save(), expand=["amount"])

    assert raised.value.param == "expand"


def required(resource: type) -> set[str]:
    """The fields that the class always has: annotated, and not Optional."""
    (tree,) = ast.parse(inspect.getsource(resource)).body
    assert isinstance(tree, ast.ClassDef)
    return {
        line.target.id
        for line in tree.body
        if isinstance(line, ast.AnnAssign)
        and isinstance(line.target, ast.Name)
        and not ast.unparse(line.annotation).startswith(("Optional", "ClassVar"))
    }


def declared(resource: type) -> set[str]:
    """All fields that the class knows."""
    return set(inspect.get_annotations(resource))


@pytest.fixture
def replies(
    client: stripe.StripeClient,
    cards: Cards,
    control: Control,
    customer: str,
    new_session: Callable[..., Any],
) -> list[Any]:
    """One reply of every kind, several states of some."""
    v1 = client.v1
    method = cards.save()
    paid = cards.charge(method, expand=["latest_charge.balance_transaction"])
    with pytest.raises(stripe.CardError) as raised:
        cards.charge(cards.save("pm_card_chargeCustomerFail"))
    failed = v1.payment_intents.retrieve(raised.value.error.payment_intent["id"])
    refund = v1.refunds.create({"payment_intent": paid.id, "amount": 500})
    dispute_id = control.post(f"charges/{cards.charge(method).id}/dispute")["id"]
    session = new_session()
    control.post(f"checkout/{session.id}/pay")
    setup = {"customer": customer, "payment_method": method, "confirm": True}
    return [
        v1.customers.retrieve(customer),
        v1.payment_methods.retrieve(method),
        paid,
        failed,
        v1.payment_intents.create({"amount": 500, "currency": "usd"}),
        paid.latest_charge,
        v1.charges.retrieve(failed.latest_charge),
        paid.latest_charge.balance_transaction,
        refund,
        v1.refunds.retrieve(refund.id),
        v1.disputes.retrieve(dispute_id),
        session,
        v1.checkout.sessions.retrieve(session.id),
        v1.setup_intents.create(setup),
        v1.events.list({"limit": 1}).data[0],
        v1.checkout.sessions.line_items.list(session.id).data[0],
        v1.balance.retrieve(),
    ]


def test_every_reply_has_the_fields_that_its_class_promises_and_no_others(
    replies: list[Any],
) -> None:
    faults = []
    for reply in replies:
        fields = set(reply.to_dict())
        lacking = {name for name in required(type(reply)) if reply.to_dict().get(name) is None}
        unknown = fields - declared(type(reply))
        if lacking or unknown:
            faults.append((type(reply).__name__, sorted(lacking), sorted(unknown)))

    assert faults == []


def test_nothing_is_ever_in_live_mode(replies: list[Any]) -> None:
    modes = {reply.to_dict().get("livemode", False) for reply in replies}

    assert modes == {False}
