"""The database and the broker of `make run`: brought back when they are killed, gone with it."""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import kombu
import psycopg2
import pytest

from deploy.local.broker import Node, start_node
from deploy.local.child import Child
from deploy.local.postgres import Postgres
from deploy.local.postgres import start as start_postgres
from deploy.local.processes import ROOT
from deploy.local.startup import is_port_free
from deploy.local.supervisor import Supervisor
from tests.patience import eventually

PROMPTLY_S = 10.0
"""Under two seconds on an idle machine; what lingered did so for thirty."""


@pytest.fixture
def place(scratch: Path) -> Path:
    directory = Path(tempfile.mkdtemp(dir=scratch))
    directory.chmod(0o711)
    return directory


@pytest.fixture
def own_postgres(place: Path) -> Iterator[Postgres]:
    server = start_postgres(place / "postgres")
    yield server
    server.stop()


@pytest.fixture
def own_broker(place: Path) -> Iterator[Node]:
    node = start_node(place / "rabbitmq")
    yield node
    node.kill()


def kill_and_tend(children: list[Child], answers: Callable[[], bool]) -> list[str]:
    """Kill them, watch until they answer again; returns what was said meanwhile."""
    said: list[str] = []
    supervisor = Supervisor([], said.append)
    supervisor.adopt(children)
    for child in children:
        child.kill()

    def is_back() -> bool:
        supervisor.tend()
        return answers()

    eventually(is_back)
    supervisor.stop()
    assert all(child.is_running for child in children)
    return said


def test_a_database_that_was_killed_comes_back_with_its_data(own_postgres: Postgres) -> None:
    url = own_postgres.create_database("wallet").replace("+psycopg2", "")
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE kept AS SELECT 7 AS number")
    connection.close()

    def has_its_data() -> bool:
        try:
            again = psycopg2.connect(url)
        except psycopg2.OperationalError:
            return False
        with again, again.cursor() as cursor:
            cursor.execute("SELECT number FROM kept")
            found = cursor.fetchone()
        again.close()
        return found == (7,)

    said = kill_and_tend(own_postgres.children, has_its_data)

    assert "postgres ended with -9; it starts again" in said[0]


@pytest.mark.soak
def test_a_broker_that_was_killed_comes_back(own_broker: Node) -> None:
    def lets_a_service_in() -> bool:
        try:
            with kombu.Connection(own_broker.uri("wallet"), connect_timeout=2) as connection:
                connection.connect()
        except Exception:
            # Refused, reset, not yet allowed: kombu raises many kinds.
            return False
        return True

    said = kill_and_tend(own_broker.children, lets_a_service_in)

    assert any("rabbitmq ended with -9; it starts again" in line for line in said)


@pytest.mark.soak
def test_no_server_outlives_a_runner_that_was_killed(place: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path;"
        "from deploy.local import broker, postgres; place = Path(sys.argv[1]);"
        "server = postgres.start(place / 'postgres'); node = broker.start_node(place / 'rabbitmq');"
        "(place / 'ports').write_text(f'{server.port} {node.port}'); os.kill(os.getpid(), 9)"
    )
    argv = [sys.executable, "-c", code, str(place)]
    runner = Child("runner", argv, dict(os.environ), place / "runner.log", directory=ROOT)
    runner.start()
    eventually(lambda: not runner.is_running)
    began = time.monotonic()
    ports = [int(port) for port in (place / "ports").read_text().split()]

    eventually(lambda: all(is_port_free(port) for port in ports))

    assert time.monotonic() - began < PROMPTLY_S
    started_again = start_postgres(place / "postgres")
    started_again.stop()
