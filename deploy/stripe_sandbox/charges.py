"""Charges: one attempt to take money from a card."""

from typing import Any

from . import balance, events, later, listing, payment_methods
from .cards import Decline
from .errors import InvalidRequest
from .metadata import set_metadata
from .sandbox import Call, Sandbox
from .store import Object, new_id


def _new(sandbox: Sandbox, intent: Object, method: Object, flow: str | None) -> Object:
    charge_id = new_id("ch")
    return {
        "id": charge_id,
        "object": "charge",
        "amount": intent["amount"],
        "amount_captured": 0,
        "amount_refunded": 0,
        "application": None,
        "application_fee": None,
        "application_fee_amount": None,
        "balance_transaction": None,
        "billing_details": method["billing_details"],
        "calculated_statement_descriptor": "SANDBOX",
        "captured": False,
        "created": sandbox.now(),
        "currency": intent["currency"],
        "customer": intent["customer"],
        "description": intent["description"],
        "disputed": False,
        "failure_balance_transaction": None,
        "failure_code": None,
        "failure_message": None,
        "fraud_details": {},
        "livemode": False,
        "metadata": dict(intent["metadata"]),
        "on_behalf_of": None,
        "outcome": None,
        "paid": False,
        "payment_intent": intent["id"],
        "payment_method": method["id"],
        "payment_method_details": _details(intent, method, flow),
        "radar_options": {},
        "receipt_email": intent["receipt_email"],
        "receipt_number": None,
        "receipt_url": None,
        "refunded": False,
        "review": None,
        "shipping": None,
        "source": None,
        "source_transfer": None,
        "statement_descriptor": None,
        "statement_descriptor_suffix": None,
        "status": "failed",
        "transfer_data": None,
        "transfer_group": None,
    }


def _details(intent: Object, method: Object, flow: str | None) -> Object:
    card = method["card"]
    three_d_secure = {
        "authentication_flow": flow,
        "electronic_commerce_indicator": "05",
        "exemption_indicator": None,
        "result": "authenticated",
        "result_reason": None,
        "transaction_id": new_id("3ds"),
        "version": "2.2.0",
    }
    options = (intent["payment_method_options"] or {}).get("card") or {}
    copied = ("brand", "checks", "country", "exp_month", "exp_year", "fingerprint", "funding")
    return {
        "card": {
            **{name: card[name] for name in copied},
            "amount_authorized": intent["amount"],
            "authorization_code": "123456",
            "extended_authorization": {"status": "disabled"},
            "incremental_authorization": {"status": "unavailable"},
            "installments": None,
            "last4": card["last4"],
            "mandate": None,
            "multicapture": {"status": "unavailable"},
            "network": card["brand"],
            "network_token": {"used": False},
            "network_transaction_id": new_id("ntx", 15)[4:],
            "overcapture": {"maximum_amount_capturable": intent["amount"],
                            "status": "unavailable"},
            "regulated_status": "unregulated",
            "stored_credential_usage": options.get("stored_credential_usage"),
            "three_d_secure": three_d_secure if flow else None,
            "wallet": None,
        },
        "type": "card",
    }  # fmt: skip


def _outcome(why: Decline | None, risk: str = "normal") -> Object:
    if why is None:
        return {
            "advice_code": None,
            "network_advice_code": None,
            "network_decline_code": None,
            "network_status": "approved_by_network",
            "reason": None,
            "risk_level": risk,
            "risk_score": 12 if risk == "normal" else 66,
            "seller_message": "Payment complete.",
            "type": "authorized",
        }
    blocked = why.decline_code == "fraudulent"
    return {
        "advice_code": why.advice_code,
        "network_advice_code": None,
        "network_decline_code": why.network_decline_code,
        "network_status": "not_sent_to_network" if blocked else "declined_by_network",
        "reason": "highest_risk_level" if blocked else why.decline_code,
        "risk_level": "highest" if blocked else "normal",
        "risk_score": 92 if blocked else 12,
        "seller_message": f"The bank returned the decline code `{why.decline_code}`.",
        "type": "blocked" if blocked else "issuer_declined",
    }


