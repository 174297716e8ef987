"""Payment methods: cards, whom they belong to, and how the card behind each behaves.

The object that the API shows carries no number. What the card does is kept beside it, as a
`card` record: which test card it is, and whether its owner set it up for later use.
"""

import hashlib
from datetime import UTC, datetime
from typing import Any

from . import cards, customers, events, listing
from .cards import Decline, TestCard
from .errors import CardError, InvalidRequest, missing
from .metadata import set_metadata
from .sandbox import Call, Sandbox
from .store import Object, new_id

_REUSED = (
    "The provided PaymentMethod was previously used with a PaymentIntent without Customer"
    " attachment, shared with a connected account without Customer attachment, or was detached"
    " from a Customer. It may not be used again. To use a PaymentMethod multiple times, you must"
    " attach it to a Customer first."
)


def new_card(
    sandbox: Sandbox,
    card: TestCard,
    *,
    exp_month: int = 8,
    exp_year: int | None = None,
    billing: dict[str, Any] | None = None,
    cvc_given: bool = True,
) -> Object:
    """A payment method of that card, attached to nobody; without `billing`, a ready-made one."""
    year = exp_year or _year_month(sandbox)[0] + 4
    item: Object = {
        "id": new_id("pm"),
        "object": "payment_method",
        "allow_redisplay": "unspecified",
        "billing_details": {
            "address": dict.fromkeys(("city", "country", "line1", "line2", "postal_code", "state")),
            "email": None,
            "name": None,
            "phone": None,
            "tax_id": None,
            **(billing or {}),
        },
        "card": _shown(card, exp_month, year, _checks(card, billing, cvc_given)),
        "created": sandbox.now(),
        "customer": None,
        "customer_account": None,
        "livemode": False,
        "metadata": {},
        "radar_options": {},
        "type": "card",
    }
    sandbox.store.put("card", {"id": item["id"], "number": card.number, "set_up": False})
    return sandbox.store.put("payment_method", item)


def _checks(card: TestCard, billing: dict[str, Any] | None, cvc_given: bool) -> Object:
    """What the issuer found: only what was given is checked, or what a ready-made card is for."""
    address = (billing or {}).get("address") or {}

    def result(check: str, is_given: Any) -> str | None:
        return check if is_given or (billing is None and check != "pass") else None

    return {
        "address_line1_check": result(card.line1_check, address.get("line1")),
        "address_postal_code_check": result(card.postal_check, address.get("postal_code")),
        "cvc_check": card.cvc_check if cvc_given else None,
    }


def _shown(card: TestCard, exp_month: int, exp_year: int, checks: Object) -> Object:
    return {
        "brand": card.brand,
        "checks": checks,
        "country": card.country,
        "display_brand": "american_express" if card.brand == "amex" else card.brand,
        "exp_month": exp_month,
        "exp_year": exp_year,
        "fingerprint": _fingerprint(card.number),
        "funding": card.funding,
        "generated_from": None,
        "last4": card.last4,
        "networks": {
            "available": [name for name in (card.cobrand, card.brand) if name],
            "preferred": None,
        },
        "regulated_status": "unregulated",
        "three_d_secure_usage": {"supported": card.authentication != "unsupported"},
        "wallet": None,
    }


def _fingerprint(number: str) -> str:
    """16 characters that are the same for the same number, whatever its expiry date."""
    return hashlib.sha256(f"sandbox {number}".encode()).hexdigest()[:16]


def create(sandbox: Sandbox, call: Call) -> Object:
    """POST /v1/payment_methods: a card, by number or by a `tok_*` name."""
    params = call.params
    if params.get("type") != "card" or "card" not in params:
        raise InvalidRequest("The sandbox knows cards only: pass type=card.", param="type")
    given = params["card"]
    if given.get("token"):
        card = cards.BY_TOKEN.get("pm_card_" + given["token"].removeprefix("tok_"))
        if card is None:
            raise missing("token", given["token"], "card[token]")
        item = new_card(sandbox, card, billing=params.get("billing_details"))
    else:
        item = from_form(sandbox, given, params.get("billing_details") or {})
    item["allow_redisplay"] = params.get("allow_redisplay", "unspecified")
    set_metadata(item, params)
    return item


