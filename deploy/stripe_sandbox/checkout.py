"""Checkout sessions: the hosted page on which a person pays, or saves a card.

open ─▶ complete   (paid, or the card saved)
  └───▶ expired    (after `expires_at`, or by the expire endpoint)
"""

from typing import Any
from urllib.parse import urlsplit

from . import customers, events, listing, payment_methods, payments, setups
from .errors import InvalidRequest
from .metadata import set_metadata
from .sandbox import Call, Sandbox
from .store import Object, new_id

_LIFE_DEFAULT_S = 86_400
_LIFE_MIN_S = 1_800
_PLACEHOLDER = "{CHECKOUT_SESSION_ID}"
# What a session may have at Stripe and never has here.
_NULL = (
    "after_expiration", "allow_promotion_codes", "client_secret", "collected_information",
    "consent", "consent_collection", "currency_conversion", "customer_account",
    "customer_details", "invoice", "origin_context", "payment_intent", "payment_link",
    "payment_method_configuration_details", "permissions", "recovered_from", "setup_intent",
    "shipping_address_collection", "shipping_cost", "subscription", "wallet_options",
)  # fmt: skip


def create(sandbox: Sandbox, call: Call) -> Object:
    """POST /v1/checkout/sessions, mode `payment` or `setup`."""
    params = call.params
    _check(sandbox, params)
    items = _line_items(sandbox, params)
    total = sum(item["amount_total"] for item in items)
    if params["mode"] == "payment":
        payments.check_amount(total, items[0]["currency"])
    session = _new(sandbox, params, total if items else None)
    sandbox.store.put("line_items", {"id": session["id"], "items": items})
    plan = {
        name: params.get(name) or {}
        for name in ("payment_intent_data", "setup_intent_data", "payment_method_options")
    }
    sandbox.store.put("checkout_plan", {"id": session["id"], **plan})
    sandbox.open_pages.put(session["expires_at"], session["id"])
    return sandbox.store.put("checkout.session", session)


def _check(sandbox: Sandbox, params: dict[str, Any]) -> None:
    mode = params.get("mode")
    if mode not in ("payment", "setup"):
        raise InvalidRequest("The sandbox has the modes payment and setup only.", param="mode")
    if params.get("ui_mode", "hosted_page") != "hosted_page":
        raise InvalidRequest("The sandbox has hosted pages only.", param="ui_mode")
    _check_urls(params)
    payments.check_method_types(params)
    payments.check_currency(params.get("currency", "usd"))
    payments.check_capture(
        params.get("payment_intent_data") or {}, "payment_intent_data[capture_method]"
    )
    if mode == "setup" and params.get("line_items"):
        raise InvalidRequest("`line_items` is not valid in setup mode.", param="line_items")
    if mode == "setup" and not (
        params.get("currency") or params.get("allowed_payment_method_types")
    ):
        raise InvalidRequest(
            "`currency` is required in `setup` mode when `allowed_payment_method_types` is not"
            " set.",
            code="parameter_missing",
            param="currency",
        )
    wrong = {"payment": "setup_intent_data", "setup": "payment_intent_data"}[mode]
    if params.get(wrong):
        raise InvalidRequest(f"You can not pass `{wrong}` in `{mode}` mode.", param=wrong)
    if params.get("customer"):
        if params.get("customer_email") or params.get("customer_creation"):
            raise InvalidRequest(
                "You may only specify one of these parameters: customer, customer_creation,"
                " customer_email.",
                param="customer",
            )
        customers.get(sandbox, params["customer"], "customer")
    life = params.get("expires_at", sandbox.now() + _LIFE_DEFAULT_S) - sandbox.now()
    if not _LIFE_MIN_S - 5 <= life <= _LIFE_DEFAULT_S + 60:
        raise InvalidRequest(
            "The `expires_at` timestamp must be between 30 minutes and 24 hours from Checkout"
            " Session creation.",
            param="expires_at",
        )


