"""Disputes: the card's owner asks the bank for the money back.

needs_response ─▶ under_review ─▶ won (funds reinstated)
            └──────────┴────────▶ lost
warning_needs_response (an inquiry: no money moves) ─▶ warning_closed
"""

from . import balance, events, listing
from .errors import InvalidRequest
from .metadata import set_metadata
from .sandbox import Call, Sandbox
from .store import Object, new_id

_ANSWER_DAYS = 9
_NETWORK_CODES = {"fraudulent": "10.4", "product_not_received": "13.1"}
_EVIDENCE = (
    "access_activity_log", "billing_address", "cancellation_policy",
    "cancellation_policy_disclosure", "cancellation_rebuttal", "customer_communication",
    "customer_email_address", "customer_name", "customer_purchase_ip", "customer_signature",
    "duplicate_charge_documentation", "duplicate_charge_explanation", "duplicate_charge_id",
    "product_description", "receipt", "refund_policy", "refund_policy_disclosure",
    "refund_refusal_explanation", "service_date", "service_documentation", "shipping_address",
    "shipping_carrier", "shipping_date", "shipping_documentation", "shipping_tracking_number",
    "uncategorized_file", "uncategorized_text",
)  # fmt: skip


def start(
    sandbox: Sandbox,
    charge: Object,
    reason: str = "fraudulent",
    call: Call | None = None,
    amount: int | None = None,
) -> Object:
    """Open a dispute of a paid charge; for `inquiry` no funds are withdrawn yet."""
    if charge["disputed"]:
        raise InvalidRequest(f"Charge {charge['id']} is already disputed.")
    inquiry = reason == "inquiry"
    dispute = _new(sandbox, charge, "general" if inquiry else reason, amount)
    dispute["status"] = "warning_needs_response" if inquiry else "needs_response"
    charge["disputed"] = True
    sandbox.store.put("charge", charge)
    sandbox.store.put("dispute", dispute)
    events.record(sandbox, "charge.dispute.created", dispute, call)
    if not inquiry:
        _move(sandbox, dispute, -dispute["amount"], "dispute", balance.DISPUTE_FEE)
        events.record(sandbox, "charge.dispute.funds_withdrawn", dispute, call)
    return dispute


def _new(sandbox: Sandbox, charge: Object, reason: str, amount: int | None) -> Object:
    brand = charge["payment_method_details"]["card"]["brand"]
    code = _NETWORK_CODES.get(reason, "13.7")
    return {
        "id": new_id("du"),
        "object": "dispute",
        "amount": charge["amount"] if amount is None else amount,
        "balance_transactions": [],
        "charge": charge["id"],
        "created": sandbox.now(),
        "currency": charge["currency"],
        "enhanced_eligibility_types": [],
        "evidence": {**dict.fromkeys(_EVIDENCE), "enhanced_evidence": {}},
        "evidence_details": {
            "due_by": sandbox.now() + _ANSWER_DAYS * 86_400,
            "enhanced_eligibility": {},
            "has_evidence": False,
            "past_due": False,
            "submission_count": 0,
            "submission_method": "not_submitted",
        },
        "is_charge_refundable": False,
        "livemode": False,
        "metadata": {},
        "network_reason_code": code,
        "payment_intent": charge["payment_intent"],
        "payment_method_details": {
            "card": {"brand": brand, "case_type": "chargeback", "network": brand,
                     "network_reason_code": code},
            "type": "card",
        },
        "reason": reason,
        "status": "needs_response",
    }  # fmt: skip


def _move(sandbox: Sandbox, dispute: Object, amount: int, category: str, fee: int = 0) -> None:
    movement = balance.move(
        sandbox,
        kind="adjustment",
        category=category,
        amount=amount,
        currency=dispute["currency"],
        source=dispute["id"],
        description=f"Chargeback {category.replace('_', ' ')} for {dispute['charge']}",
        fee=fee,
    )
    dispute["balance_transactions"].append(movement)
    sandbox.store.put("dispute", dispute)


def close(sandbox: Sandbox, dispute: Object, outcome: str, call: Call | None = None) -> Object:
    """The bank decides: `won` gives the funds back, `lost` keeps them."""
    if dispute["status"] in ("won", "lost", "warning_closed"):
        raise InvalidRequest(f"Dispute {dispute['id']} is already closed: {dispute['status']}.")
    if dispute["status"].startswith("warning"):
        outcome = "warning_closed"
    dispute["status"] = outcome
    sandbox.store.put("dispute", dispute)
    events.record(sandbox, "charge.dispute.closed", dispute, call)
    if outcome == "won":
        _move(sandbox, dispute, dispute["amount"], "dispute_reversal")
        events.record(sandbox, "charge.dispute.funds_reinstated", dispute, call)
    return dispute


def close_by_api(sandbox: Sandbox, call: Call) -> Object:
    """POST /v1/disputes/{id}/close: we give up, the dispute is lost."""
    return close(sandbox, sandbox.store.get("dispute", call["id"]), "lost", call)


def update(sandbox: Sandbox, call: Call) -> Object:
    """POST /v1/disputes/{id}: evidence and metadata.

    As with Stripe's test mode, the words `winning_evidence` and `losing_evidence` in
    `uncategorized_text` decide it.
    """
    dispute = sandbox.store.get("dispute", call["id"])
    evidence = call.params.get("evidence") or {}
    dispute["evidence"].update(evidence)
    set_metadata(dispute, call.params)
    if evidence and call.params.get("submit", True):
        dispute["status"] = dispute["status"].replace("needs_response", "under_review")
        dispute["evidence_details"] |= {
            "has_evidence": True,
            "submission_count": dispute["evidence_details"]["submission_count"] + 1,
            "submission_method": "manual",
        }
    sandbox.store.put("dispute", dispute)
    events.record(sandbox, "charge.dispute.updated", dispute, call)
    verdict = {"winning_evidence": "won", "losing_evidence": "lost"}
    outcome = verdict.get(evidence.get("uncategorized_text") or "")
    return close(sandbox, dispute, outcome, call) if outcome else dispute


def retrieve(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/disputes/{id}."""
    return sandbox.store.get("dispute", call["id"])


def list_all(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/disputes: by charge, payment intent, time."""
    return listing.page(sandbox.store.newest("dispute"), call, equal=("charge", "payment_intent"))
