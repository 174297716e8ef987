"""People from registering to a running machine, and every figure of theirs counted by hand.

The whole product runs: processes, broker, databases, the payment sandbox. The figures are made of
the events that came of it, and of them again: twice and in another order, by a process that was
killed in the middle, and of what the services have on record.
"""

import os
import random
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from uuid import UUID

import pytest
import requests
from kombu import Connection, Producer
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import select, text

from chassis.clock import utc_now
from chassis.database import Connected, connect
from contracts.analytics import (
    Cause,
    Figures,
    GetKpis,
    GetNumbers,
    GetPopularProducts,
    GetRetention,
    KpiName,
    Kpis,
    ProductCount,
)
from deploy.local.processes import ROOT
from deploy.parts import LISTENERS, PROCESSES
from services.analytics.service import AnalyticsService
from services.catalog.seed import product_id_of
from services.gateway.models import User
from services.gateway.registrations import lines
from tests.conftest import StackFactory
from tests.counted import all_counts, empty
from tests.monitored import complaints, sample_names
from tests.patience import PATIENCE_S, START_PATIENCE_S, eventually
from tests.people.person import PRICES, USD, WAYS, Noted, Person, Way
from tests.system import System

SEED = int(os.environ.get("SOAK_SEED", "1"))
AT_ONCE = 6
DAY = timedelta(days=1)
HEARD = {
    (event.source_service, event.event_type): f"evt-{event.source_service}-{event.event_type}"
    f"--analytics.{name}"
    for name, method in vars(AnalyticsService).items()
    for event in getattr(method, "nameko_entrypoints", ())
    if hasattr(event, "event_type")
}
"""Of which queue analytics takes which event."""


@pytest.fixture(scope="module")
def world(service_stack: StackFactory) -> System:
    return service_stack(*PROCESSES)


@pytest.fixture
def counted(world: System) -> Iterator[Connected]:
    database = connect(world.database_url("analytics"))
    yield database
    database.engine.dispose()


class Town:
    """People who live at once, and what all of them noted."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._accounts = connect(system.database_url("gateway"))
        self.noted = Noted()

    def lives(self, ways: list[Way]) -> None:
        with ThreadPoolExecutor(min(AT_ONCE, len(ways))) as pool:
            people = [Person(self._system, self._registered_at) for _ in ways]
            for person in pool.map(Person.lives, people, ways):
                self.noted += person.noted

    def _registered_at(self, user_id: UUID) -> datetime:
        with self._accounts.read() as session:
            found = session.scalar(select(User.created_at).where(User.user_id == user_id))
        assert found is not None
        return found

    def registrations(self) -> str:
        return "".join(f"{line}\n" for line in lines(self._accounts))

    def leaves(self) -> None:
        self._accounts.engine.dispose()


@pytest.fixture
def town(world: System, counted: Connected) -> Iterator[Town]:
    for service in ("gateway", "billing", "topup"):
        _forget_published(world, service)
    empty(counted)
    town = Town(world)
    yield town
    town.leaves()


def _forget_published(world: System, service: str) -> None:
    """What was said before is none of these people's."""
    database = connect(world.database_url(service))
    with database.begin() as session:
        session.execute(text("DELETE FROM outbox"))
    database.engine.dispose()


def test_one_on_each_way_is_counted_as_by_hand(
    world: System, town: Town, counted: Connected
) -> None:
    ways = [way for way in WAYS if way is not Person.hesitates]
    random.Random(SEED).shuffle(ways)

    _live_and_count(world, town, counted, ways)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_hundred_people_are_counted_as_by_hand(
    world: System, town: Town, counted: Connected
) -> None:
    ways = [way for way, count in WAYS.items() for _ in range(count)]
    random.Random(SEED).shuffle(ways)
    # Who thinks longest begins first.
    ways.sort(key=lambda way: way is not Person.hesitates)

    _live_and_count(world, town, counted, ways)


def test_prometheus_reads_what_each_process_shows_once_people_have_bought(
    world: System, town: Town
) -> None:
    town.lives([Person.is_topped_up, Person.is_declined_and_takes_another_card])

    for process in (*LISTENERS, "gateway"):
        place = world.process(process).ready_url.removesuffix("/readyz")
        shown = requests.get(f"{place}/metrics", timeout=PATIENCE_S).text
        read = [one for family in text_string_to_metric_families(shown) for one in family.samples]
        ours = {one.name for one in read if one.name.startswith("mycelium_")}

        assert complaints(shown) == [], process
        assert ours, process
        assert ours <= sample_names(), process
        assert not re.search(r"[0-9a-f]{8}-[0-9a-f]{4}-", shown), f"somebody's id in {process}"


def _live_and_count(world: System, town: Town, counted: Connected, ways: list[Way]) -> None:
    half = len(ways) // 2
    town.lives(ways[:half])
    world.kill("analytics")
    town.lives(ways[half:])
    world.start("analytics")
    by_hand = town.noted

    eventually(lambda: _counted(world), lambda seen: seen == _noted(by_hand, len(ways)))
    eventually(lambda: _returned(world), lambda seen: seen == (len(ways), len(ways)))
    _print_metrics(_kpis(world), by_hand)

    once = all_counts(counted)
    empty(counted)
    _tell_again(world)
    assert all_counts(counted) == once

    empty(counted)
    said = _refill(world, town.registrations())
    assert said.returncode == 0, said.stderr
    # Nobody has on record on which pages people were.
    assert all_counts(counted) == {
        key: n for key, n in once.items() if not key[1].startswith(("paths_", "left_"))
    }
    world.start("analytics")


