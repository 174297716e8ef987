"""The product's own broker, and who may do what there."""

from collections.abc import Iterator
from pathlib import Path

import kombu
import pytest
from amqp.exceptions import AccessRefused

from deploy.local.broker import GivenBroker, Node, VirtualHost, start_node
from deploy.local.startup import StartupError

CALLS = kombu.Exchange("nameko-rpc", type="topic", durable=True)


@pytest.fixture(scope="module")
def vhost(broker: Node) -> Iterator[VirtualHost]:
    made = broker.vhost("permissions")
    yield made
    made.stop()


def declare(uri: str, *entities: kombu.Queue | kombu.Exchange) -> None:
    with kombu.Connection(uri, connect_timeout=5) as connection:
        for entity in entities:
            entity(connection.channel()).declare()


def event_queue(listener: str) -> kombu.Queue:
    exchange = kombu.Exchange("billing.events", type="topic", durable=True)
    name = f"evt-billing-purchase_completed--{listener}.on_purchase"
    return kombu.Queue(name, exchange=exchange, routing_key="purchase_completed", durable=True)


def test_a_service_may_declare_all_that_it_listens_to(vhost: VirtualHost) -> None:
    retries = kombu.Exchange("mycelium.retry.5s", type="fanout", durable=True)

    declare(
        vhost.uri("wallet"),
        kombu.Queue("rpc-wallet", exchange=CALLS, routing_key="wallet.*", durable=True),
        kombu.Queue("rpc.reply-wallet-1", exchange=CALLS, routing_key="1", auto_delete=True),
        event_queue("wallet"),
        kombu.Queue("wallet.dead-letters", durable=True),
        kombu.Queue(
            "mycelium.retry.5s",
            exchange=retries,
            durable=True,
            queue_arguments={"x-message-ttl": 5000, "x-dead-letter-exchange": ""},
        ),
    )


@pytest.mark.parametrize(
    "queue",
    [
        kombu.Queue("rpc-wallet", exchange=CALLS, routing_key="wallet.*", durable=True),
        event_queue("wallet"),
        kombu.Queue("wallet.dead-letters", durable=True),
        kombu.Queue("anything", durable=True),
    ],
    ids=lambda queue: queue.name,
)
def test_a_service_may_not_listen_for_another(vhost: VirtualHost, queue: kombu.Queue) -> None:
    with pytest.raises(AccessRefused):
        declare(vhost.uri("billing"), queue)


def test_a_service_may_not_speak_for_another(vhost: VirtualHost) -> None:
    declare(vhost.uri("billing"), kombu.Exchange("wallet.events", type="topic", durable=True))

    with kombu.Connection(
        vhost.uri("billing"), transport_options={"confirm_publish": True}
    ) as connection:
        producer = kombu.Producer(connection.channel(), auto_declare=False)
        with pytest.raises(AccessRefused):
            producer.publish({}, exchange="wallet.events", routing_key="wallet_credited")


def test_nobody_gets_in_with_a_wrong_password(broker: Node) -> None:
    uri = broker.uri("wallet").replace("wallet:", "wallet:x", 1)

    with pytest.raises(AccessRefused), kombu.Connection(uri) as connection:
        connection.connect()


def test_a_second_start_on_the_same_data_says_so_in_one_line(scratch: Path, broker: Node) -> None:
    with pytest.raises(StartupError, match="already running") as refused:
        start_node(scratch / "rabbitmq")

    assert "\n" not in str(refused.value)


def test_the_passwords_are_for_the_owner_only(scratch: Path, broker: Node) -> None:
    assert (scratch / "rabbitmq" / "definitions.json").stat().st_mode & 0o077 == 0


def test_a_broker_that_is_given_is_used_with_each_service_s_own_user() -> None:
    given = GivenBroker({"AMQP_URI": "amqp://all@host/v", "WALLET_AMQP_URI": "amqp://w@host/v"})

    assert (given.uri("wallet"), given.uri("billing")) == ("amqp://w@host/v", "amqp://all@host/v")


def test_a_given_broker_that_does_not_answer_says_what_to_set() -> None:
    given = GivenBroker({"AMQP_URI": "amqp://guest:secret@127.0.0.1:1/none"})

    with pytest.raises(StartupError, match="set AMQP_URI") as refused:
        given.wait_ready()

    assert "secret" not in str(refused.value)
