"""Calls: the contract on both ends, and everything that can go wrong between them."""

import json
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from kombu import Connection, Producer

from chassis.client import RpcClient
from chassis.dead_letters import dead_letters, describe
from contracts import errors
from contracts.messages import Request
from tests.chassis.conftest import Probe
from tests.chassis.probe.messages import Absent, CallChain, Echo, Meet, Nap, Number
from tests.chassis.probe.service import MEETING, NAPPED, NAPPING
from tests.patience import PATIENCE_S, eventually


class Unheard(Request[Number], service="probe", method="unheard_of"):
    pass


class Misspelt(Request[Number], service="probe", method="echo"):
    m: int
    n: int


class Mistyped(Request[Number], service="probe", method="echo"):
    n: str


def test_a_call_returns_the_reply_as_its_type(probe: Probe) -> None:
    assert probe.rpc.call(Echo(n=5)) == Number(n=5)


def test_fifty_threads_share_one_client_and_each_gets_its_own_answer(probe: Probe) -> None:
    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(lambda n: probe.rpc.call(Echo(n=n)).n, range(100, 600)))

    assert answers == list(range(100, 600))


def test_an_error_of_the_contract_arrives_as_it_was_raised(probe: Probe) -> None:
    with pytest.raises(errors.InsufficientFunds, match=r"Too little\.") as raised:
        probe.rpc.call(Echo(n=13))

    assert raised.value.details == ("1", "2")


def test_an_unexpected_error_is_logged_there_and_not_told_here(probe: Probe) -> None:
    with pytest.raises(errors.ServiceError) as raised:
        probe.rpc.call(Echo(n=14))

    assert "secret" not in str(raised.value)
    eventually(lambda: "a secret detail" in probe.log())


@pytest.mark.parametrize(
    ("request_", "field"), [(Misspelt(m=1, n=1), "m"), (Mistyped(n="many"), "n")]
)
def test_a_bad_argument_is_refused_by_name(
    probe: Probe, request_: Request[Number], field: str
) -> None:
    with pytest.raises(errors.BadRequest) as raised:
        probe.rpc.call(request_)

    assert raised.value.details == (field,)


def test_an_unknown_method_is_an_error_at_once(probe: Probe) -> None:
    with pytest.raises(errors.ServiceError, match="MethodNotFound"):
        probe.rpc.call(Unheard(), timeout_s=5)


def test_a_service_that_never_ran_is_known_at_once(probe: Probe) -> None:
    with pytest.raises(errors.Unavailable, match="absent service is not running"):
        probe.rpc.call(Absent(), timeout_s=PATIENCE_S)


def test_a_broker_that_is_not_there_is_an_error_by_the_deadline() -> None:
    client = RpcClient("amqp://nobody:nothing@127.0.0.1:1/none", name="test")

    with pytest.raises(errors.Unavailable, match="broker cannot be reached"):
        client.call(Echo(n=1), timeout_s=0.2)

    client.close()


def test_a_late_answer_is_an_unknown_outcome_and_the_work_goes_on(probe: Probe) -> None:
    before = probe.noted(NAPPED)

    with pytest.raises(errors.DeadlineExceeded, match="not known"):
        probe.rpc.call(Nap(n=400), timeout_s=0.1)

    probe.comes_to_note(NAPPED, before + 1)


def test_more_calls_than_may_wait_are_refused_at_once_and_the_others_answered(
    probe: Probe,
) -> None:
    def call(_number: int) -> str:
        try:
            probe.rpc.call(Nap(n=300), timeout_s=PATIENCE_S)
        except errors.ServiceError as error:
            return error.code
        return "done"

    with ThreadPoolExecutor(120) as callers:
        ends = Counter(callers.map(call, range(120)))

    assert set(ends) == {"done", "overloaded"}
    assert ends["done"] >= 50


def test_calls_with_deferred_replies_are_in_hand_without_a_worker_each(probe: Probe) -> None:
    workers = 10

    with ThreadPoolExecutor(3 * workers) as callers:
        replies = list(callers.map(probe.rpc.call, [Meet(n=3 * workers)] * 3 * workers))

    assert {reply.n for reply in replies} == {probe.rpc.call(CallChain(n=0)).n}


def test_a_deferred_reply_may_be_an_error(probe: Probe) -> None:
    with pytest.raises(errors.InsufficientFunds, match="Too little"):
        probe.rpc.call(Meet(n=1, fails=True))


def test_calls_that_wait_for_deferred_replies_are_bounded_too(probe: Probe) -> None:
    in_hand_at_most, more = 50, 5
    meet = Meet(n=in_hand_at_most, after_ms=3000)

    def call(_number: int) -> str:
        try:
            probe.rpc.call(meet, timeout_s=PATIENCE_S)
        except errors.Overloaded as error:
            return error.code
        return "done"

    with ThreadPoolExecutor(in_hand_at_most + more) as callers:
        early = callers.map(call, range(in_hand_at_most - 1))
        probe.comes_to_note(MEETING, in_hand_at_most - 1)
        late = callers.map(call, range(1 + more))
        ends = Counter([*early, *late])

    assert ends == {"done": in_hand_at_most, "overloaded": more}