def _check_urls(params: dict[str, Any]) -> None:
    if not params.get("success_url"):
        raise InvalidRequest(
            "Missing required param: success_url.", code="parameter_missing", param="success_url"
        )
    for name in ("success_url", "cancel_url"):
        url = params.get(name)
        if url and urlsplit(url).scheme not in ("http", "https"):
            raise InvalidRequest(f"Not a valid URL: {url}", code="url_invalid", param=name)


def _line_items(sandbox: Sandbox, params: dict[str, Any]) -> list[Object]:
    given = params.get("line_items") or []
    if params["mode"] == "payment" and not given:
        raise InvalidRequest(
            "Missing required param: line_items.", code="parameter_missing", param="line_items"
        )
    return [_line_item(sandbox, item, index) for index, item in enumerate(given)]


def _line_item(sandbox: Sandbox, given: dict[str, Any], index: int) -> Object:
    where = f"line_items[{index}]"
    data = given.get("price_data")
    if data is None:
        raise InvalidRequest(
            "The sandbox has no saved prices: pass price_data.", param=f"{where}[price_data]"
        )
    payments.check_currency(data["currency"], f"{where}[price_data][currency]")
    quantity = given.get("quantity", 1)
    if quantity < 1 or data.get("unit_amount") is None or data["unit_amount"] < 0:
        raise InvalidRequest(
            "Line items need a quantity of 1 or more and a unit_amount.", param=where
        )
    product = data.get("product_data") or {}
    if not product.get("name"):
        raise InvalidRequest(
            f"Missing required param: {where}[price_data][product_data].",
            code="parameter_missing",
            param=f"{where}[price_data][product_data]",
        )
    amount = quantity * data["unit_amount"]
    return {
        "id": new_id("li"),
        "object": "item",
        "amount_discount": 0,
        "amount_subtotal": amount,
        "amount_tax": 0,
        "amount_total": amount,
        "currency": data["currency"],
        "description": product["name"],
        "metadata": given.get("metadata") or {},
        "price": {
            "id": new_id("price"),
            "object": "price",
            "active": False,
            "billing_scheme": "per_unit",
            "created": sandbox.now(),
            "currency": data["currency"],
            "custom_unit_amount": None,
            "livemode": False,
            "lookup_key": None,
            "metadata": {},
            "nickname": None,
            "product": new_id("prod", 14),
            "recurring": None,
            "tax_behavior": "unspecified",
            "tiers_mode": None,
            "transform_quantity": None,
            "type": "one_time",
            "unit_amount": data["unit_amount"],
            "unit_amount_decimal": str(data["unit_amount"]),
        },
        "quantity": quantity,
    }


def _new(sandbox: Sandbox, params: dict[str, Any], total: int | None) -> Object:
    session_id = new_id("cs_test", 58)
    paying = params["mode"] == "payment"
    creation = "if_required" if paying and not params.get("customer") else None
    session: Object = {
        **dict.fromkeys(_NULL),
        "id": session_id,
        "object": "checkout.session",
        "adaptive_pricing": {"enabled": False} if paying else None,
        "allowed_payment_method_types": params.get("allowed_payment_method_types"),
        "amount_subtotal": total,
        "amount_total": total,
        "automatic_tax": {"enabled": False, "liability": None, "provider": None, "status": None},
        "billing_address_collection": None,
        "cancel_url": params.get("cancel_url"),
        "client_reference_id": params.get("client_reference_id"),
        "created": sandbox.now(),
        "currency": "usd" if paying else params.get("currency"),
        "custom_fields": [],
        "custom_text": {"after_submit": None, "shipping_address": None, "submit": None,
                        "terms_of_service_acceptance": None},
        "customer": params.get("customer"),
        "customer_creation": params.get("customer_creation", creation),
        "customer_email": params.get("customer_email"),
        "discounts": [] if paying else None,
        "expires_at": params.get("expires_at", sandbox.now() + _LIFE_DEFAULT_S),
        "invoice_creation": {"enabled": False, "invoice_data": {
            "account_tax_ids": None, "custom_fields": None, "description": None, "footer": None,
            "issuer": None, "metadata": {}, "rendering_options": None}} if paying else None,
        "livemode": False,
        "locale": None,
        "metadata": {},
        "mode": params["mode"],
        "payment_method_collection": "always" if not paying else "if_required",
        "payment_method_options": params.get("payment_method_options") or {},
        "payment_method_types": ["card"],
        "payment_status": "unpaid" if paying else "no_payment_required",
        "phone_number_collection": {"enabled": False},
        "saved_payment_method_options": params.get("saved_payment_method_options"),
        "shipping_options": [],
        "status": "open",
        "submit_type": None,
        "success_url": params["success_url"],
        "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0}
        if paying else None,
        "ui_mode": "hosted_page",
        "url": f"{sandbox.base_url}/c/pay/{session_id}",
    }  # fmt: skip
    set_metadata(session, params)
    if not paying:
        setup = setups.new(sandbox, _setup_params(params))
        session["setup_intent"] = setup["id"]
        events.record(sandbox, "setup_intent.created", setup)
    return session


