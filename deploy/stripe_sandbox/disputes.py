"""Disputes: the card's owner asks the bank for the money back.

needs_response ─▶ under_review ─▶ won (funds reinstated, refunds are possible again)
            └──────────┴────────▶ lost
warning_needs_response ─▶ warning_under_review ─▶ warning_closed
                    └──────────────┴────────────▶ needs_response

An inquiry (`warning_…`) moves no money until it becomes a chargeback; it keeps its id. A charge
may have several disputes. Sources: docs.stripe.com/disputes/how-disputes-work,
docs.stripe.com/testing (evidence), and what test mode was seen to answer (API 2026-08-26).
"""

from . import balance, charges, events, later, listing, refunds
from .cards import TestCard
from .errors import InvalidRequest
from .metadata import set_metadata
from .sandbox import Call, Sandbox
from .store import Object, new_id

_ANSWER_DAYS = 9
_CLOSED = ("won", "lost", "warning_closed")
_RETURNED = ("won", "warning_closed")
_NETWORK_CODES = {"fraudulent": "10.4", "product_not_received": "13.1"}
_INQUIRY_CODE = "10"
_COMPLIANCE = "noncompliant"
_DECISIONS = {
    "winning_evidence": "dispute won",
    "losing_evidence": "dispute lost",
    "escalate_inquiry_evidence": "inquiry escalated",
}
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
    takes_evidence: bool = True,
) -> Object:
    """Open a dispute of a paid charge, over what is not disputed yet or `amount` cents of it.

    For `inquiry` no funds are withdrawn yet. Where the bank takes no evidence, it is due by 0.
    """
    left = charge["amount"] - sum(
        dispute["amount"]
        for dispute in sandbox.store.newest("dispute")
        if dispute["charge"] == charge["id"] and dispute["status"] not in _RETURNED
    )
    disputed = left if amount is None else amount
    if not 0 < disputed <= left:
        raise InvalidRequest(f"Charge {charge['id']} has {left} cents that are not disputed.")
    charges.reach_balance(sandbox, charge["id"])
    inquiry = reason == "inquiry"
    dispute = _new(sandbox, charge, "general" if inquiry else reason, disputed)
    if not takes_evidence:
        dispute["evidence_details"]["due_by"] = 0
    charge["disputed"] = True
    sandbox.store.put("charge", charge)
    if inquiry:
        dispute |= {"status": "warning_needs_response", "is_charge_refundable": True}
        _set_case(dispute, "inquiry", _INQUIRY_CODE)
    elif reason == _COMPLIANCE:
        _set_case(dispute, "compliance", dispute["network_reason_code"])
    sandbox.store.put("dispute", dispute)
    events.record(sandbox, "charge.dispute.created", dispute, call)
    if not inquiry:
        _withdraw(sandbox, dispute, call)
    return dispute


def follow_card(sandbox: Sandbox, charge: Object, card: TestCard, call: Call | None) -> None:
    """The disputes and the fraud warning that a charge of this test card brings."""
    for count, reason in enumerate(card.disputes, start=1):
        is_last = count == len(card.disputes)
        share = None if is_last else charge["amount"] // len(card.disputes)
        start(sandbox, charge, reason, call, share)
    if card.fraud_warning:
        warning = {
            "id": new_id("issfr"),
            "object": "radar.early_fraud_warning",
            "actionable": not card.disputes,
            "charge": charge["id"],
            "created": sandbox.now(),
            "fraud_type": "made_with_stolen_card",
            "livemode": False,
            "payment_intent": charge["payment_intent"],
        }
        events.record(sandbox, "radar.early_fraud_warning.created", warning, call)


