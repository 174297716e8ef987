"""Handling events: at least once on the wire, once in effect.

::

    @event_handler(TopupPaid)
    def credit_topup(self, session: Session, event: TopupPaid) -> None: ...

The handler runs inside one transaction together with the record in the inbox, and the
message is acknowledged after the commit. A failure puts the message aside for a growing
while (:attr:`chassis.settings.ServiceSettings.retry_delays_s`); after the last try, or at
once if it makes no sense, it becomes a dead letter. Nothing is dropped.
"""

import functools
import logging
from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

from eventlet.semaphore import Semaphore
from kombu.message import Message
from nameko.events import EventHandler as NamekoEventHandler
from nameko.extensions import SharedExtension
from nameko.rpc import Rpc as NamekoRpc
from pydantic import ValidationError
from sqlalchemy.orm import Session

from chassis import inbox
from chassis.broker import ATTEMPTS_HEADER, event_exchange, retry_exchange
from chassis.consumer import QueueConsumer
from chassis.context import CALLER_KEY
from chassis.settings import service_settings
from contracts.messages import Event

log = logging.getLogger(__name__)

EventT = TypeVar("EventT", bound=Event)
Handler = Callable[[Any, Session, EventT], None]


def event_handler(event_class: type[EventT]) -> Callable[[Handler[EventT]], Callable[..., None]]:
    """Make a method the handler of ``event_class``. The service needs a ``database``."""

    def decorate(method: Handler[EventT]) -> Callable[..., None]:
        @functools.wraps(method)
        def handle(service: Any, payload: Any) -> None:
            event = event_class.model_validate(payload)
            with service.database.begin() as session:
                if inbox.is_new(session, event.event_id, method.__name__):
                    method(service, session, event)

        entrypoint = EventHandler.decorator(event_class.source, event_class.type)
        decorated: Callable[..., None] = entrypoint(handle)
        return decorated

    return decorate


class EventPlaces(SharedExtension):
    """How many events are handled at a time, so that slow ones delay no call.

    In a service that answers calls too, at most half of its workers handle events. And one
    handler never takes the last of these places.
    """

    @cached_property
    def count(self) -> int:
        workers: int = self.container.max_workers
        answers = any(isinstance(each, NamekoRpc) for each in self.container.entrypoints)
        return max(workers // 2, 1) if answers else workers

    @cached_property
    def places(self) -> Semaphore:
        return Semaphore(self.count)


class EventHandler(NamekoEventHandler):
    """Nameko's event handler, which keeps a message until its effect is committed."""

    queue_consumer = QueueConsumer()
    shared = EventPlaces()

    def setup(self) -> None:
        super().setup()
        self._places = Semaphore(max(self.shared.count - 1, 1))
        self.queue.exchange = event_exchange(self.source_service)
        self._delays_s: tuple[int, ...] = service_settings().retry_delays_s

    def unpack_message_headers(self, message: Message) -> dict[str, Any]:
        """Only its source can publish an event, whatever the message says of itself."""
        source = event_exchange(self.source_service).name
        return {**super().unpack_message_headers(message), CALLER_KEY: source}

    def handle_message(self, body: Any, message: Message) -> None:
        """Wait for a place, in the greenlet of this message alone."""
        self._places.acquire()
        self.shared.places.acquire()
        try:
            super().handle_message(body, message)
        except BaseException:
            self._leave_place()
            raise

    def handle_result(
        self, message: Message, worker_ctx: Any, result: Any = None, exc_info: Any = None
    ) -> tuple[Any, Any]:
        self._leave_place()
        return super().handle_result(message, worker_ctx, result, exc_info)  # type: ignore[no-any-return]

    def _leave_place(self) -> None:
        self.shared.places.release()
        self._places.release()

    def handle_message_processed(
        self, message: Message, result: object = None, exc_info: Any = None
    ) -> None:
        if exc_info is None:
            self.queue_consumer.ack_message(message)
            return
        error = exc_info[1]
        attempts = int((message.headers or {}).get(ATTEMPTS_HEADER, 0)) + 1
        log.error(
            "an event could not be handled",
            exc_info=exc_info,
            extra={"queue": self.queue.name, "attempts": attempts},
        )
        marked = self.queue_consumer.marked(self, message, f"{type(error).__name__}: {error}")
        headers = {**marked, ATTEMPTS_HEADER: attempts}
        if isinstance(error, ValidationError) or attempts > len(self._delays_s):
            self.queue_consumer.bury(message, headers)
        else:
            delay_s = self._delays_s[attempts - 1]
            self.queue_consumer.move(
                message,
                headers,
                retry_exchange(self.container.service_name, delay_s),
                self.queue.name,
            )