def _setup_params(params: dict[str, Any]) -> Object:
    data = params.get("setup_intent_data") or {}
    return {
        "customer": params.get("customer"),
        "description": data.get("description"),
        "metadata": data.get("metadata"),
        "payment_method_options": params.get("payment_method_options"),
    }


def submit(
    sandbox: Sandbox, session: Object, card: dict[str, Any], person: dict[str, Any], save: bool
) -> Object | None:
    """The person pressed the button: returns the intent that needs 3-D Secure, or None.

    `person` has a name and an email. Raises CardError, which the page shows, or InvalidRequest
    for a session that is no longer open.
    """
    expire_if_due(sandbox, session)
    if session["status"] != "open":
        raise InvalidRequest("This checkout session is no longer open.", code="session_closed")
    method = payment_methods.from_form(sandbox, card, person)
    _know_customer(sandbox, session, person, save)
    if session["mode"] == "setup":
        return _submit_setup(sandbox, session, method)
    intent = _intent_of(sandbox, session, save)
    method["allow_redisplay"] = "always" if save else "limited"
    payments.attempt(sandbox, intent, method, None)
    if intent["status"] == "requires_action":
        return intent
    finish(sandbox, session)
    return None


def _submit_setup(sandbox: Sandbox, session: Object, method: Object) -> Object | None:
    setup = sandbox.store.get("setup_intent", session["setup_intent"])
    setup["customer"] = session["customer"]
    method["allow_redisplay"] = "always"
    setups.attempt(sandbox, setup, method, None)
    if setup["status"] == "requires_action":
        return setup
    finish(sandbox, session)
    return None


def _know_customer(sandbox: Sandbox, session: Object, person: dict[str, Any], save: bool) -> None:
    known = sandbox.store.find("customer", session["customer"]) or {}
    session["customer_details"] = {
        "address": None,
        "email": known.get("email") or person.get("email") or session["customer_email"],
        "name": person.get("name"),
        "phone": None,
        "tax_exempt": "none",
        "tax_ids": [],
    }
    needed = save or session["customer_creation"] == "always" or _future_usage(sandbox, session)
    if not known and needed:
        details = {"email": session["customer_details"]["email"], "name": person.get("name")}
        call = Call({k: v for k, v in details.items() if v}, {}, "/v1/customers", "")
        session["customer"] = customers.create(sandbox, call)["id"]
    sandbox.store.put("checkout.session", session)


def _future_usage(sandbox: Sandbox, session: Object) -> str | None:
    plan = sandbox.store.get("checkout_plan", session["id"])
    options = plan["payment_method_options"].get("card") or {}
    usage = plan["payment_intent_data"].get("setup_future_usage")
    return usage or options.get("setup_future_usage")


