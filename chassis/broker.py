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
from typing import Any

from amqp.exceptions import NotFound
from kombu import Connection, Exchange, Producer, Queue

from chassis import bodies
from chassis.connection import HEARTBEAT_S, BrokerConnection

# Kombu declares an exchange with every queue that is bound to it, and the right to declare one is
# the right to delete it: see `ensure_exchange`.
RPC_EXCHANGE = Exchange("nameko-rpc", type="topic", durable=True, no_declare=True)
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


class Publisher:
    """One connection that publishes with confirms, for all threads or greenlets of a process.

    A publish returns when the broker has the message; ``mandatory`` raises :class:`Unroutable`
    when no queue wants it. A connection that broke, or on which no confirm came within
    ``heartbeat_s``, is left, and the message sent on a new one, once for each publish.
    """

    def __init__(self, amqp_uri: str, heartbeat_s: int = HEARTBEAT_S) -> None:
        self._lock = threading.Lock()
        self._connection = BrokerConnection(amqp_uri, heartbeat_s, is_read=False, confirms=True)
        self._producer: Producer | None = None
        self._returned: list[str] = []

    def publish(self, body: Any, *, mandatory: bool = False, **properties: Any) -> None:
        """Publish ``body`` as JSON, or as it is where ``properties`` name its ``content_type``.

        ``properties`` are kombu's own (exchange, routing_key, headers…).
        """
        if "content_type" not in properties:
            body = bodies.encode(body)
            properties |= bodies.PROPERTIES
        with self._lock:
            try:
                self._publish_once(body, mandatory, properties)
            except Unroutable:
                raise
            except Exception as error:
                self._disconnect()
                if not self._is_recoverable(error):
                    raise
                self._publish_once(body, mandatory, properties)

    def _publish_once(self, body: Any, mandatory: bool, properties: dict[str, Any]) -> None:
        producer = self._producer or self._connect()
        self._returned.clear()
        producer.publish(body, mandatory=mandatory, retry=False, **properties)
        # The broker sends the return before the confirm, so that it is here by now.
        if self._returned:
            raise Unroutable(self._returned[0])

    def _connect(self) -> Producer:
        self._connection.connect()
        channel = self._connection.channel()
        channel.events["basic_return"].add(self._on_return)
        self._producer = Producer(channel, auto_declare=False)
        return self._producer

    def _on_return(self, error: Exception, exchange: str, routing_key: str, message: Any) -> None:
        self._returned.append(f"{exchange}/{routing_key}")

    def _is_recoverable(self, error: Exception) -> bool:
        connection = self._connection
        recoverable: tuple[type[BaseException], ...] = (
            connection.recoverable_connection_errors + connection.recoverable_channel_errors
        )
        return isinstance(error, recoverable)

    def _disconnect(self) -> None:
        self._producer = None
        self._connection.leave()

    def close(self) -> None:
        with self._lock:
            self._producer = None
            self._connection.release()
