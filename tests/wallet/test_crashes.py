"""Many clients, three replicas, some of which are killed, a database that restarts: the money
adds up, and every key knows what became of its command."""

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import pytest

from chassis.client import RpcClient
from chassis.database import connect
from chassis.identifiers import new_id
from contracts.errors import DeadlineExceeded, InsufficientFunds, ServiceError, Unavailable
from contracts.wallet import CloseKey, GetByKey, GetWallet, KeyState, Transaction, Transfer
from deploy.local.broker import Node
from deploy.local.child import Child
from deploy.local.postgres import Postgres
from deploy.local.postgres import start as start_postgres
from services.wallet import chain, verification
from tests.patience import eventually
from tests.system import System
from tests.wallet.conftest import USD, credit, transfer

ACCOUNTS = 10
START_MICROS = 100 * USD
REPLICAS = 3


@dataclass
class Attempt:
    """A transfer that a client asked for, and the answer; None where there was none."""

    command: Transfer
    answer: Transaction | ServiceError | None = None


@dataclass
class Traffic:
    """Clients that transfer at random until they are told to stop."""

    rpc: RpcClient
    users: list[UUID]
    attempts: list[Attempt] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def client(self) -> None:
        while not self.stop.is_set():
            sender, receiver = random.sample(self.users, 2)
            attempt = Attempt(transfer(sender, receiver, random.randint(1, 30) * USD))
            self.attempts.append(attempt)
            try:
                attempt.answer = self.rpc.call(attempt.command, timeout_s=8)
            except (DeadlineExceeded, Unavailable):
                pass
            except ServiceError as refusal:
                attempt.answer = refusal


@pytest.fixture
def own_postgres(scratch: Path) -> Iterator[Postgres]:
    """A server of its own, because it is restarted."""
    server = start_postgres(scratch / f"postgres-{new_id().hex[-8:]}")
    yield server
    server.stop()


@pytest.fixture
def stack(own_postgres: Postgres, broker: Node, scratch: Path) -> Iterator[System]:
    directory = scratch / f"crashes-{new_id().hex[-8:]}"
    system = System(own_postgres, broker, directory, ("wallet",), {"MAX_WORKERS": "30"})
    system.start_all()
    yield system
    system.close()


@pytest.fixture
def replicas(stack: System, scratch: Path) -> Iterator[list[Child]]:
    """More processes of the wallet, on the same queue and the same database."""
    process = stack.process("wallet")
    children = [
        Child(
            f"wallet-{number}",
            process.argv,
            {**process.environment, "HEALTH_PORT": "0"},
            scratch / f"wallet-{number}.log",
            directory=Path(__file__).resolve().parents[2],
        )
        for number in range(1, REPLICAS)
    ]
    for child in children:
        child.start()
    yield children
    for child in children:
        child.kill()


def crash_and_come_back(stack: System, replicas: list[Child], victim: int) -> None:
    if victim == 0:
        stack.kill("wallet")
        stack.start("wallet")
    else:
        replicas[victim - 1].kill()
        replicas[victim - 1].start()


def run(stack, replicas, postgres, *, clients: int, duration_s: float) -> Traffic:
    users = [new_id() for _ in range(ACCOUNTS)]
    for user_id in users:
        stack.rpc.call(credit(user_id, START_MICROS))
    traffic = Traffic(stack.rpc, users)
    ends_at = time.monotonic() + duration_s
    with ThreadPoolExecutor(clients) as pool:
        for _ in range(clients):
            pool.submit(traffic.client)
        try:
            crash_and_come_back(stack, replicas, 0)
            postgres.restart()
            victim = 1
            while time.monotonic() < ends_at:
                crash_and_come_back(stack, replicas, victim % REPLICAS)
                victim += 1
                traffic.stop.wait(1)
        finally:
            traffic.stop.set()
    return traffic


def check(stack: System, traffic: Traffic) -> None:
    rpc = stack.rpc
    eventually(lambda: _answers(rpc, traffic.users[0]))
    known = [a for a in traffic.attempts if a.answer is not None]
    unanswered = [a for a in traffic.attempts if a.answer is None]
    # What is still in a queue must not act after we have looked.
    for attempt in unanswered:
        rpc.call(CloseKey(idempotency_key=attempt.command.idempotency_key))

    moved = dict.fromkeys(traffic.users, 0)
    for attempt in traffic.attempts:
        outcome = rpc.call(GetByKey(idempotency_key=attempt.command.idempotency_key))
        if isinstance(attempt.answer, Transaction):
            assert outcome.state is KeyState.DONE
            made = Transaction.model_validate(outcome.reply)
            assert made.transaction_id == attempt.answer.transaction_id
        elif attempt.answer is not None:
            assert isinstance(attempt.answer, InsufficientFunds)
            assert outcome.state is KeyState.UNUSED
        if outcome.state is KeyState.DONE:
            moved[attempt.command.from_user_id] -= attempt.command.amount_micros
            moved[attempt.command.to_user_id] += attempt.command.amount_micros

    balances = {user: rpc.call(GetWallet(user_id=user)).balance_micros for user in traffic.users}
    assert balances == {user: START_MICROS + moved[user] for user in traffic.users}
    assert sum(balances.values()) == ACCOUNTS * START_MICROS
    assert any(isinstance(attempt.answer, Transaction) for attempt in known)
    database = connect(stack.database_url("wallet"))
    chain.seal(database)
    assert verification.verify(database).first_difference is None
    database.engine.dispose()


def _answers(rpc: RpcClient, user_id: UUID) -> bool:
    try:
        rpc.call(GetWallet(user_id=user_id), timeout_s=5)
    except ServiceError:
        return False
    return True


def test_money_adds_up_while_replicas_and_the_database_crash(stack, replicas, own_postgres):
    traffic = run(stack, replicas, own_postgres, clients=12, duration_s=8)

    check(stack, traffic)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_money_adds_up_under_fifty_clients_for_long(stack, replicas, own_postgres):
    traffic = run(stack, replicas, own_postgres, clients=50, duration_s=30)

    check(stack, traffic)
