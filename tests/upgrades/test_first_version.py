"""What the first version wrote is whole in today's tables, and today's product goes on from it.

``first_version`` holds the rows of each database as the first landing of the product left them
(``pg_dump --data-only --inserts``): ann@example.org bought $25.00 of credits by card and VM-Starter
with them, saved the card, switched auto top-up on, and bought VM-Builder, for which her card was
charged $25.00 more.
"""

import re
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text

from chassis.database import connect
from chassis.migrate import migrate
from deploy.local.postgres import Postgres
from deploy.parts import DATABASES, PROCESSES
from services.wallet import verification
from tests.conftest import StackFactory
from tests.e2e.visitor import PASSWORD
from tests.gateway.conftest import Api, read
from tests.patience import eventually
from tests.system import System

ROWS = Path(__file__).parent / "first_version"
REVISION = re.compile(r"INSERT INTO public\.alembic_version VALUES\s+\('(\d+)'\);\n")


def first_version(postgres: Postgres, service: str) -> str:
    """A database as the first version left it."""
    name = f"first_{service}"
    url = postgres.create_database(name)
    rows = (ROWS / f"{service}.sql").read_text()
    (revision,) = REVISION.findall(rows)
    migrate(f"services.{service}", url, revision)
    engine = create_engine(make_url(postgres.admin_url).set(database=name))
    with engine.begin() as connection:
        # As a restore does: the rows are history, which no trigger judges or does again.
        connection.exec_driver_sql("SET session_replication_role = replica")
        # The first migration leaves rows of its own, which are in the dump too.
        tables = text("SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public'")
        for table in connection.scalars(tables).all():
            connection.exec_driver_sql(f"DELETE FROM {table}")  # noqa: S608 - our own tables
        connection.exec_driver_sql(rows.replace("%", "%%"))
    engine.dispose()
    return url


@pytest.fixture(scope="module")
def upgraded(postgres: Postgres, service_stack: StackFactory) -> System:
    """Today's product on the data of the first version."""
    then = [service for service in DATABASES if (ROWS / f"{service}.sql").exists()]
    urls = {service: first_version(postgres, service) for service in then}
    for service, url in urls.items():
        migrate(f"services.{service}", url)
    return service_stack(*PROCESSES, databases=urls)


@pytest.fixture(scope="module")
def ann(upgraded: System) -> Api:
    """Who logs in again with her old password."""
    api = Api(upgraded.base_url)
    api.token = read(
        api.post("/api/auth/login", {"email": "ann@example.org", "password": PASSWORD})
    )["token"]
    return api


def test_the_ledger_is_right(upgraded: System) -> None:
    found = verification.verify(connect(upgraded.database_url("wallet"), pool_size=1))

    assert (found.first_difference, found.transaction_count) == (None, 4)


def test_she_has_her_money_and_its_history(ann: Api) -> None:
    history = read(ann.get("/api/wallet/transactions"))["transactions"]

    assert read(ann.get("/api/wallet/info"))["balance"] == 21
    assert [line["amount_usd"] for line in history] == [-24, 25, -5, 25]


def test_what_she_bought_runs_and_burns_as_before(ann: Api) -> None:
    running = read(ann.get("/api/deployments"))["deployments"]

    assert sorted(item["name"] for item in running) == ["VM-Builder", "VM-Starter"]
    assert read(ann.get("/api/wallet/burn-rate-analysis"))["monthly_burn_rate"] == 29


def test_her_card_and_her_settings_are_there(ann: Api) -> None:
    (card,) = read(ann.get("/api/wallet/payment-methods"))["payment_methods"]
    settings = read(ann.get("/api/wallet/auto-topup/status"))

    assert card["last4"] == "4242"
    assert (settings["enabled"], settings["threshold_amount"]) == (True, 10)


def test_she_buys_on(ann: Api) -> None:
    products = read(ann.get("/api/products?q=VM-Starter"))["products"]
    starter = next(product for product in products if product["name"] == "VM-Starter")

    bought = ann.command(
        "/api/wallet/instant-purchase", {"product_id": starter["product_id"], "quantity": 1}
    )

    assert bought.ok, bought.text
    eventually(lambda: read(ann.get("/api/wallet/info"))["balance"], lambda usd: usd == 16)
