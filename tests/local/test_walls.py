"""Walls inside the broker: each service logs in and tries everything that it must not."""

import ast
import importlib
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import amqp
import kombu
import pytest
from amqp.exceptions import AccessRefused

from chassis.client import READ_TIMEOUT_S, RpcClient
from contracts import analytics, billing, catalog, errors, legacy, operating, topup, wallet
from contracts.messages import Event, Request
from deploy.definitions import LOGINS, Login
from deploy.local.broker import Node, VirtualHost
from deploy.local.processes import ROOT
from tests.conftest import StackFactory
from tests.patience import PATIENCE_S
from tests.system import System

CALLS = "nameko-rpc"
LOGIN_OF = {login.name: login for login in LOGINS}
NAMES = tuple(LOGIN_OF)
CONTRACTS = (analytics, billing, catalog, legacy, topup, wallet)
METHODS = sorted(
    [
        f"{item.service}.{item.method}"
        for contract in CONTRACTS
        for item in vars(contract).values()
        if isinstance(item, type) and issubclass(item, Request) and "service" in vars(item)
    ]
    + list(operating.calls())
)
# Always the same: the names of the cases hold it, and all processes of a run must name them alike.
AN_ID = "6f1d3a52-0d3c-4b0e-9c55-7a1f2d8e4b90"


@pytest.fixture(scope="module")
def vhost(broker: Node) -> Iterator[VirtualHost]:
    made = broker.vhost("walls")
    yield made
    made.stop()


@pytest.fixture(scope="module")
def connections(vhost: VirtualHost) -> Iterator[dict[str, Any]]:
    """A connection for each login, by its name."""
    opened = {
        name: kombu.Connection(vhost.uri(name), transport_options={"confirm_publish": True})
        for name in NAMES
    }
    yield opened
    for connection in opened.values():
        connection.release()


Do = Callable[[Any], Any]


def queues_of(name: str) -> list[str]:
    return [
        f"rpc-{name}",
        f"rpc.reply-{name}-{AN_ID}",
        f"evt-topup-topup_paid--{name}.on_topup",
        f"{name}.dead-letters",
        f"{name}.retry.5s",
    ]


def exchanges_of(name: str) -> list[str]:
    return [f"{name}.events", f"{name}.queues", f"{name}.retry.5s"]


def publish(exchange: str, routing_key: str) -> Do:
    return lambda channel: channel.basic_publish_confirm(amqp.Message("{}"), exchange, routing_key)


def on_queue(queue: str) -> dict[str, Do]:
    return {
        f"declare {queue}": lambda c: c.queue_declare(queue, durable=True, auto_delete=False),
        f"delete {queue}": lambda c: c.queue_delete(queue),
        f"purge {queue}": lambda c: c.queue_purge(queue),
        f"get from {queue}": lambda c: c.basic_get(queue),
        f"consume {queue}": lambda c: c.basic_consume(queue),
        f"publish to {queue}": publish("", queue),
    }


def on_exchange(exchange: str) -> dict[str, Do]:
    return {
        f"declare {exchange}": lambda c: c.exchange_declare(
            exchange, "topic", durable=True, auto_delete=False
        ),
        f"delete {exchange}": lambda c: c.exchange_delete(exchange),
    }


def on_exchange_of_another(login: Login, exchange: str) -> dict[str, Do]:
    if exchange in [f"{source}.events" for source in login.publishes_for]:
        return on_exchange(exchange)
    return {
        **on_exchange(exchange),
        f"publish through {exchange}": publish(exchange, "topup_paid"),
    }


def listen(login: str, exchange: str, routing_key: str) -> Do:
    def bind(channel: Any) -> None:
        queue = f"rpc.reply-{login}-{AN_ID}"
        channel.queue_declare(queue, auto_delete=True)
        channel.queue_bind(queue, exchange, routing_key)

    return bind


