"""The product on machines of its own: on three brokers, or on two databases."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from deploy.local.postgres import Postgres
from deploy.parts import PROCESSES
from tests.cluster.brokers import Brokers
from tests.cluster.databases import Databases
from tests.cluster.network import Machine, make_network
from tests.cluster.shoppers import Pause, Town
from tests.system import System

PARTS = tuple(name for name in PROCESSES if name not in ("legacy", "analytics"))
PEOPLE = 6


@pytest.fixture(scope="session")
def network() -> None:
    make_network()


@pytest.fixture(scope="session")
def broker_machines(network: None) -> list[Machine]:
    return [Machine(f"broker{number}", 10 + number).plug_in() for number in (1, 2, 3)]


@pytest.fixture(scope="module")
def brokers(broker_machines: list[Machine], scratch: Path) -> Iterator[Brokers]:
    made = Brokers(broker_machines, Path(tempfile.mkdtemp(dir=scratch)) / "brokers")
    try:
        made.start()
        print("", f"RabbitMQ {made.version()}", sep="\n")
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def pair(network: None, scratch: Path) -> Iterator[Databases]:
    names = ("database1", "database2", "witness")
    machines = [Machine(name, 20 + number).plug_in() for number, name in enumerate(names, 1)]
    directory = scratch / "databases"
    directory.mkdir()
    made = Databases(machines, directory)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@contextmanager
def running(postgres: Postgres, broker: Any, scratch: Path) -> Iterator[System]:
    made = System(postgres, broker, Path(tempfile.mkdtemp(dir=scratch)), PARTS)
    try:
        made.start_all()
        yield made
    finally:
        made.end_processes()


@pytest.fixture(scope="module")
def product(postgres: Postgres, brokers: Brokers, scratch: Path) -> Iterator[System]:
    with running(postgres, brokers, scratch) as made:
        yield made


@pytest.fixture(scope="module")
def town(product: System) -> Town:
    made = Town(product.base_url, PEOPLE)
    made.open()
    return made


@pytest.fixture(scope="session")
def pauses() -> Iterator[list[Pause]]:
    """For the tables in docs/clusters.md."""
    found: list[Pause] = []
    yield found
    print("", *found, sep="\n")
