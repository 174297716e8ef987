"""Three brokers, of which one at a time is killed or cut off while people buy and pay."""

import time
from collections.abc import Callable

import pytest

from tests.cluster.brokers import BrokerNode, Brokers
from tests.cluster.shoppers import AWAY_S, Pause, Town, add_up, pause_of
from tests.system import System

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


Fault = Callable[[Brokers, BrokerNode], None]


def killed(brokers: Brokers, node: BrokerNode) -> None:
    node.kill()
    time.sleep(AWAY_S)
    node.start()
    brokers.wait_for(node)


def cut_off(brokers: Brokers, node: BrokerNode) -> None:
    node.machine.cut()
    time.sleep(AWAY_S)
    node.machine.join()
    # What Erlang's `global` waits for since the cut may never come, and what each side knew of
    # queues may never be brought together (docs/clusters.md).
    if not brokers.comes_back(node) or brokers.is_parted(node):
        print(f"{node.name} did not come back by itself")
        node.kill()
        node.start()
        brokers.wait_for(node)


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("fault", [killed, cut_off])
def test_a_broker_that_is_away_costs_a_pause_and_nothing_else(
    product: System, town: Town, brokers: Brokers, pauses: list[Pause], fault: Fault, number: int
) -> None:
    node = brokers.nodes[number - 1]
    name = f"{node.machine.name} {fault.__name__}"

    pauses.append(pause_of(town, name, lambda: fault(brokers, node)))

    print("", pauses[-1], sep="\n")
    add_up(product, town)


def test_every_queue_that_outlives_its_process_is_on_all_nodes(
    product: System, brokers: Brokers
) -> None:
    # Replies, and what a website hears as it passes, are of use to one process alone.
    kinds = {
        name: kind
        for name, kind in brokers.kinds(product.vhost.name).items()
        if not name.startswith("rpc.reply-") and "--gateway." not in name
    }

    assert len(kinds) > 40
    assert set(kinds.values()) == {"quorum"}