def forbidden(login: Login) -> dict[str, Do]:
    """All that a login must not do to each other one, and to what all share."""
    name = login.name
    acts = on_exchange(CALLS)
    for method in METHODS:
        if method not in login.calls:
            acts[f"call {method}"] = publish(CALLS, method)
    if not login.answers:
        acts["reply"] = publish(CALLS, f"rpc.reply-gateway-{AN_ID}")
    for key in ("#", "*", "*.*", "rpc.#", f"{name}.#", AN_ID):
        acts[f"listen for {key}"] = listen(name, CALLS, key)
    acts["copy calls"] = lambda c: c.exchange_bind(f"{name}.events", CALLS, "#")
    acts["call as stock nameko"] = publish("amq.topic", "wallet.get_wallet")
    acts["declare a queue of no name of its own"] = lambda c: c.queue_declare("anything")
    for other in NAMES:
        if other == name:
            continue
        for queue in queues_of(other):
            acts |= on_queue(queue)
        for exchange in exchanges_of(other):
            acts |= on_exchange_of_another(login, exchange)
        acts[f"listen for {other}"] = listen(name, CALLS, f"{other}.*")
        acts[f"listen for replies to {other}"] = listen(name, CALLS, f"rpc.reply-{other}-{AN_ID}")
        acts[f"take calls of {other}"] = lambda c, q=f"rpc-{other}": c.queue_bind(q, CALLS, "#")
        if other not in login.listens_to:
            acts[f"hear {other}"] = listen(name, f"{other}.events", "#")
    return acts


# Some two thousand acts in all, and as many tests of one each would take longer than what they do.
@pytest.mark.parametrize("name", NAMES)
def test_a_service_may_not(connections: dict[str, Any], name: str) -> None:
    done = []
    for act, do in forbidden(LOGIN_OF[name]).items():
        try:
            do(connections[name].channel())
        except AccessRefused:
            continue
        done.append(act)

    assert done == []


def allowed(login: Login) -> dict[str, Do]:
    name = login.name
    acts: dict[str, Do] = {
        f"take calls as {name}": lambda c: (
            c.queue_declare(f"rpc-{name}", durable=True, auto_delete=False),
            c.queue_bind(f"rpc-{name}", CALLS, f"{name}.*"),
        ),
        "get replies": listen(name, CALLS, f"rpc.reply-{name}-{AN_ID}"),
        "publish an event": publish(f"{name}.events", "something_happened"),
    }
    if login.answers:
        acts["reply"] = publish(CALLS, f"rpc.reply-gateway-{AN_ID}")
        acts["reply to stock nameko"] = publish(CALLS, AN_ID)
    for method in login.calls:
        acts[f"call {method}"] = publish(CALLS, method)
    for source in login.listens_to:
        acts[f"hear {source}"] = listen(name, f"{source}.events", "#")
    for source in login.publishes_for:
        acts[f"publish for {source}"] = publish(f"{source}.events", "something_happened")
    return acts


@pytest.mark.parametrize("name", NAMES)
def test_a_service_may(connections: dict[str, Any], name: str) -> None:
    refused = []
    for act, do in allowed(LOGIN_OF[name]).items():
        try:
            do(connections[name].channel())
        except AccessRefused:
            refused.append(act)

    assert refused == []


# What the code needs, and what it is given.


