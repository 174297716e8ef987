"""The product on three brokers, each on a machine of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.postgres import Postgres
from deploy.parts import PROCESSES
from tests.cluster.brokers import Brokers
from tests.cluster.network import Machine, make_network
from tests.cluster.shoppers import Pause, Town
from tests.system import System

PARTS = tuple(name for name in PROCESSES if name not in ("legacy", "analytics"))
PEOPLE = 6


@pytest.fixture(scope="session")
def network() -> None:
    make_network()


@pytest.fixture(scope="session")
def brokers(network: None, scratch: Path) -> Iterator[Brokers]:
    machines = [Machine(f"broker{number}", 10 + number).plug_in() for number in (1, 2, 3)]
    made = Brokers(machines, scratch / "brokers")
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="session")
def product(postgres: Postgres, brokers: Brokers, scratch: Path) -> Iterator[System]:
    directory = scratch / "product"
    directory.mkdir()
    made = System(postgres, brokers, directory, PARTS)
    try:
        made.start_all()
        yield made
    finally:
        made.end_processes()


@pytest.fixture(scope="session")
def town(product: System) -> Town:
    made = Town(product, PEOPLE)
    made.open()
    return made


@pytest.fixture(scope="session")
def pauses() -> Iterator[list[Pause]]:
    """For the table in docs/clusters.md."""
    found: list[Pause] = []
    yield found
    print("", *found, sep="\n")