def from_form(
    sandbox: Sandbox, given: dict[str, Any], billing: dict[str, Any] | None = None
) -> Object:
    """A payment method from a number, a date and a code, checked as Stripe checks them."""
    number = "".join(char for char in str(given.get("number") or "") if char.isdigit())
    month, year = given.get("exp_month") or 0, given.get("exp_year") or 0
    _check_number(number)
    _check_expiry(sandbox, month, year)
    cvc = given.get("cvc")
    card = cards.BY_NUMBER[number]
    if cvc is not None and (not cvc.isdigit() or len(cvc) not in _cvc_lengths(card)):
        raise _form_error("invalid_cvc", "Your card's security code is invalid.", "cvc")
    return new_card(
        sandbox,
        card,
        exp_month=month,
        exp_year=year + 2000 if year < 100 else year,
        billing=billing,
        cvc_given=cvc is not None,
    )


def _cvc_lengths(card: TestCard) -> tuple[int, ...]:
    return (3, 4) if card.brand == "amex" else (3,)


def _check_number(number: str) -> None:
    if number in cards.BY_NUMBER and cards.BY_NUMBER[number] is not cards.BY_TOKEN.get(
        "pm_card_chargeDeclinedIncorrectNumber"
    ):
        return
    if not 12 <= len(number) <= 19 or not cards.luhn_valid(number):
        raise _form_error("incorrect_number", "Your card number is incorrect.", "number")
    raise CardError(
        "Your card was declined. Your request was in test mode, but used a non test card. For a"
        " list of valid test cards, visit: https://stripe.com/docs/testing.",
        code="card_declined",
        decline_code="test_mode_live_card",
        param="number",
    )


def _check_expiry(sandbox: Sandbox, month: int, year: int) -> None:
    if not 1 <= month <= 12:
        message = "Your card's expiration month is invalid."
        raise _form_error("invalid_expiry_month", message, "exp_month")
    full = year + 2000 if year < 100 else year
    now_year, now_month = _year_month(sandbox)
    if full < now_year or full > now_year + 50:
        message = "Your card's expiration year is invalid."
        raise _form_error("invalid_expiry_year", message, "exp_year")
    if (full, month) < (now_year, now_month):
        message = "Your card's expiration month is invalid."
        raise _form_error("invalid_expiry_month", message, "exp_month")


def _year_month(sandbox: Sandbox) -> tuple[int, int]:
    today = datetime.fromtimestamp(sandbox.now(), UTC)
    return today.year, today.month


def _form_error(code: str, message: str, field: str) -> CardError:
    return CardError(message, code=code, param=field)


def resolve(sandbox: Sandbox, method_id: str, param: str = "payment_method") -> Object:
    """The payment method of that id; a `pm_card_*` name makes a new one."""
    card = cards.BY_TOKEN.get(method_id)
    if card is not None:
        return new_card(sandbox, card)
    return sandbox.store.get("payment_method", method_id, param)


def check_owner(sandbox: Sandbox, method: Object, customer_id: str | None) -> None:
    """Raise unless the method may be charged for that customer."""
    if method["customer"] is not None and customer_id is None:
        raise InvalidRequest(
            "The payment method you provided is attached to a customer so for security purposes"
            " you must provide the customer in the request.",
            param="customer",
        )
    if method["customer"] is not None and method["customer"] != customer_id:
        raise InvalidRequest(
            f"The customer does not have a payment method with the ID {method['id']}. The"
            " payment method must be attached to the customer.",
            param="payment_method",
        )
    if facts(sandbox, method).get("spent") and method["customer"] is None:
        raise InvalidRequest(_REUSED, param="payment_method")


def facts(sandbox: Sandbox, method: Object) -> Object:
    """What the sandbox knows of the card behind the method."""
    return sandbox.store.get("card", method["id"])


def behaviour(sandbox: Sandbox, method: Object) -> TestCard:
    """The test card that the method behaves as; a switch may have changed it."""
    return cards.BY_NUMBER[facts(sandbox, method)["number"]]


