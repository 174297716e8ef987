"""A running installation of the version before becomes this one, and the one before again.

Process after process, each beside that of the other version for a while, as people buy and pay
over HTTP all the time: nobody is refused anything. ``make test-upgrade FROM=<commit>`` runs it.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest

from deploy.local.broker import Node
from deploy.local.postgres import Postgres
from deploy.parts import UPGRADED
from tests.cluster.shoppers import WITHOUT_TOPUPS, Pause, Town, add_up, pause_of
from tests.upgrades.versions import Installation

pytestmark = [pytest.mark.upgrade, pytest.mark.timeout(1_800)]

PEOPLE = 6


@pytest.fixture
def installation(postgres: Postgres, broker: Node, scratch: Path) -> Iterator[Installation]:
    made = Installation(postgres, broker, scratch / f"upgraded-{uuid4().hex[:6]}")
    try:
        made.starts()
        yield made
    finally:
        made.close()


def is_granted_everything(town: Town, what: str, step: Callable[[], None]) -> Pause:
    """People shop through it, and nobody is refused anything.

    On a busy machine the top-up service takes more than its second, and a forecast is asked for
    again: where it could not be answered at all, nothing more would be granted.
    """
    pause = pause_of(town, what, step)
    print(pause)
    assert pause.refused.keys() <= {WITHOUT_TOPUPS}, what
    return pause


def test_each_part_is_upgraded_and_taken_back_while_people_buy_and_nothing_fails(
    installation: Installation,
) -> None:
    before, now = installation.before, installation.now
    # What this version's document says holds for no answer of the one before.
    town = Town(now.base_url, PEOPLE, is_documented=False)
    town.open()
    goes_through = partial(is_granted_everything, town)
    print()

    goes_through("broker's definitions", installation.allows)
    goes_through("migrations", installation.migrates)
    for name in UPGRADED:
        step = partial(installation.takes_over, name, now, before, town.goes_on)
        goes_through(f"{name}, to this version", step)
    add_up(now, town)

    for name in reversed(UPGRADED):
        step = partial(installation.takes_over, name, before, now, town.goes_on)
        goes_through(f"{name}, to the one before", step)
    add_up(before, town)
