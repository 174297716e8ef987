"""The switches over HTTP, under `/_sandbox/`, for tests: loopback only, JSON only.

A browser page of another origin cannot reach them: it could not send JSON without asking first.
"""

import ipaddress
from typing import Any

from flask import Blueprint, Response, current_app, jsonify, request

from . import (
    cards,
    charges,
    checkout,
    disputes,
    events,
    hosted,
    idempotency,
    later,
    refunds,
    webhooks,
)
from .errors import ApiError, InvalidRequest
from .sandbox import Sandbox
from .store import Object
from .switches import REQUEST_KINDS, WEBHOOK_KINDS

pages = Blueprint("control", __name__)


def _sandbox() -> Sandbox:
    sandbox: Sandbox = current_app.extensions["sandbox"]
    return sandbox


@pages.before_request
def only_from_here() -> None:
    """Refuse other machines and other sites."""
    if not request.path.startswith("/_sandbox"):
        return
    if not request.remote_addr or not ipaddress.ip_address(request.remote_addr).is_loopback:
        raise InvalidRequest("The sandbox's switches answer on this machine only.", status=403)
    if request.method == "POST" and request.get_data() and not request.is_json:
        raise InvalidRequest("Send JSON.", status=415)
    if request.headers.get("Origin") not in (None, request.host_url.rstrip("/")):
        raise InvalidRequest("The switches cannot be used from another site.", status=403)


def _body() -> dict[str, Any]:
    body = request.get_json(silent=True) if request.get_data() else {}
    if not isinstance(body, dict):
        raise InvalidRequest("Send a JSON object.")
    return body


@pages.get("/healthz")
def healthz() -> Response:
    """Alive."""
    return jsonify({"status": "ok"})


@pages.get("/_sandbox/")
def overview() -> Response:
    """Every switch and control there is."""
    rules = sorted(
        f"{'/'.join(sorted((rule.methods or set()) - {'HEAD', 'OPTIONS'}))} {rule.rule}"
        for rule in current_app.url_map.iter_rules()
        if rule.rule.startswith("/_sandbox/")
    )
    return jsonify({"endpoints": rules, "switches": REQUEST_KINDS | WEBHOOK_KINDS})


@pages.post("/_sandbox/switches")
def add_switch() -> tuple[Response, int]:
    """Set a switch: {"kind", "match", "times", "seconds", "copies", "count", "keep"}."""
    switch = _sandbox().switches.add(_body())
    return jsonify({"id": switch.id, "kind": switch.kind}), 201


@pages.get("/_sandbox/switches")
def list_switches() -> Response:
    """All switches and how often each was used."""
    return jsonify({"switches": _sandbox().switches.listed()})


@pages.delete("/_sandbox/switches")
@pages.delete("/_sandbox/switches/<switch_id>")
def remove_switch(switch_id: str | None = None) -> Response:
    """Remove one switch, or all."""
    return jsonify({"removed": _sandbox().switches.remove(switch_id)})


@pages.get("/_sandbox/webhooks")
def list_deliveries() -> Response:
    """Deliveries, newest first, by state if one is given."""
    sandbox = _sandbox()
    state = request.args.get("state")
    with sandbox.store.lock:
        found = [
            {**item, "type": sandbox.store.get("event", item["id"])["type"]}
            for item in sandbox.store.newest("delivery")
            if state in (None, item["state"])
        ]
    return jsonify({"webhooks": found[:200]})


@pages.post("/_sandbox/webhooks/release")
def release_webhooks() -> Response:
    """Send what is held: {"match": {…}, "order": "oldest_first" | "newest_first"}."""
    sandbox, body = _sandbox(), _body()
    with sandbox.store.transaction():
        held = [
            item["id"]
            for item in sandbox.store.newest("delivery")
            if item["state"] == "held" and _fits(sandbox, item["id"], body.get("match") or {})
        ]
        if body.get("order", "oldest_first") != "newest_first":
            held.reverse()
        return jsonify({"released": webhooks.release(sandbox, held)})


