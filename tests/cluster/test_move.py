"""From classic queues to quorum queues, while people want to buy and pay (docs/clusters.md)."""

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from deploy.local.postgres import Postgres
from deploy.local.processes import ROOT
from tests.cluster.brokers import Brokers
from tests.cluster.conftest import PEOPLE, product_on
from tests.cluster.shoppers import Pause, Town, add_up, pause_of
from tests.patience import START_PATIENCE_S, eventually
from tests.system import System

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

WORKERS = ("wallet", "catalog", "billing", "topup", "notifier")


@pytest.fixture(scope="module")
def product(postgres: Postgres, brokers: Brokers, scratch: Path) -> Iterator[System]:
    """On a virtual host such as one broker has."""
    one = SimpleNamespace(vhost=partial(brokers.vhost, is_replicated=False))
    with product_on(postgres, one, scratch).running() as made:
        yield made


@pytest.fixture(scope="module")
def town(product: System) -> Town:
    """Without automatic top-ups: what waits for one while they are stopped is asked about five
    minutes later."""
    made = Town(product.base_url, PEOPLE)
    made.open()
    return made


def switch(product: System, action: str) -> None:
    command = ["services.topup.switch", action, "--by", "operator", "--reason", "The broker moves"]
    environment = dict(product.process("topup").environment)
    subprocess.run(
        [sys.executable, "-W", "ignore", "-m", *command], env=environment, cwd=ROOT, check=True
    )


def test_who_moves_to_quorum_queues_by_the_page_loses_no_message(
    product: System, town: Town, brokers: Brokers, pauses: list[Pause]
) -> None:
    left = product.vhost.name
    assert set(brokers.kinds(left).values()) == {"classic"}

    def waiting() -> dict[str, int]:
        return {name: count for name, count in brokers.waiting(left).items() if count}

    def moves() -> None:
        # Something is in the queues when it begins.
        product.kill("notifier")
        town.goes_on()
        assert waiting()

        switch(product, "stop")
        product.stop("gateway")
        product.start("notifier")
        eventually(waiting, lambda found: not found, 1.0, START_PATIENCE_S)
        for name in WORKERS:
            product.stop(name)
        product.move_to(brokers)
        product.start_all()
        switch(product, "release")

    pauses.append(pause_of(town, "the move to quorum queues", moves))

    print("", pauses[-1], sep="\n")
    add_up(product, town)
    assert waiting() == {}
    assert brokers.kinds(product.vhost.name)["rpc-wallet"] == "quorum"
