"""/readyz is true: a service is ready when it can publish, consume and query."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kombu import Connection

from deploy.local.broker import NODE, Node
from deploy.local.startup import free_port
from tests.chassis.conftest import Probe
from tests.chassis.probe.messages import Tell
from tests.chassis.wire import Wire
from tests.patience import answer_of, eventually

Ready = Callable[[], tuple[int, Any]]


def readiness_at(port: int) -> tuple[int, Any]:
    answer = answer_of(f"http://127.0.0.1:{port}/readyz")
    return (0, {}) if answer is None else (answer.status_code, answer.json())


def is_told_in_time(port: int, status: int) -> bool:
    """Whether it says this, and in less time than a check that hangs."""
    began = time.monotonic()
    return readiness_at(port)[0] == status and time.monotonic() - began < 3


@pytest.fixture(scope="module")
def ready(probe: Probe) -> Ready:
    port = free_port()
    probe.start(health_port=port)
    eventually(lambda: readiness_at(port)[0], lambda status: status == 200)
    return lambda: readiness_at(port)


@pytest.fixture
def block(broker: Node) -> Iterator[Callable[[], None]]:
    """Let the broker take no messages, as when its memory is full."""
    alarm = f"{{resource_limit, memory, '{NODE}'}}"
    yield lambda: broker.apply("rabbit_alarm", "set_alarm", f"{{{alarm}, []}}")
    broker.apply("rabbit_alarm", "clear_alarm", alarm)


@pytest.mark.soak
def test_a_broker_that_takes_no_messages_makes_a_service_unready_and_is_told_once(
    probe: Probe, ready: Ready, block: Callable[[], None]
) -> None:
    block()

    said = eventually(ready, lambda found: found[0] == 503)[1]

    assert said["broker"] == "it takes no messages"
    eventually(lambda: probe.log().count('"not ready"'), lambda count: count == 1)


@pytest.mark.soak
def test_it_is_ready_again_when_the_broker_takes_messages(probe: Probe, ready: Ready) -> None:
    eventually(ready, lambda found: found[0] == 200)
    eventually(lambda: '"ready again"' in probe.log())


def test_an_exchange_that_was_taken_away_is_put_back_with_its_bindings(
    probe: Probe, ready: Ready
) -> None:
    with Connection(probe.vhost.admin_uri) as connection:
        connection.default_channel.exchange_delete("probe.events")

    probe.rpc.call(Tell(idempotency_key="x", n=41))

    probe.comes_to_note(41)
    eventually(ready, lambda found: found[0] == 200)


def test_readiness_is_answered_in_time_while_the_broker_is_silent(
    make_probe: Callable[..., Probe],
) -> None:
    wires: list[Wire] = []
    port = free_port()

    def through_a_wire(vhost: Any) -> dict[str, str]:
        wires.append(Wire(vhost.admin_uri))
        return {"AMQP_URI": wires[0].uri, "BROKER_HEARTBEAT_S": "4"}

    probe = make_probe(through_a_wire)
    probe.start(health_port=port)
    eventually(lambda: readiness_at(port)[0], lambda status: status == 200)

    wires[0].freeze()

    eventually(lambda: is_told_in_time(port, 503))
    wires[0].close()
