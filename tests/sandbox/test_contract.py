"""Requests and replies are those of the pinned `stripe` package; only test keys are taken."""

import ast
import importlib
import inspect
import re
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin

import pytest
import stripe
from stripe._object_classes import get_object_class

from deploy.stripe_sandbox import expansion, routes
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
        ({"capture_method": "bogus"}, "capture_method"),
        ({"setup_future_usage": "bogus"}, "setup_future_usage"),
        ({"off_session": "bogus"}, "off_session"),
        ({"allowed_payment_method_types": ["bogus"]}, "allowed_payment_method_types[0]"),
        (
            {"payment_method_options": {"card": {"request_three_d_secure": "bogus"}}},
            "payment_method_options[card][request_three_d_secure]",
        ),
        ({"metadata": {"k" * 41: "v"}}, "metadata"),
        ({"metadata": {"k": "v" * 501}}, "metadata"),
        ({"metadata": {f"k{number}": "v" for number in range(51)}}, "metadata"),
        ({"transfer_group": "dropped"}, "transfer_group"),
        ({"statement_descriptor": "dropped"}, "statement_descriptor"),
        (
            {"payment_method_options": {"card": {"network": "visa"}}},
            "payment_method_options[card][network]",
        ),
        ({"capture_method": "manual"}, "capture_method"),
        ({"expand": ["amount"]}, "expand"),
        ({"expand": ["customer.amount"]}, "expand"),
        ({"expand": ["data.customer"]}, "expand"),
        ({"expand": ["latest_charge.customer.invoice_settings"]}, "expand"),
    ],
)
def test_a_wrong_parameter_is_named_and_nothing_is_charged(
    cards: Cards, control: Control, customer: str, more: dict[str, Any], param: str
) -> None:
    with pytest.raises(stripe.InvalidRequestError) as raised:
        cards.charge("pm_card_visa", **more)

    assert (raised.value.http_status, raised.value.param) == (400, param)
    assert control.totals(customer)["attempts"] == 0


def test_a_wrong_word_is_answered_with_the_right_ones(client: stripe.StripeClient) -> None:
    with pytest.raises(stripe.InvalidRequestError) as raised:
        client.v1.refunds.create({"payment_intent": "pi_1", "reason": "bogus"})

    assert raised.value.user_message == (
        "Invalid reason: must be one of duplicate, fraudulent, or requested_by_customer"
    )


def test_metadata_are_as_long_as_they_may_be(client: stripe.StripeClient, customer: str) -> None:
    longest = {f"{number:0>40}": "v" * 500 for number in range(50)}
    client.v1.customers.update(customer, {"metadata": longest})

    with pytest.raises(stripe.InvalidRequestError):
        client.v1.customers.update(customer, {"metadata": {"one more": "v"}})

    assert client.v1.customers.retrieve(customer).metadata.to_dict() == longest


def test_metadata_of_a_payment_that_a_page_makes_have_bounds_too(
    new_session: Callable[..., Any],
) -> None:
    with pytest.raises(stripe.InvalidRequestError) as raised:
        new_session(payment_intent_data={"metadata": {"k": "v" * 501}})

    assert raised.value.param == "payment_intent_data[metadata]"


@pytest.mark.parametrize("more", [{"locale": "de"}, {"submit_type": "pay"}, {"currency": "eur"}])
def test_what_a_page_would_not_do_is_refused(
    new_session: Callable[..., Any], more: dict[str, str]
) -> None:
    with pytest.raises(stripe.InvalidRequestError) as raised:
        new_session(**more)

    assert [raised.value.param] == list(more)


