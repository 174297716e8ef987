"""A database and its standby, of which one is killed, cut off or full while people buy and pay."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.local.broker import Node
from tests.cluster.conftest import product_on
from tests.cluster.databases import DatabaseNode, Databases
from tests.cluster.shoppers import AWAY_S, Pause, Town, add_up, pause_of
from tests.system import System

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def product(pair: Databases, broker: Node, scratch: Path) -> Iterator[System]:
    with product_on(pair, broker, scratch).running() as made:
        yield made


Fault = Callable[[Databases, DatabaseNode], None]


def killed(pair: Databases, node: DatabaseNode) -> None:
    node.kill()
    time.sleep(AWAY_S)
    node.start()


def cut_off(pair: Databases, node: DatabaseNode) -> None:
    node.machine.cut()
    time.sleep(AWAY_S)
    node.machine.join()


def full(pair: Databases, node: DatabaseNode) -> None:
    node.fill_disk()
    time.sleep(AWAY_S)
    node.clear_disk()


def full_to_the_log(pair: Databases, node: DatabaseNode) -> None:
    """Until the primary can write nothing any more, and ends."""
    node.fill_disk()
    pair.use_up_log()
    time.sleep(AWAY_S)
    node.clear_disk()


@pytest.mark.parametrize(
    ("whose", "fault"),
    [
        ("primary", killed),
        ("standby", killed),
        ("primary", cut_off),
        ("standby", cut_off),
        ("primary", full),
        ("standby", full),
        ("primary", full_to_the_log),
    ],
)
def test_a_database_that_is_away_costs_a_pause_and_nothing_else(
    product: System, town: Town, pair: Databases, pauses: list[Pause], whose: str, fault: Fault
) -> None:
    node: DatabaseNode = getattr(pair, whose)

    def happens() -> None:
        fault(pair, node)
        pair.become_whole()

    pauses.append(pause_of(town, f"{whose} {fault.__name__}", happens))

    print("", pauses[-1], sep="\n")
    add_up(product, town)
    if fault in (killed, cut_off):
        assert pair.primary is not node
