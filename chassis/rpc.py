"""Answering calls.

::

    @rpc
    def get_wallet(self, request: GetWallet) -> Wallet: ...

The request's type says what arguments are right: the caller of any others gets a
``BadRequest`` before the method runs. What the method raises from :mod:`contracts.errors`
reaches the caller as it is; anything else is logged here and reaches it as a plain
``ServiceError``, without the details. A call whose deadline has passed is not begun, and one
that finds too many others in hand is refused at once. A method runs in a worker of its own,
unless it returns a :class:`~chassis.deferred.Deferred`.

On the wire this is nameko's own protocol, so that a stock nameko client can call:
``rpc.wallet.get_wallet(user_id="…")``.
"""

import logging
import time
import typing
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from kombu.message import Message
from nameko.exceptions import ContainerBeingKilled, MethodNotFound, serialize
from nameko.extensions import DependencyProvider
from nameko.rpc import Rpc as NamekoRpc
from nameko.rpc import RpcConsumer as NamekoRpcConsumer
from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from chassis import instruments, traces
from chassis.broker import CALL_EXCHANGES, REPLY_KEY, RPC_EXCHANGE
from chassis.client import RpcClient
from chassis.consumer import CALLS_PER_WORKER, QueueConsumer
from chassis.context import CALLER_KEY
from chassis.database import is_held, is_lost
from chassis.deferred import Deferred
from chassis.settings import service_settings
from contracts.calls import TRACE_KEY
from contracts.errors import BadRequest, Overloaded, ServiceError, Unavailable
from contracts.messages import Request

if typing.TYPE_CHECKING:
    from chassis.recorder import Span

log = logging.getLogger(__name__)


class RpcConsumer(NamekoRpcConsumer):
    """Takes calls from ``rpc-<service>`` and sends the answers, transient and unconfirmed.

    An answer that the broker loses is an unknown outcome to its caller, which asks again with
    the same idempotency key; a confirm for each would cost every call a round trip.
    """

    queue_consumer = QueueConsumer()
    never_waits = True

    def __init__(self) -> None:
        super().__init__()
        self._in_hand: dict[Message, float] = {}
        """The calls that are not answered yet, and when each arrived."""
        self._entrypoints: dict[str, Rpc] = {}

    def setup(self) -> None:
        super().setup()
        self.queue.exchange = RPC_EXCHANGE
        instruments.DEAD_LETTERS.labels(self.queue.name)

    def register_provider(self, provider: "Rpc") -> None:
        super().register_provider(provider)
        self._entrypoints[f"{self.container.service_name}.{provider.method_name}"] = provider

    def handle_message(self, body: Any, message: Message) -> None:
        _require_a_straight_way(message)
        routing_key = message.delivery_info["routing_key"]
        entrypoint = self._entrypoints.get(routing_key)
        if entrypoint is None:
            self.answer(message, MethodNotFound(routing_key.rpartition(".")[2]))
        elif len(self._in_hand) >= CALLS_PER_WORKER * self.container.max_workers:
            self.answer(message, Overloaded(_TOO_MANY_CALLS))
            entrypoint.count_error(Overloaded.code)
        else:
            self._in_hand[message] = time.perf_counter()
            try:
                entrypoint.handle_message(body, message)
            except Exception:
                self._in_hand.pop(message, None)
                raise

    def finish(self, message: Message, outcome: BaseModel | Exception) -> float | None:
        """A call has ended: send its reply, or the error that takes its place. When it came."""
        arrived_s = self._in_hand.pop(message, None)
        self.answer(message, outcome)
        return arrived_s

    @property
    def in_hand(self) -> int:
        """How many calls are not answered yet."""
        return len(self._in_hand)

    def refuse(self, message: Message, error: str) -> bool:
        """Answer a call that cannot be read at once; False where nobody waits for an answer."""
        try:
            _require_a_straight_way(message)
        except ValueError:
            return False
        log.warning("a call cannot be read", extra={"error": error[:1000]})
        self.answer(message, BadRequest("The call cannot be read: its body must be JSON."))
        return True

    def give_back(self, message: Message) -> None:
        """Leave a call to another process."""
        self._in_hand.pop(message, None)
        self.requeue_message(message)

    def answer(self, message: Message, outcome: BaseModel | Exception) -> None:
        """Send a reply and acknowledge the call."""
        try:
            if isinstance(outcome, Exception):
                reply = {"result": None, "error": serialize(outcome)}
            else:
                reply = {"result": outcome, "error": None}
            self.queue_consumer.reply(to_json(reply), message)
        except Exception:
            log.exception("a reply could not be sent; its caller will time out")
        self.queue_consumer.ack_message(message)


def _require_a_straight_way(message: Message) -> None:
    """Raises ValueError for a message that is no call by a caller who may make it.

    The broker compares the routing key with the caller's rights where a message is published to
    an exchange of calls. A call that came another way is none, and the reply is ours: it must go
    where replies go.
    """
    if message.delivery_info["exchange"] not in CALL_EXCHANGES or "x-death" in message.headers:
        raise ValueError("a call that did not come straight from its caller")
    if not REPLY_KEY.fullmatch(message.properties.get("reply_to") or ""):
        raise ValueError("a call without reply_to, or with one that no reply queue has")


_TOO_MANY_CALLS = "Too many calls wait here; nothing was done. Try again in a moment."


