"""The product on machines of its own: on three brokers, or on two databases."""

import tempfile
from collections.abc import Iterator
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
PEOPLE, TOPPED_UP = 6, 3
SETTINGS = {
    # They are charged all the time.
    "AUTO_TOPUP_COOL_DOWN_S": "1",
    "USER_CHARGES_PER_HOUR_MAX": "10000",
    # What became of a charge whose answer is lost is asked about soon.
    "JANITOR_LOOKS_S": "5,10,20,40,80,160",
}


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


def product_on(postgres: Postgres, broker: Any, scratch: Path) -> System:
    return System(postgres, broker, Path(tempfile.mkdtemp(dir=scratch)), PARTS, SETTINGS)


@pytest.fixture(scope="module")
def product(postgres: Postgres, brokers: Brokers, scratch: Path) -> Iterator[System]:
    with product_on(postgres, brokers, scratch).running() as made:
        yield made


@pytest.fixture(scope="module")
def town(product: System) -> Town:
    made = Town(product.base_url, PEOPLE, topped_up=TOPPED_UP)
    made.open()
    return made


@pytest.fixture(scope="session")
def pauses() -> Iterator[list[Pause]]:
    """For the tables in docs/clusters.md."""
    found: list[Pause] = []
    yield found
    print("", *found, sep="\n")
