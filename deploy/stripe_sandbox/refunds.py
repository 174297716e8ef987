"""Refunds: whole or partial, each with its own id and its own balance transaction.

pending ─▶ succeeded ─▶ failed: most succeed at once; two test cards take their time.
"""

from typing import Any

from . import balance, charges, events, later, listing, payment_methods
from .errors import InvalidRequest
from .metadata import set_metadata
from .sandbox import Call, Sandbox
from .store import Object, new_id

_ON_ITS_WAY_S = 120


def create(sandbox: Sandbox, call: Call) -> Object:
    """POST /v1/refunds."""
    charge = charges.paid_one(sandbox, call.params)
    return make(sandbox, charge, call.params, call)


def make(
    sandbox: Sandbox, charge: Object, params: dict[str, Any], call: Call | None = None
) -> Object:
    """Refund the charge, or `amount` cents of it, if that much is left."""
    amount = _amount(sandbox, charge, params.get("amount"))
    charges.reach_balance(sandbox, charge["id"])
    refund = _new(sandbox, charge, amount, params)
    charge["amount_refunded"] += amount
    charge["refunded"] = charge["amount_refunded"] == charge["amount"]
    sandbox.store.put("charge", charge)
    _follow_card(sandbox, charge, refund)
    sandbox.store.put("refund", refund)
    events.record(sandbox, "refund.created", refund, call)
    events.record(sandbox, "charge.refunded", charge, call)
    return refund


def _amount(sandbox: Sandbox, charge: Object, asked: int | None) -> int:
    left: int = charge["amount"] - charge["amount_refunded"]
    if any(
        dispute["charge"] == charge["id"] and not dispute["is_charge_refundable"]
        for dispute in sandbox.store.newest("dispute")
    ):
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
        later.plan(sandbox, "refund settles", refund["id"])
    elif behaves == "fails":
        later.plan(sandbox, "refund fails", refund["id"])


@later.act("refund settles")
def _settle_by_itself(sandbox: Sandbox, refund_id: str) -> None:
    refund = sandbox.store.get("refund", refund_id)
    if refund["status"] == "pending":
        settle(sandbox, refund)


@later.act("refund fails")
def _fail_by_itself(sandbox: Sandbox, refund_id: str) -> None:
    refund = sandbox.store.get("refund", refund_id)
    if refund["status"] == "succeeded":
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
    refund.pop("pending_reason", None)
    events.record(sandbox, "refund.failed", refund)
    _tell_change(sandbox, refund)
    return refund


def on_its_way(sandbox: Sandbox, charge_id: str) -> list[Object]:
    """Refunds of a charge that fail when it is charged back; older ones have reached the card."""
    return [
        refund
        for refund in sandbox.store.newest("refund")
        if refund["charge"] == charge_id
        and refund["status"] in ("pending", "succeeded")
        and refund["created"] > sandbox.now() - _ON_ITS_WAY_S
    ]


def settle(sandbox: Sandbox, refund: Object) -> Object:
    """A pending refund reaches the card."""
    if refund["status"] != "pending":
        raise InvalidRequest(f"Refund {refund['id']} is not pending: {refund['status']}.")
    refund["status"] = "succeeded"
    refund.pop("pending_reason", None)
    sandbox.store.put("refund", refund)
    _tell_change(sandbox, refund)
    return refund


def _tell_change(sandbox: Sandbox, refund: Object, call: Call | None = None) -> None:
    """Both events that Stripe sends: the second is the older name of the first."""
    events.record(sandbox, "refund.updated", refund, call)
    events.record(sandbox, "charge.refund.updated", refund, call)


def update(sandbox: Sandbox, call: Call) -> Object:
    """POST /v1/refunds/{id}: metadata."""
    refund = sandbox.store.get("refund", call["id"])
    set_metadata(refund, call.params)
    sandbox.store.put("refund", refund)
    _tell_change(sandbox, refund, call)
    return refund


def retrieve(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/refunds/{id}."""
    return sandbox.store.get("refund", call["id"])


def list_all(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/refunds: by charge, payment intent, time."""
    return listing.page(sandbox.store.newest("refund"), call, equal=("charge", "payment_intent"))