@pytest.mark.parametrize("route", routes.ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_parameter_that_is_honoured_is_one_of_stripes(route: routes.Route) -> None:
    module, name = route.params.rsplit(".", 1)
    typed = importlib.import_module(f"stripe.params.{module}")

    unknown = [path for path in route.honours if not is_field(typed, name, path.split("."))]

    assert unknown == []


def is_field(module: Any, class_name: str, path: list[str]) -> bool:
    """Whether the typed parameters have a field at the end of the path."""
    fields = inspect.get_annotations(getattr(module, class_name))
    if path[0] not in fields:
        return False
    inside = re.findall(r"\w+Params\w*", str(fields[path[0]]))
    return len(path) == 1 or any(is_field(module, name, path[1:]) for name in inside)


@pytest.mark.parametrize("kind", expansion.FIELDS)
def test_what_can_be_expanded_here_can_be_at_stripe(kind: str) -> None:
    if kind == "customer.invoice_settings":
        resource: Any = stripe.Customer.InvoiceSettings
    else:
        resource = get_object_class("V1", kind)
    found = inspect.get_annotations(resource)
    expandable = ("ForwardRef", "ListObject", "InvoiceSettings")

    assert [
        name
        for name in expansion.FIELDS[kind]
        if not any(e in str(found[name]) for e in expandable)
    ] == []


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
    fresh = cards.charge(method, expand=["latest_charge"])
    control.post("later")
    paid = v1.payment_intents.retrieve(fresh.id, {"expand": ["latest_charge.balance_transaction"]})
    with pytest.raises(stripe.CardError) as raised:
        cards.charge(cards.save("pm_card_chargeCustomerFail"))
    failed = v1.payment_intents.retrieve(raised.value.error.payment_intent["id"])
    refund = v1.refunds.create({"payment_intent": paid.id, "amount": 500})
    pending = v1.refunds.create(
        {"payment_intent": cards.charge(cards.save("pm_card_pendingRefund")).id}
    )
    dispute_id = control.post(f"charges/{cards.charge(method).id}/dispute")["id"]
    inquiry_id = control.post(f"charges/{cards.charge(method).id}/dispute", reason="inquiry")["id"]
    cards.charge(cards.save("pm_card_createIssuerFraudRecord"))
    (warning,) = [
        event.data.object
        for event in v1.events.list({"type": "radar.early_fraud_warning.created"}).data
    ][:1]
    session = new_session()
    control.post(f"checkout/{session.id}/pay")
    setup = {"customer": customer, "payment_method": method, "confirm": True}
    return [
        v1.customers.retrieve(customer),
        v1.payment_methods.retrieve(method),
        fresh,
        fresh.latest_charge,
        paid,
        failed,
        v1.payment_intents.create({"amount": 500, "currency": "usd"}),
        paid.latest_charge,
        v1.charges.retrieve(failed.latest_charge),
        paid.latest_charge.balance_transaction,
        refund,
        v1.refunds.retrieve(refund.id),
        pending,
        v1.disputes.retrieve(dispute_id),
        v1.disputes.retrieve(inquiry_id),
        warning,
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


def wrong_words(annotation: Any, value: Any, path: str) -> list[str]:
    """Texts that are none of the words which the package lists for their field."""
    if inspect.isclass(annotation) and issubclass(annotation, stripe.StripeObject):
        fields = inspect.get_annotations(annotation)
        inside = value.items() if isinstance(value, dict) else ()
        return [
            fault
            for name, item in inside
            if name in fields
            for fault in wrong_words(fields[name], item, f"{path}.{name}")
        ]
    if isinstance(value, list):
        (of,) = get_args(annotation)[:1] or (Any,)
        return [fault for item in value for fault in wrong_words(of, item, f"{path}[]")]
    choices = get_args(annotation)
    words = [word for each in choices if get_origin(each) is Literal for word in get_args(each)]
    if isinstance(value, str) and words:
        return [] if value in words else [f"{path}: {value}"]
    return [fault for each in choices for fault in wrong_words(each, value, path)]


def test_every_word_in_a_reply_is_one_that_its_class_lists(replies: list[Any]) -> None:
    faults = [
        fault
        for reply in replies
        for fault in wrong_words(type(reply), reply.to_dict(), type(reply).__name__)
    ]

    assert faults == []


def test_nothing_is_ever_in_live_mode(replies: list[Any]) -> None:
    modes = {reply.to_dict().get("livemode", False) for reply in replies}

    assert modes == {False}