def _counted(world: System) -> tuple[object, ...]:
    """What the pages of figures say now; the last event may still be on its way."""
    now = utc_now()
    numbers = world.rpc.call(GetNumbers(since=now - DAY, until=now + DAY))
    last = next((point for point in numbers.points[::-1] if point.registrations), None)
    return (
        numbers.total,
        last and (last.burn_micros, last.auto_topup_users),
        _causes(numbers.purchases_ended),
        _causes(numbers.topups_failed),
        _products(world),
        {kpi.name: (kpi.count, kpi.of) for kpi in _kpis(world).kpis},
    )


def _returned(world: System) -> tuple[int, int]:
    """How many registered, and how many of them were active on that day."""
    today = utc_now().date()
    cohorts = world.rpc.call(GetRetention(since=today - DAY, until=today)).cohorts
    return sum(each.users for each in cohorts), sum(each.active[0] for each in cohorts)


def _noted(by_hand: Noted, people: int) -> tuple[object, ...]:
    return (
        Figures(**by_hand.figures),
        (by_hand.burn_micros, by_hand.auto_topup_users),
        by_hand.ended,
        by_hand.failed,
        _by_hand(by_hand),
        _metrics_of(by_hand, people),
    )


def _kpis(world: System) -> Kpis:
    now = utc_now()
    return world.rpc.call(GetKpis(since=now - DAY, until=now + timedelta(hours=1)))


def _causes(causes: list[Cause]) -> dict[str, int]:
    return {f"{cause.outcome}:{cause.code}": cause.count for cause in causes}


def _products(world: System) -> list[ProductCount]:
    today = utc_now().date()
    return world.rpc.call(GetPopularProducts(since=today - DAY, until=today)).products


def _by_hand(noted: Noted) -> list[ProductCount]:
    return [
        ProductCount(
            product_id=product_id_of(slug), units=units, sales_micros=units * PRICES[slug] * USD
        )
        for slug, units in noted.units.most_common()
    ]


def _metrics_of(noted: Noted, people: int) -> dict[KpiName, tuple[int, int]]:
    """Each of the plan's success metrics: so many of so many."""
    of = noted.figures
    completed, failed = of["purchases_completed"], of["purchases_failed"]
    topups, declined = of["topups_auto"], of["topups_auto_failed"]
    return {
        KpiName.PURCHASE_COMPLETION: (completed, completed + failed + of["purchases_cancelled"]),
        KpiName.BUY_NOW_SUCCESS: (completed, completed + failed),
        KpiName.FIRST_PURCHASE_IN_TIME: (of["first_purchases_in_time"], of["first_purchases"]),
        KpiName.AUTO_TOPUP_ADOPTION: (noted.auto_topup_users, people),
        KpiName.AUTO_TOPUP_SUCCESS: (topups, topups + declined),
    }


def _print_metrics(kpis: Kpis, noted: Noted) -> None:
    print("\n| metric | counted | is | target |\n|---|---|---|---|")
    for kpi in kpis.kpis:
        value = "" if kpi.value_bps is None else f"{kpi.value_bps / 100:.1f} %"
        print(f"| {kpi.name} | {kpi.count} of {kpi.of} | {value} | {kpi.target_bps / 100:.0f} % |")
    median_s = statistics.median(noted.first_purchase_s)
    print(f"| time to a first purchase, median | | {median_s:.0f} s | < 120 s |")
    for kind, took_ms in sorted(noted.answers_ms.items()):
        print(f"| {kind}, median | {len(took_ms)} | {statistics.median(took_ms):.0f} ms | |")


def _tell_again(world: System) -> None:
    """Every event that is counted, twice, in any order; then the process ends."""
    events = [row for service in ("gateway", "billing", "topup") for row in _told(world, service)]
    chance = random.Random(SEED)
    with Connection(world.vhost.admin_uri) as connection:
        channel = connection.default_channel
        for queue, payload in chance.sample(events * 2, 2 * len(events)):
            Producer(channel).publish(payload, exchange="", routing_key=queue)

        def left() -> int:
            return sum(channel.queue_declare(queue, passive=True)[1] for queue in HEARD.values())

        eventually(lambda: left() == 0)
        # What it had taken is counted, or lies in its queue again.
        world.stop("analytics")
        assert left() == 0


def _told(world: System, service: str) -> list[tuple[str, dict[str, object]]]:
    database = connect(world.database_url(service))
    with database.read() as session:
        rows = session.execute(text("SELECT source, type, payload FROM outbox")).all()
    database.engine.dispose()
    return [
        (HEARD[row.source, row.type], row.payload)
        for row in rows
        if (row.source, row.type) in HEARD
    ]


def _refill(world: System, registrations: str) -> subprocess.CompletedProcess[str]:
    refill = "services.analytics.refill"
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", refill, "--registrations", "/dev/stdin"],
        env={"PATH": os.environ["PATH"], **world.process("analytics").environment},
        cwd=ROOT,
        input=registrations,
        capture_output=True,
        text=True,
        timeout=START_PATIENCE_S,
        check=False,
    )
