"""Payment intents: from a wish to be paid to a charge, an authentication, or a decline."""

import re
from typing import Any

from . import charges, customers, disputes, events, listing, payment_methods
from .cards import AUTHENTICATION_REQUIRED, AUTHENTICATION_UNAVAILABLE, Decline
from .errors import CardError, InvalidRequest
from .metadata import set_metadata
from .sandbox import Call, Sandbox, is_true
from .store import Object, new_id

AMOUNT_MIN = 50
AMOUNT_MAX = 99_999_999
_OPEN = ("requires_payment_method", "requires_confirmation", "requires_action")
_AUTHENTICATION_FAILED = Decline(
    "payment_intent_authentication_failure",
    None,
    "We are unable to authenticate your payment method. Please choose a different payment method"
    " and try again.",
)


def create(sandbox: Sandbox, call: Call) -> Object:
    """POST /v1/payment_intents, with confirmation when asked."""
    params = call.params
    _check(params)
    if params.get("customer"):
        customers.get(sandbox, params["customer"], "customer")
    method_id = params.get("payment_method")
    method = payment_methods.resolve(sandbox, method_id) if method_id else None
    if method is not None:
        payment_methods.check_owner(sandbox, method, params.get("customer"))
    elif params.get("confirm"):
        raise _missing_method()
    intent = new(sandbox, params)
    events.record(sandbox, "payment_intent.created", intent, call)
    if params.get("confirm"):
        _confirm_as_asked(sandbox, intent, method, call)
    elif method is not None:
        intent["payment_method"] = method["id"]
        intent["status"] = "requires_confirmation"
    return sandbox.store.put("payment_intent", intent)


def _check(params: dict[str, Any]) -> None:
    check_amount(params["amount"], params["currency"])
    if "off_session" in params and not params.get("confirm"):
        raise InvalidRequest(
            "The parameter `off_session` can only be passed when `confirm` is true.",
            param="off_session",
        )
    if "error_on_requires_action" in params and not params.get("confirm"):
        raise InvalidRequest(
            "The parameter `error_on_requires_action` can only be passed when `confirm` is true.",
            param="error_on_requires_action",
        )
    check_method_types(params)
    check_capture(params, "capture_method")


def check_capture(params: dict[str, Any], param: str) -> None:
    """Money that is taken is taken at once."""
    if params.get("capture_method") == "manual":
        raise InvalidRequest(
            "The sandbox has no separate capture: capture_method=manual is not supported.",
            param=param,
        )


def check_currency(currency: str, param: str = "currency") -> None:
    """US dollars."""
    if currency != "usd":
        raise InvalidRequest(
            f"Invalid currency: {currency}. The sandbox takes usd only.", param=param
        )


def check_amount(amount: int, currency: str) -> None:
    """Stripe's bounds, for US dollars: 50 cents to $999,999.99."""
    check_currency(currency)
    if amount < 1:
        raise InvalidRequest(
            "This value must be greater than or equal to 1.",
            code="parameter_invalid_integer",
            param="amount",
        )
    if amount < AMOUNT_MIN:
        raise InvalidRequest(
            "Amount must be at least $0.50 usd", code="amount_too_small", param="amount"
        )
    if amount > AMOUNT_MAX:
        raise InvalidRequest(
            "Amount must be no more than $999,999.99", code="amount_too_large", param="amount"
        )


def check_method_types(params: dict[str, Any]) -> None:
    """Cards only, and one way to say so."""
    types = params.get("allowed_payment_method_types")
    if types is not None and params.get("automatic_payment_methods"):
        raise InvalidRequest(
            "You may only specify one of these parameters: automatic_payment_methods,"
            " allowed_payment_method_types.",
            param="allowed_payment_method_types",
        )
    if types is not None and "card" not in types:
        raise InvalidRequest(
            "The sandbox knows cards only: allowed_payment_method_types must include card.",
            param="allowed_payment_method_types",
        )


