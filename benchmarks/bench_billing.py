"""What billing can do: months renewed, usage taken in and charged, an analysis of many
deployments; and how the catalog lists many products.

Their rules run in this process, on databases of their own; the wallet is a process, as `make run`
starts it. The size of "grown" is 1,000,000 deployments; ``DEPLOYMENTS`` makes it another.
"""

import gc
import json
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from statistics import median
from typing import Any, cast
from uuid import UUID

import psycopg2
import pytest
from psycopg2.extras import execute_values

from benchmarks.bench_wallet import BATCH, batch_rate, users, wallet
from benchmarks.conftest import Record, median_ratio
from benchmarks.site.processor import used_s
from chassis import garbage
from chassis.client import RpcClient
from chassis.clock import utc_now
from chassis.database import Connected, connect
from chassis.identifiers import new_id
from chassis.migrate import migrate
from contracts.billing import GetBurnRate, GetForecast, RecordUsage, UsageAnswer, UsageRecord
from contracts.catalog import Category, ListProducts, Meter, SortOrder
from contracts.messages import Reply
from contracts.topup import AutoTopupState
from contracts.wallet import AccountStatus, GetWallets, Wallet, Wallets
from deploy.local.postgres import Postgres
from services.billing import service
from services.billing.deployments.available import Others
from services.billing.renewals.renewals import Renewals
from services.billing.service import BillingService
from services.billing.settings import BillingSettings
from services.billing.usage.charging import UsageCharges
from services.billing.usage.taking import next_hour, record_usage
from services.catalog.products import list_products
from tests.system import System

__all__ = ["users", "wallet"]

RULES = BillingSettings(amqp_uri="", database_url="")
ROUNDS = 3
SECONDS = 3.0
FEW, MANY = 10_000, int(os.environ.get("DEPLOYMENTS", "1000000"))
DUE_AT_ONCE = 2_000
BILLINGS = 2
RECORDS = 1_000
CALLS = 5
METER = Meter(key="hours", label="Hours", unit="hour", price_micros=1_000_000)

# One purchase for each hundred deployments, each of which is paid for ten days more, by a renewal.
FILL = """
CREATE TEMPORARY TABLE owners AS
    SELECT (ordinality - 1)::int AS number, user_id FROM unnest(%(users)s::uuid[])
        WITH ORDINALITY AS u(user_id, ordinality);
CREATE TEMPORARY TABLE bought AS
    SELECT uuidv7() AS purchase_id, user_id, n AS number FROM generate_series(1, %(purchases)s) AS n
    JOIN owners ON owners.number = n %% %(owners)s;
INSERT INTO purchases (purchase_id, user_id, idempotency_key, body_hash, status, status_code,
        status_reason, total_micros, shortfall_micros, transaction_id, reservation_id,
        may_hold_stock, closing_code, closing_reason, attempts, created_at, updated_at, expires_at)
    SELECT purchase_id, user_id, purchase_id, '', 'completed', '', '', 100 * 5000000, 0,
        gen_random_uuid(), gen_random_uuid(), false, '', '', 1, now(), now(), now() FROM bought;
INSERT INTO purchase_lines (purchase_id, position, product_id, product_name, category,
        billing_period, quantity, unit_price_micros, amount_micros, is_stocked, choices, meters)
    SELECT purchase_id, 0, '00000000-0000-7000-8000-000000000001', 'VM', 'compute', 'month', 100,
        5000000, 100 * 5000000, false, '{}', %(meters)s FROM bought;
INSERT INTO deployments (deployment_id, purchase_id, line_position, unit_number, user_id,
        product_id, name, category, billing_period, monthly_cost_micros, status, status_reason,
        created_at, status_changed_at, active_at, period_anchor_at, paid_until, due_at,
        ends_with_month, announced)
    SELECT uuidv7(), purchase_id, 0, unit, user_id, '00000000-0000-7000-8000-000000000001',
        'VM ' || unit, 'compute', 'month', 5000000, 'active', '', at, at, at, at,
        at + interval '1 month', at + interval '1 month', false, 'renewal'
    FROM bought, generate_series(1, 100) AS unit,
        LATERAL (SELECT now() - interval '20 days' + (number * 100 + unit) * interval '1 ms')
            AS begun(at);
INSERT INTO periods (deployment_id, starts_at, kind, ends_at, user_id, amount_micros, status,
        transaction_id, created_at, changed_at)
    SELECT deployment_id, active_at, 'month', paid_until, user_id, monthly_cost_micros, 'paid',
        gen_random_uuid(), active_at, active_at FROM deployments;
"""


