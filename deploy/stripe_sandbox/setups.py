"""Setup intents: save a card for later, with its owner there, and take no money."""

from . import customers, events, listing, payment_methods, payments
from .cards import AUTHENTICATION_UNAVAILABLE, Decline
from .errors import CardError, InvalidRequest
from .metadata import set_metadata
from .sandbox import Call, Sandbox
from .store import Object, new_id

_OPEN = ("requires_payment_method", "requires_confirmation", "requires_action")
_AUTHENTICATION_FAILED = Decline(
    "setup_intent_authentication_failure",
    None,
    "We are unable to authenticate your payment method. Please choose a different payment method"
    " and try again.",
)


def create(sandbox: Sandbox, call: Call) -> Object:
    """POST /v1/setup_intents, with confirmation when asked."""
    params = call.params
    payments.check_method_types(params)
    if params.get("customer"):
        customers.get(sandbox, params["customer"], "customer")
    method_id = params.get("payment_method")
    method = payment_methods.resolve(sandbox, method_id) if method_id else None
    if method is not None:
        payment_methods.check_owner(sandbox, method, params.get("customer"))
    setup = new(sandbox, params)
    events.record(sandbox, "setup_intent.created", setup, call)
    if params.get("confirm"):
        _confirm(sandbox, setup, method, call)
    elif method is not None:
        setup |= {"payment_method": method["id"], "status": "requires_confirmation"}
    return sandbox.store.put("setup_intent", setup)


def new(sandbox: Sandbox, params: Object) -> Object:
    """A stored setup intent that nothing has been tried with."""
    setup_id = new_id("seti")
    setup: Object = {
        "id": setup_id,
        "object": "setup_intent",
        "allowed_payment_method_types": params.get("allowed_payment_method_types"),
        "application": None,
        "automatic_payment_methods": params.get("automatic_payment_methods"),
        "cancellation_reason": None,
        "client_secret": f"{setup_id}_{new_id('secret')}",
        "created": sandbox.now(),
        "customer": params.get("customer"),
        "customer_account": None,
        "description": params.get("description"),
        "excluded_payment_method_types": None,
        "flow_directions": None,
        "last_setup_error": None,
        "latest_attempt": None,
        "livemode": False,
        "mandate": None,
        "metadata": {},
        "next_action": None,
        "on_behalf_of": None,
        "payment_method": None,
        "payment_method_configuration_details": None,
        "payment_method_options": params.get("payment_method_options")
        or {"card": {"mandate_options": None, "network": None,
                     "request_three_d_secure": "automatic"}},
        "payment_method_types": ["card"],
        "single_use_mandate": None,
        "status": "requires_payment_method",
        "usage": params.get("usage", "off_session"),
    }  # fmt: skip
    set_metadata(setup, params)
    return sandbox.store.put("setup_intent", setup)


def confirm(sandbox: Sandbox, call: Call) -> Object:
    """POST /v1/setup_intents/{id}/confirm."""
    setup = sandbox.store.get("setup_intent", call["id"], "intent")
    payments.check_not_of_checkout(sandbox, setup)
    _check_open(setup, "confirm")
    method_id = call.params.get("payment_method") or setup["payment_method"]
    method = payment_methods.resolve(sandbox, method_id) if method_id else None
    if method is not None:
        payment_methods.check_owner(sandbox, method, setup["customer"])
    _confirm(sandbox, setup, method, call)
    return setup


def _confirm(sandbox: Sandbox, setup: Object, method: Object | None, call: Call) -> None:
    if method is None:
        raise InvalidRequest(
            "You cannot confirm this SetupIntent because it's missing a payment method.",
            code="setup_intent_unexpected_state",
            param="payment_method",
        )
    attempt(sandbox, setup, method, call, return_url=call.params.get("return_url"))


