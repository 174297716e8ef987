"""Calls: the contract on both ends, and everything that can go wrong between them."""

import json
import socket
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from kombu import Connection, Exchange, Producer, Queue
from kombu.message import Message
from nameko.exceptions import ContainerBeingKilled

from chassis.client import CONNECT_WAIT_S, RECONNECT_DELAY_S, RpcClient
from chassis.clock import utc_now
from chassis.connection import BrokerConnection
from chassis.consumer import QueueConsumer
from chassis.dead_letters import dead_letters, describe
from chassis.deferred import Deferred
from chassis.rpc import Caller, Rpc, RpcConsumer, signature_of
from contracts import errors
from contracts.messages import Request
from tests.chassis.conftest import Probe
from tests.chassis.probe.messages import (
    Absent,
    CallChain,
    Echo,
    Meet,
    Mirror,
    Nap,
    Number,
    Told,
)
from tests.chassis.probe.service import MEETING, NAPPED, NAPPING
from tests.patience import PATIENCE_S, START_PATIENCE_S, eventually


class Methods:
    """What a service may be written like, and what not."""

    def echo(self, request: Echo) -> Number: ...
    def meet(self, request: Meet) -> Deferred[Number]: ...
    def mirror(self, request: Echo) -> Number: ...
    def untyped(self, request): ...  # type: ignore[no-untyped-def]
    def other(self, request: int) -> Number: ...
    def union(self, request: Echo | Meet) -> Number: ...


def test_a_method_is_known_by_the_type_of_its_request() -> None:
    assert signature_of(Methods.echo) == (Echo, False)
    assert signature_of(Methods.meet) == (Meet, True)


@pytest.mark.parametrize("name", ["untyped", "other", "union"])
def test_a_method_that_takes_no_request_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match=rf"Methods\.{name} needs a contracts request"):
        signature_of(getattr(Methods, name))


def test_a_method_of_another_name_than_its_request_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Methods\.mirror must be called echo"):
        signature_of(Methods.mirror)


def test_a_call_that_could_not_be_begun_is_not_in_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_body: object, _message: Message) -> None:
        raise ValueError("a header that makes no sense")

    consumer = RpcConsumer()
    consumer.container = SimpleNamespace(max_workers=1)
    consumer._entrypoints = {"probe.echo": SimpleNamespace(handle_message=fail)}
    message = Message(
        delivery_info={"exchange": "nameko-rpc", "routing_key": "probe.echo"},
        properties={"reply_to": f"rpc.reply-x-{uuid.uuid4()}"},
    )

    with pytest.raises(ValueError, match="no sense"):
        consumer.handle_message({}, message)

    assert consumer.in_hand == 0


def test_a_call_to_a_service_that_is_killed_is_left_to_another_process() -> None:
    def end(*_args: object, **_kwargs: object) -> None:
        raise ContainerBeingKilled

    given_back: list[Message] = []
    entrypoint: Any = Rpc()
    entrypoint.is_deferred = False
    entrypoint.container = SimpleNamespace(spawn_worker=end)
    entrypoint.rpc_consumer = SimpleNamespace(give_back=given_back.append)
    message = Message(delivery_info={}, properties={})

    entrypoint._begin(Echo(n=1), {}, message, None)

    assert given_back == [message]


class Unheard(Request[Number], service="probe", method="unheard_of"):
    pass


class Misspelt(Request[Number], service="probe", method="echo"):
    m: int
    n: int


class Mistyped(Request[Number], service="probe", method="echo"):
    n: str


class Foreign(Request[Number], service="foreign", method="ask"):
    """Taken by a service that is none of ours."""


