"""Whatever goes wrong, alone and together: no cent is lost, doubled, or charged without consent.

``make chaos`` lets some faults of the list happen at once, again and again, chosen by a seed.
``make chaos-table`` lets each happen alone, and writes what people noticed to docs/faults.md.
"""

import os
import random
import re
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import pytest

from deploy.local.processes import ROOT
from tests.faults.chaos import table
from tests.faults.chaos.books import differences, settles
from tests.faults.chaos.faults import FAULTS, Fault, some_of
from tests.faults.chaos.people import Crowd
from tests.faults.chaos.product import PATIENCE_S, Product
from tests.patience import eventually

SEED = int(os.environ.get("CHAOS_SEED") or random.randrange(1_000_000))
MINUTES = float(os.environ.get("CHAOS_MINUTES") or 10)
WANTED = os.environ.get("CHAOS_FAULTS", "")
"""A regular expression: faults whose names it is not found in do not happen."""
TABLE = ROOT / "docs" / "faults.md"

PEOPLE = 5
LASTS_S = 8.0
TOGETHER = 3
CALM_S = 2.0
MONTH = timedelta(days=31)

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(7_200)]


class World(NamedTuple):
    product: Product
    crowd: Crowd


@pytest.fixture
def world(scratch: Path) -> Iterator[World]:
    product = Product(scratch / f"chaos-{uuid4().hex[:8]}")
    try:
        product.start_all()
        crowd = Crowd(product, PEOPLE, random.Random(SEED))
        try:
            yield World(product, crowd)
        finally:
            crowd.ends()
    finally:
        product.close()


def says(line: str) -> None:
    """On the terminal, at once."""
    print(line, file=sys.__stderr__, flush=True)


def possible(product: Product) -> list[Fault]:
    """Those that are wanted, of which there has to be one; what cannot happen here is told."""
    wanted = [fault for fault in FAULTS if re.search(WANTED, fault.name)]
    found = [fault for fault in wanted if product.has_own_disk or not fault.needs_disk]
    for fault in wanted:
        if fault not in found:
            says(f"not tried, as the database has no disk of its own: {fault.name}")
    assert found, f"no fault that can happen here has {WANTED!r} in its name"
    return found


def lives_through(world: World, faults: list[Fault], chance: random.Random) -> table.Row:
    """A month ends, people go on, and meanwhile this happens; then everything has to agree."""
    product, crowd = world
    product.passes(MONTH)
    crowd.goes_on()
    began = time.monotonic()
    with ExitStack() as happening:
        for fault in faults:
            happening.enter_context(fault.injects(product, chance))
        # How long it lasts: nothing that could be waited for.
        time.sleep(LASTS_S)
        ended = time.monotonic()
    product.repairs()
    eventually(lambda: is_calm(crowd, ended), interval_s=0.2, within_s=PATIENCE_S)
    seen = crowd.answers(began, time.monotonic())
    crowd.rests()
    settles(product, crowd)
    done = time.monotonic()
    wrong = differences(product, crowd)
    if not wrong:
        for person in crowd.people:
            person.is_let_in_again()
            person.looks_after_cards()
        settles(product, crowd)
    name = ", ".join(fault.name for fault in faults)
    return table.Row.of(name, seen, ended, done, wrong)


def is_calm(crowd: Crowd, since: float) -> bool:
    """People have been answered for a while."""
    now = time.monotonic()
    lately = crowd.answers(max(since, now - CALM_S), now)
    return now - since > CALM_S and bool(lately) and not any(one.is_error for one in lately)


def test_faults_that_happen_together_lose_and_double_nothing(world: World) -> None:
    chance = random.Random(SEED)
    again = f"CHAOS_SEED={SEED} CHAOS_MINUTES={MINUTES:g} make chaos"
    says(f"\n{again}")
    can_happen = possible(world.product)
    until = time.monotonic() + MINUTES * 60
    while time.monotonic() < until:
        faults = some_of(can_happen, chance, TOGETHER)
        says(f"  {', '.join(fault.name for fault in faults)}")
        row = lives_through(world, faults, chance)
        says(f"    {row.line()}")

        assert row.wrong == (), f"replay it: {again}"


def test_each_fault_alone_loses_and_doubles_nothing(world: World) -> None:
    chance = random.Random(SEED)
    for fault in possible(world.product):
        row = lives_through(world, [fault], chance)
        says(row.line())

        assert row.wrong == (), fault.name
        if "CHAOS_WRITES" in os.environ:
            table.write([row], [each.name for each in FAULTS], TABLE)