def new(sandbox: Sandbox, params: dict[str, Any]) -> Object:
    """A stored intent that nothing has been tried with."""
    intent_id = new_id("pi")
    automatic = params.get("automatic_payment_methods")
    intent: Object = {
        "id": intent_id,
        "object": "payment_intent",
        "allowed_payment_method_types": params.get("allowed_payment_method_types"),
        "amount": params["amount"],
        "amount_capturable": 0,
        "amount_details": {"tip": {}},
        "amount_received": 0,
        "application": None,
        "application_fee_amount": None,
        "automatic_payment_methods": automatic,
        "canceled_at": None,
        "cancellation_reason": None,
        "capture_method": params.get("capture_method", "automatic_async"),
        "client_secret": f"{intent_id}_{new_id('secret')}",
        "confirmation_method": "automatic",
        "created": sandbox.now(),
        "currency": params["currency"],
        "customer": params.get("customer"),
        "customer_account": None,
        "description": params.get("description"),
        "excluded_payment_method_types": None,
        "last_payment_error": None,
        "latest_charge": None,
        "livemode": False,
        "metadata": {},
        "next_action": None,
        "on_behalf_of": None,
        "payment_method": None,
        "payment_method_configuration_details": None,
        "payment_method_options": params.get("payment_method_options")
        or {"card": {"installments": None, "mandate_options": None, "network": None,
                     "request_three_d_secure": "automatic"}},
        "payment_method_types": ["card"],
        "processing": None,
        "receipt_email": params.get("receipt_email"),
        "review": None,
        "setup_future_usage": params.get("setup_future_usage"),
        "shipping": None,
        "source": None,
        "statement_descriptor": None,
        "statement_descriptor_suffix": None,
        "status": "requires_payment_method",
        "transfer_data": None,
        "transfer_group": None,
    }  # fmt: skip
    set_metadata(intent, params)
    return sandbox.store.put("payment_intent", intent)


def confirm(sandbox: Sandbox, call: Call) -> Object:
    """POST /v1/payment_intents/{id}/confirm."""
    intent = sandbox.store.get("payment_intent", call["id"], "intent")
    check_not_of_checkout(sandbox, intent)
    _check_open(intent, "confirm")
    check_method_types(call.params)
    method_id = call.params.get("payment_method") or intent["payment_method"]
    method = payment_methods.resolve(sandbox, method_id) if method_id else None
    if method is not None:
        payment_methods.check_owner(sandbox, method, intent["customer"])
    for name in ("setup_future_usage", "payment_method_options", "receipt_email"):
        if name in call.params:
            intent[name] = call.params[name] or None
    _confirm_as_asked(sandbox, intent, method, call)
    return intent


def _missing_method() -> InvalidRequest:
    return InvalidRequest(
        "You cannot confirm this PaymentIntent because it's missing a payment method. You can"
        " either update the PaymentIntent with a payment method and then confirm it again, or"
        " confirm it again directly with a payment method or ConfirmationToken.",
        code="payment_intent_unexpected_state",
        param="payment_method",
    )


def _confirm_as_asked(sandbox: Sandbox, intent: Object, method: Object | None, call: Call) -> None:
    if method is None:
        raise _missing_method()
    attempt(
        sandbox,
        intent,
        method,
        call,
        off_session=is_true(call.params.get("off_session")),
        error_on_action=bool(call.params.get("error_on_requires_action")),
        return_url=call.params.get("return_url"),
    )


def attempt(
    sandbox: Sandbox,
    intent: Object,
    method: Object,
    call: Call | None,
    *,
    off_session: bool = False,
    error_on_action: bool = False,
    return_url: str | None = None,
    authenticated: bool = False,
) -> None:
    """Charge the card, ask for its owner, or raise the decline as a CardError.

    Raises InvalidRequest for an intent that is over, and for a customer who was deleted.
    """
    _check_open(intent, "confirm")
    if intent["customer"]:
        customers.get(sandbox, intent["customer"], "customer")
    card = payment_methods.behaviour(sandbox, method)
    intent["payment_method"] = method["id"]
    forced = is_authentication_forced(intent)
    if not authenticated and card.lookup_fails(forced=forced):
        decline(sandbox, intent, method, call, AUTHENTICATION_UNAVAILABLE)
    is_set_up = payment_methods.facts(sandbox, method)["set_up"]
    if not authenticated and card.asks_for_owner(
        forced=forced, off_session=off_session, is_set_up=is_set_up
    ):
        if off_session or error_on_action:
            decline(sandbox, intent, method, call, AUTHENTICATION_REQUIRED)
        require_action(sandbox, intent, call, return_url)
        return
    if card.decline is not None:
        decline(sandbox, intent, method, call, card.decline)
    flow = "challenge" if authenticated else None
    if card.authentication == "frictionless":
        flow = "frictionless"
    charge = charges.succeed(sandbox, intent, method, call, flow)
    intent |= {
        "amount_received": intent["amount"],
        "last_payment_error": None,
        "latest_charge": charge["id"],
        "next_action": None,
        "status": "succeeded",
    }
    sandbox.store.put("payment_intent", intent)
    charges.owner_sets_up(sandbox, intent, method, call)
    events.record(sandbox, "payment_intent.succeeded", intent, call)
    disputes.follow_card(sandbox, charge, card, call)


