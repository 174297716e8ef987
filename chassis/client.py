"""Calling services: nameko's protocol, safe for threads and greenlets, never without a deadline.

::

    rpc = RpcClient("amqp://…", name="reports")
    wallet = rpc.call(GetWallet(user_id=user_id), timeout_s=2)

One connection serves all threads: they publish on it, and one thread of its own receives all
replies and hands each to the call that waits for it. Requests are ``mandatory``: the broker
returns one that no queue wants, and the same thread receives that too, so that a service that
never ran is known at once, without a confirm for each request. They are transient and
expire with the deadline. No answer in time raises ``DeadlineExceeded``, and then the outcome is
unknown: ask again with the same idempotency key.
"""

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, TypeVar

from amqp.exceptions import AccessRefused, AMQPError
from kombu import Connection, Consumer, Producer, Queue
from kombu.message import Message

from chassis.broker import (
    CONNECT_TIMEOUT_S,
    RPC_EXCHANGE,
    TRANSIENT,
    ensure_exchange,
    event_exchange,
    skip_blocked_check,
)
from chassis.context import CallContext, current_call
from contracts import errors
from contracts.messages import Event, ReplyT, Request

log = logging.getLogger(__name__)

HEARTBEAT_S = 20
RECONNECT_DELAY_S = 0.5
CONNECT_WAIT_S = 3.0
REPLY_QUEUE_EXPIRES_MS = 300_000

EventT = TypeVar("EventT", bound=Event)


class _Reply(Future[Any]):
    """The reply to a call with this routing key, once it is there."""

    def __init__(self, routing_key: str) -> None:
        super().__init__()
        self.routing_key = routing_key