class Stranger:
    """Speaks to the broker without our chassis: as a caller, and as the service ``foreign``."""

    def __init__(self, amqp_uri: str) -> None:
        self._connection = Connection(amqp_uri)
        self._channel = self._connection.channel()
        exchange = Exchange("nameko-rpc", type="topic")
        self._key = f"rpc.reply-stranger-{uuid.uuid4()}"
        self._replies = Queue(self._key, exchange, self._key, exclusive=True)
        self._calls = Queue("rpc-foreign", exchange, "foreign.*", auto_delete=True)
        for queue in (self._replies, self._calls):
            queue(self._channel).declare()

    def send(self, body: bytes, key: str, exchange: str = "nameko-rpc", **properties: Any) -> None:
        properties.setdefault("content_encoding", "utf-8")
        if exchange == "nameko-rpc":
            properties |= {"reply_to": self._key, "correlation_id": "1"}
        Producer(self._channel).publish(body, exchange=exchange, routing_key=key, **properties)

    def hears(self) -> Any:
        message = eventually(lambda: self._replies(self._channel).get(no_ack=True))
        return json.loads(message.body)

    def takes_a_call(self) -> Message:
        return eventually(lambda: self._calls(self._channel).get(no_ack=True))

    def answers(self, call: Message, body: bytes) -> None:
        Producer(self._channel).publish(
            body, exchange="nameko-rpc", routing_key=call.properties["reply_to"],
            correlation_id=call.properties["correlation_id"],
            content_type="application/json", content_encoding="utf-8",
        )  # fmt: skip

    def close(self) -> None:
        self._connection.release()


@pytest.fixture
def stranger(probe: Probe) -> Iterator[Stranger]:
    stranger = Stranger(probe.vhost.admin_uri)
    yield stranger
    stranger.close()


@pytest.fixture
def client(probe: Probe) -> Iterator[RpcClient]:
    client = RpcClient(probe.vhost.admin_uri, name="other")
    yield client
    client.close()


def test_a_call_returns_the_reply_as_its_type(probe: Probe) -> None:
    assert probe.rpc.call(Echo(n=5)) == Number(n=5)