def is_authentication_forced(intent: Object) -> bool:
    """Whether the request asks for 3-D Secure; for a payment and for a setup alike."""
    options = (intent["payment_method_options"] or {}).get("card") or {}
    return options.get("request_three_d_secure") in ("any", "challenge")


def require_action(
    sandbox: Sandbox, intent: Object, call: Call | None, return_url: str | None
) -> None:
    """Send the owner of the card to the bank; for a payment and for a setup alike."""
    page = f"{sandbox.base_url}/3ds/{intent['client_secret']}"
    if return_url:
        action: Object = {
            "type": "redirect_to_url",
            "redirect_to_url": {"return_url": return_url, "url": page},
        }
    else:
        action = {
            "type": "use_stripe_sdk",
            "use_stripe_sdk": {"stripe_js": page, "type": "three_d_secure_redirect"},
        }
    intent |= {"status": "requires_action", "next_action": action}
    sandbox.store.put(intent["object"], intent)
    events.record(sandbox, f"{intent['object']}.requires_action", intent, call)


def decline(
    sandbox: Sandbox, intent: Object, method: Object, call: Call | None, why: Decline
) -> None:
    """Record the declined charge on the intent, then raise the CardError."""
    charge = charges.fail(sandbox, intent, method, call, why)
    _give_back(sandbox, intent, method, call, why, charge["id"])
    raise payment_methods.declined(
        why, charge=charge["id"], payment_intent=intent, payment_method=method
    )


def _give_back(
    sandbox: Sandbox,
    intent: Object,
    method: Object,
    call: Call | None,
    why: Decline,
    charge_id: str | None,
) -> None:
    """The intent wants another payment method."""
    reported = payment_methods.declined(why, charge=charge_id, payment_method=method)
    intent |= {
        "last_payment_error": reported.error,
        "latest_charge": charge_id or intent["latest_charge"],
        "next_action": None,
        "payment_method": None,
        "status": "requires_payment_method",
    }
    sandbox.store.put("payment_intent", intent)
    events.record(sandbox, "payment_intent.payment_failed", intent, call)


def authenticate(sandbox: Sandbox, intent: Object, passed: bool) -> CardError | None:
    """The owner completed or failed the 3-D Secure challenge; returns what then went wrong."""
    method = sandbox.store.get("payment_method", intent["payment_method"])
    if not passed:
        _give_back(sandbox, intent, method, None, _AUTHENTICATION_FAILED, None)
        return payment_methods.declined(_AUTHENTICATION_FAILED)
    try:
        attempt(sandbox, intent, method, None, authenticated=True)
    except CardError as error:
        return error
    return None


def cancel(sandbox: Sandbox, call: Call) -> Object:
    """POST /v1/payment_intents/{id}/cancel."""
    intent = sandbox.store.get("payment_intent", call["id"], "intent")
    check_not_of_checkout(sandbox, intent)
    _check_open(intent, "cancel")
    return _cancel(sandbox, intent, call.params.get("cancellation_reason"), call)


def expire(sandbox: Sandbox, intent: Object) -> None:
    """Its checkout session has expired: an authentication that is under way comes too late."""
    if intent["status"] in _OPEN:
        _cancel(sandbox, intent, "expired", None)


