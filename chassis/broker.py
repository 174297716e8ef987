"""The broker's end of every process: names, publishing, and the queues of failed messages.

Names follow nameko's, so that any nameko service can call and listen:
``rpc-<service>`` takes calls, ``<service>.events`` carries facts,
``evt-<source>-<type>--<service>.<handler>`` is where one handler gets them. Ours are
``<service>.dead-letters`` and ``mycelium.retry.<seconds>s``.
"""

import threading
from collections.abc import Sequence
from typing import Any

from kombu import Connection, Exchange, Producer, Queue

RPC_EXCHANGE = Exchange("nameko-rpc", type="topic", durable=True)
CONFIRM_TIMEOUT_S = 10
CONNECT_TIMEOUT_S = 5
TRANSIENT, PERSISTENT = 1, 2

ATTEMPTS_HEADER = "x-mycelium-attempts"
ERROR_HEADER = "x-mycelium-error"
ORIGIN_HEADER = "x-mycelium-queue"


class Unroutable(Exception):
    """No queue wants the message."""


def event_exchange(source: str) -> Exchange:
    """Where a service publishes its events, by their type."""
    return Exchange(f"{source}.events", type="topic", durable=True)


def dead_letter_queue(service: str) -> Queue:
    """Where the messages end that a service could not handle, for an operator to look at."""
    return Queue(f"{service}.dead-letters", durable=True)


def retry_exchange(delay_s: int) -> Exchange:
    return Exchange(f"mycelium.retry.{delay_s}s", type="fanout", durable=True)


def retry_queue(delay_s: int) -> Queue:
    """Holds messages for ``delay_s`` and gives each back to the queue its routing key names.

    One queue for each delay: in a queue of mixed delays a long one at the head would hold up
    the short ones behind it.
    """
    return Queue(
        f"mycelium.retry.{delay_s}s",
        exchange=retry_exchange(delay_s),
        durable=True,
        queue_arguments={"x-message-ttl": delay_s * 1000, "x-dead-letter-exchange": ""},
    )


def declare(amqp_uri: str, entities: Sequence[Exchange | Queue]) -> None:
    """Declare exchanges and queues, which changes nothing where they exist."""
    with Connection(amqp_uri, connect_timeout=CONNECT_TIMEOUT_S) as connection:
        channel = connection.default_channel
        for entity in entities:
            entity(channel).declare()


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
    when no queue wants it. A connection that broke is opened anew, once for each publish.
    """

    def __init__(self, amqp_uri: str) -> None:
        self._amqp_uri = amqp_uri
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._producer: Producer | None = None
        self._returned: list[str] = []

    def publish(self, body: Any, *, mandatory: bool = False, **properties: Any) -> None:
        """Publish ``body``; ``properties`` are kombu's own (exchange, routing_key, headers…)."""
        properties.setdefault("serializer", "json")
        with self._lock:
            try:
                self._publish_once(body, mandatory, properties)
            except Unroutable:
                raise
            except Exception as error:
                if not self._is_recoverable(error):
                    raise
                self._disconnect()
                self._publish_once(body, mandatory, properties)

    def _publish_once(self, body: Any, mandatory: bool, properties: dict[str, Any]) -> None:
        producer = self._producer or self._connect()
        self._returned.clear()
        producer.publish(body, mandatory=mandatory, retry=False, **properties)
        # The broker sends the return before the confirm, so that it is here by now.
        if self._returned:
            raise Unroutable(self._returned[0])

    def _connect(self) -> Producer:
        # No heartbeat: nothing reads from this connection between two publishes.
        self._connection = Connection(
            self._amqp_uri,
            connect_timeout=CONNECT_TIMEOUT_S,
            heartbeat=0,
            transport_options={
                "confirm_publish": True,
                "confirm_timeout": CONFIRM_TIMEOUT_S,
            },
        )
        channel = self._connection.channel()
        channel.events["basic_return"].add(self._on_return)
        self._producer = Producer(channel, auto_declare=False)
        return self._producer

    def _on_return(self, error: Exception, exchange: str, routing_key: str, message: Any) -> None:
        self._returned.append(f"{exchange}/{routing_key}")

    def _is_recoverable(self, error: Exception) -> bool:
        connection = self._connection
        if connection is None:
            return False
        recoverable: tuple[type[BaseException], ...] = (
            connection.recoverable_connection_errors + connection.recoverable_channel_errors
        )
        return isinstance(error, recoverable)

    def _disconnect(self) -> None:
        connection, self._connection, self._producer = self._connection, None, None
        if connection is not None:
            connection.release()

    def close(self) -> None:
        with self._lock:
            self._disconnect()