def test_who_ends_calls_and_listens_no_longer(
    probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    amqp_uri = probe.vhost.admin_uri
    monkeypatch.setenv("AMQP_URI", amqp_uri)
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    caller: Any = Caller()
    caller.container = SimpleNamespace(config={"AMQP_URI": amqp_uri}, service_name="ending")
    caller.setup()
    answer = caller.get_dependency(None).call(Echo(n=5))

    caller.stop()

    assert answer == Number(n=5)
    assert not caller.client._thread.is_alive()


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
    with pytest.raises(errors.ServiceError, match="MethodNotFound: unheard_of"):
        probe.rpc.call(Unheard())


def test_a_service_that_never_ran_is_known_at_once(probe: Probe) -> None:
    with pytest.raises(errors.Unavailable, match="absent service is not running"):
        probe.rpc.call(Absent(), timeout_s=PATIENCE_S)


def test_a_client_whose_queue_of_replies_cannot_be_had_takes_another(
    probe: Probe, client: RpcClient
) -> None:
    client.call(Echo(n=1))
    key = client._reply_key
    with Connection(probe.vhost.admin_uri) as connection:
        # As gone with its node: what it declares again is refused.
        connection.default_channel.queue_delete(key)
        connection.default_channel.queue_declare(key, durable=True, auto_delete=False)
        client._connection.cut()

        eventually(lambda: client._reply_key != key)

    eventually(client._ready.is_set)
    assert client.call(Echo(n=2)).n == 2


def test_a_broker_that_is_not_there_is_an_error_by_the_deadline() -> None:
    client = RpcClient("amqp://nobody:nothing@127.0.0.1:1/none", name="test")

    with pytest.raises(errors.Unavailable, match="broker cannot be reached"):
        client.call(Echo(n=1), timeout_s=0.2)

    client.close()


def test_a_broker_that_is_away_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    client = RpcClient("amqp://nobody:nothing@127.0.0.1:1/none", name="test")
    waited: list[float] = []

    def wait(seconds: float) -> bool:
        waited.append(seconds)
        return False

    with pytest.raises(errors.Unavailable):
        client.call(Echo(n=1), timeout_s=0.1)
    client._away_since_s = eventually(lambda: client._away_since_s) - CONNECT_WAIT_S
    monkeypatch.setattr(client._ready, "wait", wait)
    for _ in range(3):
        with pytest.raises(errors.Unavailable, match="broker cannot be reached"):
            client.call(Echo(n=1), timeout_s=PATIENCE_S)

    assert waited == [0.0] * 3
    client.close()


def test_a_client_waits_for_a_broker_that_is_away_each_time_for_another_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = RpcClient("amqp://nobody:nothing@127.0.0.1:1/none", name="test")
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        if len(waits) == 10:
            client._closing.set()
        return False

    monkeypatch.setattr(client._closing, "wait", wait)
    with pytest.raises(errors.Unavailable):
        client.call(Echo(n=1), timeout_s=0.1)
    eventually(client._closing.is_set)

    assert len(set(waits)) == 10
    assert all(RECONNECT_DELAY_S / 2 <= each <= RECONNECT_DELAY_S * 1.5 for each in waits)
    client.close()


def test_each_service_waits_for_a_broker_that_is_away_in_steps_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kombu.utils.functional.sleep", lambda _seconds: None)

    def waits() -> list[float]:
        seen: list[float] = []

        def note(_error: Exception, interval_s: float) -> None:
            seen.append(interval_s)
            if len(seen) == 4:
                raise EOFError

        consumer = QueueConsumer()
        consumer.__dict__["connection"] = BrokerConnection("amqp://nobody:n@127.0.0.1:1/none")
        monkeypatch.setattr(consumer, "on_connection_error", note)
        with pytest.raises(EOFError), consumer.establish_connection():
            pass
        return seen

    first, second = waits(), waits()
    assert first[0] != second[0]
    for seen in (first, second):
        assert 0.5 <= seen[0] <= 1.5
        assert seen == pytest.approx([seen[0] * steps for steps in (1, 2, 3, 3)])


def test_a_late_answer_is_an_unknown_outcome_and_the_work_goes_on(probe: Probe) -> None:
    before = probe.noted(NAPPED)

    def is_begun() -> bool:
        # One that a busy machine did not come to in time is never begun.
        with pytest.raises(errors.DeadlineExceeded, match="not known"):
            probe.rpc.call(Nap(n=1_500), timeout_s=0.5)
        return probe.noted(NAPPING) > before

    eventually(is_begun)
    probe.comes_to_note(NAPPED, before + 1)


class ShortNap(Nap, answer_within_s=0.1):
    """A nap that nobody waits long for."""


def test_a_call_waits_as_long_as_its_contract_says(client: RpcClient) -> None:
    client.call(Echo(n=1), PATIENCE_S)  # from here on it is connected

    with pytest.raises(errors.DeadlineExceeded, match=r"within 0\.1 s"):
        client.call(ShortNap(n=400))


def test_more_calls_than_may_wait_are_refused_at_once_and_the_others_answered(
    probe: Probe,
) -> None:
    def call(_number: int) -> str:
        try:
            probe.rpc.call(Nap(n=1_000), timeout_s=PATIENCE_S)
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
    meet = Meet(n=in_hand_at_most, after_ms=10_000)

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

        probe.children[-1].stop(PATIENCE_S)

        assert reply.result().n > 0
    probe.start()


def test_a_call_that_waited_past_its_deadline_is_never_begun(probe: Probe) -> None:
    before = probe.noted(NAPPED)
    probe.children[-1].stop(PATIENCE_S)

    with pytest.raises(errors.DeadlineExceeded):
        probe.rpc.call(Nap(n=1), timeout_s=0.2)
    probe.start()

    assert probe.noted(NAPPED) == before


def test_calls_that_waited_for_the_service_to_start_are_all_answered(
    probe: Probe, stranger: Stranger
) -> None:
    """Those that are refused at once, too, which is before anything else can have happened."""
    probe.children[-1].stop(PATIENCE_S)
    for _ in range(30):
        stranger.send(b'{"args": [1]}', "probe.echo", content_type="application/json")

    probe.start()

    answers = [stranger.hears()["error"]["exc_type"] for _ in range(30)]
    assert answers == ["BadRequest"] * 30


def test_the_chain_of_calls_travels_through_services(probe: Probe) -> None:
    direct = probe.rpc.call(CallChain(n=0)).n

    assert probe.rpc.call(CallChain(n=1)).n == direct + 1


def test_a_stock_nameko_client_can_call(probe: Probe) -> None:
    script = (
        "import sys, warnings; warnings.simplefilter('ignore')\n"
        "from nameko.standalone.rpc import ClusterRpcProxy\n"
        "with ClusterRpcProxy({'AMQP_URI': sys.argv[1]}, timeout=60) as rpc:\n"
        "    print(rpc.probe.echo(n=7))\n"
    )

    output = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, probe.vhost.admin_uri],
        capture_output=True, text=True, check=True, timeout=START_PATIENCE_S,
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
    eventually(probe.answers)


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
    eventually(probe.answers)
    assert probe.noted(NAPPED) == before