def succeed(
    sandbox: Sandbox, intent: Object, method: Object, call: Call | None, flow: str | None
) -> Object:
    """Take the money: a paid charge with its receipt. `flow`: how 3-D Secure went, if it did.

    With `automatic_async`, which is the default, its balance transaction comes later, with
    `charge.updated` (docs.stripe.com/payments/payment-intents/asynchronous-capture).
    """
    charge = _new(sandbox, intent, method, flow)
    charge |= {
        "amount_captured": intent["amount"],
        "captured": True,
        "outcome": _outcome(None, payment_methods.behaviour(sandbox, method).risk),
        "paid": True,
        "receipt_url": f"{sandbox.base_url}/receipts/{charge['id']}",
        "status": "succeeded",
    }
    sandbox.store.put("charge", charge)
    if intent["capture_method"] == "automatic_async":
        later.plan(sandbox, "capture", charge["id"])
    else:
        _move(sandbox, charge)
    events.record(sandbox, "charge.succeeded", charge, call)
    return charge


@later.act("capture")
def reach_balance(sandbox: Sandbox, charge_id: str) -> None:
    """The money that was taken is in the balance; at the latest when some of it goes back."""
    charge = sandbox.store.get("charge", charge_id)
    if charge["balance_transaction"] is None:
        _move(sandbox, charge)
        events.record(sandbox, "charge.updated", charge)


def _move(sandbox: Sandbox, charge: Object) -> None:
    method = sandbox.store.get("payment_method", charge["payment_method"])
    movement = balance.move(
        sandbox,
        kind="charge",
        category="charge",
        amount=charge["amount"],
        currency=charge["currency"],
        source=charge["id"],
        description=charge["description"],
        fee=balance.fee_of(charge["amount"]),
        is_available=payment_methods.behaviour(sandbox, method).bypasses_pending,
    )
    charge["balance_transaction"] = movement["id"]
    sandbox.store.put("charge", charge)


def fail(
    sandbox: Sandbox, intent: Object, method: Object, call: Call | None, why: Decline
) -> Object:
    """Keep the attempt that was declined."""
    charge = _new(sandbox, intent, method, None)
    charge |= {
        "failure_code": why.code,
        "failure_message": why.message,
        "outcome": _outcome(why),
    }
    sandbox.store.put("charge", charge)
    events.record(sandbox, "charge.failed", charge, call)
    return charge


def retrieve(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/charges/{id}."""
    return sandbox.store.get("charge", call["id"])


def update(sandbox: Sandbox, call: Call) -> Object:
    """POST /v1/charges/{id}: description and metadata."""
    charge = sandbox.store.get("charge", call["id"])
    if "description" in call.params:
        charge["description"] = call.params["description"] or None
    set_metadata(charge, call.params)
    sandbox.store.put("charge", charge)
    events.record(sandbox, "charge.updated", charge, call)
    return charge


def list_all(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/charges: by customer, payment intent, time."""
    return listing.page(sandbox.store.newest("charge"), call, equal=("customer", "payment_intent"))


def paid_one(sandbox: Sandbox, params: dict[str, Any]) -> Object:
    """The paid charge that a refund or a dispute names, directly or by its payment intent."""
    if bool(params.get("charge")) == bool(params.get("payment_intent")):
        raise InvalidRequest(
            "One of the following params should be provided for this request: payment_intent or"
            " charge.",
            param="charge",
        )
    if params.get("charge"):
        charge = sandbox.store.get("charge", params["charge"], "charge")
    else:
        intent = sandbox.store.get("payment_intent", params["payment_intent"], "payment_intent")
        charge = sandbox.store.find("charge", intent["latest_charge"]) or {"paid": False}
    if not charge["paid"]:
        raise InvalidRequest(
            "This PaymentIntent does not have a successful charge to refund.",
            param="charge" if params.get("charge") else "payment_intent",
        )
    return charge


def owner_sets_up(sandbox: Sandbox, intent: Object, method: Object, call: Call | None) -> None:
    """After a payment: save the card where asked, and know that its owner was there."""
    options = (intent["payment_method_options"] or {}).get("card") or {}
    usage = intent["setup_future_usage"] or options.get("setup_future_usage")
    if usage in ("on_session", "off_session"):
        if intent["customer"]:
            payment_methods.bind(sandbox, method, intent["customer"], call)
        if usage == "off_session":
            payment_methods.set_up(sandbox, method)
    elif method["customer"] is None:
        payment_methods.spend(sandbox, method)
