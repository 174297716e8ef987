"""One service is restored to an earlier moment than the others: what that does, and what mends it.

The table in docs/backups.md tells it. Everybody has an answer and nothing is under way at both
moments, so that what differs is of the restore alone.
"""

import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from tests.faults.chaos.books import differences, settles, under_way
from tests.faults.chaos.people import Crowd
from tests.faults.chaos.product import PATIENCE_S, Product
from tests.faults.chaos.test_chaos import says
from tests.patience import eventually

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(7_200)]

TOMORROW = {"CLOCK_OFFSET_DAYS": "1"}
"""What is younger than a quarter of an hour is compared by tomorrow's reconciliation."""


@pytest.fixture(scope="module")
def world(scratch: Path) -> Iterator[tuple[Product, Crowd, datetime]]:
    product = Product(scratch / f"restored-{uuid4().hex[:8]}")
    try:
        product.start_all()
        crowd = Crowd(product, 4, random.Random(1))
        try:
            lives(product, crowd)
            product.keeps("before")
            moment = datetime.now(UTC)
            lives(product, crowd)
            product.keeps("after")
            yield product, crowd, moment
        finally:
            crowd.ends()
    finally:
        product.close()


def lives(product: Product, crowd: Crowd) -> None:
    """Some purchases, transfers and top-ups of every kind."""
    crowd.goes_on()
    began = time.monotonic()
    count = sum(len(person.purchases) for person in crowd.people)
    eventually(
        lambda: sum(len(person.purchases) for person in crowd.people) - count,
        lambda made: made >= 12 and time.monotonic() - began > 12,
        within_s=PATIENCE_S,
    )
    crowd.rests()
    settles(product, crowd)


def kinds(sentences: list[str]) -> dict[str, int]:
    """How many there are of each kind, without what is different in each."""
    counted: dict[str, int] = {}
    for sentence in sentences:
        words = [w for w in sentence.split() if not any(c.isdigit() for c in w)]
        counted[" ".join(words)[:60]] = counted.get(" ".join(words)[:60], 0) + 1
    return counted


@pytest.mark.parametrize("service", ["wallet", "catalog", "billing", "topup", "gateway", "all"])
def test_look(world: tuple[Product, Crowd, datetime], service: str) -> None:
    product, crowd, moment = world
    everybody = ("wallet", "catalog", "billing", "topup", "gateway", "analytics")
    names = everybody if service == "all" else (service,)
    product.returns_to("after", **dict.fromkeys(names, "before"))
    time.sleep(15)
    says(f"\n== {service}: under way {under_way(product)}")
    says(f"   books {kinds(differences(product, crowd))}")
    for line in differences(product, crowd)[:12]:
        says(f"     {line}")
    since = (moment - timedelta(days=1)).date().isoformat()
    says(product.operates("wallet", "services.wallet.verification")[-300:])
    says(
        product.operates("topup", "services.topup.reconcile", "--since", since, **TOMORROW)[-2500:]
    )
    for other in ("topup", "billing", "wallet", "catalog", "notifier"):
        says(product.operates(other, "chassis.republish", other, "--since", moment.isoformat()))
    time.sleep(20)
    says(f"   then under way {under_way(product)}")
    says(f"   books {kinds(differences(product, crowd))}")
    for line in differences(product, crowd)[:12]:
        says(f"     {line}")
    says(
        product.operates("topup", "services.topup.reconcile", "--since", since, **TOMORROW)[-2500:]
    )
