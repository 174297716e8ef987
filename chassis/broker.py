"""The broker's end of every process: names, publishing, and the queues of failed messages.

Names follow nameko's, so that any nameko service can call and listen:
``rpc-<service>`` takes calls, ``<service>.events`` carries facts,
``evt-<source>-<type>--<service>.<handler>`` is where one handler gets them. Ours are
``<service>.dead-letters``, ``<service>.retry.<seconds>s``, and the exchange ``<service>.queues``,
by which a service puts a message back into a queue of its own. It needs no right to the default
exchange, which would put one into anybody's (``deploy.definitions``).
"""

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amqp import Message as OutgoingMessage
from amqp.exceptions import MessageNacked, NotFound
from kombu import Connection, Exchange, Queue
from kombu.message import Message

from chassis.connection import HEARTBEAT_S, BrokerConnection
from chassis.wire import make_frugal, sent_at_once
from contracts import calls

# Kombu declares an exchange with every queue that is bound to it, and the right to declare one is
# the right to delete it: see `ensure_exchange`.
RPC_EXCHANGE = Exchange(calls.EXCHANGE, type="topic", durable=True, no_declare=True)
CALL_EXCHANGES = (RPC_EXCHANGE.name, "amq.topic")
"""Where the broker compares the routing key of a call with its caller's rights: ours, and stock
nameko's (``deploy.definitions``)."""
REPLY_KEY = re.compile(r"(rpc\.reply-[a-z0-9_]+-)?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""The routing keys of replies: ours, and stock nameko's."""
TRANSIENT, PERSISTENT = 1, 2

ATTEMPTS_HEADER = "x-mycelium-attempts"
ERROR_HEADER = "x-mycelium-error"
ORIGIN_HEADER = "x-mycelium-queue"


class Unroutable(Exception):
    """No queue wants the message."""


def event_exchange(source: str) -> Exchange:
    """Where a service publishes its events, by their type."""
    return Exchange(f"{source}.events", type="topic", durable=True, no_declare=True)


def own_queues(service: str) -> Exchange:
    """Puts a message into that queue of a service which its routing key names."""
    return Exchange(f"{service}.queues", type="direct", durable=True)


def dead_letter_queue(service: str) -> Queue:
    """Where the messages end that a service could not handle, for an operator to look at."""
    name = f"{service}.dead-letters"
    return Queue(name, exchange=own_queues(service), routing_key=name, durable=True)


def retry_exchange(service: str, delay_s: int) -> Exchange:
    return Exchange(f"{service}.retry.{delay_s}s", type="fanout", durable=True)


def retry_queue(service: str, delay_s: int) -> Queue:
    """Holds messages for ``delay_s`` and gives each back to the queue its routing key names.

    One queue for each delay: in a queue of mixed delays a long one at the head would hold up
    the short ones behind it.
    """
    return Queue(
        f"{service}.retry.{delay_s}s",
        exchange=retry_exchange(service, delay_s),
        durable=True,
        queue_arguments={
            "x-message-ttl": delay_s * 1000,
            "x-dead-letter-exchange": own_queues(service).name,
        },
    )


def ensure_exchange(wire: Any, exchange: Exchange) -> None:
    """Make sure that an exchange is there; ``wire`` is an open connection of py-amqp's.

    A login may declare its own exchanges only, and the broker's definitions have them all. On a
    broker without such definitions whoever comes first declares it.
    """
    with wire.channel() as channel:
        try:
            channel.exchange_declare(exchange.name, exchange.type, passive=True)
            return
        except NotFound:
            pass  # the broker has closed this channel
    with wire.channel() as channel:
        channel.exchange_declare(
            exchange.name, exchange.type, durable=exchange.durable, auto_delete=False
        )


def skip_blocked_check(connection: Connection) -> None:
    """Keep py-amqp from reading the socket before every publish on this connection.

    It looks for the broker's "connection blocked" notice there, with two system calls and a
    time-out each time. Where another greenlet or thread reads the connection anyway, that
    costs a third of a publish, and two readers would take each other's frames.
    """
    connection.connection.client_properties["capabilities"]["connection.blocked"] = False


@dataclass(frozen=True)
class Outgoing:
    """A message to publish; ``properties`` are AMQP's own, by py-amqp's names."""

    body: bytes
    exchange: str
    routing_key: str
    properties: Mapping[str, Any]
    is_mandatory: bool = False


def moved(
    message: Message, headers: Mapping[str, Any], exchange: Exchange, routing_key: str
) -> Outgoing:
    """A message that came in, to be published elsewhere, and not to be lost on the way."""
    properties = {
        "content_type": message.content_type or "application/octet-stream",
        "content_encoding": message.content_encoding or "binary",
        "application_headers": headers,
        "delivery_mode": PERSISTENT,
    }
    return Outgoing(message.body, exchange.name, routing_key, properties, is_mandatory=True)


class Publisher:
    """One connection that publishes with confirms, for all threads or greenlets of a process.

    A publish returns when the broker has the messages, and several are on their way at once. A
    connection that broke, or on which no confirm came within ``heartbeat_s``, is left, and what
    was not confirmed sent on a new one, once for each publish.
    """

    def __init__(self, amqp_uri: str, heartbeat_s: int = HEARTBEAT_S) -> None:
        self._lock = threading.Lock()
        self._connection = BrokerConnection(amqp_uri, heartbeat_s, is_read=False)
        self._channel: Any = None
        self._last_tag = 0
        self._unconfirmed: dict[int, tuple[int, Outgoing]] = {}
        """Messages and their places among those of this publish, by the number that the broker
        counts on this channel, which is their message id too."""
        self._returned: set[int] = set()

    def publish(self, message: Outgoing) -> None:
        """Publish one. Raises :class:`Unroutable` where it is mandatory and no queue wants it."""
        if self.publish_all([message]):
            raise Unroutable(f"{message.exchange}/{message.routing_key}")

    def publish_all(self, messages: Sequence[Outgoing]) -> set[int]:
        """Publish them in their order; the places of those mandatory ones that no queue wants."""
        with self._lock:
            self._unconfirmed = dict(enumerate(enumerate(messages)))
            self._returned = set()
            try:
                self._publish_unconfirmed()
            except Exception as error:
                self._disconnect()
                if not self._is_recoverable(error):
                    raise
                try:
                    self._publish_unconfirmed()
                except Exception:
                    self._disconnect()
                    raise
            return self._returned

    def _publish_unconfirmed(self) -> None:
        if self._channel is None:
            self._connect()
        numbered = list(enumerate(self._unconfirmed.values(), start=self._last_tag + 1))
        self._unconfirmed = dict(numbered)
        with sent_at_once(self._connection):
            for tag, (_, message) in numbered:
                self._last_tag = tag
                self._channel.basic_publish(
                    OutgoingMessage(message.body, **message.properties, message_id=str(tag)),
                    message.exchange,
                    message.routing_key,
                    mandatory=message.is_mandatory,
                )
        while self._unconfirmed:
            self._connection.connection.drain_events()

    def _connect(self) -> None:
        self._connection.connect()
        # Nobody reads this connection but us, who wait for a confirm after each publish anyway.
        skip_blocked_check(self._connection)
        make_frugal(self._connection, writes=False)
        channel = self._connection.channel()
        channel.confirm_select()
        channel.events["basic_ack"].add(self._on_ack)
        channel.events["basic_nack"].add(self._on_nack)
        channel.events["basic_return"].add(self._on_return)
        self._channel, self._last_tag = channel, 0

    def _on_ack(self, delivery_tag: int, multiple: bool) -> None:
        if not multiple:
            self._unconfirmed.pop(delivery_tag, None)
            return
        for tag in [tag for tag in self._unconfirmed if tag <= delivery_tag]:
            del self._unconfirmed[tag]

    def _on_nack(self, delivery_tag: int, multiple: bool) -> None:
        raise MessageNacked(f"the broker could not take message {delivery_tag}")

    def _on_return(self, error: Exception, exchange: str, routing_key: str, message: Any) -> None:
        # The broker sends it before the confirm of the same message.
        place, _ = self._unconfirmed[int(message.properties["message_id"])]
        self._returned.add(place)

    def _is_recoverable(self, error: Exception) -> bool:
        connection = self._connection
        recoverable: tuple[type[BaseException], ...] = (
            connection.recoverable_connection_errors + connection.recoverable_channel_errors
        )
        return isinstance(error, recoverable)

    def _disconnect(self) -> None:
        self._channel = None
        self._connection.leave()

    def close(self) -> None:
        with self._lock:
            self._channel = None
            self._connection.release()
