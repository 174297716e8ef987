"""What may happen to events on their way to their handlers, done by the broker's administrator."""

import contextlib
import inspect
import json
import random
import threading
import time
from collections.abc import Iterator
from importlib import import_module
from typing import Any, NamedTuple, Self
from uuid import uuid4

from amqp import Message
from kombu import Connection

from deploy.parts import SERVICES
from services.gateway.notifier import NotifierService
from tests.faults.chaos.product import Product

POISON = "poisoned-by-a-test"
"""It stands in every message that a test spoiled: such a dead letter is explained."""

LATEST_S = 3.0
"""How long a message is kept back at most."""

SPOILED = (
    f"{{{POISON}",
    json.dumps({"event_id": POISON}),
    json.dumps([POISON]),
    json.dumps({"event_id": str(uuid4()), "occurred_at": "2026-11-29T12:00:00Z", "note": POISON}),
)


class Handler(NamedTuple):
    """Where a handler gets its events: ``queue`` is bound to ``exchange`` with ``type``."""

    service: str
    exchange: str
    type: str
    queue: str


def _handlers() -> Iterator[Handler]:
    modules = [import_module(f"services.{name}.service") for name in SERVICES]
    classes = [NotifierService] + [
        each
        for module in modules
        for each in vars(module).values()
        if inspect.isclass(each) and each.__module__ == module.__name__ and hasattr(each, "name")
    ]
    for service in classes:
        for name, method in inspect.getmembers(service, inspect.isfunction):
            for point in getattr(method, "nameko_entrypoints", ()):
                if hasattr(point, "event_type"):
                    source, kind = point.source_service, point.event_type
                    queue = f"evt-{source}-{kind}--{service.name}.{name}"
                    yield Handler(service.name, f"{source}.events", kind, queue)


HANDLERS = tuple(_handlers())


class Meddler:
    """Sits on a connection of its own, and does something with whatever passes."""

    def __init__(self, product: Product, seed: float) -> None:
        self._chance = random.Random(seed)
        self._connection = Connection(product.vhost.admin_uri, connect_timeout=5)
        self._channel: Any = self._connection.channel()
        self._queue = f"meddler-{uuid4()}"
        self._channel.queue_declare(self._queue, durable=False, exclusive=True, auto_delete=True)
        self._kept: list[tuple[float, str, str, Message]] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._works, daemon=True)

    def _works(self) -> None:
        while not self._is_over.wait(0.02):
            self._takes()
            self._lets_go(time.monotonic())
        self._takes()
        self._lets_go(time.monotonic() + 2 * LATEST_S)

    def _takes(self) -> None:
        while (message := self._channel.basic_get(self._queue, no_ack=True)) is not None:
            self.meets(message, message.delivery_info)

    def meets(self, message: Message, where: dict[str, Any]) -> None:
        raise NotImplementedError

    def keeps(self, message: Message, exchange: str, routing_key: str) -> None:
        """Send it on in a while, after some that came later."""
        until = time.monotonic() + self._chance.uniform(0, LATEST_S)
        kept = Message(message.body, **{**message.properties, "delivery_mode": 2})
        self._kept.append((until, exchange, routing_key, kept))

    def _lets_go(self, now: float) -> None:
        due = [each for each in self._kept if each[0] <= now]
        self._chance.shuffle(due)
        for each in due:
            self._kept.remove(each)
            _, exchange, routing_key, message = each
            self._channel.basic_publish(message, exchange, routing_key)

    def __enter__(self) -> Self:
        self.begins()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(30)
        self.ends()
        self._connection.release()

    def begins(self) -> None: ...

    def ends(self) -> None: ...


class Repeats(Meddler):
    """Every event comes once or twice more, later, among others."""

    MARK = "x-repeated-by-a-test"

    def begins(self) -> None:
        for exchange in {handler.exchange for handler in HANDLERS}:
            self._channel.queue_bind(self._queue, exchange, "#")

    def meets(self, message: Message, where: dict[str, Any]) -> None:
        headers = message.properties.setdefault("application_headers", {})
        if self.MARK in headers:
            return
        headers[self.MARK] = True
        for _ in range(self._chance.randint(1, 2)):
            self.keeps(message, where["exchange"], where["routing_key"])


class Delays(Meddler):
    """Every event is kept back for a time of its own, so that they come in another order."""

    def begins(self) -> None:
        for handler in HANDLERS:
            with contextlib.suppress(Exception):
                self._channel.queue_bind(self._queue, handler.exchange, handler.type)
        for handler in HANDLERS:
            self._channel.queue_unbind(handler.queue, handler.exchange, handler.type)

    def meets(self, message: Message, where: dict[str, Any]) -> None:
        for handler in HANDLERS:
            if (handler.exchange, handler.type) == (where["exchange"], where["routing_key"]):
                self.keeps(message, "", handler.queue)

    def ends(self) -> None:
        for handler in HANDLERS:
            self._channel.queue_bind(handler.queue, handler.exchange, handler.type)
        for handler in HANDLERS:
            self._channel.queue_unbind(self._queue, handler.exchange, handler.type)
        self._takes()
        self._lets_go(time.monotonic() + 2 * LATEST_S)


def poisons(product: Product) -> None:
    """Spoiled events of every kind, and calls that make no sense."""
    with Connection(product.vhost.admin_uri, connect_timeout=5) as connection:
        channel = connection.channel()
        for exchange, kind in {(each.exchange, each.type) for each in HANDLERS}:
            for body in SPOILED:
                message = Message(body.encode(), content_type="application/json",
                                  content_encoding="utf-8", delivery_mode=2)  # fmt: skip
                channel.basic_publish(message, exchange, kind)
        for service in SERVICES:
            message = Message(SPOILED[0].encode(), content_type="application/json")
            channel.basic_publish(message, "nameko-rpc", f"{service}.get_wallet")
