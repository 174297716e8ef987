"""What an operator asks of every service: how it is, and what became of its dead letters.

Each service is an :class:`Operated`, and answers for all of its processes: what it tells is what
the broker and the database know. It reads its own queues and no other's, and so does nobody else.
"""

import re
from collections.abc import Callable

from kombu.message import Message
from nameko.extensions import DependencyProvider

from chassis import dead_letters
from chassis.clock import utc_now
from chassis.connection import BrokerConnection
from chassis.consumer import ConfirmedPublisher, QueueConsumer
from chassis.dead_letters import Stays
from chassis.metrics import OUTBOX_GAUGES
from chassis.rpc import rpc
from chassis.service_database import DatabaseConnection
from chassis.settings import service_settings
from contracts.errors import Conflict, NotFound
from contracts.operating import (
    BODY_LENGTH_MAX,
    DeadLetter,
    DeadLetters,
    DiscardDeadLetter,
    GetDeadLetters,
    GetState,
    LetterDone,
    QueueState,
    ReplayDeadLetter,
    ServiceState,
)


class OwnQueues(DependencyProvider):
    """The service's queues, by a connection of its own for each look."""

    connection = DatabaseConnection()
    queue_consumer = QueueConsumer()
    confirmed = ConfirmedPublisher()

    def get_dependency(self, worker_ctx: object) -> "OwnQueues":
        return self

    @property
    def service(self) -> str:
        name: str = self.container.service_name
        return name

    def connect(self) -> BrokerConnection:
        settings = service_settings()
        return BrokerConnection(settings.amqp_uri, settings.broker_heartbeat_s, is_read=False)

    def state(self) -> ServiceState:
        with self.connect() as connection:
            dead = dead_letters.total(connection, self.service)
            states = []
            for queue in self.queue_consumer.queues:
                found = queue(connection.default_channel).queue_declare()
                states.append(
                    QueueState(
                        name=found.queue,
                        waiting=found.message_count,
                        consumers=found.consumer_count,
                    )
                )
        with self.connection.connected.read() as session:
            unsent, oldest_s = (
                gauge.rows(session, utc_now())[0][0] or 0 for gauge in OUTBOX_GAUGES.values()
            )
        states.sort(key=lambda state: state.name)
        taking = (state.consumers for state in states if state.name == f"rpc-{self.service}")
        return ServiceState(
            processes=next(taking),
            queues=states,
            dead_letters=dead,
            outbox_unsent=unsent,
            outbox_oldest_s=int(oldest_s),
        )

    def letters(self, limit: int) -> DeadLetters:
        with self.connect() as connection:
            # Before any is in hand, and not waiting any more.
            total = dead_letters.total(connection, self.service)
            found = []
            for message in dead_letters.dead_letters(connection, self.service):
                found.append(_told(message))
                if len(found) == limit:
                    break
        # One may have come meanwhile.
        return DeadLetters(letters=found, total=max(total, len(found)))

    def replay(self, message_id: str) -> LetterDone:
        kept_days = service_settings().inbox_kept_days
        publisher = self.confirmed.publisher

        def give_back(message: Message) -> None:
            dead_letters.replay_once(publisher, self.service, kept_days, message)

        return self._with_each(message_id, give_back)

    def discard(self, message_id: str) -> LetterDone:
        return self._with_each(message_id, lambda message: message.ack())

    def _with_each(self, message_id: str, act: Callable[[Message], object]) -> LetterDone:
        count = 0
        with self.connect() as connection:
            for message in dead_letters.dead_letters(connection, self.service):
                if dead_letters.message_id(message) == message_id:
                    try:
                        act(message)
                    except Stays as error:
                        raise Conflict(f"It stays. {error}") from None
                    count += 1
        if not count:
            raise NotFound(
                "It is not among the dead letters: somebody has replayed or discarded it, or looks"
                " at them at this moment."
            )
        return LetterDone(count=count)


class Operated:
    """What each service class is besides."""

    operated = OwnQueues()

    @rpc
    def get_state(self, request: GetState) -> ServiceState:
        return self.operated.state()

    @rpc
    def get_dead_letters(self, request: GetDeadLetters) -> DeadLetters:
        return self.operated.letters(request.limit)

    @rpc
    def replay_dead_letter(self, request: ReplayDeadLetter) -> LetterDone:
        return self.operated.replay(request.message)

    @rpc
    def discard_dead_letter(self, request: DiscardDeadLetter) -> LetterDone:
        return self.operated.discard(request.message)


_ADDRESS = re.compile(r"""[^\s"'<>@\\]{1,64}@[^\s"'<>@\\,;)\]}]{1,255}""")


def _told(message: Message) -> DeadLetter:
    """Without email addresses: nobody who sees to a message needs to know whose it is."""
    described = dead_letters.describe(message)
    return DeadLetter(
        message=str(described["message"]),
        queue=str(described["queue"] or ""),
        attempts=int(str(described["attempts"] or 0)),
        error=_without_addresses(described["error"] or ""),
        body=_without_addresses(described["body"])[:BODY_LENGTH_MAX],
    )


def _without_addresses(text: object) -> str:
    return _ADDRESS.sub("(address)", str(text))
