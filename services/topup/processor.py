"""The card processor: the one place that calls Stripe.

Replies leave as plain dicts, errors as the classes below, so that nothing else knows the
library. Parameters are those of the pinned library's API version (2026-10-28.endive), which
takes ``allowed_payment_method_types``.

Which error means what for money:

::

    ProcessorError
    ├── Declined         the card was declined: no money moved
    ├── Rejected         the request was refused before anything was done: no money moved
    │   └── Missing      no such object
    │       └── CustomerGone   the customer was deleted
    └── OutcomeUnknown   time-out, reset, 5xx, 409, 429: money may have moved; ask later
        ├── KeySpent     a 5xx, which the processor keeps: under this key it says nothing else
        └── Unreached    no try of this call had a connection, so that it moved no money
"""

import logging
import time
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, TypeVar
from urllib.parse import urlsplit

import stripe
from prometheus_client import Counter, Histogram

from chassis import traces
from chassis.instruments import REGISTRY, SECONDS
from services.topup import reach
from services.topup.settings import TopupSettings

log = logging.getLogger(__name__)
_DURATION = Histogram(
    "mycelium_processor_call_duration_seconds",
    "How long calls of the card processor took, with all their tries.",
    ("operation",),
    buckets=SECONDS,
    registry=REGISTRY,
)
_ERRORS = Counter(
    "mycelium_processor_call_errors",
    "Calls of the card processor that failed, by what that means: see the head of the module.",
    ("operation", "error"),
    registry=REGISTRY,
)
OPERATIONS = (
    "BalanceTransactionService.list",
    "CustomerService.create",
    "CustomerService.list",
    "CustomerService.retrieve",
    "DisputeService.retrieve",
    "EventService.list",
    "PaymentIntentService.cancel",
    "PaymentIntentService.create",
    "PaymentIntentService.list",
    "PaymentIntentService.retrieve",
    "PaymentMethodService.detach",
    "PaymentMethodService.retrieve",
    "RefundService.create",
    "RefundService.list",
    "SessionService.create",
    "SessionService.expire",
    "SessionService.list",
    "SessionService.retrieve",
)
"""All that is asked of the processor."""
ALERTING = ("KeyRefused", "KeySpent", "OutcomeUnknown", "Unreached")
"""The errors that somebody is called for. They are there from the start: the first is seen then."""
for _operation, _error in product(OPERATIONS, ALERTING):
    _ERRORS.labels(_operation, _error)
# The library tells of every request; what fails is logged here, with its meaning.
logging.getLogger("stripe").setLevel(logging.WARNING)

Object = dict[str, Any]
T = TypeVar("T")

CARD_ONLY = ["card"]
CURRENCY = "usd"
TOPUP_ID = "topup_id"
"""The metadata that lead from a payment of ours to its top-up; others in the account have none."""
REFUND_ID = "refund_id"
"""The same of a refund that its owner asked for on the site."""
PAGE_LIMIT = 100
UNREACHED = "processor_unreached"
"""The code of a call of which nothing was sent."""
KEY_REFUSED = "processor_refuses_our_key"
"""The code of a refusal that is about us and not about the request."""


