"""The table of all endpoints: method, path, the type that its parameters are held to, handler."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from . import (
    balance,
    charges,
    checkout,
    customers,
    disputes,
    events,
    honoured,
    payment_methods,
    payments,
    refunds,
    setups,
)
from .errors import InvalidRequest
from .sandbox import Call, Sandbox
from .store import Object

Handler = Callable[[Sandbox, Call], Object]


@dataclass(frozen=True)
class Route:
    """One endpoint. `params` is a module and a class below `stripe.params`."""

    method: str
    path: str
    params: str
    honours: frozenset[str]
    """The parameters that do something here."""
    replies: str
    """The kind of object that it answers with; `charge[]` is a list of charges."""
    handler: Handler
    pattern: re.Pattern[str]


def _route(method: str, path: str, params: str, handler: Handler) -> Route:
    pattern = re.compile("^/v1" + re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path) + "$")
    honours = honoured.BY_TYPE[params]
    return Route(
        method, "/v1" + path, _typed(params), honours, _replies(method, path), handler, pattern
    )


_NOUNS = {
    "balance": "balance",
    "balance_transactions": "balance_transaction",
    "charges": "charge",
    "customers": "customer",
    "disputes": "dispute",
    "events": "event",
    "line_items": "item",
    "payment_intents": "payment_intent",
    "payment_methods": "payment_method",
    "refunds": "refund",
    "sessions": "checkout.session",
    "setup_intents": "setup_intent",
}


def _replies(method: str, path: str) -> str:
    kind = [_NOUNS[part] for part in path.split("/") if part in _NOUNS][-1]
    is_one = method != "GET" or path.endswith("{id}") or kind == "balance"
    return kind if is_one else f"{kind}[]"


def _typed(module: str) -> str:
    """`_refund_create_params` → `_refund_create_params.RefundCreateParams`."""
    name = module.rsplit(".", 1)[-1]
    return f"{module}.{''.join(word.title() for word in name.split('_'))}"


_TABLE: tuple[tuple[str, str, str, Handler], ...] = (
    ("POST", "/customers", "_customer_create_params", customers.create),
    ("GET", "/customers", "_customer_list_params", customers.list_all),
    ("GET", "/customers/{id}", "_customer_retrieve_params", customers.retrieve),
    ("POST", "/customers/{id}", "_customer_update_params", customers.update),
    ("DELETE", "/customers/{id}", "_customer_delete_params", customers.delete),
    ("GET", "/customers/{customer}/payment_methods", "_customer_payment_method_list_params",
     payment_methods.list_all),
    ("GET", "/customers/{customer}/payment_methods/{id}",
     "_customer_payment_method_retrieve_params", payment_methods.retrieve_of_customer),
    ("POST", "/payment_methods", "_payment_method_create_params", payment_methods.create),
    ("GET", "/payment_methods", "_payment_method_list_params", payment_methods.list_all),
    ("GET", "/payment_methods/{id}", "_payment_method_retrieve_params",
     payment_methods.retrieve),
    ("POST", "/payment_methods/{id}", "_payment_method_update_params", payment_methods.update),
    ("POST", "/payment_methods/{id}/attach", "_payment_method_attach_params",
     payment_methods.attach),
    ("POST", "/payment_methods/{id}/detach", "_payment_method_detach_params",
     payment_methods.detach),
    ("POST", "/payment_intents", "_payment_intent_create_params", payments.create),
    ("GET", "/payment_intents", "_payment_intent_list_params", payments.list_all),
    ("GET", "/payment_intents/search", "_payment_intent_search_params", payments.search),
    ("GET", "/payment_intents/{id}", "_payment_intent_retrieve_params", payments.retrieve),
    ("POST", "/payment_intents/{id}", "_payment_intent_update_params", payments.update),
    ("POST", "/payment_intents/{id}/confirm", "_payment_intent_confirm_params",
     payments.confirm),
    ("POST", "/payment_intents/{id}/cancel", "_payment_intent_cancel_params", payments.cancel),
    ("POST", "/setup_intents", "_setup_intent_create_params", setups.create),
    ("GET", "/setup_intents", "_setup_intent_list_params", setups.list_all),
    ("GET", "/setup_intents/{id}", "_setup_intent_retrieve_params", setups.retrieve),
    ("POST", "/setup_intents/{id}/confirm", "_setup_intent_confirm_params", setups.confirm),
    ("POST", "/setup_intents/{id}/cancel", "_setup_intent_cancel_params", setups.cancel),
    ("GET", "/charges", "_charge_list_params", charges.list_all),
    ("GET", "/charges/{id}", "_charge_retrieve_params", charges.retrieve),
    ("POST", "/charges/{id}", "_charge_update_params", charges.update),
    ("POST", "/checkout/sessions", "checkout._session_create_params", checkout.create),
    ("GET", "/checkout/sessions", "checkout._session_list_params", checkout.list_all),
    ("GET", "/checkout/sessions/{id}", "checkout._session_retrieve_params",
     checkout.retrieve),
    ("POST", "/checkout/sessions/{id}", "checkout._session_update_params", checkout.update),
    ("POST", "/checkout/sessions/{id}/expire", "checkout._session_expire_params",
     checkout.expire),
    ("GET", "/checkout/sessions/{id}/line_items", "checkout._session_line_item_list_params",
     checkout.list_line_items),
    ("POST", "/refunds", "_refund_create_params", refunds.create),
    ("GET", "/refunds", "_refund_list_params", refunds.list_all),
    ("GET", "/refunds/{id}", "_refund_retrieve_params", refunds.retrieve),
    ("POST", "/refunds/{id}", "_refund_update_params", refunds.update),
    ("GET", "/disputes", "_dispute_list_params", disputes.list_all),
    ("GET", "/disputes/{id}", "_dispute_retrieve_params", disputes.retrieve),
    ("POST", "/disputes/{id}", "_dispute_update_params", disputes.update),
    ("POST", "/disputes/{id}/close", "_dispute_close_params", disputes.close_by_api),
    ("GET", "/events", "_event_list_params", events.list_all),
    ("GET", "/events/{id}", "_event_retrieve_params", events.retrieve),
    ("GET", "/balance", "_balance_retrieve_params", balance.retrieve),
    ("GET", "/balance_transactions", "_balance_transaction_list_params",
     balance.list_transactions),
    ("GET", "/balance_transactions/{id}", "_balance_transaction_retrieve_params",
     balance.retrieve_transaction),
)  # fmt: skip

ROUTES = tuple(_route(method, path, params, run) for method, path, params, run in _TABLE)


def find(method: str, path: str) -> tuple[Route, dict[str, str]]:
    """The endpoint and the parts of its path.

    Raises InvalidRequest (404) that says which endpoints there are.
    """
    for route in ROUTES:
        match = route.pattern.match(path)
        if match is not None and route.method == method:
            return route, match.groupdict()
    known = ", ".join(f"{route.method} {route.path}" for route in ROUTES)
    raise InvalidRequest(
        f"Unrecognized request URL ({method}: {path}). The sandbox knows: {known}.", status=404
    )