def _fits(sandbox: Sandbox, event_id: str, match: dict[str, Any]) -> bool:
    event = sandbox.store.get("event", event_id)
    facts = {"type": event["type"], **events.about(sandbox, event["data"]["object"])}
    metadata = match.get("metadata") or {}
    return all(
        facts.get(name) == wanted for name, wanted in match.items() if name != "metadata"
    ) and all(facts["metadata"].get(name) == wanted for name, wanted in metadata.items())


@pages.post("/_sandbox/webhooks/<event_id>/resend")
def resend_webhook(event_id: str) -> Response:
    """Send an event again: {"copies": 1}."""
    sandbox = _sandbox()
    with sandbox.store.transaction():
        return jsonify(webhooks.send_again(sandbox, event_id, int(_body().get("copies", 1))))


def _charge(sandbox: Sandbox, object_id: str) -> Object:
    name = "payment_intent" if object_id.startswith("pi_") else "charge"
    return charges.paid_one(sandbox, {name: object_id})


@pages.post("/_sandbox/charges/<charge_id>/refund")
def refund(charge_id: str) -> Response:
    """Refund from the dashboard's side, by charge or payment intent: {"amount": cents}."""
    sandbox = _sandbox()
    with sandbox.store.transaction():
        return jsonify(refunds.make(sandbox, _charge(sandbox, charge_id), _body()))


@pages.post("/_sandbox/charges/<charge_id>/dispute")
def dispute(charge_id: str) -> Response:
    """Open a dispute: {"reason": "fraudulent", "amount": cents}; "inquiry" takes no funds.

    A charge may have several, of not more than the charge together. {"takes_evidence": false}
    is one that the bank hears no evidence of.
    """
    sandbox, body = _sandbox(), _body()
    with sandbox.store.transaction():
        charge = _charge(sandbox, charge_id)
        reason = body.get("reason", "fraudulent")
        return jsonify(
            disputes.start(
                sandbox,
                charge,
                reason,
                amount=body.get("amount"),
                takes_evidence=body.get("takes_evidence", True),
            )
        )


@pages.post("/_sandbox/disputes/<dispute_id>/escalate")
def escalate_dispute(dispute_id: str) -> Response:
    """An inquiry becomes a chargeback."""
    sandbox = _sandbox()
    with sandbox.store.transaction():
        return jsonify(disputes.escalate(sandbox, sandbox.store.get("dispute", dispute_id)))


@pages.post("/_sandbox/disputes/<dispute_id>/close")
def close_dispute(dispute_id: str) -> Response:
    """The bank decides: {"outcome": "won" | "lost"}."""
    sandbox, outcome = _sandbox(), _body().get("outcome")
    if outcome not in ("won", "lost"):
        raise InvalidRequest('outcome must be "won" or "lost".', param="outcome")
    with sandbox.store.transaction():
        found = sandbox.store.get("dispute", dispute_id)
        return jsonify(disputes.close(sandbox, found, outcome))


@pages.post("/_sandbox/refunds/<refund_id>/<any(settle, fail):end>")
def end_refund(refund_id: str, end: str) -> Response:
    """A refund reaches the card, or comes back."""
    sandbox = _sandbox()
    with sandbox.store.transaction():
        found = sandbox.store.get("refund", refund_id)
        done = refunds.settle(sandbox, found) if end == "settle" else refunds.fail(sandbox, found)
        return jsonify(done)


@pages.post("/_sandbox/payment_methods/<method_id>/behave")
def behave(method_id: str) -> Response:
    """A saved card behaves as another from now on: {"as": "pm_card_chargeDeclined"}."""
    sandbox, name = _sandbox(), str(_body().get("as"))
    card = cards.BY_TOKEN.get(name) or cards.BY_NUMBER.get(name)
    if card is None:
        raise InvalidRequest(f"as must be one of: {', '.join(cards.BY_TOKEN)}.", param="as")
    with sandbox.store.transaction():
        known = sandbox.store.get("card", method_id)
        known["number"] = card.number
        return jsonify(sandbox.store.put("card", known))