class ProcessorError(Exception):
    """``message`` is Stripe's sentence, ``code`` its error code."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code


class Declined(ProcessorError):
    """The bank said no. ``payment`` is the intent as Stripe sent it along, if it did."""

    def __init__(
        self,
        message: str,
        code: str,
        decline_code: str = "",
        advice_code: str = "",
        payment: Object | None = None,
    ) -> None:
        super().__init__(message, code)
        self.decline_code = decline_code
        self.advice_code = advice_code
        self.payment = payment


class Rejected(ProcessorError):
    pass


class Missing(Rejected):
    pass


class CustomerGone(Missing):
    pass


class OutcomeUnknown(ProcessorError):
    pass


class KeySpent(OutcomeUnknown):
    """It failed at the processor's end, or its key was used with another body: asked again under
    that key, which is kept for a day at least, it fails the same."""


class Unreached(OutcomeUnknown):
    """Nothing was sent: refused, no such name, no TLS, or no connection in time.

    It says nothing of earlier calls under the same key.
    """


class BadSignature(Exception):
    """A notice that Stripe did not sign, or signed too long ago."""


class Processor:
    """Stripe, for one account. Safe for many greenlets."""

    def __init__(
        self,
        api_key: str,
        *,
        api_base: str = "",
        connect_timeout_s: float = 3,
        read_timeout_s: float = 20,
        network_retries: int = 2,
        webhook_secret: str = "",
        webhook_tolerance_s: int = 300,
    ) -> None:
        self._client = stripe.StripeClient(
            api_key,
            base_addresses={"api": api_base} if api_base else {},
            http_client=stripe.RequestsClient(
                timeout=(connect_timeout_s, read_timeout_s), session=reach.session()
            ),
            max_network_retries=network_retries,
        )
        self._host = urlsplit(api_base or stripe.DEFAULT_API_BASE).hostname or ""
        self._webhook_secret = webhook_secret
        self._webhook_tolerance_s = webhook_tolerance_s

    @classmethod
    def from_settings(cls, settings: TopupSettings) -> "Processor":
        """The account that the environment names."""
        return cls(
            settings.stripe_api_key,
            api_base=settings.stripe_api_base,
            connect_timeout_s=settings.stripe_connect_timeout_s,
            read_timeout_s=settings.stripe_read_timeout_s,
            network_retries=settings.stripe_network_retries,
            webhook_secret=settings.stripe_webhook_secret,
            webhook_tolerance_s=settings.webhook_tolerance_s,
        )

    # Customers and cards

    def create_customer(self, user_id: str, email: str, *, idempotency_key: str) -> Object:
        return self._call(
            self._client.v1.customers.create,
            {"email": email, "metadata": {"user_id": user_id}},
            {"idempotency_key": idempotency_key},
        )

    def customers_by_email(self, email: str) -> list[Object]:
        return self._list(self._client.v1.customers.list, {"email": email})

    def get_customer(self, customer_id: str) -> Object:
        """A deleted one has ``deleted``."""
        return self._call(self._client.v1.customers.retrieve, customer_id)

    def get_payment_method(self, payment_method_id: str) -> Object:
        return self._call(self._client.v1.payment_methods.retrieve, payment_method_id)

    def detach_payment_method(self, payment_method_id: str) -> Object:
        return self._call(self._client.v1.payment_methods.detach, payment_method_id)

    # Checkout

    def create_payment_session(
        self,
        *,
        customer_id: str,
        amount_cents: int,
        topup_id: str,
        user_id: str,
        save_card: bool,
        success_url: str,
        cancel_url: str,
        idempotency_key: str,
    ) -> Object:
        """A hosted page that takes the money once. Metadata leads from the payment to the top-up.

        3-D Secure is asked for only where the card is saved: then later charges need none.
        """
        metadata = {TOPUP_ID: topup_id, "user_id": user_id}
        payment: dict[str, Any] = {
            "metadata": metadata,
            "description": "Mycelium credits",
        }
        params: dict[str, Any] = {
            "mode": "payment",
            "customer": customer_id,
            "client_reference_id": topup_id,
            "allowed_payment_method_types": CARD_ONLY,
            "line_items": [
                {
                    "quantity": 1,
                    "price_data": {
                        "currency": CURRENCY,
                        "unit_amount": amount_cents,
                        "product_data": {"name": "Mycelium credits"},
                    },
                }
            ],
            "payment_intent_data": payment,
            "metadata": metadata,
            "success_url": success_url,
            "cancel_url": cancel_url,
        }
        if save_card:
            payment["setup_future_usage"] = "off_session"
            params["payment_method_options"] = {"card": {"request_three_d_secure": "any"}}
        return self._call(
            self._client.v1.checkout.sessions.create,
            params,
            {"idempotency_key": idempotency_key},
        )

    def create_setup_session(
        self,
        *,
        customer_id: str,
        user_id: str,
        success_url: str,
        cancel_url: str,
        idempotency_key: str,
    ) -> Object:
        """A hosted page that saves a card and takes no money."""
        metadata = {"user_id": user_id}
        return self._call(
            self._client.v1.checkout.sessions.create,
            {
                "mode": "setup",
                "customer": customer_id,
                "allowed_payment_method_types": CARD_ONLY,
                "payment_method_options": {"card": {"request_three_d_secure": "any"}},
                "setup_intent_data": {"metadata": metadata},
                "metadata": metadata,
                "success_url": success_url,
                "cancel_url": cancel_url,
            },
            {"idempotency_key": idempotency_key},
        )

    def get_session(self, session_id: str) -> Object:
        """With the payment or the set-up, and its card, inside."""
        return self._call(
            self._client.v1.checkout.sessions.retrieve,
            session_id,
            {
                "expand": [
                    "payment_intent",
                    "payment_intent.latest_charge",
                    "payment_intent.payment_method",
                    "setup_intent",
                    "setup_intent.payment_method",
                ]
            },
        )

    def find_open_session(self, customer_id: str, topup_id: str) -> Object | None:
        """The page that is open for a top-up, by metadata. A list: it is never behind."""
        found = self._list(
            self._client.v1.checkout.sessions.list, {"customer": customer_id, "status": "open"}
        )
        return next((page for page in found if page["metadata"].get(TOPUP_ID) == topup_id), None)

    def expire_session(self, session_id: str) -> Object:
        return self._call(self._client.v1.checkout.sessions.expire, session_id)

    # Payments

    def charge_off_session(
        self,
        *,
        customer_id: str,
        payment_method_id: str,
        amount_cents: int,
        topup_id: str,
        user_id: str,
    ) -> Object:
        """Charge a saved card while its owner is away; ``topup_id`` is the idempotency key.

        ``error_on_requires_action`` turns a question of the bank's into a decline with the code
        ``authentication_required``: nobody is there to answer it. Forcing 3-D Secure here gets
        charges declined, so it is not asked for.
        """
        return self._charge_saved_card(
            customer_id,
            payment_method_id,
            amount_cents,
            topup_id,
            user_id,
            off_session=True,
            error_on_requires_action=True,
            description="Mycelium automatic top-up",
            payment_method_options={"card": {"stored_credential_usage": "unscheduled"}},
        )

    def charge_on_session(
        self,
        *,
        customer_id: str,
        payment_method_id: str,
        amount_cents: int,
        topup_id: str,
        user_id: str,
        return_url: str,
    ) -> Object:
        """Charge a saved card while its owner waits; ``topup_id`` is the idempotency key.

        Where the bank asks, the payment ``requires_action``, and its ``next_action`` leads to the
        bank's page and from there to ``return_url``: without one it would name Stripe's own script.
        """
        return self._charge_saved_card(
            customer_id,
            payment_method_id,
            amount_cents,
            topup_id,
            user_id,
            return_url=return_url,
            description="Mycelium credits",
        )

    def _charge_saved_card(
        self,
        customer_id: str,
        payment_method_id: str,
        amount_cents: int,
        topup_id: str,
        user_id: str,
        **how: object,
    ) -> Object:
        """``how`` are the parameters in which charges with and without their owner differ."""
        return self._call(
            self._client.v1.payment_intents.create,
            {
                "amount": amount_cents,
                "currency": CURRENCY,
                "customer": customer_id,
                "payment_method": payment_method_id,
                "allowed_payment_method_types": CARD_ONLY,
                "confirm": True,
                "metadata": {TOPUP_ID: topup_id, "user_id": user_id},
                "expand": ["latest_charge", "payment_method"],
                **how,
            },
            {"idempotency_key": topup_id},
        )

    def get_payment(self, payment_id: str) -> Object:
        return self._call(
            self._client.v1.payment_intents.retrieve,
            payment_id,
            {"expand": ["latest_charge.balance_transaction", "payment_method"]},
        )

    def cancel_payment(self, payment_id: str) -> Object:
        return self._call(self._client.v1.payment_intents.cancel, payment_id)

    def find_payments(self, customer_id: str, topup_id: str, since_s: int) -> list[Object]:
        """The payments made for a top-up, by metadata, newest first.

        A list, not a search: Stripe's search index lags by a minute, its lists do not.
        """
        found = self._list(
            self._client.v1.payment_intents.list,
            {
                "customer": customer_id,
                "created": {"gte": since_s},
                "expand": ["data.latest_charge", "data.payment_method"],
            },
        )
        return [item for item in found if item["metadata"].get(TOPUP_ID) == topup_id]

    # Refunds, disputes, books

    def refund(
        self,
        payment_id: str,
        amount_cents: int | None,
        *,
        idempotency_key: str,
        refund_id: str | None = None,
    ) -> Object:
        """Give back some of a payment, or all that is left. ``refund_id`` leads from the refund to
        what a user asked for."""
        params: dict[str, Any] = {"payment_intent": payment_id}
        if amount_cents is not None:
            params["amount"] = amount_cents
        if refund_id is not None:
            params["metadata"] = {REFUND_ID: refund_id}
        return self._call(
            self._client.v1.refunds.create, params, {"idempotency_key": idempotency_key}
        )

    def refunds_of(self, payment_id: str) -> list[Object]:
        return self._list(self._client.v1.refunds.list, {"payment_intent": payment_id})

    def get_dispute(self, dispute_id: str) -> Object:
        return self._call(self._client.v1.disputes.retrieve, dispute_id)

    def payments_between(self, since_s: int, until_s: int) -> list[Object]:
        """Every payment created in [since, until), Unix seconds, with what its charge moved."""
        return self._list(
            self._client.v1.payment_intents.list,
            {
                "created": {"gte": since_s, "lt": until_s},
                "expand": ["data.latest_charge.balance_transaction"],
            },
        )

    def movements_between(self, since_s: int, until_s: int) -> list[Object]:
        """Every balance transaction created in [since, until), with its source inside."""
        return self._list(
            self._client.v1.balance_transactions.list,
            {"created": {"gte": since_s, "lt": until_s}, "expand": ["data.source"]},
        )

    def movements_of(self, source_id: str) -> list[Object]:
        """Every balance transaction of one refund or dispute, whenever it was, with that inside."""
        return self._list(
            self._client.v1.balance_transactions.list,
            {"source": source_id, "expand": ["data.source"]},
        )

    # Notices

    def verify_notice(self, payload: str, signature: str) -> None:
        """Raises :class:`BadSignature` unless Stripe signed this body within the tolerance."""
        if not signature.isascii():
            raise BadSignature("it holds characters that no signature has")
        try:
            stripe.WebhookSignature.verify_header(
                payload, signature, self._webhook_secret, self._webhook_tolerance_s
            )
        except stripe.SignatureVerificationError as error:
            raise BadSignature(str(error.user_message)) from None

    def undelivered_events(self, since_s: int) -> list[Object]:
        """Events since then that Stripe could not deliver; it keeps them for 30 days."""
        return self._list(
            self._client.v1.events.list,
            {"delivery_success": False, "created": {"gte": since_s}},
        )

    # How every call is made

    def _call(self, method: Callable[..., Any], *args: Any) -> Object:
        reply: Object = self._translated(method, lambda: method(*args)).to_dict()
        return reply

    def _list(self, method: Callable[..., Any], params: dict[str, Any]) -> list[Object]:
        def everything() -> list[Object]:
            pages: Iterator[Any] = method({"limit": PAGE_LIMIT, **params}).auto_paging_iter()
            return [item.to_dict() for item in pages]

        return self._translated(method, everything)

    def _translated(self, method: Callable[..., Any], do: Callable[[], T]) -> T:
        name = _name(method)
        with traces.asking_outside(f"stripe {name}", self._host):
            return _translated(name, do)


def _name(method: Callable[..., Any]) -> str:
    """What is asked for, such as ``PaymentIntentService.create``."""
    return getattr(method, "__qualname__", "unknown")


def _translated(name: str, method: Callable[[], T]) -> T:
    began_s = time.perf_counter()
    try:
        with reach.watched() as sending:
            return _raising_ours(method, sending)
    except ProcessorError as error:
        is_key = error.code == KEY_REFUSED
        _ERRORS.labels(name, "KeyRefused" if is_key else type(error).__name__).inc()
        raise
    finally:
        _DURATION.labels(name).observe(time.perf_counter() - began_s)


def _raising_ours(method: Callable[[], T], sending: reach.Sending) -> T:
    try:
        return method()
    except stripe.CardError as error:
        raise _declined(error) from error
    except (stripe.APIConnectionError, stripe.RateLimitError) as error:
        if not sending.may_have_arrived:
            raise Unreached(_sentence(error), UNREACHED) from error
        raise OutcomeUnknown(_sentence(error), error.code or "no_answer") from error
    except stripe.InvalidRequestError as error:
        raise _rejected(error) from error
    except (stripe.AuthenticationError, stripe.PermissionError) as error:
        log.error("the card processor refuses our key", extra={"reason": _sentence(error)})
        raise Rejected(_sentence(error), KEY_REFUSED) from error
    except stripe.StripeError as error:
        # IdempotencyError is among these: the key was used, so something was done under it.
        is_other = isinstance(error, stripe.IdempotencyError)
        is_kept = is_other or (error.http_status or 0) >= 500
        kind = KeySpent if is_kept else OutcomeUnknown
        raise kind(_sentence(error), error.code or "processor_failed") from error


def _sentence(error: stripe.StripeError) -> str:
    return str(error.user_message or error)


def _rejected(error: stripe.InvalidRequestError) -> Rejected:
    kind = Rejected
    if error.code == "resource_missing":
        kind = CustomerGone if error.param == "customer" else Missing
    return kind(_sentence(error), error.code or "invalid_request")


def _declined(error: stripe.CardError) -> Declined:
    body = error.json_body if isinstance(error.json_body, dict) else {}
    details: Object = body.get("error") or {}
    return Declined(
        _sentence(error),
        error.code or "card_declined",
        details.get("decline_code") or "",
        details.get("advice_code") or "",
        details.get("payment_intent"),
    )
