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

What comes in and makes no sense is logged and dropped, and costs nobody else anything.
"""

import logging
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import replace
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

from amqp import Channel
from amqp import Message as OutgoingMessage
from amqp.exceptions import AccessRefused, AMQPError
from kombu import Consumer, Queue
from kombu.message import Message

from chassis import bodies, instruments, traces
from chassis.broker import (
    RPC_EXCHANGE,
    TRANSIENT,
    ensure_exchange,
    event_exchange,
    skip_blocked_check,
)
from chassis.connection import HEARTBEAT_S, BrokerConnection, spread
from chassis.context import CallContext, current_call
from chassis.wire import make_frugal
from contracts import calls
from contracts.messages import Event, ReplyT, Request

if TYPE_CHECKING:
    from chassis.recorder import Span

log = logging.getLogger(__name__)

RECONNECT_DELAY_S = 0.5
READ_TIMEOUT_S = 1.0
CONNECT_WAIT_S = 3.0
"""How long a call waits for the broker, from when that went away: who asks later is told at once,
and a page that asks five times does not wait five times."""
CLOSE_TIMEOUT_S = 5.0
REPLY_QUEUE_EXPIRES_MS = 300_000

EventT = TypeVar("EventT", bound=Event)


class _Reply(Future[Any]):
    """The reply to a call with this routing key, once it is there."""

    def __init__(self, routing_key: str) -> None:
        super().__init__()
        self.routing_key = routing_key
        self.request: OutgoingMessage | None = None


class _RequestChannel(Channel):
    """The channel of all calls, which py-amqp opens again inside the read that heard of a refusal.

    Nobody may write to it meanwhile: for what comes between a channel's end and its beginning the
    broker ends the connection. And a read lasts a second. A broker that takes longer to open a
    channel would have py-amqp raise ``TimeoutError`` in the place of the refusal.
    """

    def __init__(self, connection: Any, publish_lock: threading.Lock) -> None:
        self._publish_lock = publish_lock
        super().__init__(connection)

    def _on_close(self, *reason: Any) -> None:
        with self._publish_lock:
            super()._on_close(*reason)

    def open(self) -> None:
        sock = self.connection.transport.sock
        read_timeout_s = sock.gettimeout()
        sock.settimeout(HEARTBEAT_S)
        try:
            super().open()
        finally:
            sock.settimeout(read_timeout_s)


class RpcClient:
    """Calls services by request object. Make one for each process and share it."""

    def __init__(self, amqp_uri: str, name: str, heartbeat_s: int = HEARTBEAT_S) -> None:
        self._connection = BrokerConnection(amqp_uri, heartbeat_s)
        self._name = name
        self._login = self._connection.userid or "guest"
        self._reply_key = calls.new_reply_key(self._name)
        self._id, self._numbers = uuid.uuid4().hex, count()
        self._requests: Channel | None = None
        self._publish_lock = threading.Lock()
        self._waiting: dict[str, _Reply] = {}
        self._listeners: list[tuple[Queue, Callable[[Message], None]]] = []
        self._ready = threading.Event()
        self._away_since_s: float | None = None
        self._closing = threading.Event()
        self._start_lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def call(self, request: Request[ReplyT], timeout_s: float | None = None) -> ReplyT:
        """Make a call and wait for its reply, as long as its contract says or for ``timeout_s``.

        Raises the error of :mod:`contracts.errors` that the service raised, ``Unavailable`` when
        nothing was sent, ``ServiceError`` when the broker does not let this login make the call,
        or ``DeadlineExceeded`` when no answer came in time.
        """
        return self.begin(request, timeout_s)()

    def begin(
        self, request: Request[ReplyT], timeout_s: float | None = None
    ) -> Callable[[], ReplyT]:
        """Send a call, so that others can be sent beside it; what is returned waits for the reply,
        and must be called. Both raise what :meth:`call` raises."""
        parent = current_call.get()
        if timeout_s is None:
            timeout_s = request.answer_within_s
        remaining_s = parent.remaining_s()
        if remaining_s is not None:
            timeout_s = min(timeout_s, remaining_s)
        deadline = time.monotonic() + timeout_s
        self._start()
        correlation_id = f"{self._id}.{next(self._numbers)}"
        future = _Reply(calls.routing_key(request))
        span = traces.calling(future.routing_key, parent.trace)
        if span is not None:
            parent = replace(parent, trace=span.traceparent)
        try:
            self._send(request, correlation_id, deadline, parent, future)
        except BaseException as error:
            self._waiting.pop(correlation_id, None)
            if span is not None:
                span.end(error)
            raise

        def reply() -> ReplyT:
            try:
                body = future.result(max(deadline - time.monotonic(), 0.0))
            except FutureTimeoutError:
                instruments.CALLS_UNANSWERED.labels(future.routing_key).inc()
                raise calls.unanswered(request.service, timeout_s) from None
            finally:
                self._waiting.pop(correlation_id, None)
            return calls.reply_in(body, request)

        return reply if span is None else partial(_ended, span, reply)

    def subscribe(
        self,
        event_class: type[EventT],
        callback: Callable[[EventT], None],
        is_awaited: Callable[[], object] = lambda: True,
    ) -> None:
        """Hear of events as they pass, in this process only; to be set up before the first call.

        What comes while it ``is_awaited`` by nobody is dropped unread. What is published while this
        process is away is missed: use it to wake somebody who then looks, never to record anything.
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

        def hear(message: Message) -> None:
            if is_awaited():
                callback(event_class.model_validate(bodies.decode(message)))

        self._listeners.append((queue, hear))

    def close(self) -> None:
        """Stop listening and close the connections."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(CLOSE_TIMEOUT_S)

    def _send(
        self,
        request: Request[Any],
        correlation_id: str,
        deadline: float,
        parent: CallContext,
        future: _Reply,
    ) -> None:
        now_s, away_since_s = time.monotonic(), self._away_since_s
        waits_until_s = (now_s if away_since_s is None else away_since_s) + CONNECT_WAIT_S
        if not self._ready.wait(max(min(deadline, waits_until_s) - now_s, 0.0)):
            instruments.CALLS_UNANSWERED.labels(future.routing_key).inc()
            raise calls.unreachable()
        timeout_s = max(deadline - time.monotonic(), 0.001)
        context = CallContext(
            chain=parent.chain or (f"{self._name}.{correlation_id}",),
            deadline_ms=int((time.time() + timeout_s) * 1000),
            trace=parent.trace,
        )
        future.request = OutgoingMessage(
            calls.body_of(request),
            **bodies.PROPERTIES,
            delivery_mode=TRANSIENT,
            user_id=self._login,
            reply_to=self._reply_key,
            correlation_id=correlation_id,
            expiration=str(int(timeout_s * 1000)),
            application_headers=context.headers(),
        )
        try:
            self._publish(correlation_id, future)
        except (OSError, AMQPError) as error:
            raise calls.lost_on_the_way(request.service) from error

    def _publish(self, correlation_id: str, future: _Reply) -> None:
        with self._publish_lock:
            if self._requests is None:
                raise ConnectionResetError("the connection to the broker was lost")
            # In the order in which they go out: see _refused.
            self._waiting[correlation_id] = future
            self._write(self._requests, future)

    def _write(self, channel: Channel, future: _Reply) -> None:
        try:
            channel.basic_publish(
                future.request, RPC_EXCHANGE.name, future.routing_key, mandatory=True
            )
        except Exception:
            # What went out of it may be half a frame, and nothing may follow that.
            self._requests = None
            self._connection.cut()
            raise

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
                self._receive()
            except Exception as error:
                if not self._closing.is_set():
                    log.warning(
                        "lost the message broker; reconnecting", extra={"error": str(error)}
                    )
                if self._away_since_s is None:
                    self._away_since_s = time.monotonic()
                self._leave()
                self._closing.wait(RECONNECT_DELAY_S * spread())
        self._connection.release()

    def _leave(self) -> None:
        self._ready.clear()
        # Whoever writes at this moment would hold the lock until its time is over.
        self._connection.cut()
        with self._publish_lock:
            self._requests = None
            self._connection.leave()

    def _receive(self) -> None:
        self._connection.connect()
        # Kombu's own methods would open another connection, on which nobody consumes, where a
        # caller's publish has met the loss of this one first.
        wire = self._connection.connection
        try:
            self._consume(self._connection.channel())
        except Exception:
            # The node of a cluster that keeps the queue is gone, or cut off from the others.
            self._reply_key = calls.new_reply_key(self._name)
            raise
        skip_blocked_check(self._connection)
        make_frugal(self._connection)
        requests = _RequestChannel(wire, self._publish_lock)
        requests.open()
        requests.events["basic_return"].add(self._on_return)
        self._connection.wait_at_most(READ_TIMEOUT_S)
        self._requests = requests
        self._away_since_s = None
        self._ready.set()
        next_tick = time.monotonic()
        while not self._closing.is_set():
            try:
                wire.drain_events(timeout=READ_TIMEOUT_S)
            except TimeoutError:
                pass
            except AccessRefused as error:
                self._refused(error)
            if time.monotonic() >= next_tick:
                wire.heartbeat_tick()
                next_tick = time.monotonic() + READ_TIMEOUT_S

    def _consume(self, channel: Any) -> None:
        # Not exclusive, and it outlives a lost connection: replies wait in it meanwhile. On one
        # node also where queues are on several by default: a reply is worth nothing there.
        replies = Queue(
            self._reply_key,
            exchange=RPC_EXCHANGE,
            routing_key=self._reply_key,
            queue_arguments={
                "x-expires": REPLY_QUEUE_EXPIRES_MS,
                "x-queue-type": "classic",
            },
        )
        for queue, callback in [(replies, self._on_reply), *self._listeners]:
            ensure_exchange(channel.connection, queue.exchange)
            on_message = partial(_take, callback)
            Consumer(
                channel,
                [queue],
                on_message=on_message,
                on_decode_error=lambda message, _error, take=on_message: take(message),
                no_ack=True,
            ).consume()

    def _on_return(self, error: Exception, exchange: str, routing_key: str, message: Any) -> None:
        future = self._waiting.pop(message.properties.get("correlation_id", ""), None)
        if future is not None:
            future.set_exception(calls.not_running(routing_key.partition(".")[0]))

    def _refused(self, error: AccessRefused) -> None:
        """Tell those whose call the broker refused, which closed the channel of all calls.

        py-amqp has opened it again. The broker dropped what came on it after the refused call,
        and has the calls before it: so those that follow go out once more. One that went out when
        it was open again goes out twice, which its key or its being a question makes harmless.
        """
        with self._publish_lock:
            is_dropped = False
            for correlation_id, future in list(self._waiting.items()):
                if f"'{future.routing_key}'" in str(error):
                    is_dropped = True
                    self._waiting.pop(correlation_id, None)
                    future.set_exception(calls.not_allowed(self._login, future.routing_key))
                elif is_dropped and self._requests is not None:
                    self._write(self._requests, future)

    def _on_reply(self, message: Message) -> None:
        future = self._waiting.pop(message.properties.get("correlation_id", ""), None)
        if future is None:
            return
        try:
            future.set_result(bodies.decode(message))
        except ValueError as error:
            log.error("a reply cannot be read", extra={"error": str(error)})
            future.set_exception(calls.unreadable())


def _ended(span: "Span", reply: Callable[[], ReplyT]) -> ReplyT:
    """The reply, with which the span of the call ends."""
    try:
        answer = reply()
    except BaseException as error:
        span.end(error)
        raise
    span.end()
    return answer


def _take(callback: Callable[[Message], None], message: Message) -> None:
    try:
        callback(message)
    except Exception:
        log.exception(
            "a message makes no sense; it is dropped",
            extra={"routing_key": (message.delivery_info or {}).get("routing_key")},
        )
