"""Handling events: at least once on the wire, once in effect.

::

    @event_handler(TopupPaid)
    def credit_topup(self, session: Session, event: TopupPaid) -> None: ...

The handler runs inside one transaction together with the record in the inbox, and the
message is acknowledged after the commit. What hardly ever concerns it says when it does, and costs
neither a transaction nor a record otherwise::

    @event_handler(WalletCredited, where=lambda service, event: service.waits(event.user_id))

One that can handle many at the price of one takes all
that have arrived by then, in one transaction::

    @events_handler(PurchaseCompleted)
    def notify(self, session: Session, events: Sequence[PurchaseCompleted]) -> None: ...

Where nobody waits for its effect, it lets more of them arrive first (``gather_s=0.5``): what each
transaction costs is shared by more.

A failure puts the message aside for a growing
while (:attr:`chassis.settings.ServiceSettings.retry_delays_s`); after the last try, or at
once if it makes no sense, it becomes a dead letter. Nothing is dropped.
"""

import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

import eventlet
from eventlet.semaphore import Semaphore
from kombu.message import Message
from nameko.events import EventHandler as NamekoEventHandler
from nameko.exceptions import ContainerBeingKilled
from nameko.extensions import SharedExtension
from nameko.rpc import Rpc as NamekoRpc
from pydantic import ValidationError
from sqlalchemy.orm import Session

from chassis import inbox, instruments, traces
from chassis.broker import ATTEMPTS_HEADER, event_exchange, retry_exchange
from chassis.clock import utc_now
from chassis.consumer import QueueConsumer
from chassis.context import CALLER_KEY
from chassis.settings import service_settings
from contracts.calls import TRACE_KEY
from contracts.messages import Event
from contracts.operating import METHODS

if TYPE_CHECKING:
    from chassis.recorder import Span

log = logging.getLogger(__name__)

EventT = TypeVar("EventT", bound=Event)
Handler = Callable[[Any, Session, EventT], None]
Concerns = Callable[[Any, EventT], bool]
ManyHandler = Callable[[Any, Session, Sequence[EventT]], None]
MANY = 100
"""So many events at most share a transaction."""
ENOUGH = 10
"""With so many, sharing it with more saves hardly anything."""
LOOK_EVERY_S = 0.02


def event_handler(
    event_class: type[EventT], *, where: Concerns[EventT] | None = None
) -> Callable[[Handler[EventT]], Callable[..., None]]:
    """Make a method the handler of ``event_class``. The service needs a ``database``.

    ``where`` is given the service and an event; where it says no, the event is done with.
    """

    def decorate(method: Handler[EventT]) -> Callable[..., None]:
        def handle(service: Any, payload: Any) -> None:
            event = event_class.model_validate(payload)
            with counted(event_class, [event]):
                if where is not None and not where(service, event):
                    return
                with service.database.begin() as session:
                    if inbox.is_new(session, event.event_id, method.__name__):
                        method(service, session, event)

        entrypoint = EventHandler.decorator(event_class.source, event_class.type)
        decorated: Callable[..., None] = entrypoint(handle)
        return decorated

    return decorate


def events_handler(
    event_class: type[EventT],
    *,
    where: Concerns[EventT] | None = None,
    gather_s: float = 0.0,
) -> Callable[[ManyHandler[EventT]], Callable[..., None]]:
    """Make a method the handler of ``event_class`` that takes several at once, in any order.

    ``where`` is that of :func:`event_handler`. Where they fail together, each is handled by itself:
    one that fails keeps no other one waiting. They are of many users, whose locks it takes in one
    order. After the first of them it waits ``gather_s`` for more, unless there are :data:`ENOUGH`.
    """

    def decorate(method: ManyHandler[EventT]) -> Callable[..., None]:
        def handle(service: Any, payloads: Sequence[Any]) -> None:
            # What was delivered twice is one event.
            events = {each.event_id: each for each in map(event_class.model_validate, payloads)}
            with counted(event_class, events.values()):
                ours = [
                    event_id
                    for event_id, each in events.items()
                    if where is None or where(service, each)
                ]
                if not ours:
                    return
                with service.database.begin() as session:
                    new = inbox.new_ones(session, ours, method.__name__)
                    if new:
                        method(service, session, [events[event_id] for event_id in sorted(new)])

        entrypoint = EventsHandler.decorator(
            event_class.source, event_class.type, gather_s=gather_s
        )
        decorated: Callable[..., None] = entrypoint(handle)
        return decorated

    return decorate


@contextmanager
def counted(event_class: type[Event], events: Iterable[Event]) -> Iterator[None]:
    """Count what is handled in this block, once it is."""
    name = f"{event_class.source}.{event_class.type}"
    began_s = time.perf_counter()
    yield
    exemplar = traces.exemplar()
    instruments.EVENT_DURATION.labels(name).observe(time.perf_counter() - began_s, exemplar)
    now, delay = utc_now(), instruments.EVENT_DELAY.labels(name)
    for event in events:
        at_least = now - event.occurred_at - event.told_to
        delay.observe(max(at_least.total_seconds(), 0.0), exemplar)