def attempt(
    sandbox: Sandbox,
    setup: Object,
    method: Object,
    call: Call | None,
    *,
    return_url: str | None = None,
    authenticated: bool = False,
) -> None:
    """Save the card, ask for its owner, or raise the decline as a CardError.

    Raises InvalidRequest for an intent that is over, and for a customer who was deleted.
    """
    _check_open(setup, "confirm")
    if setup["customer"]:
        customers.get(sandbox, setup["customer"], "customer")
    card = payment_methods.behaviour(sandbox, method)
    setup["payment_method"] = method["id"]
    forced = payments.is_authentication_forced(setup)
    if not authenticated and card.lookup_fails(forced=forced):
        _decline(sandbox, setup, method, call, AUTHENTICATION_UNAVAILABLE)
    if not authenticated and card.asks_for_owner(forced=forced, off_session=False, is_set_up=False):
        payments.require_action(sandbox, setup, call, return_url)
        return
    if card.decline is not None and not card.attaches:
        _decline(sandbox, setup, method, call, card.decline)
    setup |= {"last_setup_error": None, "next_action": None, "status": "succeeded"}
    sandbox.store.put("setup_intent", setup)
    if setup["usage"] == "off_session":
        payment_methods.set_up(sandbox, method)
    if setup["customer"]:
        payment_methods.bind(sandbox, method, setup["customer"], call)
    events.record(sandbox, "setup_intent.succeeded", setup, call)


def _decline(
    sandbox: Sandbox, setup: Object, method: Object, call: Call | None, why: Decline
) -> None:
    _give_back(sandbox, setup, method, call, why)
    raise payment_methods.declined(why, setup_intent=setup, payment_method=method)


def _give_back(
    sandbox: Sandbox, setup: Object, method: Object, call: Call | None, why: Decline
) -> None:
    setup |= {
        "last_setup_error": payment_methods.declined(why, payment_method=method).error,
        "next_action": None,
        "payment_method": None,
        "status": "requires_payment_method",
    }
    sandbox.store.put("setup_intent", setup)
    events.record(sandbox, "setup_intent.setup_failed", setup, call)


def authenticate(sandbox: Sandbox, setup: Object, passed: bool) -> CardError | None:
    """The owner completed or failed the 3-D Secure challenge; returns what then went wrong."""
    method = sandbox.store.get("payment_method", setup["payment_method"])
    if not passed:
        _give_back(sandbox, setup, method, None, _AUTHENTICATION_FAILED)
        return payment_methods.declined(_AUTHENTICATION_FAILED)
    try:
        attempt(sandbox, setup, method, None, authenticated=True)
    except CardError as error:
        return error
    return None


def cancel(sandbox: Sandbox, call: Call) -> Object:
    """POST /v1/setup_intents/{id}/cancel."""
    setup = sandbox.store.get("setup_intent", call["id"], "intent")
    payments.check_not_of_checkout(sandbox, setup)
    _check_open(setup, "cancel")
    return _cancel(sandbox, setup, call.params.get("cancellation_reason"), call)


def expire(sandbox: Sandbox, setup: Object) -> None:
    """Its checkout session has expired: an authentication that is under way comes too late."""
    if setup["status"] in _OPEN:
        _cancel(sandbox, setup, None, None)


def _cancel(sandbox: Sandbox, setup: Object, reason: str | None, call: Call | None) -> Object:
    setup |= {"cancellation_reason": reason, "next_action": None, "status": "canceled"}
    sandbox.store.put("setup_intent", setup)
    events.record(sandbox, "setup_intent.canceled", setup, call)
    return setup


def _check_open(setup: Object, verb: str) -> None:
    if setup["status"] not in _OPEN:
        raise InvalidRequest(
            f"You cannot {verb} this SetupIntent because it has a status of {setup['status']}.",
            code="setup_intent_unexpected_state",
            setup_intent=setup,
        )


def retrieve(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/setup_intents/{id}."""
    return sandbox.store.get("setup_intent", call["id"], "intent")


def list_all(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/setup_intents: by customer, payment method, time."""
    return listing.page(
        sandbox.store.newest("setup_intent"), call, equal=("customer", "payment_method")
    )