@contextmanager
def prepared(
    postgres: Postgres, service: str, name: str, fill: str, **values: Any
) -> Iterator[Connected]:
    """A migrated database of this name that ``fill`` has filled, removed at the end."""
    url = postgres.create_database(name)
    migrate(f"services.{service}", url)
    admin = postgres.admin_url.replace("+psycopg2", "").rsplit("/", 1)[0] + f"/{name}"
    connection = psycopg2.connect(admin)
    with connection, connection.cursor() as cursor:
        cursor.execute(fill, values)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")
        cursor.execute("CHECKPOINT")
    connection.close()
    database = connect(url)
    yield database
    database.engine.dispose()
    postgres.drop_database(name)


@contextmanager
def deployed(postgres: Postgres, owners: list[str], deployments: int) -> Iterator[Connected]:
    """So many active deployments of these owners."""
    with prepared(
        postgres,
        "billing",
        f"bench_{deployments}",
        FILL,
        users=owners,
        owners=len(owners),
        purchases=deployments // 100,
        meters=json.dumps([METER.model_dump(mode="json")]),
    ) as database:
        yield database


# Renewals.

HAVE_DUE = """
UPDATE deployments SET paid_until = now(), due_at = now() WHERE deployment_id IN
    (SELECT deployment_id FROM deployments WHERE due_at > now() ORDER BY due_at LIMIT %(count)s)
"""


def renewal_rate(database: Connected, renew: Callable[[], object]) -> float:
    """Months a second: what is due is renewed until nothing is."""
    with database.begin() as session:
        session.connection().exec_driver_sql(HAVE_DUE, {"count": DUE_AT_ONCE})
    began = time.monotonic()
    renew()
    took_s = time.monotonic() - began
    with database.read() as session:
        paid = session.connection().exec_driver_sql(
            "SELECT count(*) FROM periods WHERE status = 'paid'"
        )
        assert paid.scalar_one() % DUE_AT_ONCE == 0
    return DUE_AT_ONCE / took_s


@contextmanager
def several_billings(database: Connected, wallet: System) -> Iterator[Callable[[], object]]:
    """Renews by processes of their own, which share what is due."""
    url = database.engine.url.render_as_string(hide_password=False)
    with ProcessPoolExecutor(
        BILLINGS,
        multiprocessing.get_context("spawn"),
        initializer=be_a_billing,
        initargs=(url, wallet.vhost.admin_uri),
    ) as processes:
        yield lambda: list(processes.map(renew_as_one, range(BILLINGS)))


_own: list[Renewals] = []


def be_a_billing(url: str, uri: str) -> None:
    """What such a process begins with."""
    garbage.look_rarely()
    _own.append(Renewals(connect(url), RpcClient(uri, name="billing"), RULES, utc_now))


def renew_as_one(_: int) -> None:
    (renewals,) = _own
    renewals.run()


@pytest.fixture
def as_a_service() -> Iterator[None]:
    """This process looks for garbage as seldom as the service whose work it does."""
    before = gc.get_threshold()
    garbage.look_rarely()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("as_a_service")
