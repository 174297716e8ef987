"""The sandbox as a process of its own: quick to start, and with a memory."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.stripe_sandbox.store import Store
from tests.patience import PATIENCE_S, START_PATIENCE_S, answer_of, eventually
from tests.sandbox.conftest import Cards, client_of


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.fixture
def start(tmp_path: Path) -> Callable[[int], subprocess.Popen[bytes]]:
    """Starts a sandbox with a memory in this test's directory."""

    def run(port: int) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "SANDBOX_PORT": str(port),
            "SANDBOX_DATA": str(tmp_path),
            "SANDBOX_LATER_S": "1",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy.stripe_sandbox"],
            env=environment,
            cwd=Path(__file__).parents[2],
        )
        eventually(lambda: answers(port), within_s=START_PATIENCE_S)
        return process

    return run


def answers(port: int) -> bool:
    """Whether the sandbox is up."""
    answer = answer_of(f"http://127.0.0.1:{port}/healthz", timeout_s=10)
    return answer is not None and answer.ok


def test_customers_cards_and_keys_survive_a_restart(
    start: Callable[[int], subprocess.Popen[bytes]],
) -> None:
    port = free_port()
    client = client_of(f"http://127.0.0.1:{port}")
    process = start(port)
    customer = client.v1.customers.create({"name": "Test Person"}).id
    cards = Cards(client, customer)
    method = cards.save()
    charged = cards.charge(method, "kept").id
    process.kill()
    process.wait()

    process = start(port)
    try:
        replayed = cards.charge(method, "kept").id
        listed = [item.id for item in client.v1.payment_intents.list().data]
    finally:
        process.terminate()
        stopped_with = process.wait(PATIENCE_S)

    assert (replayed, listed, stopped_with) == (charged, [charged], 0)


def test_what_happens_later_happens_by_itself_after_a_restart_too(
    start: Callable[[int], subprocess.Popen[bytes]],
) -> None:
    port = free_port()
    client = client_of(f"http://127.0.0.1:{port}")
    process = start(port)
    cards = Cards(client, client.v1.customers.create({}).id)
    charge = cards.charge(cards.save()).latest_charge
    process.kill()
    process.wait()

    process = start(port)
    try:
        eventually(lambda: client.v1.charges.retrieve(charge).balance_transaction)
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def test_a_taken_port_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "deploy.stripe_sandbox"],
            env={**os.environ, "SANDBOX_PORT": port, "SANDBOX_DATA": ""},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            timeout=START_PATIENCE_S,
            check=False,
        )

    assert done.returncode == 2
    assert b"SANDBOX_PORT" in done.stderr


def test_objects_keep_their_order_in_the_file(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with store.transaction():
        for number in range(5):
            store.put("thing", {"id": f"thing_{number}", "value": 0})
    with store.transaction():
        store.put("thing", {"id": "thing_1", "value": 1})
    store.close()

    again = Store(str(tmp_path))
    assert [item["id"] for item in again.newest("thing")] == [f"thing_{n}" for n in (4, 3, 2, 1, 0)]
    assert again.get("thing", "thing_1")["value"] == 1
    again.close()