def _new(sandbox: Sandbox, charge: Object, reason: str, amount: int) -> Object:
    brand = charge["payment_method_details"]["card"]["brand"]
    code = _NETWORK_CODES.get(reason, "13.7")
    return {
        "id": new_id("du"),
        "object": "dispute",
        "amount": amount,
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


def _set_case(dispute: Object, case_type: str, code: str) -> None:
    dispute["network_reason_code"] = code
    dispute["payment_method_details"]["card"] |= {
        "case_type": case_type, "network_reason_code": code
    }  # fmt: skip


def _withdraw(sandbox: Sandbox, dispute: Object, call: Call | None) -> None:
    _move(sandbox, dispute, -dispute["amount"], "dispute", balance.DISPUTE_FEE)
    events.record(sandbox, "charge.dispute.funds_withdrawn", dispute, call)


def escalate(sandbox: Sandbox, dispute: Object) -> Object:
    """An inquiry becomes a chargeback: the funds are withdrawn, refunds on their way fail."""
    _check_open(dispute)
    if not dispute["status"].startswith("warning"):
        raise InvalidRequest(f"Dispute {dispute['id']} is no inquiry: {dispute['status']}.")
    dispute |= {"status": "needs_response", "is_charge_refundable": False}
    if dispute["evidence_details"]["due_by"]:
        dispute["evidence_details"]["due_by"] = sandbox.now() + _ANSWER_DAYS * 86_400
    _set_case(dispute, "chargeback", _NETWORK_CODES["fraudulent"])
    sandbox.store.put("dispute", dispute)
    events.record(sandbox, "charge.dispute.updated", dispute)
    _withdraw(sandbox, dispute, None)
    for refund in refunds.on_its_way(sandbox, dispute["charge"]):
        refunds.fail(sandbox, refund, "charge_for_pending_refund_disputed")
    return dispute


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
    _check_open(dispute)
    if dispute["status"].startswith("warning"):
        outcome = "warning_closed"
    dispute |= {"status": outcome, "is_charge_refundable": outcome in _RETURNED}
    sandbox.store.put("dispute", dispute)
    if outcome == "won":
        _move(sandbox, dispute, dispute["amount"], "dispute_reversal")
        events.record(sandbox, "charge.dispute.funds_reinstated", dispute, call)
    events.record(sandbox, "charge.dispute.closed", dispute, call)
    return dispute


def _check_open(dispute: Object) -> None:
    if dispute["status"] in _CLOSED:
        raise InvalidRequest("This dispute is already closed")


def _check_takes_evidence(dispute: Object) -> None:
    """Evidence is taken once; an inquiry that became a chargeback takes it again, for that."""
    if not dispute["evidence_details"]["due_by"]:
        raise InvalidRequest("The bank takes no evidence for this dispute.")
    if not dispute["status"].endswith("needs_response"):
        raise InvalidRequest("Evidence for this dispute was submitted, and is final.")


@later.act("dispute won")
def _win(sandbox: Sandbox, dispute_id: str) -> None:
    _decide(sandbox, dispute_id, "won")


@later.act("dispute lost")
def _lose(sandbox: Sandbox, dispute_id: str) -> None:
    _decide(sandbox, dispute_id, "lost")


def _decide(sandbox: Sandbox, dispute_id: str, outcome: str) -> None:
    dispute = sandbox.store.get("dispute", dispute_id)
    if dispute["status"] not in _CLOSED:
        close(sandbox, dispute, outcome)


@later.act("inquiry escalated")
def _escalate_by_itself(sandbox: Sandbox, dispute_id: str) -> None:
    dispute = sandbox.store.get("dispute", dispute_id)
    if dispute["status"].startswith("warning") and dispute["status"] not in _CLOSED:
        escalate(sandbox, dispute)


def close_by_api(sandbox: Sandbox, call: Call) -> Object:
    """POST /v1/disputes/{id}/close: we give up, the dispute is lost."""
    return close(sandbox, sandbox.store.get("dispute", call["id"]), "lost", call)


def update(sandbox: Sandbox, call: Call) -> Object:
    """POST /v1/disputes/{id}: evidence and metadata.

    As with Stripe's test mode, the words of `_DECISIONS` in `uncategorized_text` decide it, some
    time later. What is not submitted is a draft, which `has_evidence` counts; `past_due` is about
    what was submitted last, and not about the time that has passed.
    """
    dispute = sandbox.store.get("dispute", call["id"])
    _check_open(dispute)
    evidence = call.params.get("evidence") or {}
    is_submitted = call.params.get("submit", bool(evidence))
    if evidence or is_submitted:
        _check_takes_evidence(dispute)
    dispute["evidence"].update(evidence)
    set_metadata(dispute, call.params)
    details = dispute["evidence_details"]
    details["has_evidence"] = any(dispute["evidence"].values())
    is_submitted = is_submitted and details["has_evidence"]
    if is_submitted:
        dispute["status"] = dispute["status"].replace("needs_response", "under_review")
        details |= {
            "past_due": sandbox.now() > details["due_by"],
            "submission_count": details["submission_count"] + 1,
            "submission_method": "manual",
        }
    sandbox.store.put("dispute", dispute)
    events.record(sandbox, "charge.dispute.updated", dispute, call)
    decision = _DECISIONS.get(dispute["evidence"]["uncategorized_text"] or "")
    if decision and is_submitted:
        later.plan(sandbox, decision, dispute["id"])
    return dispute


def retrieve(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/disputes/{id}."""
    return sandbox.store.get("dispute", call["id"])


def list_all(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/disputes: by charge, payment intent, time."""
    return listing.page(sandbox.store.newest("dispute"), call, equal=("charge", "payment_intent"))