def measure_renewals_against_postings(
    wallet: System, users: list[str], postgres: Postgres, record: Record
) -> None:
    with (
        deployed(postgres, users, FEW) as few,
        deployed(postgres, users, MANY) as many,
        several_billings(few, wallet) as renew_by_several,
    ):
        renew_few, renew_many = (
            Renewals(database, wallet.rpc, RULES, utc_now).run for database in (few, many)
        )
        renewal_rate(few, renew_few)
        renewal_rate(few, renew_by_several)
        postings, small, shared, grown = [], [], [], []
        for _ in range(ROUNDS):
            postings.append(batch_rate(wallet, users, SECONDS))
            small.append(renewal_rate(few, renew_few))
            shared.append(renewal_rate(few, renew_by_several))
            grown.append(renewal_rate(many, renew_many))
    record(
        f"renewals with their ledger work ÷ post_batch postings, {BATCH} in a call",
        median_ratio(small, postings),
        at_least=0.5,
        detail=f"{max(small):.0f} against {max(postings):.0f} a second",
    )
    record(
        f"renewals by {BILLINGS} billings ÷ post_batch postings",
        median_ratio(shared, postings),
        detail=f"{max(shared):.0f} against {max(postings):.0f} a second",
    )
    record(
        f"renewals at {MANY:,} deployments ÷ at {FEW:,}",
        median_ratio(grown, small),
        at_least=0.9,
        detail=f"{max(grown):.0f} against {max(small):.0f} a second",
    )


# Usage.

PLAIN = "CREATE TABLE plain (LIKE usage_records INCLUDING ALL)"
INSERT = "INSERT INTO plain VALUES %s ON CONFLICT DO NOTHING"
MEASURED = 100
"""How many deployments one call tells of."""


def usage_rate(database: Connected, deployment_ids: list[UUID]) -> float:
    """Records a second, in calls of a thousand, each in its own transaction."""
    calls = [RecordUsage(records=records(deployment_ids)) for _ in range(CALLS)]
    began = time.monotonic()
    for call in calls:
        with database.begin() as session:
            told = record_usage(session, utc_now(), call, RULES)
    took_s = time.monotonic() - began
    assert {each.answer for each in told.results} == {UsageAnswer.ACCEPTED}
    return CALLS * RECORDS / took_s


def plain_rate(database: Connected, deployment_ids: list[UUID]) -> float:
    """The same rows, inserted and nothing else."""
    calls = [
        [
            (each.deployment_id.hex, each.record_id, each.meter, *[at] * 2, each.quantity, None, at)
            for each in records(deployment_ids)
            for at in [each.used_at]
        ]
        for _ in range(CALLS)
    ]
    began = time.monotonic()
    for call in calls:
        with database.begin() as session:
            cursor = session.connection().connection.cursor()
            execute_values(cursor, INSERT, call, page_size=RECORDS)
    return CALLS * RECORDS / (time.monotonic() - began)


def records(deployment_ids: list[UUID]) -> list[UsageRecord]:
    some = random.sample(deployment_ids, MEASURED)
    used_at = utc_now() - timedelta(hours=1)
    return [
        UsageRecord(
            record_id=f"{new_id()}",
            deployment_id=some[number % MEASURED],
            meter=METER.key,
            quantity=1,
            used_at=used_at,
        )
        for number in range(RECORDS)
    ]


def measure_usage_against_a_plain_insert(postgres: Postgres, record: Record) -> None:
    with deployed(postgres, [f"{new_id()}" for _ in range(1_000)], FEW) as database:
        with database.begin() as session:
            connection = session.connection()
            ids = [
                row[0]
                for row in connection.exec_driver_sql("SELECT deployment_id FROM deployments")
            ]
            connection.exec_driver_sql(PLAIN)
        usage_rate(database, ids)
        ours, plain = [], []
        for _ in range(ROUNDS):
            ours.append(usage_rate(database, ids))
            plain.append(plain_rate(database, ids))
    record(
        f"usage records taken in ÷ a plain INSERT … ON CONFLICT of the rows, {RECORDS} at once",
        median_ratio(ours, plain),
        at_least=0.4,
        detail=f"{max(ours):.0f} against {max(plain):.0f} a second; {MEASURED} deployments a call",
    )


SPREAD = """
UPDATE deployments SET user_id = owner.user_id FROM
    (SELECT deployment_id, row_number() OVER () AS n FROM deployments) AS one
    JOIN unnest(%(users)s::uuid[]) WITH ORDINALITY AS owner(user_id, n) USING (n)
WHERE deployments.deployment_id = one.deployment_id RETURNING deployments.deployment_id
"""

PAID_LAST = """
SELECT count(*) FROM usage_totals JOIN usage_wallets USING (user_id)
    WHERE due_at IS NULL AND quantity = charged_quantity
"""


