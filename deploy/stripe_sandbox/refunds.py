"""Refunds: whole or partial, each with its own id and its own balance transaction."""

from typing import Any

from . import balance, charges, events, listing, payment_methods
from .errors import InvalidRequest
from .metadata import set_metadata
from .sandbox import Call, Sandbox
from .store import Object, new_id


def create(sandbox: Sandbox, call: Call) -> Object:
    """POST /v1/refunds."""
    charge = charges.paid_one(sandbox, call.params)
    return make(sandbox, charge, call.params, call)


def make(
    sandbox: Sandbox, charge: Object, params: dict[str, Any], call: Call | None = None
) -> Object:
    """Refund the charge, or `amount` cents of it, if that much is left."""
    amount = _amount(charge, params.get("amount"))
    refund = _new(sandbox, charge, amount, params)
    charge["amount_refunded"] += amount
    charge["refunded"] = charge["amount_refunded"] == charge["amount"]
    sandbox.store.put("charge", charge)
    sandbox.store.put("refund", refund)
    events.record(sandbox, "refund.created", refund, call)
    events.record(sandbox, "charge.refunded", charge, call)
    _follow_card(sandbox, charge, refund)
    return refund


def _amount(charge: Object, asked: int | None) -> int:
    left: int = charge["amount"] - charge["amount_refunded"]
    if charge["disputed"]:
        raise InvalidRequest(
            f"Charge {charge['id']} has been charged back; cannot issue a refund.",
            code="charge_disputed",
        )
    if left == 0:
        raise InvalidRequest(
            f"Charge {charge['id']} has already been refunded.", code="charge_already_refunded"
        )
    amount = left if asked is None else asked
    if amount < 1:
        raise InvalidRequest(
            "This value must be greater than or equal to 1.",
            code="parameter_invalid_integer",
            param="amount",
        )
    if amount > left:
        raise InvalidRequest(
            f"Refund amount (${amount / 100:,.2f}) is greater than unrefunded amount on charge"
            f" (${left / 100:,.2f})",
            param="amount",
        )
    return amount


def _new(sandbox: Sandbox, charge: Object, amount: int, params: dict[str, Any]) -> Object:
    refund_id = new_id("re")
    movement = balance.move(
        sandbox,
        kind="refund",
        category="refund",
        amount=-amount,
        currency=charge["currency"],
        source=refund_id,
        description=f"REFUND FOR CHARGE ({charge['description'] or charge['id']})",
    )
    refund: Object = {
        "id": refund_id,
        "object": "refund",
        "amount": amount,
        "balance_transaction": movement["id"],
        "charge": charge["id"],
        "created": sandbox.now(),
        "currency": charge["currency"],
        "customer": charge["customer"],
        "destination_details": {
            "card": {"reference_status": "pending", "reference_type":
                     "acquirer_reference_number", "type": "refund"},
            "type": "card",
        },
        "metadata": {},
        "payment_intent": charge["payment_intent"],
        "payment_method": charge["payment_method"],
        "reason": params.get("reason"),
        "receipt_number": None,
        "source_transfer_reversal": None,
        "status": "succeeded",
        "transfer_reversal": None,
    }  # fmt: skip
    set_metadata(refund, params)
    return refund


def _follow_card(sandbox: Sandbox, charge: Object, refund: Object) -> None:
    method = sandbox.store.get("payment_method", charge["payment_method"])
    behaves = payment_methods.behaviour(sandbox, method).refund
    if behaves == "pending":
        refund |= {"status": "pending", "pending_reason": "processing"}
        sandbox.store.put("refund", refund)
    elif behaves == "fails":
        fail(sandbox, refund)


def fail(sandbox: Sandbox, refund: Object, reason: str = "expired_or_canceled_card") -> Object:
    """The bank sends the refund back: the money returns to the balance."""
    if refund["status"] not in ("pending", "succeeded"):
        raise InvalidRequest(f"Refund {refund['id']} is already {refund['status']}.")
    charge = sandbox.store.get("charge", refund["charge"])
    movement = balance.move(
        sandbox,
        kind="refund_failure",
        category="refund_failure",
        amount=refund["amount"],
        currency=refund["currency"],
        source=refund["id"],
        description="REFUND FAILURE",
    )
    refund |= {
        "failure_balance_transaction": movement["id"],
        "failure_reason": reason,
        "status": "failed",
    }
    charge["amount_refunded"] -= refund["amount"]
    charge["refunded"] = False
    sandbox.store.put("charge", charge)
    sandbox.store.put("refund", refund)
    events.record(sandbox, "refund.failed", refund)
    events.record(sandbox, "refund.updated", refund)
    return refund


def settle(sandbox: Sandbox, refund: Object) -> Object:
    """A pending refund reaches the card."""
    refund["status"] = "succeeded"
    sandbox.store.put("refund", refund)
    events.record(sandbox, "refund.updated", refund)
    return refund


def update(sandbox: Sandbox, call: Call) -> Object:
    """POST /v1/refunds/{id}: metadata."""
    refund = sandbox.store.get("refund", call["id"])
    set_metadata(refund, call.params)
    sandbox.store.put("refund", refund)
    events.record(sandbox, "refund.updated", refund, call)
    return refund


def retrieve(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/refunds/{id}."""
    return sandbox.store.get("refund", call["id"])


def list_all(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/refunds: by charge, payment intent, time."""
    return listing.page(sandbox.store.newest("refund"), call, equal=("charge", "payment_intent"))