class Rpc(NamekoRpc):
    """The entrypoint behind :func:`rpc`."""

    rpc_consumer = RpcConsumer()

    def setup(self) -> None:
        method = getattr(self.container.service_cls, self.method_name)
        self.request_class, self.is_deferred = signature_of(method)
        self._duration = instruments.CALLS.labels(self.method_name)
        instruments.CALL_ERRORS.labels(self.method_name, ServiceError.code)
        super().setup()

    def handle_message(self, body: Any, message: Message) -> None:
        """Begin a call. This never waits: where all workers are busy, a greenlet does."""
        try:
            request = self._parse(body)
        except BadRequest as error:
            self._finish(message, None, error)
            return
        context_data = self.unpack_message_headers(message)
        span = traces.answering(message.delivery_info["routing_key"], context_data[TRACE_KEY])
        if span is not None:
            context_data[TRACE_KEY] = span.traceparent
        begin = partial(self._begin, request, context_data, message, span)
        if self.is_deferred:
            begin()
        else:
            self.container.spawn_managed_thread(begin)

    def unpack_message_headers(self, message: Message) -> dict[str, Any]:
        """The broker vouches for ``user_id``, and for nothing that a header says."""
        return {
            **super().unpack_message_headers(message),
            CALLER_KEY: message.properties.get("user_id"),
            TRACE_KEY: traces.parent_in(message.headers),
        }

    def _parse(self, body: Any) -> BaseModel:
        if not isinstance(body, dict) or body.get("args") or "kwargs" not in body:
            raise BadRequest("Call this method with keyword arguments only.")
        try:
            return self.request_class.model_validate(body["kwargs"])
        except ValidationError as error:
            raise bad_request(error) from None

    def _begin(
        self,
        request: BaseModel,
        context_data: dict[str, Any],
        message: Message,
        span: "Span | None",
    ) -> None:
        try:
            if self.is_deferred:
                deferred = self.container.run_at_once(self, (request,), context_data)
                deferred.then(partial(self._finish, message, span))
            else:
                self.container.spawn_worker(
                    self,
                    (request,),
                    {},
                    context_data=context_data,
                    handle_result=partial(self._handled, message, span),
                )
        except ContainerBeingKilled:
            self.rpc_consumer.give_back(message)
        except Exception as error:
            self._finish(message, span, error)

    def _handled(
        self, message: Message, span: "Span | None", _context: Any, result: Any, exc_info: Any
    ) -> tuple[Any, Any]:
        self._finish(message, span, exc_info[1] if exc_info else result)
        return result, exc_info

    def _finish(self, message: Message, span: "Span | None", outcome: Any) -> None:
        if isinstance(outcome, Exception) and not isinstance(outcome, ServiceError):
            log.error("a call failed", exc_info=outcome, extra={"method": self.method_name})
            outcome = _told(outcome)
        arrived_s = self.rpc_consumer.finish(message, outcome)
        if arrived_s is not None:
            self._duration.observe(time.perf_counter() - arrived_s, traces.exemplar(span))
        if isinstance(outcome, ServiceError):
            self.count_error(outcome.code)
        if span is not None:
            span.end(outcome if isinstance(outcome, ServiceError) else None)

    def count_error(self, code: str) -> None:
        instruments.CALL_ERRORS.labels(self.method_name, code).inc()


def _told(error: BaseException) -> ServiceError:
    if is_lost(error):
        return Unavailable("The database cannot be reached. Try again in a moment.")
    if is_held(error):
        return Overloaded("This is being changed by somebody else. Try again in a moment.")
    return ServiceError("Something went wrong on our side. Try again in a moment.")


MethodT = TypeVar("MethodT", bound=Callable[..., Any])


def rpc(method: MethodT) -> MethodT:
    """Let a method of a service answer the calls that its request's type describes."""
    decorated: MethodT = Rpc.decorator(method)
    return decorated


def signature_of(method: Any) -> tuple[type[Request[Any]], bool]:
    """The request type in a method's annotation, and whether it returns a ``Deferred``.

    Raises TypeError if the request and the method do not fit.
    """
    hints = typing.get_type_hints(method)
    reply = hints.pop("return", None)
    request_class = next(iter(hints.values()), None)
    if not (isinstance(request_class, type) and issubclass(request_class, Request)):
        raise TypeError(f"{method.__qualname__} needs a contracts request as its argument's type")
    if request_class.method != method.__name__:
        raise TypeError(f"{method.__qualname__} must be called {request_class.method}")
    return request_class, typing.get_origin(reply) is Deferred


def bad_request(error: ValidationError) -> BadRequest:
    """The first thing that is wrong with some arguments, as a sentence."""
    problem = error.errors()[0]
    field = ".".join(str(part) for part in problem["loc"])
    reason = problem["msg"].removeprefix("Value error, ")
    return BadRequest(f"{field or 'The request'}: {reason}.", field)


class Caller(DependencyProvider):
    """Injects an :class:`~chassis.client.RpcClient`, to call other services with a deadline."""

    def setup(self) -> None:
        self.client = RpcClient(
            self.container.config["AMQP_URI"],
            name=self.container.service_name,
            heartbeat_s=service_settings().broker_heartbeat_s,
        )

    def stop(self) -> None:
        self.client.close()

    def get_dependency(self, worker_ctx: Any) -> RpcClient:
        return self.client