def used(database: Connected, deployment_ids: list[UUID]) -> datetime:
    """Each of these uses something, which is charged at the moment that is returned."""
    now = utc_now()
    told = [
        UsageRecord(
            record_id=f"{new_id()}",
            deployment_id=each,
            meter=METER.key,
            quantity=1,
            used_at=now,
        )
        for each in deployment_ids
    ]
    with database.begin() as session:
        record_usage(session, now, RecordUsage(records=told), RULES)
    return next_hour(now)


def charge_rate(database: Connected, wallet: System, now: datetime, wallets: int) -> float:
    """Wallets a second that are charged for what was used."""
    began = time.monotonic()
    UsageCharges(database, wallet.rpc, RULES, lambda: now, lambda *_: Others()).run()
    took_s = time.monotonic() - began
    with database.read() as session:
        paid = session.connection().exec_driver_sql(PAID_LAST)
        assert paid.scalar_one() == wallets
    return wallets / took_s


@pytest.mark.usefixtures("as_a_service")
def measure_charges_for_usage_against_postings(
    wallet: System, users: list[str], postgres: Postgres, record: Record
) -> None:
    """One deployment of each user is measured."""
    servers = {"wallet": wallet.child("wallet"), "PostgreSQL": postgres.children[0]}
    pids = {name: child.pid for name, child in servers.items() if child.pid}
    spent_ms: dict[str, list[float]] = {name: [] for name in ("billing", *pids)}
    rates, postings = [], []
    with deployed(postgres, users, FEW) as database:
        with database.begin() as session:
            spread = session.connection().exec_driver_sql(SPREAD, {"users": users})
            measured = [row.deployment_id for row in spread]
        charge_rate(database, wallet, used(database, measured), len(measured))
        for _ in range(ROUNDS):
            postings.append(batch_rate(wallet, users, SECONDS))
            now = used(database, measured)
            before = {"billing": time.process_time(), **used_s(pids)}
            rates.append(charge_rate(database, wallet, now, len(measured)))
            after = {"billing": time.process_time(), **used_s(pids)}
            for name, each in spent_ms.items():
                each.append(1_000 * (after[name] - before[name]) / len(measured))
    spent = ", ".join(f"{name} {median(each):.2f}" for name, each in spent_ms.items())
    record(
        f"wallets charged for usage, with a line each ÷ post_batch postings, {BATCH} in a call",
        median_ratio(rates, postings),
        detail=f"{max(rates):.0f} against {max(postings):.0f} a second; ms of processor"
        f" for one: {spent}",
    )


# What is foretold.


class Alone:
    """The wallet and the top-up service, who answer at once: there is money, and no auto top-up."""

    def call(self, request: GetWallets, *_: object) -> Wallets:
        (user_id,) = request.user_ids
        return Wallets(
            wallets=[
                Wallet(
                    user_id=user_id,
                    account_id=1_000,
                    balance_micros=10**12,
                    held_micros=0,
                    available_micros=10**12,
                    status=AccountStatus.OPEN,
                    opened_at=utc_now(),
                )
            ]
        )

    def begin(self, *_: object) -> Callable[[], object]:
        return lambda: AutoTopupState.model_construct(state="off", threshold_micros=None)


def asked_ms(ask: Callable[[], Reply], times: int = 15) -> float:
    """Milliseconds for an answer, as it is sent; the least, as others may keep the machine busy."""
    took = []
    for _ in range(times):
        began = time.monotonic()
        ask().model_dump_json()
        took.append(1_000 * (time.monotonic() - began))
    return min(took)