class EventPlaces(SharedExtension):
    """How many events are handled at a time, so that slow ones delay no call.

    In a service that answers calls too (other than an operator's), at most half of its workers
    handle events. And one handler never takes the last of these places.
    """

    @cached_property
    def count(self) -> int:
        workers: int = self.container.max_workers
        answers = any(
            isinstance(each, NamekoRpc) and each.method_name not in METHODS
            for each in self.container.entrypoints
        )
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
        self._failures = instruments.EVENT_FAILURES.labels(
            f"{self.source_service}.{self.event_type}"
        )
        instruments.DEAD_LETTERS.labels(self.queue.name)

    def unpack_message_headers(self, message: Message) -> dict[str, Any]:
        """Only its source can publish an event, whatever the message says of itself."""
        source = event_exchange(self.source_service).name
        return {
            **super().unpack_message_headers(message),
            CALLER_KEY: source,
            TRACE_KEY: traces.parent_in(message.headers),
        }

    def context_of(
        self, bodies: Sequence[Any], messages: Sequence[Message]
    ) -> tuple[dict[str, Any], "Span | None"]:
        """The context in which these are handled, and the span of that."""
        contexts = [self.unpack_message_headers(message) for message in messages]
        event = f"{self.source_service}.{self.event_type}"
        parents = [context.get(TRACE_KEY) for context in contexts]
        span = traces.handling(self.method_name, event, self.queue.name, bodies, parents)
        if span is not None:
            contexts[0][TRACE_KEY] = span.traceparent
        return contexts[0], span

    def handle_message(self, body: Any, message: Message) -> None:
        """Wait for a place, in the greenlet of this message alone."""
        self._places.acquire()
        self.shared.places.acquire()
        try:
            context, span = self.context_of([body], [message])
            self.container.spawn_worker(
                self,
                (body,),
                {},
                context_data=context,
                handle_result=partial(self._handled, message, span),
            )
        except BaseException as error:
            self._leave_place()
            if not isinstance(error, ContainerBeingKilled):
                raise
            self.queue_consumer.requeue_message(message)

    def _handled(
        self,
        message: Message,
        span: "Span | None",
        worker_ctx: Any,
        result: Any = None,
        exc_info: Any = None,
    ) -> tuple[Any, Any]:
        self._leave_place()
        if span is not None:
            span.end(exc_info[1] if exc_info else None)
        return self.handle_result(message, worker_ctx, result, exc_info)  # type: ignore[no-any-return]

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
        self._failures.inc()
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


class EventsHandler(EventHandler):
    """Hands over what has arrived while the last of it was handled, one transaction at a time."""

    never_waits = True

    def __init__(self, *arguments: Any, gather_s: float = 0.0, **options: Any) -> None:
        self._gather_s = gather_s
        super().__init__(*arguments, **options)

    def setup(self) -> None:
        super().setup()
        self._arrived: deque[tuple[Any, Message]] = deque()
        self._is_working = False

    def handle_message(self, body: Any, message: Message) -> None:
        """Put it to what has arrived; nobody waits here."""
        self._arrived.append((body, message))
        if not self._is_working:
            self._is_working = True
            self.container.spawn_managed_thread(self._work)

    def _work(self) -> None:
        try:
            while self._arrived:
                self._gather()
                together = [self._arrived.popleft() for _ in range(min(len(self._arrived), MANY))]
                if not self._is_handled(together):
                    for each in together:
                        self._is_handled([each])
        finally:
            self._is_working = False

    def _gather(self) -> None:
        """Wait for more, for a time and until there are enough: the broker sends no more ahead of
        what is acknowledged than so many for all handlers together."""
        until = time.monotonic() + self._gather_s
        while len(self._arrived) < ENOUGH and time.monotonic() < until:
            eventlet.sleep(LOOK_EVERY_S)

    def _is_handled(self, together: list[tuple[Any, Message]]) -> bool:
        """Handle them; False where several failed together, and are to be handled one by one."""
        payloads, messages = zip(*together, strict=True)
        self._places.acquire()
        self.shared.places.acquire()
        span: Span | None = None
        failure: Exception | None = None
        try:
            context, span = self.context_of(payloads, messages)
            self.container.run_at_once(self, (payloads,), context)
        except ContainerBeingKilled as killed:
            failure = killed
            for message in messages:
                self.queue_consumer.requeue_message(message)
        except Exception as error:
            failure = error
            if len(messages) > 1:
                log.warning(
                    "events failed together", extra={"queue": self.queue.name}, exc_info=True
                )
                return False
            self.handle_message_processed(messages[0], exc_info=sys.exc_info())
        else:
            for message in messages:
                self.queue_consumer.ack_message(message)
        finally:
            self._leave_place()
            if span is not None:
                span.end(failure)
        return True
