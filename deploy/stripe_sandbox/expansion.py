"""`expand[]`: replaces ids in a reply by the objects that they name.

What can be expanded is known before anything is done: a request with a wrong path has no effect.
"""

from typing import Any

from .errors import InvalidRequest
from .sandbox import Sandbox
from .store import Object

DEPTH_MAX = 4
# Object → its fields that are ids of other objects, and of which kinds. `refund[]` is a list of
# refunds; `customer.invoice_settings` is a part of a customer and cannot be expanded itself.
FIELDS: dict[str, dict[str, tuple[str, ...]]] = {
    "balance_transaction": {"source": ("charge", "refund", "dispute")},
    "charge": {
        "balance_transaction": ("balance_transaction",),
        "customer": ("customer",),
        "failure_balance_transaction": ("balance_transaction",),
        "payment_intent": ("payment_intent",),
        "refunds": ("refund[]",),
    },
    "checkout.session": {
        "customer": ("customer",),
        "line_items": ("item[]",),
        "payment_intent": ("payment_intent",),
        "setup_intent": ("setup_intent",),
    },
    "customer": {"invoice_settings": ("customer.invoice_settings",)},
    "customer.invoice_settings": {"default_payment_method": ("payment_method",)},
    "dispute": {"charge": ("charge",), "payment_intent": ("payment_intent",)},
    "payment_intent": {
        "customer": ("customer",),
        "latest_charge": ("charge",),
        "payment_method": ("payment_method",),
    },
    "payment_method": {"customer": ("customer",)},
    "refund": {
        "balance_transaction": ("balance_transaction",),
        "charge": ("charge",),
        "failure_balance_transaction": ("balance_transaction",),
        "payment_intent": ("payment_intent",),
    },
    "setup_intent": {"customer": ("customer",), "payment_method": ("payment_method",)},
}


def check(kind: str, paths: list[str]) -> None:
    """Raise InvalidRequest for a path that does not lead from an object of that kind to another."""
    for path in paths:
        parts = path.split(".")
        if len(parts) > DEPTH_MAX:
            raise InvalidRequest(
                f"You cannot expand more than {DEPTH_MAX} levels of a property.", param="expand"
            )
        kinds: tuple[str, ...] = (kind,)
        for part in parts:
            kinds = tuple(found for kind in kinds for found in _inside(kind, part))
        if not kinds or parts[-1] in ("data", "invoice_settings"):
            raise InvalidRequest(f"This property cannot be expanded ({path}).", param="expand")


def _inside(kind: str, name: str) -> tuple[str, ...]:
    if kind.endswith("[]"):
        return (kind.removesuffix("[]"),) if name == "data" else ()
    return FIELDS.get(kind, {}).get(name, ())


def expand(sandbox: Sandbox, reply: Object, paths: list[str]) -> Object:
    """A copy of the reply in which every path, which was checked, is expanded."""
    for path in paths:
        reply = _at(sandbox, reply, path.split("."))
    return reply


def _at(sandbox: Sandbox, node: Any, parts: list[str]) -> Any:
    if not parts or not isinstance(node, dict):
        return node
    name, rest = parts[0], parts[1:]
    if name == "data":
        return {**node, "data": [_at(sandbox, item, rest) for item in node["data"]]}
    value = node.get(name)
    if name == "line_items":
        items = sandbox.store.get("line_items", node["id"])["items"]
        value = _list(items, f"/v1/checkout/sessions/{node['id']}/line_items")
    elif name == "refunds":
        refunds = [item for item in sandbox.store.newest("refund") if item["charge"] == node["id"]]
        value = _list(refunds, f"/v1/charges/{node['id']}/refunds")
    elif isinstance(value, str):
        value = _named(sandbox, node, name, value)
    elif name not in node:
        return node
    return {**node, name: _at(sandbox, value, rest)}


def _named(sandbox: Sandbox, node: Object, name: str, object_id: str) -> Any:
    """The object of that id, or the id where there is none any more."""
    kinds = FIELDS[node.get("object", "customer.invoice_settings")][name]
    found = (sandbox.store.find(kind, object_id) for kind in kinds)
    return next((item for item in found if item is not None), object_id)


def _list(items: list[Object], url: str) -> Object:
    return {"object": "list", "data": items, "has_more": False, "url": url}
