"""The broker's end of a container: its publisher and the consumer of all its queues."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any

import eventlet
from amqp import Message as OutgoingMessage
from kombu import Connection, Exchange, Queue
from kombu.message import Message
from nameko.extensions import SharedExtension
from nameko.messaging import QueueConsumer as NamekoQueueConsumer

from chassis import bodies, instruments
from chassis.broker import (
    ERROR_HEADER,
    ORIGIN_HEADER,
    RPC_EXCHANGE,
    TRANSIENT,
    Publisher,
    dead_letter_queue,
    ensure_exchange,
    moved,
    own_queues,
    retry_queue,
    skip_blocked_check,
)
from chassis.connection import BrokerConnection, spread
from chassis.settings import service_settings
from chassis.wire import make_frugal

log = logging.getLogger(__name__)

MOVED_AGAIN_AFTER_S = 1.0
"""A failed message that cannot be moved now is not taken up again before: a quorum queue counts how
often it delivers one."""
CALLS_PER_WORKER = 5
"""So many calls a process has in hand for each of its workers: one runs, the others wait.

The next one is refused at once.
"""


class ConfirmedPublisher(SharedExtension):
    """The one :class:`~chassis.broker.Publisher` that all extensions of a container share."""

    publisher: Publisher

    def setup(self) -> None:
        settings = service_settings()
        self.publisher = Publisher(self.container.config["AMQP_URI"], settings.broker_heartbeat_s)

    def stop(self) -> None:
        self.publisher.close()


class QueueConsumer(NamekoQueueConsumer):
    """Nameko's consumer, which no message can kill.

    In stock nameko an undecodable message is acknowledged and gone, and one that a provider
    chokes on ends the container, is redelivered, and ends the next. Here a call whose caller
    waits is answered, and everything else becomes a dead letter.

    A broker that falls silent is left after ``BROKER_HEARTBEAT_S``, for its next node.
    """

    confirmed = ConfirmedPublisher()
    _replies: Any = None
    _is_consuming = False

    def __init__(self) -> None:
        super().__init__()
        self._in_hand: set[Message] = set()
        """Messages that were taken and neither acknowledged nor given back."""

    @property
    def prefetch_count(self) -> int:
        """Enough to see the calls that are to be refused, beside those in hand."""
        workers: int = self.container.max_workers
        return workers * (CALLS_PER_WORKER + 1)

    @property
    def is_consuming(self) -> bool:
        """Whether the broker is connected and sends messages."""
        return self._is_consuming

    @cached_property
    def connection(self) -> BrokerConnection:
        """The one connection, which is opened again when it was lost."""
        return BrokerConnection(self.amqp_uri, service_settings().broker_heartbeat_s)

    @contextmanager
    def establish_connection(self) -> Iterator[Connection]:
        """Kombu's waits longer and longer for a broker that was away, up to 30 s; this one waits
        three steps of about a second at most."""
        step_s = spread()
        with self.connection as connection:
            connection.ensure_connection(
                self.on_connection_error,
                interval_start=step_s,
                interval_step=step_s,
                interval_max=3 * step_s,
            )
            yield connection

    @contextmanager
    def consumer_context(self, **options: Any) -> Iterator[Any]:
        try:
            with super().consumer_context(**options) as context:
                yield context
        finally:
            self._is_consuming = False

    def on_consume_ready(self, connection: Connection, channel: Any, consumers: Any) -> None:
        skip_blocked_check(connection)
        make_frugal(connection)
        super().on_consume_ready(connection, channel, consumers)
        self._is_consuming = True

    @property
    def in_hand(self) -> int:
        """How many messages were taken and are neither acknowledged nor given back."""
        return len(self._in_hand)

    def reply(self, body: bytes, message: Message) -> None:
        """Answer ``message`` with JSON on the connection that it came in on, without a confirm.

        That connection is read all the time, so that its loss shows; a publisher of its own
        would learn of it by losing a reply.
        """
        if self._replies is None:
            raise ConnectionError("not connected to the broker")
        reply = OutgoingMessage(
            body,
            **bodies.PROPERTIES,
            correlation_id=message.properties.get("correlation_id"),
            delivery_mode=TRANSIENT,
        )
        self._replies.basic_publish(reply, RPC_EXCHANGE.name, message.properties["reply_to"])

    def get_consumers(self, consumer_cls: Any, channel: Any) -> Any:
        # Before any message comes: a call that is refused is answered while the next thing that
        # we ask the broker for is still on its way.
        self._replies = channel.connection.channel()
        self.declare(channel)
        consumers = super().get_consumers(consumer_cls, channel)
        for provider, consumer in self._consumers.items():
            consumer.on_message = partial(self._take, provider)
            consumer.on_decode_error = lambda message, _error, take=consumer.on_message: take(
                message
            )
        return consumers

    @property
    def queues(self) -> list[Queue]:
        """What it takes messages from, and those in which they wait for their next try."""
        delays_s = service_settings().retry_delays_s
        return [
            *(provider.queue for provider in self._providers),
            *(retry_queue(self.container.service_name, delay_s) for delay_s in delays_s),
        ]

    def declare(self, channel: Any) -> None:
        """Make sure of all queues and bindings: a broker that lost its data has none any more."""
        service = self.container.service_name
        delays_s = service_settings().retry_delays_s
        for queue in (
            dead_letter_queue(service),
            *(retry_queue(service, delay_s) for delay_s in delays_s),
        ):
            queue(channel).declare()
        for provider in self._providers:
            ensure_exchange(channel.connection, provider.queue.exchange)
            provider.queue(channel).declare()
            # The way back for what is tried again, and for dead letters that are replayed.
            name = provider.queue.name
            channel.queue_bind(name, exchange=own_queues(service).name, routing_key=name)

    def _take(self, provider: Any, message: Message) -> None:
        try:
            body = bodies.decode(message)
        except ValueError as error:
            self._in_hand.add(message)
            self._refuse(provider, message, f"undecodable: {error}")
        else:
            self.handle_message(provider, body, message)

    def _refuse(self, provider: Any, message: Message, error: str) -> None:
        """Answer a message that cannot be read where somebody waits, or make it a dead letter."""
        if not (hasattr(provider, "refuse") and provider.refuse(message, error)):
            self._set_aside(provider, message, error)

    def _set_aside(self, provider: Any, message: Message, error: str) -> None:
        self.container.spawn_managed_thread(partial(self.dead_letter, provider, message, error))

    def handle_message(self, provider: Any, body: Any, message: Message) -> None:
        self._in_hand.add(message)
        if getattr(provider, "never_waits", False):
            self._handle(provider, body, message)
        else:
            self.container.spawn_managed_thread(partial(self._handle, provider, body, message))

    def _handle(self, provider: Any, body: Any, message: Message) -> None:
        try:
            provider.handle_message(body, message)
        except Exception as error:
            log.exception("a message could not be taken")
            self._set_aside(provider, message, f"{type(error).__name__}: {error}")

    def ack_message(self, message: Message) -> None:
        self._in_hand.discard(message)
        super().ack_message(message)

    def requeue_message(self, message: Message) -> None:
        self._in_hand.discard(message)
        super().requeue_message(message)

    def on_iteration(self) -> None:
        """Keep the connection, when the service is told to stop, until all is answered."""
        self._cancel_consumers_if_requested()
        if not self._consumers and not self._in_hand:
            self.should_stop = True

    def dead_letter(self, provider: Any, message: Message, error: str) -> None:
        """Move a message to the service's dead letters; back to its queue when that fails."""
        self.bury(message, self.marked(provider, message, error))
        log.error("dead letter", extra={"queue": provider.queue.name, "error": error})

    def marked(self, provider: Any, message: Message, error: str) -> dict[str, Any]:
        """The headers of a message that failed: with where it was, and why."""
        return {
            **bodies.headers_of(message),
            ORIGIN_HEADER: provider.queue.name,
            ERROR_HEADER: error[:1000],
        }

    def bury(self, message: Message, headers: dict[str, Any]) -> None:
        """Move a message to the service's dead letters."""
        service = self.container.service_name
        dead_letters = dead_letter_queue(service).name
        instruments.DEAD_LETTERS.labels(headers[ORIGIN_HEADER]).inc()
        self.move(message, headers, own_queues(service), dead_letters)

    def move(
        self, message: Message, headers: dict[str, Any], exchange: Exchange, routing_key: str
    ) -> None:
        """Publish a message elsewhere with a confirm, then acknowledge it here.

        A crash in between leaves it in both places: handlers know their duplicates.
        """
        try:
            self.confirmed.publisher.publish(moved(message, headers, exchange, routing_key))
        except Exception:
            log.exception("a failed message could not be moved; it goes back to its queue")
            eventlet.sleep(MOVED_AGAIN_AFTER_S)
            self.requeue_message(message)
        else:
            self.ack_message(message)
