"""What the website has to say to others reaches whoever listens, once, also across a crash."""

from collections.abc import Iterator
from typing import Any

import pytest
from kombu import Connection, Queue

from chassis.broker import event_exchange
from chassis.database import Connected, connect
from contracts.gateway import UserRegistered
from services.gateway.people.users import EmailTaken
from tests.conftest import StackFactory
from tests.gateway.conftest import add_user
from tests.patience import eventually
from tests.system import System


@pytest.fixture(scope="module")
def stack(service_stack: StackFactory) -> System:
    """The notifier alone, which relays for the website; a test is the website."""
    return service_stack("notifier")


@pytest.fixture(scope="module")
def outbox(stack: System) -> Iterator[Connected]:
    database = connect(stack.database_url("gateway"), pool_size=2)
    yield database
    database.engine.dispose()


class Listener:
    """A queue that gets whoever registers."""

    def __init__(self, connection: Connection) -> None:
        self.heard: list[dict[str, Any]] = []
        exchange = event_exchange(UserRegistered.source)
        queue = Queue("", exchange, routing_key=UserRegistered.type, exclusive=True)
        self._queue = queue(connection.channel())
        self._queue.declare()

    def hear(self) -> list[dict[str, Any]]:
        """Everything that has come so far."""
        while (message := self._queue.get(no_ack=True)) is not None:
            self.heard.append(message.payload)
        return self.heard


@pytest.fixture
def listener(stack: System) -> Iterator[Listener]:
    with Connection(stack.vhost.admin_uri) as connection:
        yield Listener(connection)


def unsent(outbox: Connected) -> int:
    with outbox.engine.connect() as connection:
        found: int = connection.exec_driver_sql(
            "SELECT count(*) FROM outbox WHERE published_at IS NULL"
        ).scalar_one()
    return found


def test_registering_is_told_once_and_by_the_users_id_alone(
    outbox: Connected, listener: Listener
) -> None:
    user = add_user(outbox, has_wallet=False)
    with pytest.raises(EmailTaken):
        add_user(outbox, user.email, has_wallet=False)

    eventually(lambda: unsent(outbox), lambda count: count == 0)

    [heard] = listener.hear()
    assert UserRegistered.model_validate(heard).user_id == user.user_id
    assert heard.keys() == {"event_id", "occurred_at", "version", "user_id"}


def test_who_registered_before_a_crash_of_the_relay_is_told_of_after_it_once(
    stack: System, outbox: Connected, listener: Listener
) -> None:
    stack.kill("notifier")
    user = add_user(outbox, has_wallet=False)
    assert unsent(outbox) == 1
    assert listener.hear() == []

    stack.start("notifier")
    eventually(lambda: unsent(outbox), lambda count: count == 0)

    assert [event["user_id"] for event in listener.hear()] == [str(user.user_id)]
