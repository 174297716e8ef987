"""Calls over RabbitMQ, in nameko's protocol, one at a time and never without a deadline.

There is no thread: a call publishes its request and reads the connection until its answer is there.
Requests are ``mandatory``: the broker returns one that no queue wants, so that a service that
never ran is known at once. They are transient and expire with the deadline.
"""

import contextlib
import threading
import time
import uuid
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

import kombu
from amqp import Message
from amqp.exceptions import AccessRefused, AMQPError, NotAllowed
from pydantic_core import from_json

from contracts import calls, errors
from contracts.messages import ReplyT, Request

HEARTBEAT_S = 30
"""A broker that is silent for twice as long while somebody waits counts as gone; it closes what
was not used for longer, and the next call connects anew."""
CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 5.0
"""How long the broker may take to answer us: for a queue, a consumer, the end."""
TICK_S = 1.0
TRANSIENT = 1


class Services:
    """Calls services by request object. Threads may share one, and wait for each other then."""

    def __init__(self, amqp_uri: str) -> None:
        """``amqp_uri`` is the broker's address with a login, ``amqps://`` for TLS, or several of
        a cluster with a ``;`` between them. It is connected to by the first call."""
        self._amqp_uri = amqp_uri
        self._login: str = kombu.Connection(amqp_uri).userid or "guest"
        self._lock = threading.Lock()
        self._connection: Any = None
        self._channel: Any = None
        self._reply_key = ""
        self._correlation_id = ""
        self._answer: Future[Message] = Future()

    def call(self, request: Request[ReplyT], timeout_s: float | None = None) -> ReplyT:
        """Make a call and wait for its reply, as long as its contract says or for ``timeout_s``.

        Raises the error of :mod:`contracts.errors` that the service raised. Nothing was done with
        ``Unavailable`` (neither broker nor service), ``Overloaded`` (other threads' calls took all
        the time), and ``ServiceError`` where the broker does not let this login in or make the
        call. With ``DeadlineExceeded`` the outcome is unknown: ask again with the same
        idempotency key.
        """
        if timeout_s is None:
            timeout_s = request.answer_within_s
        deadline = time.monotonic() + timeout_s
        if not self._lock.acquire(timeout=timeout_s):
            raise errors.Overloaded(
                "Other calls of this client took all of the time; nothing was done."
            )
        try:
            self._ensure_connected(deadline)
            message = self._exchange(request, deadline, timeout_s)
        finally:
            self._lock.release()
        return calls.reply_in(_body_in(message), request)

    def close(self) -> None:
        """Leave the broker. A later call would connect anew."""
        with self._lock:
            if self._connection is not None:
                with contextlib.suppress(OSError, AMQPError):
                    self._connection.release()
            self._connection = self._channel = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _exchange(self, request: Request[Any], deadline: float, timeout_s: float) -> Message:
        try:
            self._publish(request, deadline)
            while not self._answer.done():
                self._receive(deadline)
        except TimeoutError:
            self._leave()
            raise calls.unanswered(request.service, timeout_s) from None
        except AccessRefused:
            self._leave()
            raise calls.not_allowed(self._login, calls.routing_key(request)) from None
        except (OSError, AMQPError) as error:
            self._leave()
            raise calls.lost_on_the_way(request.service) from error
        except BaseException:
            # What was interrupted may be half a frame, and nothing may follow that.
            self._leave()
            raise
        return self._answer.result()

    def _publish(self, request: Request[Any], deadline: float) -> None:
        remaining_ms = max(int((deadline - time.monotonic()) * 1000), 1)
        self._correlation_id, self._answer = uuid.uuid4().hex, Future()
        message = Message(
            calls.body_of(request),
            content_type=calls.CONTENT_TYPE,
            content_encoding="utf-8",
            delivery_mode=TRANSIENT,
            user_id=self._login,
            reply_to=self._reply_key,
            correlation_id=self._correlation_id,
            expiration=str(remaining_ms),
            application_headers={
                calls.HEADER_PREFIX + calls.CALL_CHAIN_KEY: [
                    f"{self._login}.{self._correlation_id}"
                ],
                calls.HEADER_PREFIX + calls.DEADLINE_KEY: int(time.time() * 1000) + remaining_ms,
            },
        )
        self._channel.basic_publish(
            message, calls.EXCHANGE, calls.routing_key(request), mandatory=True
        )

    def _receive(self, deadline: float) -> None:
        """Read what comes next. Raises TimeoutError when the deadline has passed."""
        remaining_s = deadline - time.monotonic()
        if remaining_s <= 0:
            raise TimeoutError
        wire = self._connection.connection
        with contextlib.suppress(TimeoutError):
            wire.drain_events(timeout=min(remaining_s, TICK_S))
        wire.heartbeat_tick()

    def _on_reply(self, message: Message) -> None:
        if self._is_waited_for(message):
            self._answer.set_result(message)

    def _on_return(self, error: Exception, exchange: str, key: str, message: Message) -> None:  # noqa: ARG002
        if self._is_waited_for(message):
            self._answer.set_exception(calls.not_running(key.partition(".")[0]))

    def _is_waited_for(self, message: Message) -> bool:
        """Whether it belongs to the call of now: an answer may come when nobody waits any more."""
        is_ours = message.properties.get("correlation_id") == self._correlation_id
        return is_ours and not self._answer.done()

    def _ensure_connected(self, deadline: float) -> None:
        if self._connection is not None and not self._is_alive():
            self._leave()
        if self._connection is not None:
            return
        try:
            self._connect(min(max(deadline - time.monotonic(), 0.1), CONNECT_TIMEOUT_S))
        except (AccessRefused, NotAllowed) as error:
            self._leave()
            raise errors.ServiceError(
                f"The message broker refuses {self._login}: {error}; nothing was done."
            ) from None
        except (OSError, AMQPError, kombu.exceptions.KombuError) as error:
            self._leave()
            raise calls.unreachable() from error
        except BaseException:
            self._leave()
            raise

    def _is_alive(self) -> bool:
        """Whether the broker has neither closed the connection nor been silent on it."""
        wire = self._connection.connection
        try:
            with contextlib.suppress(TimeoutError):
                while True:
                    wire.drain_events(timeout=0)
            wire.heartbeat_tick()
        except (OSError, AMQPError):
            return False
        return True

    def _connect(self, timeout_s: float) -> None:
        self._connection = kombu.Connection(
            self._amqp_uri, connect_timeout=timeout_s, heartbeat=HEARTBEAT_S
        )
        others = max(len(self._connection.alt) - 1, 0)
        self._connection.ensure_connection(max_retries=others)
        wire = self._connection.connection
        wire.transport.sock.settimeout(ANSWER_TIMEOUT_S)
        channel = wire.channel()
        channel.events["basic_return"].add(self._on_return)
        # A name of its own each time: the broker may not have noticed yet that the last one ended.
        self._reply_key = calls.new_reply_key(self._login)
        channel.queue_declare(self._reply_key, exclusive=True, auto_delete=True)
        channel.queue_bind(self._reply_key, calls.EXCHANGE, routing_key=self._reply_key)
        channel.basic_consume(self._reply_key, no_ack=True, callback=self._on_reply)
        self._channel = channel

    def _leave(self) -> None:
        """End the connection without asking the broker."""
        if self._connection is not None:
            self._connection.collect()
        self._connection = self._channel = None


def _body_in(message: Message) -> Any:
    if message.properties.get("content_type") != calls.CONTENT_TYPE:
        raise calls.unreadable()
    try:
        return from_json(message.body)
    except ValueError:
        raise calls.unreadable() from None
