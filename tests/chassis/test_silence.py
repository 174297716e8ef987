"""A broker that goes silent without closing anything is left, by everybody who talks to it."""

from collections.abc import Callable, Iterator
from itertools import count

import pytest

from chassis import bodies
from chassis.broker import Outgoing, Publisher
from chassis.client import CLOSE_TIMEOUT_S, RpcClient
from tests.chassis.conftest import Probe
from tests.chassis.probe.messages import Echo, Tell
from tests.chassis.wire import Wire
from tests.patience import eventually, least_s, min_of, took_s

HEARTBEAT_S = 4
AGAIN_WITHIN_S = HEARTBEAT_S + 5


@pytest.fixture
def wire_to() -> Iterator[Callable[[str], Wire]]:
    wires: list[Wire] = []

    def make(amqp_uri: str) -> Wire:
        wires.append(Wire(amqp_uri))
        return wires[-1]

    yield make
    for wire in wires:
        wire.close()


@pytest.fixture
def client_of() -> Iterator[Callable[[str], RpcClient]]:
    clients: list[RpcClient] = []

    def make(amqp_uri: str) -> RpcClient:
        clients.append(RpcClient(amqp_uri, "test", heartbeat_s=HEARTBEAT_S))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def seconds_until_answered(client: RpcClient) -> float:
    def answers() -> bool:
        try:
            return client.call(Echo(n=1), timeout_s=0.5).n == 1
        except Exception:
            return False

    return took_s(lambda: eventually(answers))


def seconds_of_silence(wire: Wire, client: RpcClient) -> float:
    wire.silence()
    return seconds_until_answered(client)


def test_a_client_whose_wire_fell_silent_is_answered_again(
    probe: Probe, wire_to: Callable[[str], Wire], client_of: Callable[[str], RpcClient]
) -> None:
    wire = wire_to(probe.vhost.admin_uri)
    client = client_of(wire.uri)
    seconds_until_answered(client)

    again_after_s = min_of(lambda: seconds_of_silence(wire, client), AGAIN_WITHIN_S)

    assert again_after_s < AGAIN_WITHIN_S


@pytest.mark.soak
def test_a_client_goes_past_a_node_that_froze(
    probe: Probe, wire_to: Callable[[str], Wire], client_of: Callable[[str], RpcClient]
) -> None:
    wire = wire_to(probe.vhost.admin_uri)
    client = client_of(f"{wire.uri};{probe.vhost.admin_uri}")
    seconds_until_answered(client)

    wire.freeze()

    assert seconds_until_answered(client) < AGAIN_WITHIN_S


def test_a_publisher_whose_wire_fell_silent_publishes_on_another(
    probe: Probe, wire_to: Callable[[str], Wire]
) -> None:
    wire = wire_to(probe.vhost.admin_uri)
    publisher = Publisher(wire.uri, HEARTBEAT_S)
    for_nobody, wanted = (
        Outgoing(b"{}", "probe.events", key, bodies.PROPERTIES, is_mandatory=True)
        for key in ("nobody", "whispered")
    )
    assert publisher.publish_all([wanted]) == set()

    def publishes() -> None:
        wire.silence()
        assert publisher.publish_all([wanted, for_nobody, wanted]) == {1}

    again_after_s = least_s(publishes, AGAIN_WITHIN_S)
    publisher.close()

    assert again_after_s < AGAIN_WITHIN_S


def test_a_client_is_closed_in_a_moment_while_its_wire_is_silent(
    probe: Probe, wire_to: Callable[[str], Wire]
) -> None:
    def closing_takes_s() -> float:
        wire = wire_to(probe.vhost.admin_uri)
        client = RpcClient(wire.uri, "test")
        seconds_until_answered(client)
        wire.freeze()
        return took_s(client.close)

    assert min_of(closing_takes_s, CLOSE_TIMEOUT_S) < CLOSE_TIMEOUT_S


def test_a_service_whose_wire_fell_silent_answers_and_publishes_again(
    make_probe: Callable[..., Probe], wire_to: Callable[[str], Wire]
) -> None:
    wires: list[Wire] = []

    def through_a_wire(vhost: object) -> dict[str, str]:
        wires.append(wire_to(vhost.admin_uri))  # type: ignore[attr-defined]
        return {"AMQP_URI": wires[0].uri, "BROKER_HEARTBEAT_S": str(HEARTBEAT_S)}

    probe = make_probe(through_a_wire)
    probe.rpc.call(Tell(idempotency_key="a", n=1))
    probe.comes_to_note(1)
    numbers = count(2)

    def again_after_s() -> float:
        """Until it answers and, soon after, publishes."""
        answers_s = seconds_of_silence(wires[0], probe.rpc)
        n = next(numbers)

        def publishes() -> None:
            probe.rpc.call(Tell(idempotency_key=f"{n}", n=n))
            probe.comes_to_note(n)

        return max(answers_s, took_s(publishes))

    assert min_of(again_after_s, AGAIN_WITHIN_S) < AGAIN_WITHIN_S


@pytest.mark.soak
def test_a_service_goes_past_a_node_that_froze(
    make_probe: Callable[..., Probe], wire_to: Callable[[str], Wire]
) -> None:
    wires: list[Wire] = []

    def by_two_nodes(vhost: object) -> dict[str, str]:
        uri = vhost.admin_uri  # type: ignore[attr-defined]
        wires.append(wire_to(uri))
        return {"AMQP_URI": f"{wires[0].uri};{uri}", "BROKER_HEARTBEAT_S": str(HEARTBEAT_S)}

    probe = make_probe(by_two_nodes)

    wires[0].freeze()

    assert seconds_until_answered(probe.rpc) < AGAIN_WITHIN_S
    probe.rpc.call(Tell(idempotency_key="b", n=2))
    probe.comes_to_note(2)