@pytest.mark.parametrize(
    ("body", "properties"),
    [
        (b"{nonsense", {"content_type": "application/json"}),
        (b"\x00\xff", {"content_type": "application/x-python-serialize"}),
        (b"{}", {"content_type": "application/json", "headers": {"compression": "none such"}}),
    ],
    ids=["not JSON", "not a type we accept", "not compressed as it says"],
)
def test_a_call_that_cannot_be_read_is_refused_at_once(
    probe: Probe, stranger: Stranger, body: bytes, properties: dict[str, Any]
) -> None:
    stranger.send(body, "probe.echo", **properties)

    assert stranger.hears()["error"]["exc_type"] == "BadRequest"


def test_what_looks_like_a_tagged_value_comes_through_unharmed(probe: Probe) -> None:
    metadata = {"__type__": "invoice", "__value__": "42"}

    assert probe.rpc.call(Mirror(metadata=metadata)).metadata == metadata


@pytest.mark.parametrize(
    "body", [b"{nonsense", b"[]", b'{"result": "of another shape", "error": null}', b'"text"']
)
def test_a_reply_that_makes_no_sense_costs_one_call_and_no_other(
    stranger: Stranger, client: RpcClient, body: bytes
) -> None:
    with ThreadPoolExecutor(2) as callers:
        other = callers.submit(client.call, Foreign(), PATIENCE_S)
        other_call = stranger.takes_a_call()
        broken = callers.submit(client.call, Foreign(), PATIENCE_S)
        stranger.answers(stranger.takes_a_call(), body)
        with pytest.raises(errors.DeadlineExceeded, match="makes no sense"):
            broken.result()
        stranger.answers(other_call, b'{"result": {"n": 5}, "error": null}')

        assert other.result() == Number(n=5)


def test_an_event_of_another_shape_costs_its_listener_no_call(
    probe: Probe, stranger: Stranger
) -> None:
    client = RpcClient(probe.vhost.admin_uri, name="listener")
    heard: list[int] = []
    client.subscribe(Told, lambda event: heard.append(event.n))
    client.call(Echo(n=1))
    requests = client._requests

    for body in (b"{nonsense", b"[]", b'{"n": "no event"}'):
        stranger.send(body, "told", exchange="probe.events", content_type="application/json")
    event = Told(event_id=uuid.uuid4(), occurred_at=utc_now(), n=3).model_dump_json()
    stranger.send(event.encode(), "told", exchange="probe.events", content_type="application/json")

    eventually(lambda: heard == [3])
    assert client.call(Echo(n=2)).n == 2
    assert client._requests is requests
    client.close()


def test_a_loss_that_a_publish_notices_first_is_recovered_from(probe: Probe) -> None:
    client = RpcClient(probe.vhost.admin_uri, name="cut")
    client.call(Echo(n=1))
    assert client._requests is not None
    transport = client._requests.connection.transport
    transport.connected = False
    transport.sock.shutdown(socket.SHUT_RDWR)

    def answers() -> bool:
        with suppress(errors.ServiceError):
            return client.call(Echo(n=1), timeout_s=1).n == 1
        return False

    eventually(answers)
    client.close()
