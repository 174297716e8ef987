"""Analytics: how long a year's figures take beside a day's; how fast events are counted beside the
purchases that they tell of, and what that costs beside a purchase.

The last two are measured on the whole product, with analytics held still for every other round.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from statistics import median
from typing import Any

import psutil
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from benchmarks.conftest import Record, median_ratio
from benchmarks.site.load import Answers, Ask, put_load
from benchmarks.site.processor import used_at_rest_s
from benchmarks.site.product import BUYERS, SETTINGS, People, product_without_end
from chassis.database import Connected, connect
from chassis.identifiers import new_id
from contracts.analytics import GetKpis, GetNumbers, GetPopularProducts, Step
from deploy.local.broker import Node
from deploy.local.postgres import Postgres
from deploy.local.startup import wait_for
from deploy.parts import PROCESSES
from services.analytics import questions
from tests.conftest import StackFactory
from tests.system import System

START = datetime(2025, 1, 1, tzinfo=UTC)
PRODUCTS = [new_id() for _ in range(100)]
ROUNDS = int(os.environ.get("SITE_ROUNDS", "3"))
SECONDS = float(os.environ.get("SITE_SECONDS", "5"))
CONNECTIONS = 40
WARM_UP_S = 3.0
PILES_UP = 4
"""So many times as long purchases are made that wait to be counted."""

HEARD = "SELECT count(*) FROM facts WHERE kind IN ('completed', 'activated')"

# What a million purchases of a year leave: each figure in each hour, day and week, and each of a
# hundred products every day.
_EVERY = text(
    "INSERT INTO counts SELECT grain, figure, date_trunc(grain, hour) AS starts_at, '', count(*)"
    " FROM generate_series(CAST(:start AS timestamptz), :start + interval '365 days',"
    " interval '1 hour') AS hour, unnest(ARRAY['hour', 'day', 'week']) AS grain,"
    " unnest(CAST(:figures AS text[])) AS figure GROUP BY grain, figure, starts_at"
)
_PRODUCTS = text(
    "INSERT INTO product_totals SELECT product, CAST(:start AS timestamptz)"
    " + number * interval '1 day', 28 * number + 28, 28 * number + 28"
    " FROM generate_series(0, 365) AS number, unnest(CAST(:products AS uuid[])) AS product"
)
_ACTIVE = text(
    "INSERT INTO activity SELECT 'hour', hour, gen_random_uuid() FROM"
    " generate_series(CAST(:start AS timestamptz), :start + interval '365 days',"
    " interval '1 hour') AS hour, generate_series(1, 114)"
)


@pytest.fixture(scope="module")
def database(databases: dict[str, str]) -> Iterator[Connected]:
    connected = connect(databases["analytics"])
    figures = [*questions._FIGURES, *(level.value for level in questions.LEVELS), "active_users"]  # noqa: SLF001
    with connected.begin() as session:
        session.execute(text("SET LOCAL statement_timeout = 0"))
        session.execute(_EVERY, {"start": START, "figures": figures})
        session.execute(_PRODUCTS, {"start": START, "products": [str(each) for each in PRODUCTS]})
        session.execute(_ACTIVE, {"start": START})
    with connected.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    yield connected
    connected.engine.dispose()


def typical_ms(database: Connected, ask: Callable[[Session, Any], Any], request: Any) -> float:
    taken = []
    for _ in range(30):
        begun = time.perf_counter()
        with database.read() as session:
            ask(session, request).model_dump_json()
        taken.append(time.perf_counter() - begun)
    return median(taken) * 1_000


def measure_a_year_beside_a_day(database: Connected, record: Record) -> None:
    day, year = START + timedelta(days=200), START + timedelta(days=364)
    asked: list[tuple[str, Callable[[Session, Any], Any], Any, Any]] = [
        (
            "numbers, by weeks ÷ by hours",
            questions.get_numbers,
            GetNumbers(since=day, until=day + timedelta(days=1), step=Step.HOUR),
            GetNumbers(since=START, until=year, step=Step.WEEK),
        ),
        (
            "success metrics",
            questions.get_kpis,
            GetKpis(since=day, until=day + timedelta(days=1)),
            GetKpis(since=START, until=year),
        ),
        (
            "popular products",
            questions.get_popular_products,
            GetPopularProducts(since=day.date(), until=day.date()),
            GetPopularProducts(since=START.date(), until=date(2025, 12, 30)),
        ),
    ]
    for name, ask, of_day, of_year in asked:
        rounds = [
            (typical_ms(database, ask, of_year), typical_ms(database, ask, of_day))
            for _ in range(ROUNDS)
        ]
        long_ms, short_ms = map(list, zip(*rounds, strict=True))
        record(
            f"{name}: a year of a million purchases ÷ a day of it",
            median_ratio(long_ms, short_ms),
            at_most=3,
            detail=f"{min(long_ms):.1f} against {min(short_ms):.1f} ms",
        )


@dataclass
class Shop:
    """The whole product, and who buys in it."""

    system: System
    processes: dict[str, int]
    ask: Ask

    @property
    def counting(self) -> psutil.Process:
        return psutil.Process(self.processes["analytics"])


@pytest.fixture(scope="module")
def shop(service_stack: StackFactory, postgres: Postgres, broker: Node) -> Shop:
    system = service_stack(*PROCESSES, settings=SETTINGS)
    product = product_without_end(system)
    people = People(system, product)
    tokens = [people.buyer() for _ in range(BUYERS)]
    body = json.dumps({"product_id": product["product_id"]})
    headers = [f"Authorization: Bearer {token}" for token in tokens]
    children = [*postgres.children, *broker.children, *map(system.child, PROCESSES)]
    return Shop(
        system,
        {child.name: child.pid for child in children if child.pid},
        Ask("/api/wallet/instant-purchase", headers, body),
    )


def measure_what_counting_costs_a_purchase(shop: Shop, record: Record) -> None:
    put_load(shop.system.base_url, shop.ask, CONNECTIONS, WARM_UP_S)
    rounds: dict[bool, list[dict[str, float]]] = {True: [], False: []}
    for number in range(ROUNDS):
        # Which of them comes first changes from round to round.
        for is_counted in (True, False) if number % 2 else (False, True):
            _waits_until_all_is_counted(shop)
            if not is_counted:
                shop.counting.suspend()
            try:
                rounds[is_counted].append(_load(shop)[0])
            finally:
                shop.counting.resume()
    counted, uncounted = ([sum(each.values()) for each in rounds[is_so]] for is_so in (True, False))
    more = {
        name: median(each[name] for each in rounds[True])
        - median(each[name] for each in rounds[False])
        for name in ("analytics", "postgres", "rabbitmq")
    }
    record(
        "processor time of a purchase that is counted ÷ of one that is not",
        median_ratio(counted, uncounted),
        at_most=1.05,
        detail=f"{median(counted):.1f} against {median(uncounted):.1f} ms by all processes;"
        f" of the difference {', '.join(f'{name} {ms:.1f}' for name, ms in more.items())} ms",
    )


def measure_how_fast_purchases_are_taken_in(shop: Shop, record: Record) -> None:
    """What has waited is counted when analytics is there again."""
    _waits_until_all_is_counted(shop)
    shop.system.stop("analytics")
    _, answers = _load(shop, PILES_UP)
    stopped_s = _number(shop, "analytics", "SELECT extract(epoch FROM now())::bigint")
    shop.system.start("analytics")
    _waits_until_all_is_counted(shop)
    # Each purchase is two events. The inbox has the moments at which their transactions began.
    rate = (
        "SELECT count(*) / 2 / extract(epoch FROM max(handled_at) - min(handled_at))"
        " FROM inbox WHERE handled_at >= to_timestamp({})"
    )
    per_s = _number(shop, "analytics", rate.format(stopped_s))
    record(
        f"purchases that analytics takes in ÷ that are made, {CONNECTIONS} connections",
        per_s / answers.per_s,
        at_least=10,
        detail=f"{per_s:.0f} against {answers.per_s:.0f} a second, of what had waited; with the"
        " deployments that came of them",
    )


def _load(shop: Shop, times: int = 1) -> tuple[dict[str, float], Answers]:
    """Milliseconds of processor for each purchase, by process."""
    running = {name: pid for name, pid in shop.processes.items() if psutil.pid_exists(pid)}
    before = used_at_rest_s(running)
    answers = put_load(shop.system.base_url, shop.ask, CONNECTIONS, times * SECONDS)
    after = used_at_rest_s(running)
    carried_out = answers.requests + CONNECTIONS
    return {name: 1_000 * (after[name] - before[name]) / carried_out for name in before}, answers


def _expected(shop: Shop) -> int:
    done = (
        "SELECT (SELECT count(*) FROM purchases WHERE status = 'completed')"
        " + (SELECT count(*) FROM deployments)"
    )
    return _number(shop, "billing", done)


def _waits_until_all_is_counted(shop: Shop) -> None:
    """Those that were under way when the load ended as well."""
    assert wait_for(lambda: _number(shop, "analytics", HEARD) == _expected(shop), 60)


def _number(shop: Shop, service: str, query: str) -> int:
    database = connect(shop.system.database_url(service), pool_size=1)
    with database.read() as session:
        found = session.scalar(text(query))
    database.engine.dispose()
    return int(found)
