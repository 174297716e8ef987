"""The outbox: events are stored in the transaction of the change that they tell of.

:func:`publish` writes a row; nothing else in a service sends events. The
:class:`OutboxRelay` of each container gets what was committed beside it, publishes it with
confirms and marks the rows a moment later, many at once. What it was not given it finds by looking
into the table every few seconds: what another process left, where a service runs in no container
and one beside it relays for it, what could not be sent. Every second where that was found, or
sending failed. A crash between publish and mark sends an event twice, which every inbox notices.
"""

import logging
import math
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import eventlet
from eventlet.event import Event as Signal
from kombu import Exchange
from nameko.extensions import DependencyProvider
from sqlalchemy import text
from sqlalchemy.orm import Session

from chassis import bodies, traces
from chassis.broker import PERSISTENT, Outgoing, ensure_exchange, event_exchange
from chassis.bulk import Batch, Bulk
from chassis.clock import utc_now
from chassis.connection import BrokerConnection
from chassis.consumer import ConfirmedPublisher
from chassis.context import CallContext, current_call
from chassis.database import HAS_RELAY, PUBLISHED
from chassis.service_database import DatabaseConnection
from contracts.calls import TRACE_KEY
from contracts.messages import Event

if TYPE_CHECKING:
    from chassis.recorder import Span

log = logging.getLogger(__name__)

BATCH_SIZE = 200
POLL_INTERVAL_S = 1.0
IDLE_INTERVAL_S = 5.0
MARK_AFTER_S = 0.3
LEFT_AFTER_S = 2
"""So long a row is left to the relay of the process that wrote it; then it is anybody's."""

_INSERT = Bulk(
    "INSERT INTO outbox (event_id, source, type, needs_listener, payload, headers, next_attempt_at)"
    " SELECT event_id, source, type, needs_listener, payload::jsonb, headers,"
    " now() + make_interval(secs => left_after_s) FROM {rows}",
    event_id="uuid",
    source="text",
    type="text",
    needs_listener="boolean",
    payload="text",
    headers="jsonb",
    left_after_s="integer",
)
_CLAIM = text(
    "SELECT event_id, source, type, needs_listener, payload::text, headers FROM outbox"
    " WHERE published_at IS NULL AND next_attempt_at <= now()"
    " ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED"
)
# Losing a mark sends an event twice: nobody need wait until it is on the disk.
_MARK = text(
    "SET LOCAL synchronous_commit = off;"
    " UPDATE outbox SET published_at = :now WHERE event_id = ANY(CAST(:ids AS uuid[]))"
)
# An event that no queue wants yet (its listener never ran so far) is tried again after
# 1, 2, 4 … 60 seconds, and holds up nothing behind it.
_POSTPONE = text(
    "UPDATE outbox SET attempts = attempts + 1,"
    " next_attempt_at = now() + make_interval(secs => least(power(2, attempts), 60))"
    " WHERE event_id = ANY(CAST(:ids AS uuid[]))"
)


@dataclass(frozen=True)
class Stored:
    """An event that stands in the outbox, as it is to be published."""

    event_id: UUID
    source: str
    type: str
    needs_listener: bool
    payload: str
    headers: dict[str, Any]

    def span(self) -> "Span | None":
        """Its way to the broker, as part of the trace of whoever stored it."""
        return traces.publishing(self.source, self.type, self.event_id, self.headers)

    def outgoing(self, span: "Span | None") -> Outgoing:
        """The message, which came out of this span, or else out of the one that stored it."""
        headers = self.headers
        if span is not None:
            headers = {**headers, TRACE_KEY: span.traceparent}
        properties = {
            **bodies.PROPERTIES,
            "delivery_mode": PERSISTENT,
            "application_headers": headers,
        }
        exchange = event_exchange(self.source).name
        return Outgoing(self.payload.encode(), exchange, self.type, properties, self.needs_listener)


def publish(session: Session, *events: Event) -> None:
    """Store events, to be sent once the transaction of ``session`` is committed."""
    with Batch(session) as writes:
        store(writes, [(event, current_call.get()) for event in events])


def store(writes: Batch, events: Iterable[tuple[Event, CallContext]]) -> None:
    """Store several events, each with the call that led to it, in their order.

    See :func:`publish`. The chain of calls and the trace go with the event, the deadline does not:
    an event is of use at any time.
    """
    session = writes.session
    left_after_s = LEFT_AFTER_S if session.info.get(HAS_RELAY) else 0
    stored = [
        Stored(
            event.event_id,
            event.source,
            event.type,
            event.needs_listener,
            event.model_dump_json(),
            call.afterwards().headers(),
        )
        for event, call in events
    ]
    if stored:
        writes.add(_INSERT, [(*vars(each).values(), left_after_s) for each in stored])
        session.info.setdefault(PUBLISHED, []).extend(stored)