def _imported(file: Path, service: str, kind: type) -> set[str]:
    """The methods of other services that a file imports to call, or whose events it imports."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("contracts."):
            contract = importlib.import_module(node.module or "")
            imported = (getattr(contract, alias.name) for alias in node.names)
            found |= {
                item.source if issubclass(item, Event) else f"{item.service}.{item.method}"
                for item in imported
                if isinstance(item, type)
                and issubclass(item, kind)
                and getattr(item, "source" if kind is Event else "service", service) != service
            }
    return found


IN_BATCHES = {"legacy": {"wallet.open_account", "wallet.reverse"}}
"""What a service asks for inside a ``post_batch``, and never by itself."""

OF_THE_VERSION_BEFORE = {"billing": {"topup.get_auto_topup_state"}}
"""What only the version asks that runs beside this one during an upgrade."""


@pytest.mark.parametrize(
    "name", ["wallet", "catalog", "billing", "topup", "legacy", "analytics", "gateway"]
)
def test_a_login_may_call_what_its_code_calls_and_nothing_else(name: str) -> None:
    files = (ROOT / "services" / name).rglob("*.py")

    called = {method for file in files for method in _imported(file, name, Request)}

    # Whom it asks these, it chooses when it runs.
    of_operators = set(operating.calls()) if name == "gateway" else set()
    # The notifier's code stands beside the gateway's.
    logins = ("gateway", "notifier") if name == "gateway" else (name,)
    allowed_to_call = {call for login in logins for call in LOGIN_OF[login].calls}
    before = OF_THE_VERSION_BEFORE.get(name, set())
    assert not called & before
    assert (called - IN_BATCHES.get(name, set())) | of_operators == allowed_to_call - before


@pytest.mark.parametrize("name", NAMES)
def test_a_login_hears_whom_its_code_listens_to_and_nobody_else(name: str) -> None:
    room = ROOT / "services" / ("gateway" if name == "notifier" else name)
    files = {
        "gateway": [room / "purchase_waiters.py"],
        "notifier": [room / "notifier.py"],
    }.get(name, [room / "service.py"])

    heard = {source for file in files for source in _imported(file, name, Event)}

    assert heard == set(LOGIN_OF[name].listens_to)


# The same with a real wallet behind the wall.


@pytest.fixture(scope="module")
def system(service_stack: StackFactory) -> System:
    return service_stack("wallet")


@pytest.mark.parametrize(
    "command",
    [
        wallet.Credit(
            idempotency_key="a", user_id=uuid.uuid4(), amount_micros=5, description="A present"
        ),
        wallet.Adjust(
            idempotency_key="b", user_id=uuid.uuid4(), amount_micros=5, reason="None", actor="none"
        ),
        wallet.PostBatch(commands=[wallet.BatchCommand(method="credit", arguments={})]),
    ],
    ids=lambda command: command.method,
)
def test_the_catalog_makes_no_money_and_hears_so_at_once(
    system: System, command: Request[Any]
) -> None:
    client = RpcClient(system.vhost.uri("catalog"), name="catalog")

    with pytest.raises(errors.ServiceError, match=f"catalog may not call wallet.{command.method}"):
        client.call(command, timeout_s=PATIENCE_S)

    client.close()
    assert system.rpc.call(wallet.Export()).entries == []


@pytest.mark.parametrize(
    "read_timeout_s",
    [READ_TIMEOUT_S, 0.0001],
    ids=["", "a broker that is slower than one read"],
)
def test_a_refused_call_costs_the_calls_beside_it_nothing(
    system: System, monkeypatch: pytest.MonkeyPatch, read_timeout_s: float
) -> None:
    monkeypatch.setattr("chassis.client.READ_TIMEOUT_S", read_timeout_s)
    client = RpcClient(system.vhost.uri("gateway"), name="gateway")
    refused = wallet.Reverse(
        idempotency_key="c",
        user_id=uuid.uuid4(),
        transaction_id=uuid.uuid4(),
        reason="No",
        actor="no",
    )
    asked = wallet.GetWallet(user_id=uuid.uuid4())
    at_once = threading.Barrier(9)

    def outcome(request: Request[Any]) -> str:
        at_once.wait()
        with pytest.raises(errors.ServiceError) as caught:
            client.call(request, timeout_s=PATIENCE_S)
        return caught.value.code

    with ThreadPoolExecutor(9) as callers:
        answers = [
            sorted(callers.map(outcome, [*[asked] * 4, refused, *[asked] * 4])) for _ in range(5)
        ]

    client.close()
    assert answers == [["not_found"] * 8 + ["service_error"]] * 5