def saves_card(sandbox: Sandbox, session: Object) -> bool:
    """Whether the card is saved in any case, which the page then says."""
    return session["mode"] == "setup" or bool(_future_usage(sandbox, session))


def _intent_of(sandbox: Sandbox, session: Object, save: bool) -> Object:
    """The session's payment intent, made at the first try and kept for the next."""
    intent = sandbox.store.find("payment_intent", session["payment_intent"])
    if intent is None:
        plan = sandbox.store.get("checkout_plan", session["id"])
        intent = payments.new(
            sandbox,
            {
                **plan["payment_intent_data"],
                "amount": session["amount_total"],
                "currency": session["currency"],
                "customer": session["customer"],
                "payment_method_options": plan["payment_method_options"] or None,
            },
        )
        events.record(sandbox, "payment_intent.created", intent)
        session["payment_intent"] = intent["id"]
        sandbox.store.put("checkout.session", session)
    intent["customer"] = session["customer"]
    if save and not intent["setup_future_usage"]:
        intent["setup_future_usage"] = "off_session"
    return intent


def finish(sandbox: Sandbox, session: Object) -> None:
    """The intent succeeded: the session is complete."""
    session["status"] = "complete"
    if session["mode"] == "payment":
        session["payment_status"] = "paid"
    sandbox.store.put("checkout.session", session)
    events.record(sandbox, "checkout.session.completed", session)


def success_address(session: Object) -> str:
    """Where the browser goes afterwards, with the session's id filled in."""
    return str(session["success_url"]).replace(_PLACEHOLDER, session["id"])


def expire_if_due(sandbox: Sandbox, session: Object) -> None:
    """An open session ends at `expires_at`."""
    if session["status"] == "open" and session["expires_at"] <= sandbox.now():
        _expire(sandbox, session)


def expire_all_due(sandbox: Sandbox) -> None:
    """End every session whose time is over."""
    for session_id in sandbox.open_pages.take(sandbox.now()):
        expire_if_due(sandbox, sandbox.store.get("checkout.session", session_id))


def _expire(sandbox: Sandbox, session: Object, call: Call | None = None) -> None:
    session |= {"status": "expired", "url": None}
    sandbox.store.put("checkout.session", session)
    intent = sandbox.store.find("payment_intent", session["payment_intent"])
    if intent is not None:
        payments.expire(sandbox, intent)
    setup = sandbox.store.find("setup_intent", session["setup_intent"])
    if setup is not None:
        setups.expire(sandbox, setup)
    events.record(sandbox, "checkout.session.expired", session, call)


def expire(sandbox: Sandbox, call: Call) -> Object:
    """POST /v1/checkout/sessions/{id}/expire."""
    session = sandbox.store.get("checkout.session", call["id"], "session")
    expire_if_due(sandbox, session)
    if session["status"] != "open":
        raise InvalidRequest(
            'Only Checkout Sessions with a status in ["open"] can be expired. This Checkout'
            f" Session has a status of `{session['status']}`.",
        )
    _expire(sandbox, session, call)
    return session


def update(sandbox: Sandbox, call: Call) -> Object:
    """POST /v1/checkout/sessions/{id}: metadata."""
    session = sandbox.store.get("checkout.session", call["id"], "session")
    set_metadata(session, call.params)
    return sandbox.store.put("checkout.session", session)


def retrieve(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/checkout/sessions/{id}."""
    session = sandbox.store.get("checkout.session", call["id"])
    expire_if_due(sandbox, session)
    return session


def list_line_items(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/checkout/sessions/{id}/line_items."""
    items = sandbox.store.get("line_items", call["id"])["items"]
    return {"object": "list", "data": items, "has_more": False, "url": call.url}


def list_all(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/checkout/sessions: by customer, payment intent, status, time."""
    expire_all_due(sandbox)
    return listing.page(
        sandbox.store.newest("checkout.session"),
        call,
        equal=("customer", "payment_intent", "status"),
    )
