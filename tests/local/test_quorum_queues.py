"""The definitions for a cluster: quorum queues that drop nothing. One node shows most of it;
what needs three of them is in `make test-cluster`."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import amqp
import kombu
import pytest

from chassis.broker import dead_letter_queue, own_queues, retry_exchange, retry_queue
from deploy import definitions
from deploy.definitions import Login
from deploy.local.broker import Node, VirtualHost
from deploy.local.processes import ROOT
from tests.patience import PATIENCE_S, START_PATIENCE_S, eventually

EVENT = b'{"event_id": 1}'
EVENTS = "evt-topup-topup_paid--wallet.credit_topup"


@pytest.fixture(scope="module")
def vhost(broker: Node) -> Iterator[VirtualHost]:
    """One in which an event is delivered three times."""
    name = f"quorum-{uuid4()}"
    retried_after_ms(broker, 1_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(definitions, "DELIVERIES_MAX", 2)
        broker.load(definitions.replicated(definitions.access(name)))
    made = VirtualHost(broker, name)
    yield made
    made.stop()
    retried_after_ms(broker, 180_000)


def retried_after_ms(broker: Node, delay_ms: int) -> None:
    """When a queue that is made from now on sends again what no other queue took from it."""
    setting = "rabbit, dead_letter_worker_publisher_confirm_timeout"
    broker.apply("application", "set_env", f"{setting}, {delay_ms}")


@pytest.fixture
def channel(vhost: VirtualHost) -> Iterator[Any]:
    """The wallet's, with its queues as it declares them, all empty."""
    with kombu.Connection(vhost.uri("wallet")) as connection:
        opened = connection.channel()
        letters = dead_letter_queue("wallet")(opened)
        letters.declare()
        retry_queue("wallet", 1)(opened).declare()
        opened.queue_declare(EVENTS, durable=True, auto_delete=False)
        opened.queue_bind(EVENTS, own_queues("wallet").name, EVENTS)
        opened.confirm_select()
        for queue in (letters.name, EVENTS):
            opened.queue_purge(queue)
        yield opened


def publish(channel: Any, exchange: str, routing_key: str) -> None:
    message = amqp.Message(EVENT, content_type="application/json", delivery_mode=2)
    channel.basic_publish(message, exchange, routing_key, mandatory=True)
    channel.connection.drain_events(timeout=PATIENCE_S)


def command(vhost: VirtualHost, *arguments: str) -> str:
    return subprocess.check_output(
        [sys.executable, "-W", "ignore", "-m", "chassis.dead_letters", "wallet", *arguments],
        env={"AMQP_URI": vhost.uri("wallet")},
        cwd=ROOT,
        text=True,
        timeout=START_PATIENCE_S,
    )


def declared_as(vhost: VirtualHost, queue_type: str, queue: str) -> bool:
    """Whether a queue that is declared without a type has this one."""
    with kombu.Connection(vhost.admin_uri) as connection:
        channel = connection.channel()
        channel.queue_declare(queue, durable=True, auto_delete=False)
        try:
            channel.queue_declare(
                queue, durable=True, auto_delete=False, arguments={"x-queue-type": queue_type}
            )
        except amqp.exceptions.PreconditionFailed:
            return False
    return True


def test_a_queue_is_a_quorum_queue_though_nobody_asks_for_it(vhost: VirtualHost) -> None:
    assert declared_as(vhost, "quorum", "rpc-wallet")
    assert not declared_as(vhost, "classic", "rpc-wallet")


def test_a_login_that_is_added_leaves_that_as_it_is(broker: Node, vhost: VirtualHost) -> None:
    login = Login(f"added_{uuid4().hex[:8]}")
    added = definitions.login_definitions(login, "a password", vhost.name)
    broker.load(added)

    assert declared_as(vhost, "quorum", f"rpc-{login.name}")
    # RabbitMQ 3.10 would take its description and tags from it, and leave the type.
    assert "vhosts" not in added


def test_a_virtual_host_that_is_there_keeps_classic_queues(broker: Node) -> None:
    made = broker.vhost(f"classic-{uuid4()}")

    broker.load(definitions.replicated(definitions.access(made.name)))

    assert declared_as(made, "classic", "rpc-wallet")


def test_an_event_that_was_delivered_too_often_is_a_dead_letter_that_can_be_replayed(
    vhost: VirtualHost, channel: Any
) -> None:
    publish(channel, own_queues("wallet").name, EVENTS)

    def deliver() -> bool:
        """Take it as a process does that ends; False where it is not there any more."""
        with kombu.Connection(vhost.uri("wallet")) as connection:
            return connection.channel().basic_get(EVENTS) is not None

    eventually(lambda: not deliver() and "topup_paid" in command(vhost, "list"))
    told = command(vhost, "list")
    replayed = command(vhost, "replay", "--all")
    again = eventually(lambda: channel.basic_get(EVENTS))

    assert f'"queue": "{EVENTS}"' in told
    assert "the broker gave it up: delivery_limit" in told
    assert "replay: 1" in replayed
    assert not [name for name in again.headers if name.startswith(("x-death", "x-first-death"))]
    channel.basic_ack(again.delivery_tag)


def test_what_was_replayed_waits_for_its_next_try_and_comes_back(
    vhost: VirtualHost, channel: Any
) -> None:
    publish(channel, own_queues("wallet").name, EVENTS)
    for _ in range(3):
        message = eventually(lambda: channel.basic_get(EVENTS))
        channel.basic_reject(message.delivery_tag, requeue=True)
    eventually(lambda: "topup_paid" in command(vhost, "list"))
    command(vhost, "replay", "--all")

    failed = eventually(lambda: channel.basic_get(EVENTS))
    failed.properties["application_headers"] = failed.headers
    channel.basic_publish(failed, retry_exchange("wallet", 1).name, EVENTS)
    channel.basic_ack(failed.delivery_tag)

    assert eventually(lambda: channel.basic_get(EVENTS)).body == EVENT


def test_what_waits_for_its_next_try_stays_while_there_is_no_queue_for_it(channel: Any) -> None:
    later = "evt-topup-later--wallet.not_there_yet"
    publish(channel, retry_exchange("wallet", 1).name, later)
    # A second that is over while nobody can take it.
    eventually(lambda: channel.queue_declare("wallet.retry.1s", passive=True).message_count == 0)

    channel.queue_declare(later, durable=True, auto_delete=False)
    channel.queue_bind(later, own_queues("wallet").name, later)

    assert eventually(lambda: channel.basic_get(later)).body == EVENT
