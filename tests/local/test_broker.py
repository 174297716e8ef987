"""The product's own broker, or one that is given."""

from pathlib import Path

import kombu
import pytest
from amqp.exceptions import AccessRefused

from deploy.local import startup
from deploy.local.broker import GivenBroker, Node, start_node
from deploy.local.startup import StartupError


def test_nobody_gets_in_with_a_wrong_password(broker: Node) -> None:
    uri = broker.uri("wallet").replace("wallet:", "wallet:x", 1)

    with pytest.raises(AccessRefused), kombu.Connection(uri) as connection:
        connection.connect()


def test_a_second_start_on_the_same_data_says_so_in_one_line(scratch: Path, broker: Node) -> None:
    with pytest.raises(StartupError, match="already running") as refused:
        start_node(scratch / "rabbitmq")

    assert "\n" not in str(refused.value)


def test_a_node_of_the_tests_keeps_off_the_port_that_every_broker_prefers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All ports are free, as on a machine of its own, where two workers would both take 5672.
    monkeypatch.setattr(startup, "is_port_free", lambda _port: True)
    monkeypatch.setattr(Node, "start", lambda _node: None)

    assert start_node(tmp_path).port in startup.FREE_PORTS


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