@pytest.mark.parametrize(
    ("call", "begun"),
    [(Nap(n=3000), NAPPING), (Meet(n=1, after_ms=3000), MEETING)],
    ids=["in a worker", "deferred"],
)
def test_a_service_that_is_told_to_stop_answers_what_it_has_in_hand(
    probe: Probe, call: Request[Number], begun: int
) -> None:
    before = probe.noted(begun)
    with ThreadPoolExecutor(1) as caller:
        reply = caller.submit(probe.rpc.call, call, PATIENCE_S)
        probe.comes_to_note(begun, before + 1)

        probe.children[-1].stop()

        assert reply.result().n > 0
    probe.start()


def test_a_call_that_waited_past_its_deadline_is_never_begun(probe: Probe) -> None:
    before = probe.noted(NAPPED)
    probe.children[-1].stop()

    with pytest.raises(errors.DeadlineExceeded):
        probe.rpc.call(Nap(n=1), timeout_s=0.2)
    probe.start()

    assert probe.noted(NAPPED) == before


def test_the_chain_of_calls_travels_through_services(probe: Probe) -> None:
    direct = probe.rpc.call(CallChain(n=0)).n

    assert probe.rpc.call(CallChain(n=1)).n == direct + 1


def test_a_stock_nameko_client_can_call(probe: Probe) -> None:
    script = (
        "import sys, warnings; warnings.simplefilter('ignore')\n"
        "from nameko.standalone.rpc import ClusterRpcProxy\n"
        "with ClusterRpcProxy({'AMQP_URI': sys.argv[1]}, timeout=10) as rpc:\n"
        "    print(rpc.probe.echo(n=7))\n"
    )

    output = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, probe.vhost.admin_uri],
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip

    assert output.stdout.strip() == "{'n': 7}"


@pytest.mark.parametrize(
    ("body", "properties", "error"),
    [
        (b"{nonsense", {"content_type": "application/json"}, "undecodable"),
        (b"\x00\xff", {"content_type": "application/x-python-serialize"}, "undecodable"),
        (b'{"args": [], "kwargs": {"n": 1}}', {"content_type": "application/json"}, "reply_to"),
    ],
    ids=["not JSON", "not a type we accept", "without reply_to"],
)
def test_a_message_that_makes_no_sense_is_a_dead_letter_and_kills_nothing(
    probe: Probe, body: bytes, properties: dict[str, str], error: str
) -> None:
    with Connection(probe.vhost.admin_uri) as connection:
        producer = Producer(connection.default_channel)
        producer.publish(
            body, exchange="nameko-rpc", routing_key="probe.echo",
            content_encoding="utf-8", **properties,
        )  # fmt: skip

        def is_dead() -> bool:
            with Connection(probe.vhost.admin_uri) as other:
                letters = [describe(letter) for letter in dead_letters(other, "probe")]
            return any(
                letter["queue"] == "rpc-probe"
                and error in str(letter["error"])
                and letter["body"] == body.decode(errors="replace")
                for letter in letters
            )

        eventually(is_dead)
    assert probe.answers()


A_REPLY_KEY = "rpc.reply-test-0b2f8ba4-3d0f-4d87-9d6b-7f0a3f0f2b11"


def straight_into_the_queue(_channel: Any, send: Callable[..., None]) -> None:
    send(exchange="", routing_key="rpc-probe", reply_to=A_REPLY_KEY)


def as_a_dead_letter(_channel: Any, send: Callable[..., None]) -> None:
    send(exchange="nameko-rpc", reply_to=A_REPLY_KEY, headers={"x-death": []})


def with_another_reply_key(_channel: Any, send: Callable[..., None]) -> None:
    send(exchange="nameko-rpc", reply_to="probe.nap")


@pytest.mark.parametrize(
    "way",
    [straight_into_the_queue, as_a_dead_letter, with_another_reply_key],
    ids=lambda way: way.__name__,
)
def test_a_call_that_did_not_come_straight_from_its_caller_is_a_dead_letter(
    probe: Probe, way: Callable[..., None]
) -> None:
    before = probe.noted(NAPPED)
    call = json.dumps({"args": [], "kwargs": {"n": 1}, "way": way.__name__})
    with Connection(probe.vhost.admin_uri) as connection:
        send = partial(
            Producer(connection.default_channel).publish,
            call, routing_key="probe.nap",
            content_type="application/json", content_encoding="utf-8",
        )  # fmt: skip
        way(connection.default_channel, send)

        def is_dead() -> bool:
            with Connection(probe.vhost.admin_uri) as other:
                letters = [describe(letter) for letter in dead_letters(other, "probe")]
            return call in [letter["body"] for letter in letters]

        eventually(is_dead)
    assert probe.answers()
    assert probe.noted(NAPPED) == before


def test_a_loss_that_a_publish_notices_first_is_recovered_from(probe: Probe) -> None:
    client = RpcClient(probe.vhost.admin_uri, name="cut")
    client.call(Echo(n=1))
    producer = client._producer
    assert producer is not None
    transport = producer.channel.connection.transport
    transport.connected = False
    transport.sock.shutdown(socket.SHUT_RDWR)

    def answers() -> bool:
        with suppress(errors.ServiceError):
            return client.call(Echo(n=1), timeout_s=1).n == 1
        return False

    eventually(answers)
    client.close()