def measure_an_analysis_of_many_deployments(
    postgres: Postgres, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, many = new_id(), new_id()
    monkeypatch.setattr(service, "get_settings", lambda: RULES)
    with deployed(postgres, [f"{new_id()}" for _ in range(100)], FEW) as database:
        with database.begin() as session:
            for user_id, count in ((few, 10), (many, 1_000)):
                asked = {"user_id": f"{user_id}", "count": count}
                given = session.connection().exec_driver_sql(GIVE, asked)
                assert given.rowcount == count

        billing = BillingService()
        billing.database, billing.caller = cast(Any, database), cast(Any, Alone())

        def burn_rate(user_id: UUID) -> Reply:
            return billing.get_burn_rate(GetBurnRate(user_id=user_id))

        def forecast(user_id: UUID, **asked: Any) -> Reply:
            return billing.get_forecast(GetForecast(user_id=user_id, **asked))

        many_events = partial(forecast, days=366, events_max=100)
        for name, ask, at_most in (
            ("the burn rate", burn_rate, 3),
            ("a forecast of 30 days", partial(forecast, days=30), 3),
            ("a forecast of 366 days", partial(forecast, days=366), 3),
            # It names up to a hundred times as many charges.
            ("a forecast of 366 days with 100 events of each", many_events, None),
            ("a forecast of 366 days without events", partial(forecast, days=366, events_max=0), 3),
        ):
            ours = [
                (asked_ms(partial(ask, many)), asked_ms(partial(ask, few))) for _ in range(ROUNDS)
            ]
            large, small = map(list, zip(*ours, strict=True))
            record(
                f"{name} of a user with 1,000 deployments ÷ of one with 10",
                median_ratio(large, small),
                at_most=at_most,
                detail=f"{min(large):.1f} against {min(small):.1f} ms",
            )


GIVE = """
UPDATE deployments SET user_id = %(user_id)s, period_anchor_at = period_anchor_at - apart,
    paid_until = paid_until - apart
FROM (SELECT deployment_id, random() * interval '9 days' AS apart FROM deployments
    WHERE user_id IN (SELECT user_id FROM deployments GROUP BY 1 HAVING count(*) = 100)
    ORDER BY 1 LIMIT %(count)s) AS chosen
WHERE deployments.deployment_id = chosen.deployment_id
"""

# The catalog.

PRODUCTS = """
INSERT INTO products (product_id, slug, name, category, summary, description, provider_name,
        price_micros, billing_period, specification, fields, meters, featured_rank, created_at)
    SELECT uuidv7(), 'product-' || n, 'Machine ' || md5('a' || n),
        (ARRAY['compute', 'gateways', 'services', '3nodes'])[n %% 4 + 1],
        'Runs ' || md5('b' || n) || ' and ' || md5('c' || n), 'A description',
        'Provider ' || n %% 50, 1000000 + n * 7919::bigint %% 1000000000, 'month', '[]', '[]', '[]',
        n * 7919::bigint %% 1000000, now() - n * interval '1 minute'
    FROM generate_series(1, %(products)s) AS n
"""
CHANGE = "UPDATE products SET name = name WHERE slug = 'product-1'"
LISTS: dict[str, dict[str, Any]] = {
    "listing products by rank": {},
    "listing products by price, of a category": {
        "sort": SortOrder.PRICE,
        "category": Category.COMPUTE,
    },
    "listing products by name": {"sort": SortOrder.NAME},
    "searching products for a rare word": {"q": "5a7f"},
    "searching products for words that all have": {"q": "machine provider"},
}


def measure_a_large_catalog(postgres: Postgres, record: Record) -> None:
    with (
        prepared(postgres, "catalog", "bench_shelf", PRODUCTS, products=1_000) as shelf,
        prepared(postgres, "catalog", "bench_hall", PRODUCTS, products=100_000) as hall,
    ):

        def page(database: Connected, question: dict[str, Any]) -> Reply:
            with database.read() as session:
                return list_products(session, ListProducts(limit=24, **question))

        for name, question in LISTS.items():
            rounds = [
                (asked_ms(partial(page, hall, question)), asked_ms(partial(page, shelf, question)))
                for _ in range(ROUNDS)
            ]
            large, small = map(list, zip(*rounds, strict=True))
            record(
                f"{name}, of 100,000 ÷ of 1,000",
                median_ratio(large, small),
                at_most=2,
                detail=f"{min(large):.1f} against {min(small):.1f} ms; the first after"
                f" a product changed {counted_anew_ms(hall, partial(page, hall, question)):.1f} ms",
            )


def counted_anew_ms(database: Connected, ask: Callable[[], Reply]) -> float:
    """Milliseconds for the first answer after a change, the median of five."""
    took = []
    for _ in range(5):
        with database.begin() as session:
            session.connection().exec_driver_sql(CHANGE)
        took.append(asked_ms(ask, times=1))
    return median(took)
