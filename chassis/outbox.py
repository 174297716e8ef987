"""The outbox: events are stored in the transaction of the change that they tell of.

:func:`publish` writes a row; nothing else in a service sends events. The
:class:`OutboxRelay` of each container takes unsent rows, publishes them with confirms and
marks them; where a service runs in no container, one beside it relays for it. It is woken by
every commit with events, and looks by itself every few seconds for what another process left;
every second where that was found, or sending failed. A crash between publish and mark sends an
event twice, which every inbox notices.
"""

import logging
from collections.abc import Iterable
from typing import Any

import eventlet
from eventlet.event import Event as Signal
from kombu import Exchange
from nameko.extensions import DependencyProvider
from sqlalchemy import text
from sqlalchemy.orm import Session

from chassis.broker import (
    PERSISTENT,
    Unroutable,
    ensure_exchange,
    event_exchange,
)
from chassis.bulk import Batch, Bulk
from chassis.connection import BrokerConnection
from chassis.consumer import ConfirmedPublisher
from chassis.context import CallContext, current_call
from chassis.database import PUBLISHED
from chassis.service_database import DatabaseConnection
from contracts.messages import Event

log = logging.getLogger(__name__)

BATCH_SIZE = 200
POLL_INTERVAL_S = 1.0
IDLE_INTERVAL_S = 5.0

_INSERT = Bulk(
    "INSERT INTO outbox ({columns}) SELECT * FROM {rows}",
    event_id="uuid",
    source="text",
    type="text",
    needs_listener="boolean",
    payload="jsonb",
    headers="jsonb",
)
_CLAIM = text(
    "SELECT id, source, type, needs_listener, payload, headers, attempts FROM outbox"
    " WHERE published_at IS NULL AND next_attempt_at <= now()"
    " ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED"
)
_MARK = text("UPDATE outbox SET published_at = now() WHERE id = ANY(:ids)")
# An event that no queue wants yet (its listener never ran so far) is tried again after
# 1, 2, 4 … 60 seconds, and holds up nothing behind it.
_POSTPONE = text(
    "UPDATE outbox SET attempts = attempts + 1,"
    " next_attempt_at = now() + make_interval(secs => least(power(2, attempts), 60))"
    " WHERE id = ANY(:ids)"
)


def publish(session: Session, *events: Event) -> None:
    """Store events, to be sent once the transaction of ``session`` is committed."""
    with Batch(session) as writes:
        store(writes, [(event, current_call.get()) for event in events])


def store(writes: Batch, events: Iterable[tuple[Event, CallContext]]) -> None:
    """Store several events, each with the call that led to it, in their order.

    See :func:`publish`. The chain of calls goes with the event, the deadline does not: an event
    is of use at any time.
    """
    rows = [
        (
            event.event_id,
            event.source,
            event.type,
            event.needs_listener,
            event.model_dump(mode="json"),
            CallContext(chain=call.chain).headers(),
        )
        for event, call in events
    ]
    if rows:
        writes.add(_INSERT, rows)
        writes.session.info[PUBLISHED] = True


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
        self._declare()

    def start(self) -> None:
        self.connection.connected.on_commit.append(self.wake)
        self._greenlet = self.container.spawn_managed_thread(self._run, identifier="outbox")

    def stop(self) -> None:
        self._stopping = True
        self.wake()
        self._greenlet.wait()

    def wake(self) -> None:
        """Look into the outbox now."""
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
        while not self._stopping:
            pause_s = POLL_INTERVAL_S
            try:
                count = self.relay_batch()
                while count == BATCH_SIZE:
                    count = self.relay_batch()
                pause_s = POLL_INTERVAL_S if count else IDLE_INTERVAL_S
            except Exception:
                log.exception("the outbox could not be sent; it is tried again")
                self._declare()
            self._wait(pause_s)

    def _wait(self, seconds: float) -> None:
        with eventlet.Timeout(seconds, exception=False):
            self._wake.wait()
        if self._wake.ready():
            self._wake.reset()

    def relay_batch(self) -> int:
        """Send one batch; the number of rows it took."""
        sent: list[int] = []
        unwanted: list[int] = []
        with self.connection.connected.engine.begin() as connection:
            rows = connection.execute(_CLAIM, {"limit": BATCH_SIZE}).all()
            try:
                for row in rows:
                    (sent if self._send(row) else unwanted).append(row.id)
            finally:
                # What was sent is marked even when the broker goes away in the middle.
                if sent:
                    connection.execute(_MARK, {"ids": sent})
                if unwanted:
                    connection.execute(_POSTPONE, {"ids": unwanted})
                connection.commit()
        return len(rows)

    def _send(self, row: Any) -> bool:
        try:
            self.confirmed.publish(
                row.payload,
                mandatory=row.needs_listener,
                exchange=event_exchange(row.source),
                routing_key=row.type,
                headers=row.headers,
                delivery_mode=PERSISTENT,
            )
        except Unroutable:
            log.warning(
                "no queue wants this event yet; it is kept",
                extra={"event": f"{row.source}.{row.type}", "attempts": row.attempts + 1},
            )
            return False
        return True