def attach(sandbox: Sandbox, call: Call) -> Object:
    """POST /v1/payment_methods/{id}/attach; a card that declines is declined here too."""
    customer = customers.get(sandbox, call.params.get("customer") or "", "customer")
    method = resolve(sandbox, call["id"], "id")
    if method["customer"] not in (None, customer["id"]):
        raise InvalidRequest(
            "The payment method you provided has already been attached to a customer.",
            code="resource_already_exists",
            param="payment_method",
        )
    if facts(sandbox, method).get("spent"):
        raise InvalidRequest(_REUSED, param="payment_method")
    card = behaviour(sandbox, method)
    if card.decline is not None and not card.attaches:
        raise declined(card.decline)
    bind(sandbox, method, customer["id"], call)
    return method


def bind(sandbox: Sandbox, method: Object, customer_id: str, call: Call | None) -> None:
    """Attach the method to the customer, once."""
    if method["customer"] == customer_id:
        return
    method["customer"] = customer_id
    sandbox.store.put("payment_method", method)
    events.record(sandbox, "payment_method.attached", method, call)


def detach(sandbox: Sandbox, call: Call) -> Object:
    """POST /v1/payment_methods/{id}/detach: it can never be charged again."""
    method = sandbox.store.get("payment_method", call["id"])
    if method["customer"] is None:
        raise InvalidRequest(
            "The payment method you provided is not attached to a customer so detachment is"
            " impossible.",
            param="payment_method",
        )
    owner = sandbox.store.find("customer", method["customer"])
    if owner and owner.get("invoice_settings", {}).get("default_payment_method") == method["id"]:
        owner["invoice_settings"]["default_payment_method"] = None
        sandbox.store.put("customer", owner)
    method["customer"] = None
    spend(sandbox, method)
    sandbox.store.put("payment_method", method)
    events.record(sandbox, "payment_method.detached", method, call)
    return method


def spend(sandbox: Sandbox, method: Object) -> None:
    """Note that a method without a customer was used and may not be used again."""
    known = facts(sandbox, method)
    known["spent"] = True
    sandbox.store.put("card", known)


def set_up(sandbox: Sandbox, method: Object) -> None:
    """Note that the card's owner agreed to later charges, with 3-D Secure where it asks."""
    known = facts(sandbox, method)
    known["set_up"] = True
    sandbox.store.put("card", known)


def update(sandbox: Sandbox, call: Call) -> Object:
    """POST /v1/payment_methods/{id}: expiry, billing details, metadata."""
    method = sandbox.store.get("payment_method", call["id"])
    card = call.params.get("card") or {}
    for name in ("exp_month", "exp_year"):
        if name in card:
            method["card"][name] = card[name]
    method["billing_details"].update(call.params.get("billing_details") or {})
    if "allow_redisplay" in call.params:
        method["allow_redisplay"] = call.params["allow_redisplay"]
    set_metadata(method, call.params)
    sandbox.store.put("payment_method", method)
    events.record(sandbox, "payment_method.updated", method, call)
    return method


def retrieve(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/payment_methods/{id}."""
    return sandbox.store.get("payment_method", call["id"])


def list_all(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/payment_methods, of one customer."""
    owner = call.path.get("customer") or call.params.get("customer")
    if not owner:
        raise InvalidRequest(
            "Missing required param: customer.", code="parameter_missing", param="customer"
        )
    customers.get(sandbox, owner, "customer")
    items = [item for item in sandbox.store.newest("payment_method") if item["customer"] == owner]
    return listing.page(items, call, equal=("type", "allow_redisplay"))


def retrieve_of_customer(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/customers/{customer}/payment_methods/{id}."""
    method = sandbox.store.get("payment_method", call["id"])
    if method["customer"] != call["customer"]:
        raise missing("PaymentMethod", call["id"])
    return method


def declined(why: Decline, **extra: Any) -> CardError:
    """The error that carries a decline's codes."""
    return CardError(
        why.message,
        code=why.code,
        param=why.param,
        decline_code=why.decline_code,
        advice_code=why.advice_code,
        network_decline_code=why.network_decline_code,
        doc_url=f"https://stripe.com/docs/error-codes/{why.code.replace('_', '-')}",
        **extra,
    )
