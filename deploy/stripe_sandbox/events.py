"""Events: what happened, as a snapshot, and to whom it is to be delivered."""

import copy
from typing import Any

from . import listing
from .sandbox import Call, Sandbox
from .store import Object, new_id

API_VERSION = "2026-10-28.endive"


def record(sandbox: Sandbox, kind: str, subject: Object, call: Call | None = None) -> Object:
    """Keep an event of this type about a snapshot of the object, and queue its delivery."""
    item: Object = {
        "id": new_id("evt"),
        "object": "event",
        "api_version": API_VERSION,
        "created": sandbox.now(),
        "data": {"object": copy.deepcopy(subject)},
        "livemode": False,
        "pending_webhooks": 0,
        "request": {
            "id": call.request_id if call else None,
            "idempotency_key": call.idempotency_key if call else None,
        },
        "type": kind,
    }
    if sandbox.settings.webhook_url:
        item["pending_webhooks"] = 1
        delivery = sandbox.store.put("delivery", new_delivery(item, sandbox))
        sandbox.deliveries.put(delivery["due_at"], item["id"])
        sandbox.wake.set()
    return sandbox.store.put("event", item)


def new_delivery(event: Object, sandbox: Sandbox) -> Object:
    """The record of an event's way to the webhook address."""
    return {
        "id": event["id"],
        "state": "new",
        "attempts": 0,
        "due_at": 0.0,
        "copies": 1,
        "sent": 0,
        "last_status": None,
        "after": None,
        "url": sandbox.settings.webhook_url,
    }


def retrieve(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/events/{id}."""
    return sandbox.store.get("event", call["id"])


def list_all(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/events: by type or types, by delivery, by time."""
    params = call.params
    items = sandbox.store.newest("event")
    wanted = params.get("types") or ([params["type"]] if params.get("type") else [])
    if wanted:
        items = [item for item in items if _is_wanted(item["type"], wanted)]
    if "delivery_success" in params:
        items = [item for item in items if _delivered(sandbox, item) is params["delivery_success"]]
    return listing.page(items, call)


def _is_wanted(kind: str, wanted: list[str]) -> bool:
    return any(
        kind == pattern or (pattern.endswith("*") and kind.startswith(pattern[:-1]))
        for pattern in wanted
    )


def _delivered(sandbox: Sandbox, event: Object) -> bool:
    delivery = sandbox.store.find("delivery", event["id"])
    return delivery is None or delivery["state"] == "delivered"


def about(sandbox: Sandbox, subject: Object) -> dict[str, Any]:
    """Whom and what an object concerns: its customer, and metadata found on the way to it.

    A refund or a dispute names no customer of its own, its charge does; so switches that are
    set for one customer or one top-up reach everything that follows from it.
    """
    facts: dict[str, Any] = {"customer": None, "metadata": {}}
    seen: set[str] = set()
    queue: list[Object | None] = [subject]
    while queue:
        item = queue.pop(0)
        if item is None or item.get("id") in seen:
            continue
        seen.add(item.get("id", ""))
        if item.get("object") == "customer":
            facts["customer"] = facts["customer"] or item["id"]
        elif isinstance(item.get("customer"), str):
            facts["customer"] = facts["customer"] or item["customer"]
        facts["metadata"] = {**(item.get("metadata") or {}), **facts["metadata"]}
        queue.extend(
            sandbox.store.find(kind, item[kind])
            for kind in ("charge", "payment_intent", "setup_intent")
            if isinstance(item.get(kind), str)
        )
    return facts