@pages.post("/_sandbox/checkout/<session_id>/pay")
def pay(session_id: str) -> Response:
    """Fill the hosted page in: {"number": "4242…", "save": false, "authenticate": true}."""
    sandbox, body = _sandbox(), _body()
    with sandbox.store.transaction():
        session = sandbox.store.get("checkout.session", session_id)
        card = {"number": str(body.get("number", "4242424242424242")), "cvc": body.get("cvc"),
                "exp_month": 12, "exp_year": 34}  # fmt: skip
        person = {"name": body.get("name", "Test Person"), "email": body.get("email")}
        error: ApiError | None = None
        try:
            asks = checkout.submit(sandbox, session, card, person, bool(body.get("save")))
            if asks is not None:
                error = hosted.authenticate(sandbox, asks, bool(body.get("authenticate", True)))
        except ApiError as raised:
            error = raised
        return jsonify(
            {
                "status": session["status"],
                "error": error.error if error else None,
                "redirect": checkout.success_address(session),
            }
        )


@pages.post("/_sandbox/clock")
def move_clock() -> Response:
    """Move the sandbox's time: {"offset_s": 86400} from the real one."""
    sandbox = _sandbox()
    with sandbox.store.transaction():
        sandbox.clock_offset_s = int(_body().get("offset_s", 0))
        later.run_due(sandbox)
    return jsonify({"now": sandbox.now()})


@pages.post("/_sandbox/later")
def do_later() -> Response:
    """Do now what would happen by itself: captures, refunds of some cards, decisions."""
    sandbox = _sandbox()
    with sandbox.store.transaction():
        return jsonify({"done": later.run_all(sandbox)})


@pages.post("/_sandbox/idempotency/prune")
def prune_keys() -> Response:
    """Forget one idempotency key or all, as Stripe does after 24 hours: {"key": …}.

    {"in_s": 20}: all that there are now, in so many seconds, when no call can be repeated under
    them any more that has them now.
    """
    sandbox, body = _sandbox(), _body()
    with sandbox.store.transaction():
        if body.get("key"):
            sandbox.store.remove("idempotency", str(body["key"]))
        elif body.get("in_s"):
            idempotency.forget_in(sandbox, int(body["in_s"]))
        else:
            sandbox.store.clear("idempotency")
    return jsonify({"left": sandbox.store.count("idempotency")})


@pages.get("/_sandbox/totals")
def totals() -> Response:
    """Cents paid, refunded and disputed, and how many charges: for one customer, or all."""
    sandbox, customer = _sandbox(), request.args.get("customer")
    with sandbox.store.lock:
        found = [
            item for item in sandbox.store.newest("charge") if customer in (None, item["customer"])
        ]
        paid = {item["id"]: item for item in found if item["paid"]}
        lost = sum(
            item["amount"]
            for item in sandbox.store.newest("dispute")
            if item["charge"] in paid
            and item["status"] != "won"
            and not item["status"].startswith("warning")
        )
    return jsonify(
        {
            "attempts": len(found),
            "charges": len(paid),
            "paid_cents": sum(item["amount"] for item in paid.values()),
            "refunded_cents": sum(item["amount_refunded"] for item in paid.values()),
            "disputed_cents": lost,
        }
    )


@pages.post("/_sandbox/reset")
def reset() -> Response:
    """Forget everything: objects, keys, switches, the moved clock."""
    sandbox = _sandbox()
    with sandbox.store.transaction():
        sandbox.store.clear()
        for due in (sandbox.deliveries, sandbox.planned, sandbox.open_pages):
            due.clear()
        sandbox.switches.remove()
        sandbox.clock_offset_s = 0
    return jsonify({"status": "ok"})