def _cancel(sandbox: Sandbox, intent: Object, reason: str | None, call: Call | None) -> Object:
    intent |= {
        "canceled_at": sandbox.now(),
        "cancellation_reason": reason,
        "next_action": None,
        "status": "canceled",
    }
    sandbox.store.put("payment_intent", intent)
    events.record(sandbox, "payment_intent.canceled", intent, call)
    return intent


def checkout_of(sandbox: Sandbox, intent_id: str) -> Object | None:
    """The checkout session that a payment or setup intent was made for."""
    for session in sandbox.store.newest("checkout.session"):
        if intent_id in (session["payment_intent"], session["setup_intent"]):
            return session
    return None


def check_not_of_checkout(sandbox: Sandbox, intent: Object) -> None:
    """Only its own page confirms what Checkout made, and only expiring the session cancels it."""
    if checkout_of(sandbox, intent["id"]) is not None:
        kind = "PaymentIntents" if intent["object"] == "payment_intent" else "SetupIntents"
        raise InvalidRequest(
            f"You cannot perform this action on {kind} created by Checkout. Try expiring the"
            " Checkout Session instead.",
        )


def _check_open(intent: Object, verb: str) -> None:
    if intent["status"] not in _OPEN:
        raise InvalidRequest(
            f"You cannot {verb} this PaymentIntent because it has a status of"
            f" {intent['status']}. Only a PaymentIntent with one of the following statuses may be"
            f" {verb}ed: {', '.join(_OPEN)}.",
            code="payment_intent_unexpected_state",
            payment_intent=intent,
        )


def update(sandbox: Sandbox, call: Call) -> Object:
    """POST /v1/payment_intents/{id}: what may change before it is paid, and metadata."""
    intent = sandbox.store.get("payment_intent", call["id"], "intent")
    params = call.params
    if set(params) - {"description", "metadata"}:
        check_not_of_checkout(sandbox, intent)
    if "amount" in params:
        _check_open(intent, "update")
        check_amount(params["amount"], intent["currency"])
        intent["amount"] = params["amount"]
    for name in ("description", "receipt_email", "setup_future_usage"):
        if name in params:
            intent[name] = params[name] or None
    if params.get("payment_method"):
        _check_open(intent, "update")
        method = payment_methods.resolve(sandbox, params["payment_method"])
        payment_methods.check_owner(sandbox, method, intent["customer"])
        intent |= {"payment_method": method["id"], "status": "requires_confirmation"}
    set_metadata(intent, params)
    return sandbox.store.put("payment_intent", intent)


def retrieve(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/payment_intents/{id}."""
    return sandbox.store.get("payment_intent", call["id"], "intent")


def list_all(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/payment_intents: by customer and time."""
    return listing.page(sandbox.store.newest("payment_intent"), call, equal=("customer",))


_CLAUSE = re.compile(r"""^(metadata\[["']([^"']+)["']\]|\w+)\s*([:<>]=?)\s*["']?([^"']*)["']?$""")


def search(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/payment_intents/search: clauses joined by AND over fields and metadata."""
    clauses = [_clause(text.strip()) for text in re.split(r"\sAND\s", call.params["query"])]
    items = [
        item
        for item in sandbox.store.newest("payment_intent")
        if all(_fits(item, *clause) for clause in clauses)
    ]
    limit = call.params.get("limit", listing.LIMIT_DEFAULT)
    start = int(call.params.get("page") or 0)
    more = len(items) > start + limit
    return {
        "object": "search_result",
        "data": items[start : start + limit],
        "has_more": more,
        "next_page": str(start + limit) if more else None,
        "url": call.url,
    }


def _clause(text: str) -> tuple[str, str | None, str, str]:
    match = _CLAUSE.match(text)
    if match is None:
        raise InvalidRequest(f"We were unable to parse your search query: {text}", param="query")
    return match[1], match[2], match[3], match[4]


def _fits(item: Object, name: str, key: str | None, operator: str, value: str) -> bool:
    found = item["metadata"].get(key) if key else item.get(name)
    if operator == ":":
        return found is not None and str(found) == value
    if not isinstance(found, int) or not value.isdigit():
        return False
    bounds = {"<": found < int(value), "<=": found <= int(value), ">": found > int(value)}
    return bounds.get(operator, found >= int(value))
