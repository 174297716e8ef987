"""Whether the broker takes what a service publishes, and keeps the queues that it consumes."""

import time
from collections.abc import Callable
from typing import Any

from amqp import Message as OutgoingMessage
from amqp import spec
from kombu import Exchange

from chassis.broker import TRANSIENT, ensure_exchange
from chassis.connection import BrokerConnection

CONFIRM_WITHIN_S = 1.0
LOOK_EVERY_S = 10.0
ROUTING_KEY = "readiness"
"""No queue is bound to it: the broker confirms the message and forgets it."""


class BrokerCheck:
    """Publishes something harmless with a confirm, on a connection of its own.

    It also puts back what somebody took away: ``exchange``, which it publishes to, and whatever
    ``put_back`` declares on a channel.
    """

    def __init__(
        self,
        amqp_uri: str,
        heartbeat_s: int,
        exchange: Exchange,
        put_back: Callable[[Any], None],
    ) -> None:
        self._connection = BrokerConnection(amqp_uri, heartbeat_s, confirms=True)
        self._exchange = exchange
        self._put_back = put_back
        self._channel: Any = None
        self._is_unconfirmed = False
        self._look_at = 0.0

    def __call__(self) -> None:
        """Raises when the broker does not take a message, or lacks something of ours."""
        try:
            if self._channel is None:
                self._open()
            self._connection.connection.heartbeat_tick()
            # One that takes nothing because its memory or disk is full sends heartbeats still. The
            # connection is kept, because it would not even notice that we left.
            self._publish()
            self._look()
        except _Unconfirmed:
            raise
        except Exception:
            self._channel = None
            self._connection.leave()
            raise

    def _open(self) -> None:
        self._connection.connect()
        self._is_unconfirmed = False
        self._look_at = 0.0
        ensure_exchange(self._connection.connection, self._exchange)
        self._channel = self._connection.channel()

    def _publish(self) -> None:
        try:
            if self._is_unconfirmed:
                self._channel.wait([spec.Basic.Ack, spec.Basic.Nack], timeout=CONFIRM_WITHIN_S)
            else:
                self._is_unconfirmed = True
                self._channel.basic_publish(
                    OutgoingMessage(b"", delivery_mode=TRANSIENT),
                    self._exchange.name,
                    ROUTING_KEY,
                    confirm_timeout=CONFIRM_WITHIN_S,
                )
        except TimeoutError:
            raise _Unconfirmed("it takes no messages") from None
        self._is_unconfirmed = False

    def _look(self) -> None:
        if time.monotonic() >= self._look_at:
            self._put_back(self._connection.default_channel)
            self._look_at = time.monotonic() + LOOK_EVERY_S


class _Unconfirmed(Exception):
    pass
