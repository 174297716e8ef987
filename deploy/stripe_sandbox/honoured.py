"""Which parameters do something here.

Stripe takes more than these. What the sandbox would only drop it refuses, so that nothing that
works here is found to mean something else there. A name stands for all that is inside it.
"""

from typing import Any

from .errors import InvalidRequest
from .params import bracketed

_PAGED = "limit starting_after ending_before"
_LISTED = f"{_PAGED} created"
_CUSTOMER = (
    "address description email name phone shipping preferred_locales metadata"
    " invoice_settings.default_payment_method"
)
_CARD_OPTIONS = (
    "payment_method_options.card.request_three_d_secure"
    " payment_method_options.card.setup_future_usage"
    " payment_method_options.card.stored_credential_usage"
)
_CONFIRMING = "payment_method off_session error_on_requires_action return_url"
_TYPES = "allowed_payment_method_types automatic_payment_methods"

_NAMES = {
    "_customer_create_params": _CUSTOMER,
    "_customer_list_params": f"email {_LISTED}",
    "_customer_retrieve_params": "",
    "_customer_update_params": _CUSTOMER,
    "_customer_delete_params": "",
    "_customer_payment_method_list_params": f"type allow_redisplay {_PAGED}",
    "_customer_payment_method_retrieve_params": "",
    "_payment_method_create_params": (
        "type card.number card.exp_month card.exp_year card.cvc card.token billing_details"
        " allow_redisplay metadata"
    ),
    "_payment_method_list_params": f"customer type allow_redisplay {_PAGED}",
    "_payment_method_retrieve_params": "",
    "_payment_method_update_params": (
        "card.exp_month card.exp_year billing_details allow_redisplay metadata"
    ),
    "_payment_method_attach_params": "customer",
    "_payment_method_detach_params": "",
    "_payment_intent_create_params": (
        "amount currency customer confirm capture_method description metadata receipt_email"
        f" setup_future_usage {_TYPES} {_CONFIRMING} {_CARD_OPTIONS}"
    ),
    "_payment_intent_list_params": f"customer {_LISTED}",
    "_payment_intent_search_params": "query limit page",
    "_payment_intent_retrieve_params": "",
    "_payment_intent_update_params": (
        "amount description receipt_email setup_future_usage payment_method metadata"
    ),
    "_payment_intent_confirm_params": (
        f"setup_future_usage receipt_email {_CONFIRMING} {_CARD_OPTIONS}"
    ),
    "_payment_intent_cancel_params": "cancellation_reason",
    "_setup_intent_create_params": (
        "customer payment_method confirm return_url usage description metadata"
        f" payment_method_options.card.request_three_d_secure {_TYPES}"
    ),
    "_setup_intent_list_params": f"customer payment_method {_LISTED}",
    "_setup_intent_retrieve_params": "",
    "_setup_intent_confirm_params": "payment_method return_url",
    "_setup_intent_cancel_params": "cancellation_reason",
    "_charge_list_params": f"customer payment_intent {_LISTED}",
    "_charge_retrieve_params": "",
    "_charge_update_params": "description metadata",
    "checkout._session_create_params": (
        "mode ui_mode customer customer_email customer_creation client_reference_id currency"
        " success_url cancel_url expires_at metadata allowed_payment_method_types"
        " line_items.quantity line_items.metadata line_items.price_data.currency"
        " line_items.price_data.unit_amount line_items.price_data.product_data.name"
        " payment_intent_data.metadata payment_intent_data.description"
        " payment_intent_data.receipt_email payment_intent_data.setup_future_usage"
        " payment_intent_data.capture_method"
        " setup_intent_data.metadata setup_intent_data.description"
        " payment_method_options.card.request_three_d_secure"
        " payment_method_options.card.setup_future_usage"
        " saved_payment_method_options.payment_method_save"
    ),
    "checkout._session_list_params": f"customer payment_intent status {_LISTED}",
    "checkout._session_retrieve_params": "",
    "checkout._session_update_params": "metadata",
    "checkout._session_expire_params": "",
    "checkout._session_line_item_list_params": _PAGED,
    "_refund_create_params": "charge payment_intent amount reason metadata",
    "_refund_list_params": f"charge payment_intent {_LISTED}",
    "_refund_retrieve_params": "",
    "_refund_update_params": "metadata",
    "_dispute_list_params": f"charge payment_intent {_LISTED}",
    "_dispute_retrieve_params": "",
    "_dispute_update_params": "evidence metadata submit",
    "_dispute_close_params": "",
    "_event_list_params": f"type types delivery_success {_LISTED}",
    "_event_retrieve_params": "",
    "_balance_retrieve_params": "",
    "_balance_transaction_list_params": f"source type currency payout {_LISTED}",
    "_balance_transaction_retrieve_params": "",
}  # fmt: skip
BY_TYPE = {module: frozenset(names.split()) for module, names in _NAMES.items()}


def check(params: dict[str, Any], honoured: frozenset[str]) -> None:
    """Raise InvalidRequest for the first parameter that would be dropped."""
    for path in _leaves(params) if params else ():
        names = [part for part in path if not part.isdigit()]
        if not any(".".join(names[: end + 1]) in honoured for end in range(len(names))):
            name = bracketed(path)
            raise InvalidRequest(
                f"The sandbox does not know this parameter and would drop it: {name}.", param=name
            )


def _leaves(node: Any) -> list[list[str]]:
    """The path to every value inside."""
    if isinstance(node, dict) and node:
        inside = [(str(name), value) for name, value in node.items()]
    elif isinstance(node, list) and node:
        inside = [(str(index), value) for index, value in enumerate(node)]
    else:
        return [[]]
    return [[name, *path] for name, value in inside for path in _leaves(value)]