class RpcClient:
    """Calls services by request object. Make one for each process and share it."""

    def __init__(self, amqp_uri: str, name: str) -> None:
        self._amqp_uri = amqp_uri
        self._name = name
        self._login = Connection(amqp_uri).userid or "guest"
        self._reply_key = f"rpc.reply-{name}-{uuid.uuid4()}"
        self._producer: Producer | None = None
        self._publish_lock = threading.Lock()
        self._waiting: dict[str, _Reply] = {}
        self._listeners: list[tuple[Queue, Callable[[Any, Message], None]]] = []
        self._ready = threading.Event()
        self._closing = threading.Event()
        self._start_lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def call(self, request: Request[ReplyT], timeout_s: float = 10.0) -> ReplyT:
        """Make a call and wait for its reply.

        Raises the error of :mod:`contracts.errors` that the service raised, ``Unavailable`` when
        nothing was sent, ``ServiceError`` when the broker does not let this login make the call,
        or ``DeadlineExceeded`` when no answer came in time.
        """
        parent = current_call.get()
        remaining_s = parent.remaining_s()
        if remaining_s is not None:
            timeout_s = min(timeout_s, remaining_s)
        deadline = time.monotonic() + timeout_s
        self._start()
        correlation_id = str(uuid.uuid4())
        future = _Reply(f"{request.service}.{request.method}")
        self._waiting[correlation_id] = future
        try:
            self._send(request, correlation_id, deadline, parent)
            body = future.result(max(deadline - time.monotonic(), 0.0))
        except FutureTimeoutError:
            raise errors.DeadlineExceeded(
                f"{request.service} did not answer within {timeout_s:g} s;"
                " whether it did the work is not known."
            ) from None
        finally:
            self._waiting.pop(correlation_id, None)
        if body.get("error"):
            raise remote_error(body["error"])
        reply: ReplyT = request.reply.model_validate(body["result"])  # type: ignore[assignment]
        return reply

    def subscribe(self, event_class: type[EventT], callback: Callable[[EventT], None]) -> None:
        """Hear of events as they pass, in this process only; to be set up before the first call.

        What is published while this process is away is missed: use it to wake somebody who
        then looks, never to record anything.
        """
        if self._thread is not None:
            raise RuntimeError("subscribe before the first call")
        queue = Queue(
            f"evt-{event_class.source}-{event_class.type}--{self._name}.{uuid.uuid4()}",
            exchange=event_exchange(event_class.source),
            routing_key=event_class.type,
            exclusive=True,
            auto_delete=True,
        )
        self._listeners.append(
            (queue, lambda body, _message: callback(event_class.model_validate(body)))
        )

    def close(self) -> None:
        """Stop listening and close the connections."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _send(
        self, request: Request[Any], correlation_id: str, deadline: float, parent: CallContext
    ) -> None:
        if not self._ready.wait(min(max(deadline - time.monotonic(), 0.0), CONNECT_WAIT_S)):
            raise errors.Unavailable(
                "The message broker cannot be reached; nothing was done. Try again in a moment."
            )
        timeout_s = max(deadline - time.monotonic(), 0.001)
        context = CallContext(
            chain=parent.chain or (f"{self._name}.{correlation_id}",),
            deadline_ms=int((time.time() + timeout_s) * 1000),
        )
        try:
            self._publish(
                {"args": [], "kwargs": request.arguments()},
                exchange=RPC_EXCHANGE,
                routing_key=f"{request.service}.{request.method}",
                reply_to=self._reply_key,
                correlation_id=correlation_id,
                headers=context.headers(),
                expiration=timeout_s,
            )
        except (OSError, AMQPError) as error:
            raise errors.DeadlineExceeded(
                f"The connection to the message broker was lost on the way to {request.service};"
                " whether it did the work is not known."
            ) from error

    def _publish(self, body: Any, **properties: Any) -> None:
        with self._publish_lock:
            if self._producer is None:
                raise ConnectionResetError("the connection to the broker was lost")
            self._producer.publish(
                body,
                mandatory=True,
                user_id=self._login,
                delivery_mode=TRANSIENT,
                serializer="json",
                retry=False,
                **properties,
            )

    def _start(self) -> None:
        if self._thread is None:
            with self._start_lock:
                if self._thread is None:
                    thread = threading.Thread(target=self._listen, name="rpc-replies", daemon=True)
                    thread.start()
                    self._thread = thread

    def _listen(self) -> None:
        while not self._closing.is_set():
            try:
                with Connection(
                    self._amqp_uri, heartbeat=HEARTBEAT_S, connect_timeout=CONNECT_TIMEOUT_S
                ) as connection:
                    self._receive(connection)
            except Exception as error:
                if isinstance(error, AccessRefused):
                    self._refused(error)
                if not self._closing.is_set():
                    log.warning(
                        "lost the message broker; reconnecting", extra={"error": str(error)}
                    )
            self._ready.clear()
            self._producer = None
            self._closing.wait(RECONNECT_DELAY_S)

    def _receive(self, connection: Connection) -> None:
        # Not exclusive, and it outlives a lost connection: replies wait in it meanwhile.
        replies = Queue(
            self._reply_key,
            exchange=RPC_EXCHANGE,
            routing_key=self._reply_key,
            queue_arguments={"x-expires": REPLY_QUEUE_EXPIRES_MS},
        )
        channel = connection.channel()
        wire = connection.connection
        for exchange in (RPC_EXCHANGE, *(queue.exchange for queue, _ in self._listeners)):
            ensure_exchange(wire, exchange)
        consumers = [
            Consumer(channel, [queue], callbacks=[callback], no_ack=True, accept=["json"])
            for queue, callback in [(replies, self._on_reply), *self._listeners]
        ]
        for consumer in consumers:
            consumer.consume()
        skip_blocked_check(connection)
        requests = connection.channel()
        requests.events["basic_return"].add(self._on_return)
        self._producer = Producer(requests, auto_declare=False)
        self._ready.set()
        next_heartbeat = time.monotonic()
        # Kombu's own methods would open another connection, on which nobody consumes, where a
        # caller's publish has met the loss of this one first.
        while not self._closing.is_set():
            with contextlib.suppress(TimeoutError):
                wire.drain_events(timeout=1)
            if time.monotonic() >= next_heartbeat:
                wire.heartbeat_tick()
                next_heartbeat = time.monotonic() + HEARTBEAT_S / 4

    def _on_return(self, error: Exception, exchange: str, routing_key: str, message: Any) -> None:
        future = self._waiting.pop(message.properties.get("correlation_id", ""), None)
        if future is not None:
            service = routing_key.partition(".")[0]
            future.set_exception(
                errors.Unavailable(f"The {service} service is not running; nothing was done.")
            )

    def _refused(self, error: AccessRefused) -> None:
        """Tell those whose call the broker refused, which closed the channel of all calls."""
        for correlation_id, future in list(self._waiting.items()):
            if f"'{future.routing_key}'" in str(error):
                self._waiting.pop(correlation_id, None)
                future.set_exception(
                    errors.ServiceError(
                        f"{self._login} may not call {future.routing_key}; nothing was done."
                    )
                )

    def _on_reply(self, body: Any, message: Message) -> None:
        future = self._waiting.pop(message.properties.get("correlation_id", ""), None)
        if future is not None:
            future.set_result(body)


def remote_error(data: dict[str, Any]) -> Exception:
    """The error that a service raised, from what nameko made of it on the wire."""
    path = str(data.get("exc_path", ""))
    if path.startswith(errors.__name__ + "."):
        error_class = getattr(errors, str(data.get("exc_type")), None)
        if isinstance(error_class, type) and issubclass(error_class, errors.ServiceError):
            return error_class(*(str(argument) for argument in data.get("exc_args", [])))
    return errors.ServiceError(f"{data.get('exc_type')}: {data.get('value')}")
