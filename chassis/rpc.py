"""Answering calls.

::

    @rpc
    def get_wallet(self, request: GetWallet) -> Wallet: ...

The request's type says what arguments are right: the caller of any others gets a
``BadRequest`` before the method runs. What the method raises from :mod:`contracts.errors`
reaches the caller as it is; anything else is logged here and reaches it as a plain
``ServiceError``, without the details. A call whose deadline has passed is not begun, and one
that finds too many others waiting is refused at once.

On the wire this is nameko's own protocol, so that a stock nameko client can call:
``rpc.wallet.get_wallet(user_id="…")``.
"""

import logging
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from eventlet.semaphore import Semaphore
from kombu.message import Message
from nameko.exceptions import ContainerBeingKilled, MethodNotFound, serialize
from nameko.extensions import DependencyProvider
from nameko.rpc import Rpc as NamekoRpc
from nameko.rpc import RpcConsumer as NamekoRpcConsumer
from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from chassis.client import RpcClient
from chassis.consumer import WAITING_PER_WORKER, QueueConsumer
from chassis.context import DEADLINE_KEY, CallContext
from chassis.database import is_lost
from contracts.errors import BadRequest, DeadlineExceeded, Overloaded, ServiceError, Unavailable
from contracts.messages import Request

log = logging.getLogger(__name__)


class RpcConsumer(NamekoRpcConsumer):
    """Takes calls from ``rpc-<service>`` and sends the answers, transient and unconfirmed.

    An answer that the broker loses is an unknown outcome to its caller, which asks again with
    the same idempotency key; a confirm for each would cost every call a round trip.
    """

    queue_consumer = QueueConsumer()

    def setup(self) -> None:
        super().setup()
        self._slots = Semaphore(self.container.max_workers)
        self._waiting = 0

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Wait for a free worker; what the block begins keeps it until :meth:`free_slot`.

        Raises ``Overloaded`` at once where too many wait already.
        """
        if self._waiting >= WAITING_PER_WORKER * self.container.max_workers:
            raise Overloaded("Too many calls wait here; nothing was done. Try again in a moment.")
        self._waiting += 1
        try:
            self._slots.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        except BaseException:
            self.free_slot()
            raise

    def free_slot(self) -> None:
        """A call has ended."""
        self._slots.release()

    def handle_message(self, body: Any, message: Message) -> None:
        if not message.properties.get("reply_to"):
            raise ValueError("a call without reply_to")
        routing_key = message.delivery_info["routing_key"]
        try:
            provider = self.get_provider_for_method(routing_key)
        except MethodNotFound as error:
            self.answer(message, None, error)
            return
        provider.handle_message(body, message)

    def answer(self, message: Message, result: BaseModel | None, error: Exception | None) -> None:
        """Send a reply and acknowledge the call."""
        try:
            reply = {"result": result, "error": serialize(error) if error else None}
            self.queue_consumer.reply(to_json(reply), message)
        except Exception:
            log.exception("a reply could not be sent; its caller will time out")
        self.queue_consumer.ack_message(message)


class Rpc(NamekoRpc):
    """The entrypoint behind :func:`rpc`."""

    rpc_consumer = RpcConsumer()

    def setup(self) -> None:
        method = getattr(self.container.service_cls, self.method_name)
        self.request_class = request_class_of(method)
        super().setup()

    def handle_message(self, body: Any, message: Message) -> None:
        try:
            request = self._parse(body)
            with self.rpc_consumer.slot():
                self._begin(request, message)
        except ServiceError as error:
            self.rpc_consumer.answer(message, None, error)
        except ContainerBeingKilled:
            self.rpc_consumer.requeue_message(message)

    def _begin(self, request: BaseModel, message: Message) -> None:
        context = self.unpack_message_headers(message)
        if CallContext(deadline_ms=context.get(DEADLINE_KEY)).remaining_s() == 0:
            raise DeadlineExceeded("The call came too late; nothing was done.")
        self.container.spawn_worker(
            self,
            (request,),
            {},
            context_data=context,
            handle_result=partial(self.handle_result, message),
        )

    def _parse(self, body: Any) -> BaseModel:
        if not isinstance(body, dict) or body.get("args") or "kwargs" not in body:
            raise BadRequest("Call this method with keyword arguments only.")
        try:
            return self.request_class.model_validate(body["kwargs"])
        except ValidationError as error:
            raise bad_request(error) from None

    def handle_result(
        self, message: Message, worker_ctx: Any, result: Any, exc_info: Any
    ) -> tuple[Any, Any]:
        self.rpc_consumer.free_slot()
        error = exc_info[1] if exc_info else None
        if error is not None and not isinstance(error, ServiceError):
            log.error("a call failed", exc_info=exc_info, extra={"method": self.method_name})
            error = _told(error)
        self.rpc_consumer.answer(message, result, error)
        return result, exc_info


def _told(error: BaseException) -> ServiceError:
    if is_lost(error):
        return Unavailable("The database cannot be reached. Try again in a moment.")
    return ServiceError("Something went wrong on our side. Try again in a moment.")


MethodT = TypeVar("MethodT", bound=Callable[..., Any])


def rpc(method: MethodT) -> MethodT:
    """Let a method of a service answer the calls that its request's type describes."""
    decorated: MethodT = Rpc.decorator(method)
    return decorated


def request_class_of(method: Any) -> type[Request[Any]]:
    """The request type in a method's annotation. Raises TypeError if the two do not fit."""
    hints = typing.get_type_hints(method)
    hints.pop("return", None)
    request_class = next(iter(hints.values()), None)
    if not (isinstance(request_class, type) and issubclass(request_class, Request)):
        raise TypeError(f"{method.__qualname__} needs a contracts request as its argument's type")
    if request_class.method != method.__name__:
        raise TypeError(f"{method.__qualname__} must be called {request_class.method}")
    return request_class


def bad_request(error: ValidationError) -> BadRequest:
    """The first thing that is wrong with some arguments, as a sentence."""
    problem = error.errors(include_url=False, include_input=False)[0]
    field = ".".join(str(part) for part in problem["loc"])
    return BadRequest(f"{field or 'The request'}: {problem['msg']}.", field)


class Caller(DependencyProvider):
    """Injects an :class:`~chassis.client.RpcClient`, to call other services with a deadline."""

    def setup(self) -> None:
        self.client = RpcClient(self.container.config["AMQP_URI"], name=self.container.service_name)

    def stop(self) -> None:
        self.client.close()

    def get_dependency(self, worker_ctx: Any) -> RpcClient:
        return self.client