class OutboxRelay(DependencyProvider):
    """Sends what the service stored in its outbox: ``relay = OutboxRelay()``.

    ``source`` is whose events they are, where that is not the container's own service.
    """

    connection = DatabaseConnection()
    confirmed = ConfirmedPublisher()

    def __init__(self, source: str | None = None) -> None:
        self._source = source
        super().__init__()

    @property
    def exchange(self) -> Exchange:
        """Where its events go."""
        return event_exchange(self._source or self.container.service_name)

    def setup(self) -> None:
        self._wake = Signal()
        self._stopping = False
        self._committed: list[Stored] = []
        self._to_mark: list[UUID] = []
        self._declare()

    def start(self) -> None:
        self.connection.connected.on_publish.append(self.take)
        self._greenlet = self.container.spawn_managed_thread(self._run, identifier="outbox")

    def stop(self) -> None:
        self._stopping = True
        self.wake()
        self._greenlet.wait()

    def take(self, committed: list[Stored]) -> None:
        """Send these now, which were committed a moment ago."""
        self._committed += committed
        self.wake()

    def wake(self) -> None:
        """Look at once at what is to be done."""
        if not self._wake.ready():
            self._wake.send()

    def _declare(self) -> None:
        """Make sure of our exchange: a broker that lost its data has it no more."""
        try:
            with BrokerConnection(self.container.config["AMQP_URI"], is_read=False) as connection:
                ensure_exchange(connection.connect(), self.exchange)
        except Exception as error:
            log.warning("the message broker cannot be reached", extra={"error": str(error)})

    def _run(self) -> None:
        look_at = mark_at = 0.0
        while not self._stopping:
            try:
                if self._send_committed():
                    mark_at = min(mark_at, time.monotonic() + MARK_AFTER_S)
                now = time.monotonic()
                if now >= min(mark_at, look_at):
                    self._mark()
                    mark_at = math.inf
                if now >= look_at:
                    found = self._relay_left()
                    look_at = now + (POLL_INTERVAL_S if found else IDLE_INTERVAL_S)
            except Exception:
                log.exception("the outbox could not be sent; it is tried again")
                self._declare()
                look_at = time.monotonic() + POLL_INTERVAL_S
            self._wait(min(mark_at, look_at) - time.monotonic())
        self._finish()

    def _wait(self, seconds: float) -> None:
        with eventlet.Timeout(max(seconds, 0), exception=False):
            self._wake.wait()
        if self._wake.ready():
            self._wake.reset()

    def _finish(self) -> None:
        """What the next start would find."""
        try:
            self._send_committed()
            self._mark()
        except Exception as error:
            log.warning("the outbox is left to the next start", extra={"error": str(error)})

    def _send_committed(self) -> bool:
        """Send what was committed beside us, if anything was.

        Where that fails it is forgotten here, and found in the table.
        """
        committed, self._committed = self._committed, []
        for start in range(0, len(committed), BATCH_SIZE):
            batch = committed[start : start + BATCH_SIZE]
            unwanted = self._send(batch)
            self._to_mark += [each.event_id for each in batch if each.event_id not in unwanted]
            if unwanted:
                with self.connection.connected.engine.begin() as connection:
                    connection.execute(_POSTPONE, {"ids": list(unwanted)})
        return bool(committed)

    def _mark(self) -> None:
        """Mark what was sent. Where that fails it is sent once more."""
        sent, self._to_mark = self._to_mark, []
        if sent:
            with self.connection.connected.engine.begin() as connection:
                connection.execute(_MARK, {"ids": sent, "now": utc_now()})

    def _relay_left(self) -> bool:
        """Send what stands in the table and is nobody else's; whether there was anything."""
        count = found = self.relay_batch()
        while count == BATCH_SIZE:
            count = self.relay_batch()
        return bool(found)

    def relay_batch(self) -> int:
        """Send one batch of the table; the number of rows it took."""
        with self.connection.connected.engine.begin() as connection:
            batch = [Stored(*row) for row in connection.execute(_CLAIM, {"limit": BATCH_SIZE})]
            unwanted = self._send(batch)
            sent = [each.event_id for each in batch if each.event_id not in unwanted]
            if sent:
                connection.execute(_MARK, {"ids": sent, "now": utc_now()})
            if unwanted:
                connection.execute(_POSTPONE, {"ids": list(unwanted)})
        return len(batch)

    def _send(self, batch: list[Stored]) -> set[UUID]:
        """Publish them; those that no queue wants yet."""
        spans = [each.span() for each in batch]
        returned: set[int] = set()
        try:
            returned = self.confirmed.publisher.publish_all(
                [each.outgoing(span) for each, span in zip(batch, spans, strict=True)]
            )
        finally:
            failed = sys.exc_info()[1]
            for place, span in enumerate(spans):
                if span is not None:
                    span.end("unroutable" if place in returned else failed)
        for place in returned:
            log.warning(
                "no queue wants this event yet; it is kept",
                extra={"event": f"{batch[place].source}.{batch[place].type}"},
            )
        return {batch[place].event_id for place in returned}
