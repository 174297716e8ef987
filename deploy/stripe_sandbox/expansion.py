"""`expand[]`: replaces ids in a reply by the objects that they name."""

from typing import Any

from .errors import InvalidRequest
from .sandbox import Sandbox
from .store import Object

DEPTH_MAX = 4
_KINDS = {
    "balance_transaction": "balance_transaction",
    "charge": "charge",
    "customer": "customer",
    "default_payment_method": "payment_method",
    "failure_balance_transaction": "balance_transaction",
    "latest_charge": "charge",
    "payment_intent": "payment_intent",
    "payment_method": "payment_method",
    "setup_intent": "setup_intent",
}
_SOURCES = {"ch": "charge", "re": "refund", "du": "dispute"}


def expand(sandbox: Sandbox, reply: Object, paths: list[str]) -> Object:
    """A copy of the reply in which every path is expanded.

    Raises InvalidRequest for a property that cannot be expanded.
    """
    for path in paths:
        parts = path.split(".")
        if len(parts) > DEPTH_MAX:
            raise InvalidRequest(
                f"You cannot expand more than {DEPTH_MAX} levels of a property.", param="expand"
            )
        reply = _at(sandbox, reply, parts, path)
    return reply


def _at(sandbox: Sandbox, node: Any, parts: list[str], path: str) -> Any:
    if not parts or node is None:
        return node
    name, rest = parts[0], parts[1:]
    if name == "data" and isinstance(node.get("data"), list):
        return {**node, "data": [_at(sandbox, item, rest, path) for item in node["data"]]}
    if name == "line_items" and node.get("object") == "checkout.session":
        items = sandbox.store.get("line_items", node["id"])["items"]
        listed = _list(items, f"/v1/checkout/sessions/{node['id']}/line_items")
        return {**node, "line_items": listed}
    if name == "refunds" and node.get("object") == "charge":
        refunds = [item for item in sandbox.store.newest("refund") if item["charge"] == node["id"]]
        return {**node, "refunds": _list(refunds, f"/v1/charges/{node['id']}/refunds")}
    value = node.get(name) if isinstance(node, dict) else None
    if isinstance(value, dict):
        return {**node, name: _at(sandbox, value, rest, path)}
    kind = _kind(name, value)
    if kind is None or name not in node:
        raise InvalidRequest(f"This property cannot be expanded ({path}).", param="expand")
    found = sandbox.store.find(kind, value) if value else None
    return {**node, name: _at(sandbox, found, rest, path) if found else value}


def _kind(name: str, value: Any) -> str | None:
    if name == "source" and isinstance(value, str):
        return _SOURCES.get(value.split("_")[0])
    return _KINDS.get(name)


def _list(items: list[Object], url: str) -> Object:
    return {"object": "list", "data": items, "has_more": False, "url": url}
