"""Customers."""

from . import events, listing
from .errors import missing
from .metadata import set_metadata
from .sandbox import Call, Sandbox
from .store import Object, new_id

_FIELDS = ("address", "description", "email", "name", "phone", "shipping", "preferred_locales")


def create(sandbox: Sandbox, call: Call) -> Object:
    """POST /v1/customers."""
    item: Object = {
        "id": new_id("cus", 14),
        "object": "customer",
        "address": None,
        "balance": 0,
        "created": sandbox.now(),
        "currency": None,
        "default_source": None,
        "delinquent": False,
        "description": None,
        "discount": None,
        "email": None,
        "invoice_prefix": new_id("inv", 8).upper()[4:],
        "invoice_settings": {
            "custom_fields": None,
            "default_payment_method": None,
            "footer": None,
            "rendering_options": None,
        },
        "livemode": False,
        "metadata": {},
        "name": None,
        "phone": None,
        "preferred_locales": [],
        "shipping": None,
        "tax_exempt": "none",
        "test_clock": None,
    }
    _apply(sandbox, item, call)
    sandbox.store.put("customer", item)
    events.record(sandbox, "customer.created", item, call)
    return item


def update(sandbox: Sandbox, call: Call) -> Object:
    """POST /v1/customers/{id}."""
    item = get(sandbox, call["id"])
    _apply(sandbox, item, call)
    sandbox.store.put("customer", item)
    events.record(sandbox, "customer.updated", item, call)
    return item


def _apply(sandbox: Sandbox, item: Object, call: Call) -> None:
    for name in _FIELDS:
        if name in call.params:
            item[name] = call.params[name] or None
    settings = call.params.get("invoice_settings") or {}
    if "default_payment_method" in settings:
        method_id = settings["default_payment_method"]
        if method_id:
            param = "invoice_settings[default_payment_method]"
            method = sandbox.store.get("payment_method", method_id, param)
            if method["customer"] != item["id"]:
                raise missing("PaymentMethod", method_id, param)
        item["invoice_settings"]["default_payment_method"] = method_id or None
    set_metadata(item, call.params)


def retrieve(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/customers/{id}; a deleted one says so."""
    return sandbox.store.get("customer", call["id"])


def delete(sandbox: Sandbox, call: Call) -> Object:
    """DELETE /v1/customers/{id}: its cards are detached, which nobody can charge any more."""
    item = get(sandbox, call["id"])
    for method in sandbox.store.newest("payment_method"):
        if method["customer"] == item["id"]:
            method["customer"] = None
            sandbox.store.put("payment_method", method)
            sandbox.store.put("card", sandbox.store.get("card", method["id"]) | {"spent": True})
    events.record(sandbox, "customer.deleted", item, call)
    return sandbox.store.put("customer", {"id": item["id"], "object": "customer", "deleted": True})


def list_all(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/customers."""
    living = [item for item in sandbox.store.newest("customer") if not item.get("deleted")]
    return listing.page(living, call, equal=("email",))


def get(sandbox: Sandbox, customer_id: str, param: str = "id") -> Object:
    """A customer that exists and is not deleted."""
    item = sandbox.store.get("customer", customer_id, param)
    if item.get("deleted"):
        raise missing("customer", customer_id, param)
    return item
