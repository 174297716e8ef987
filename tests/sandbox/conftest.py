"""A real sandbox on a free port, the official library that talks to it, and a webhook receiver."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests
import stripe

from deploy.stripe_sandbox.server import SandboxServer
from deploy.stripe_sandbox.settings import Settings
from tests.patience import PATIENCE_S

SECRET = "whsec_of_the_sandbox_tests"


@dataclass
class Receiver:
    """What arrived at the webhook address, and how many arrivals are still to be refused."""

    url: str = ""
    arrived: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    refuse: dict[str, int] = field(default_factory=dict)
    """Customer id → how many of its next webhooks get a 500."""

    def events(self, customer: str) -> list[stripe.Event]:
        """The events about a customer, verified, in the order in which they arrived."""
        found = []
        for headers, body in list(self.arrived):
            if customer in body.decode():
                signature = headers["Stripe-Signature"]
                found.append(stripe.Webhook.construct_event(body, signature, SECRET))
        return found

    def types(self, customer: str) -> list[str]:
        """The types of `events`."""
        return [event.type for event in self.events(customer)]


@pytest.fixture(scope="session")
def receiver() -> Iterator[Receiver]:
    """A webhook address that keeps what it is sent."""
    kept = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            kept.arrived.append((dict(self.headers), body))
            status = 200
            for customer, left in kept.refuse.items():
                if customer in body.decode() and left > 0:
                    kept.refuse[customer] -= 1
                    status = 500
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    kept.url = f"http://127.0.0.1:{server.server_port}/webhooks/stripe"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield kept
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def sandbox_url(receiver: Receiver) -> Iterator[str]:
    """The address of a sandbox that forgets everything at the end."""
    server = SandboxServer(
        Settings(
            port=0,
            webhook_url=receiver.url,
            webhook_secret=SECRET,
            webhook_retry_s=0.05,
            later_s=3_600,  # when a test says so
        )
    )
    thread = threading.Thread(target=server.serve)
    thread.start()
    yield server.url
    server.stop()
    thread.join()


@pytest.fixture(scope="session")
def client(sandbox_url: str) -> stripe.StripeClient:
    """The official library, told to use the sandbox."""
    return client_of(sandbox_url)


def client_of(url: str, key: str = "sk_test_of_the_tests", timeout: float = PATIENCE_S) -> Any:
    """The official library with its own settings; no retries unless a test asks."""
    return stripe.StripeClient(
        key,
        base_addresses={"api": url},
        http_client=stripe.RequestsClient(timeout=timeout),
        max_network_retries=0,
    )


@dataclass
class Control:
    """The sandbox's switches."""

    url: str

    def post(self, path: str, **body: Any) -> Any:
        """Use a control endpoint."""
        reply = requests.post(f"{self.url}/_sandbox/{path}", json=body, timeout=PATIENCE_S)
        assert reply.ok, reply.text
        return reply.json()

    def totals(self, customer: str) -> Any:
        """What the customer paid."""
        return requests.get(
            f"{self.url}/_sandbox/totals", params={"customer": customer}, timeout=PATIENCE_S
        ).json()


@pytest.fixture(scope="session")
def control(sandbox_url: str) -> Control:
    """The sandbox's switches."""
    return Control(sandbox_url)


@pytest.fixture
def customer(client: stripe.StripeClient) -> str:
    """A customer of this test alone."""
    return client.v1.customers.create({"email": "buyer@example.com"}).id


@dataclass
class Cards:
    """Saves and charges cards as the top-up service does."""

    client: stripe.StripeClient
    customer: str

    def save(self, name: str = "pm_card_visa") -> str:
        """A saved card's id; `name` is a ready-made payment method or a number."""
        if name.isdigit():
            card = {"number": name, "exp_month": 12, "exp_year": 2034, "cvc": "123"}
            made = self.client.v1.payment_methods.create({"type": "card", "card": card})
            name = made.id
        return self.client.v1.payment_methods.attach(name, {"customer": self.customer}).id

    def charge(self, method: str, key: str | None = None, **more: Any) -> stripe.PaymentIntent:
        """An off-session charge of $25.00."""
        return self.client.v1.payment_intents.create(
            {
                "amount": 2500,
                "currency": "usd",
                "customer": self.customer,
                "payment_method": method,
                "confirm": True,
                "off_session": True,
                "error_on_requires_action": True,
                "allowed_payment_method_types": ["card"],
                "payment_method_options": {"card": {"stored_credential_usage": "unscheduled"}},
                **more,
            },
            options={"idempotency_key": key} if key else None,
        )


@pytest.fixture
def cards(client: stripe.StripeClient, customer: str) -> Cards:
    """Saves and charges cards of this test's customer."""
    return Cards(client, customer)


@pytest.fixture
def new_session(client: stripe.StripeClient, customer: str) -> Callable[..., Any]:
    """Makes a checkout session over $25.00."""

    def make(**more: Any) -> Any:
        return client.v1.checkout.sessions.create(
            {
                "mode": "payment",
                "customer": customer,
                "client_reference_id": "topup-1",
                "success_url": "http://127.0.0.1:1/ok?session={CHECKOUT_SESSION_ID}",
                "cancel_url": "http://127.0.0.1:1/cancel",
                "line_items": [
                    {
                        "quantity": 1,
                        "price_data": {
                            "currency": "usd",
                            "unit_amount": 2500,
                            "product_data": {"name": "Credits <b>& more</b>"},
                        },
                    }
                ],
                "payment_intent_data": {"metadata": {"topup_id": "topup-1"}},
                **more,
            }
        )

    return make


@pytest.fixture
def new_setup_session(client: stripe.StripeClient, customer: str) -> Callable[[], Any]:
    """Makes a checkout session that saves a card."""

    def make() -> Any:
        return client.v1.checkout.sessions.create(
            {
                "mode": "setup",
                "currency": "usd",
                "customer": customer,
                "success_url": "http://127.0.0.1:1/ok",
                "setup_intent_data": {"metadata": {"user": "1"}},
            }
        )

    return make
